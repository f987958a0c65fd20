"""Perceptual losses: the second term of Eqs. 3, 4 and 8, and a stand-in that needs no weights. Images in [-1, 1]."""

from collections.abc import Callable
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float


def lpips(
    apply: Callable[..., Array], params: Any, a: Float[Array, "b h w 3"], b: Float[Array, "b h w 3"]
) -> Float[Array, ""]:
    """Mean over the batch of LPIPS(a, b); `apply` and `params` come from `extractors.lpips.load_lpips`."""
    return jnp.mean(apply(params, a, b))


def laplacian_pyramid(a: Float[Array, "b h w c"], b: Float[Array, "b h w c"], levels: int = 4) -> Float[Array, ""]:
    """Stand-in for LPIPS: the L1 distance of Laplacian pyramids (Burt & Adelson 1983), summed over `levels`.

    Each level enters with its mean absolute difference, so coarse structure weighs as much as fine detail. Fewer levels
    are used where the image would shrink below 4 pixels; the last one holds the remaining low-pass image.
    """
    rest = a - b  # the pyramid is linear: that of the difference is the difference of the pyramids
    total = jnp.zeros((), rest.dtype)
    for _ in range(levels - 1):
        if min(rest.shape[1:3]) < 8:
            break
        coarse = _halve(_halve(rest, 1), 2)
        detail = rest - _double(_double(coarse, 1, rest.shape[1]), 2, rest.shape[2])
        total += jnp.mean(_abs(detail))
        rest = coarse
    return total + jnp.mean(_abs(rest))


def _abs(x: Array) -> Array:
    """|x| with slope 0 at 0, where jnp.abs has slope 1 and would push equal pixels apart."""
    return jnp.maximum(x, -x)


def _halve(x: Float[Array, "b h w c"], axis: int) -> Float[Array, "b h2 w2 c"]:
    """Binomial low-pass [1, 4, 6, 4, 1] / 16 with the border repeated, every second value kept (the even ones)."""
    size = x.shape[axis]
    padding = [(0, 0)] * 4
    padding[axis] = (2, 2)
    padded = jnp.pad(x, padding, mode="edge")
    far_left, left, here, right, far_right = (_part(padded, axis, i, i + size, 2) for i in range(5))
    return (far_left + far_right + 4 * (left + right) + 6 * here) / 16


def _double(x: Float[Array, "b h w c"], axis: int, size: int) -> Float[Array, "b h2 w2 c"]:
    """Zeros between the values, then the low-pass times two: [1, 6, 1] / 8 at even, [1, 1] / 2 at odd places."""
    n = x.shape[axis]
    padding = [(0, 0)] * 4
    padding[axis] = (1, 1)
    padded = jnp.pad(x, padding, mode="edge")
    before, here, after = (_part(padded, axis, i, i + n, 1) for i in range(3))
    pairs = jnp.stack([(before + 6 * here + after) / 8, (here + after) / 2], axis=axis + 1)
    shape = list(x.shape)
    shape[axis] = 2 * n
    return _part(pairs.reshape(shape), axis, 0, size, 1)


def _part(x: Array, axis: int, start: int, stop: int, step: int) -> Array:
    index = [slice(None)] * x.ndim
    index[axis] = slice(start, stop, step)
    return x[tuple(index)]
