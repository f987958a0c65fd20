"""Volume rendering of a tri-plane: points, deformation, planes, decoder, marching (paper Sec. 3.2; EG3D Sec. 4.2)."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from nofa_jax.models.stylegan2 import Linear
from nofa_jax.ops.softplus import softplus
from nofa_jax.rendering import march, sampling
from nofa_jax.rendering.triplane import EG3D_PLANE_AXES, sample_planes
from nofa_jax.types import Rays, RenderedRays

Deform = Callable[[Float[Array, "b n 3"]], Float[Array, "b n 3"]]


class Decoder(nn.Module):
    """EG3D's point decoder: mean plane feature -> colour features in (-0.001, 1.001), raw density. No view."""

    features: int = 32
    hidden: int = 64
    lr_multiplier: float = 1.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*b c"]) -> tuple[Float[Array, "*b f"], Float[Array, "*b 1"]]:
        x = softplus(Linear(self.hidden, lr_multiplier=self.lr_multiplier, name="hidden_layer")(x.astype(self.dtype)))
        x = Linear(1 + self.features, lr_multiplier=self.lr_multiplier, name="output_layer")(x).astype(jnp.float32)
        return nn.sigmoid(x[..., 1:]) * 1.002 - 0.001, x[..., :1]


class VolumeRenderer(nn.Module):
    """Two-pass rendering of rays: stratified samples, then as many where the first pass found something."""

    decoder: nn.Module
    near: float | str = 2.25  # depth of the first sample; "auto": where the ray enters the box
    far: float | str = 3.3
    box_warp: float = 1.0  # side of the cube that the planes span
    samples: int = 48
    importance_samples: int = 48  # 0: one pass
    in_disparity: bool = False
    white_back: bool = False
    plane_axes: tuple[tuple[int, int], ...] = EG3D_PLANE_AXES
    ray_chunk: int = 0  # rays traced at a time: bounds memory; 0: all at once
    remat: bool = False  # recompute a chunk in the backward pass instead of keeping its points

    def __call__(
        self,
        planes: Float[Array, "b 3 h w c"],
        rays: Rays,
        deform: Deform | None = None,
        key: Array | None = None,
    ) -> RenderedRays:
        """Renders rays [b, r, 3].

        Args:
          deform: moves world points to the canonical space in which the planes are read; None is the identity.
          key: random jitter and importance positions; None: jitter 1/2 and an even grid.
        """
        b, r, _ = rays.origins.shape
        near, far = self._limits(rays)
        jitter = jnp.full((b, r, self.samples), 0.5, jnp.float32)
        u = jnp.broadcast_to(jnp.linspace(0.0, 1.0, self.importance_samples), (b, r, self.importance_samples))
        if key is not None:
            keys = jax.random.split(key)
            jitter = jax.random.uniform(keys[0], jitter.shape)
            u = sampling.sorted_uniform(keys[1], u.shape)
        return self.render_at(planes, rays, sampling.stratified(near, far, jitter, self.in_disparity), u, deform)

    def render_at(
        self,
        planes: Float[Array, "b 3 h w c"],
        rays: Rays,
        depths: Float[Array, "b r s"],
        u: Float[Array, "b r f"],
        deform: Deform | None = None,
    ) -> RenderedRays:
        """Renders with given coarse depths and given importance positions u (both sorted)."""

        def trace(chunk: tuple[Array, Array, Array, Array]) -> tuple[Array, ...]:
            return self._trace(planes, *chunk, deform)

        run = jax.checkpoint(trace) if self.remat else trace
        features, depth, opacity, lowest, highest = self._in_chunks(run, (*jax.tree.leaves(rays), depths, u))
        # EG3D clamps the depth to the range of the samples of the whole batch.
        depth = jnp.clip(depth, lowest.min(), highest.max())
        return RenderedRays(
            features=march.to_image_range(features, opacity, self.white_back), depth=depth, weights=opacity
        )

    def decode(
        self, planes: Float[Array, "b 3 h w c"], points: Float[Array, "b n 3"], deform: Deform | None = None
    ) -> tuple[Float[Array, "b n f"], Float[Array, "b n 1"]]:
        """Colour features and raw density at world points."""
        canonical = points if deform is None else deform(points)
        return self.decoder(sample_planes(planes, canonical, self.box_warp, self.plane_axes))

    def _limits(self, rays: Rays) -> tuple[Array, Array]:
        if self.near == "auto" and self.far == "auto":
            return sampling.auto_limits(rays.origins, rays.directions, self.box_warp)
        return jnp.float32(self.near), jnp.float32(self.far)

    def _in_chunks(self, trace: Callable, inputs: tuple[Array, ...]) -> tuple[Array, ...]:
        """`trace` over at most `ray_chunk` rays at a time. No loop when one chunk holds all (loops are slow on CPU)."""
        r = inputs[0].shape[1]
        size = self.ray_chunk
        if size == 0 or size >= r or self.is_initializing():
            return trace(inputs)
        count = -(-r // size)

        def split(x: Array) -> Array:  # the last rays again fill the last chunk; their results are cut off
            filled = jnp.concatenate([x, x[:, -1:].repeat(count * size - r, axis=1)], axis=1)
            return jnp.moveaxis(filled.reshape(x.shape[0], count, size, x.shape[2]), 1, 0)

        def join(x: Array) -> Array:
            return jnp.moveaxis(x, 0, 1).reshape(x.shape[1], count * size, *x.shape[3:])[:, :r]

        return tuple(map(join, jax.lax.map(trace, tuple(map(split, inputs)))))

    def _trace(
        self, planes: Array, origins: Array, directions: Array, depths: Array, u: Array, deform: Deform | None
    ) -> tuple[Array, ...]:
        """Composited features in [0, 1], unclamped depth, opacity, smallest and largest sample depth of each ray."""
        b, r, _ = origins.shape

        def read(depths: Array) -> tuple[Array, Array]:
            points = origins[:, :, None] + depths[..., None] * directions[:, :, None]
            rgb, sigma = self.decode(planes, points.reshape(b, -1, 3), deform)
            return rgb.reshape(b, r, depths.shape[-1], -1), sigma.reshape(b, r, depths.shape[-1])

        rgb, sigma = read(depths)
        weights = march.interval_weights(depths, sigma)
        if self.importance_samples == 0:
            features = jnp.einsum("brs,brsc->brc", march.sample_weights(weights), rgb)
        else:
            fine_depths = sampling.importance(depths, weights, u)
            fine_rgb, fine_sigma = read(fine_depths)
            merge = sampling.Merge.of(depths, fine_depths)
            depths, sigma = merge.join(depths, fine_depths), merge.join(sigma, fine_sigma)
            weights = march.interval_weights(depths, sigma)
            # The colours stay where they are: their weights are sorted back instead.
            coarse_part, fine_part = merge.split(march.sample_weights(weights), rgb.shape[2])
            features = jnp.einsum("brs,brsc->brc", coarse_part, rgb) + jnp.einsum("brs,brsc->brc", fine_part, fine_rgb)
        depth = march.composite_depth(depths, weights)
        return features, depth, weights.sum(-1), depths[..., 0], depths[..., -1]
