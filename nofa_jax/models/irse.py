"""IR-SE trunk: the residual squeeze-excite network under the e4e encoder and under ArcFace's IR-SE50.

Follows the behaviour of `Backbone(50, "ir_se")` in omertov/encoder4editing (MIT): pre-normalised units without a
norm between the first convolution and the PReLU, strides in the second convolution, padding 1 on both sides.
Written here in NHWC; sizes are fields so a toy trunk is the same class.
"""

import typing

import flax.linen as nn
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from nofa_jax.models.layers import PADDING, BatchNorm, Dtype, PReLU


class SqueezeExcite(nn.Module):
    """x times sigmoid(W2 relu(W1 mean(x))): a gate per image and channel, no biases."""

    reduction: int = 16
    min_hidden: int = 4  # the narrowest published unit's; narrower toy units would lose the gate to one dead ReLU
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        hidden_width = max(channels // self.reduction, self.min_hidden)
        mean = jnp.mean(x, axis=(1, 2), dtype=jnp.float32).astype(self.dtype)
        hidden = nn.Dense(hidden_width, use_bias=False, dtype=self.dtype, name="squeeze")(mean)
        gate = nn.Dense(channels, use_bias=False, dtype=self.dtype, name="excite")(nn.relu(hidden))
        return x * nn.sigmoid(gate)[:, None, None, :]


class IRSEUnit(nn.Module):
    """Residual unit BN, conv, PReLU, conv (stride), BN, SE; the shortcut subsamples, or projects to new channels."""

    features: int
    stride: int = 1
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b i j k"]:
        s = self.stride
        if x.shape[-1] == self.features:
            shortcut = x[:, ::s, ::s]  # the original's max pool with window 1
        else:
            shortcut = nn.Conv(self.features, (1, 1), s, "VALID", use_bias=False, dtype=self.dtype, name="project")(x)
            shortcut = BatchNorm(dtype=self.dtype, name="project_norm")(shortcut, train)
        y = BatchNorm(dtype=self.dtype, name="norm1")(x, train)
        y = nn.Conv(self.features, (3, 3), 1, PADDING, use_bias=False, dtype=self.dtype, name="conv1")(y)
        y = PReLU(name="act")(y)
        y = nn.Conv(self.features, (3, 3), s, PADDING, use_bias=False, dtype=self.dtype, name="conv2")(y)
        y = BatchNorm(dtype=self.dtype, name="norm2")(y, train)
        return SqueezeExcite(dtype=self.dtype, name="gate")(y) + shortcut


@typing.no_type_check
@struct.dataclass
class TrunkFeatures:
    """The stem's output and the last unit's output of every group."""

    stem: Float[Array, "b h w c"]
    groups: tuple[Float[Array, "b _h _w _c"], ...]  # half the size from group to group


class IRSETrunk(nn.Module):
    """Stem (conv, BN, PReLU) and groups of units; the first unit of *every* group has stride 2."""

    units: tuple[int, ...] = (3, 4, 14, 3)  # IR-50
    widths: tuple[int, ...] = (64, 128, 256, 512)
    stem_width: int = 64
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"], train: bool = False) -> TrunkFeatures:
        if len(self.units) != len(self.widths):
            raise ValueError(f"units {self.units} and widths {self.widths} must have one entry per group")
        x = image.astype(self.dtype)
        x = nn.Conv(self.stem_width, (3, 3), 1, PADDING, use_bias=False, dtype=self.dtype, name="stem_conv")(x)
        stem = x = PReLU(name="stem_act")(BatchNorm(dtype=self.dtype, name="stem_norm")(x, train))
        groups, index = [], 0
        for count, width in zip(self.units, self.widths, strict=True):
            for i in range(count):
                unit = IRSEUnit(width, stride=2 if i == 0 else 1, dtype=self.dtype, name=f"unit_{index}")
                x, index = unit(x, train), index + 1
            groups.append(x)
        return TrunkFeatures(stem=stem, groups=tuple(groups))
