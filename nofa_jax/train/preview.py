"""The picture that shows how training is doing: source | target | output | canonical | depth, one row per example."""

import numpy as np
from jaxtyping import Float, UInt8

from nofa_jax.media.grid import depth_colors, image_grid, to_uint8, write_png

__all__ = ["image_grid", "preview_grid", "write_png"]

LABELS = ("source", "target", "output", "canonical", "depth")


def preview_grid(
    source: Float[np.ndarray, "b hs ws 3"],
    target: Float[np.ndarray, "b ht wt 3"],
    output: Float[np.ndarray, "b h w 3"],
    canonical: Float[np.ndarray, "b hc wc 3"],
    depth: Float[np.ndarray, "b hd wd 1"],
    opacity: Float[np.ndarray, "b hd wd 1"],
) -> UInt8[np.ndarray, "gh gw 3"]:
    """Images in [-1, 1], depth along the ray in world units; where opacity is below a half the depth is black.

    canonical is the output with the deformation switched off, from the target's camera. Cells have the output's size.
    """
    rows = [
        [*map(to_uint8, (source[i], target[i], output[i], canonical[i])), _depth(depth[i], opacity[i])]
        for i in range(len(output))
    ]
    return image_grid(rows, LABELS, cell=output.shape[1:3])


def _depth(depth: Float[np.ndarray, "h w 1"], opacity: Float[np.ndarray, "h w 1"]) -> UInt8[np.ndarray, "h w 3"]:
    depth, opacity = np.asarray(depth)[..., 0], np.asarray(opacity)[..., 0]
    return depth_colors(depth, opacity > 0.5)
