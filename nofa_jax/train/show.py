"""What a run looks like at a step: a fixed batch of held-out pairs, drawn with the averaged parameters."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree, UInt8

from nofa_jax.models.nofa import NOFA
from nofa_jax.train.mesh import copied
from nofa_jax.train.preview import preview_grid, write_png
from nofa_jax.train.step import Rendering, flatten_targets
from nofa_jax.types import Batch, Output


class Preview:
    """Draws source | target | output | canonical | depth of one batch (one target each, or none: the source then)."""

    def __init__(self, model: NOFA, rendering: Rendering, batch: Batch, mesh: Mesh | None = None) -> None:
        rendering = dataclasses.replace(rendering, window=0, jitter=False)
        self.batch = batch
        self.targets = flatten_targets(batch.target) if batch.target.image.shape[1] else batch.source

        def draw(variables: PyTree) -> tuple[Output, Array]:
            volume = model.apply(variables, batch.source.image, rendering.compensate, method="volume")
            target = self.targets
            outputs = [
                model.apply(
                    variables,
                    volume.planes,
                    volume.ws,
                    target.cam2world,
                    target.intrinsics,
                    batch.source.id_coeff,
                    target.exp_coeff,
                    resolution=rendering.resolution,
                    deform=deform,
                    method="render",
                )
                for deform in (True, False)
            ]
            return outputs[0], outputs[1].image

        self._draw = jax.jit(draw, out_shardings=None if mesh is None else copied(mesh))

    def grid(self, variables: PyTree) -> tuple[UInt8[np.ndarray, "h w 3"], float]:
        """The picture, as 8-bit pixels, and the PSNR of outputs against targets in dB."""
        output, canonical = jax.device_get(self._draw(variables))
        target = np.asarray(self.targets.image)
        picture = preview_grid(
            np.asarray(self.batch.source.image),
            target,
            output.image,
            canonical,
            output.image_depth,
            output.opacity,
        )
        return picture, float(-10 * np.log10(np.mean(np.square((output.image - target) / 2)) + 1e-12))

    def write(self, variables: PyTree, path: Path) -> tuple[UInt8[np.ndarray, "h w 3"], float]:
        """The same, also written as PNG by the first process; every process has to call it."""
        picture, psnr = self.grid(variables)
        if jax.process_index() == 0:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_png(path, picture)
        return picture, psnr
