"""E: the e4e encoder, one photo to offsets in the generator's W+ space (box "Encoder" of Fig. 2, Sec. 3.2).

Follows the behaviour of `Encoder4Editing` in omertov/encoder4editing (MIT): an IR-SE50 trunk, a small feature
pyramid with bilinear align-corners upsampling, and one style head per code. The first head gives w0, the others
give deltas to it. The result is without the generator's average code: ws = E(image) + w_avg.
Changed: NHWC, sizes as fields, and the linear layers' initial scale (see `head_init_std`).
"""

import math
import typing

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from nofa_jax.models.irse import IRSETrunk
from nofa_jax.models.layers import PADDING, Dtype
from nofa_jax.ops.resize import adaptive_average_pool, resize_bilinear_aligned


@typing.no_type_check
@struct.dataclass
class PyramidFeatures:
    """Trunk features at a quarter, an eighth and a sixteenth of the image's resolution."""

    c1: Float[Array, "b h1 w1 d1"]
    c2: Float[Array, "b h2 w2 d2"]
    c3: Float[Array, "b h3 w3 d3"]


class StyleHead(nn.Module):
    """Feature map to one code: 3x3 stride-2 convolutions down to 1x1, then an equalised linear layer."""

    w_dim: int = 512
    init_std: float = 0.1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b s s c"]) -> Float[Array, "b d"]:
        for i in range(round(math.log2(x.shape[1]))):
            x = nn.Conv(self.w_dim, (3, 3), 2, PADDING, dtype=self.dtype, name=f"conv_{i}")(x)
            x = nn.leaky_relu(x, 0.01)
        x = x.reshape(x.shape[0], -1).astype(jnp.float32)  # codes are small sums around w_avg: keep them float32
        weight = self.param("weight", nn.initializers.normal(self.init_std), (x.shape[-1], self.w_dim), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.w_dim,), jnp.float32)
        return x @ (weight / math.sqrt(x.shape[-1])) + bias[None]


class Encoder(nn.Module):
    """Image in [-1, 1] to offsets [b, num_ws, w_dim]; a toy encoder is the same class with smaller fields.

    `train=False` uses the stored batch-norm statistics (identity at initialisation, so a from-scratch encoder is
    well behaved at any batch size); `train=True` needs "batch_stats" mutable.
    """

    input_resolution: int = 256  # power of two, at least 32
    units: tuple[int, ...] = (3, 4, 14, 3)  # IR-50: units per group
    widths: tuple[int, ...] = (64, 128, 256, 512)  # channels per group; the last is the pyramid's too
    stem_width: int = 64
    num_ws: int = 14  # EG3D's 256² plane backbone: 2 log2(256) - 2
    w_dim: int = 512  # also the heads' width
    coarse_ws: int = 3  # codes [0, coarse) read c3
    middle_ws: int = 7  # codes [coarse, middle) read p2, the rest p1
    # Std of the heads' last weights before the 1/sqrt(fan-in) of equalised learning (e4e: 1). Small, so that training
    # starts at the generator's average code, where a pretrained generator makes its mean face, and still tells photos
    # apart, so that gradients reach the trunk from the first step on.
    head_init_std: float = 0.1
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        if len(self.units) != 4 or self.input_resolution < 32 or self.input_resolution & (self.input_resolution - 1):
            raise ValueError(
                f"Encoder needs four groups and a power-of-two input of at least 32, got units={self.units}, "
                f"input_resolution={self.input_resolution}"
            )
        self.trunk = IRSETrunk(self.units, self.widths, self.stem_width, dtype=self.dtype)
        width = self.widths[-1]  # the pyramid's width: c3 enters it as it is
        self.lateral_c2 = nn.Conv(width, (1, 1), dtype=self.dtype)
        self.lateral_c1 = nn.Conv(width, (1, 1), dtype=self.dtype)
        self.heads = [StyleHead(self.w_dim, self.head_init_std, dtype=self.dtype) for _ in range(self.num_ws)]

    def features(self, image: Float[Array, "b h w 3"], train: bool = False) -> PyramidFeatures:
        """Trunk features c1, c2, c3. Larger images are first averaged down to the input resolution, as e4e does."""
        resolution = self.input_resolution
        if image.shape[1] != image.shape[2] or image.shape[1] < resolution:
            raise ValueError(f"Encoder needs square images of at least {resolution} pixels, got {image.shape}")
        if image.shape[1] != resolution:
            image = adaptive_average_pool(image, resolution, resolution)
        _, c1, c2, c3 = self.trunk(image, train).groups
        return PyramidFeatures(c1=c1, c2=c2, c3=c3)

    def codes(self, features: PyramidFeatures, stage: int | None = None) -> Float[Array, "b l d"]:
        """Offsets from trunk features. `stage` k: codes above k stay w0 (e4e's progressive training); None: all."""
        c1, c2, c3 = features.c1, features.c2, features.c3
        p2 = resize_bilinear_aligned(c3, *c2.shape[1:3]) + self.lateral_c2(c2)
        p1 = resize_bilinear_aligned(p2, *c1.shape[1:3]) + self.lateral_c1(c1)
        w0 = self.heads[0](c3)
        codes = [w0]
        for i in range(1, self.num_ws):
            if stage is not None and i > stage and not self.is_initializing():
                codes.append(w0)
                continue
            source = c3 if i < self.coarse_ws else p2 if i < self.middle_ws else p1
            codes.append(w0 + self.heads[i](source))
        return jnp.stack(codes, axis=1)

    def __call__(
        self, image: Float[Array, "b h w 3"], train: bool = False, stage: int | None = None
    ) -> Float[Array, "b l d"]:
        """Offsets without the average code: ws = encoder(image) + w_avg."""
        return self.codes(self.features(image, train), stage)
