"""Deep3DFaceRecon's network: an aligned photo to 257 coefficients of the Basel face model (module M of Fig. 2).

Written from the behaviour of sicxu/Deep3DFaceRecon_pytorch (MIT): a ResNet-50 whose stride sits in the 3x3
convolution, and one linear head per group of coefficients.
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from nofa_jax.models.layers import PADDING, BatchNorm, Dtype

IMAGE_SIZE = 224
# Groups in the output's order: standardised shape, expression and texture coefficients, rotation in radians about
# x, y, z, spherical-harmonics light [3 colours x 9], translation.
GROUPS = {"id": 80, "exp": 64, "tex": 80, "angle": 3, "gamma": 27, "translation_xy": 2, "translation_z": 1}


class Bottleneck(nn.Module):
    """ResNet v1.5 unit: 1x1, 3x3 (stride), 1x1 to four times the width; the first of a group projects its shortcut."""

    width: int
    stride: int = 1
    project: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j k"]:
        w, s = self.width, self.stride
        y = nn.Conv(w, (1, 1), 1, "VALID", use_bias=False, dtype=self.dtype, name="conv1")(x)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="norm1")(y))
        y = nn.Conv(w, (3, 3), s, PADDING, use_bias=False, dtype=self.dtype, name="conv2")(y)
        y = nn.relu(BatchNorm(dtype=self.dtype, name="norm2")(y))
        y = nn.Conv(4 * w, (1, 1), 1, "VALID", use_bias=False, dtype=self.dtype, name="conv3")(y)
        y = BatchNorm(dtype=self.dtype, name="norm3")(y)
        if self.project:
            x = nn.Conv(4 * w, (1, 1), s, "VALID", use_bias=False, dtype=self.dtype, name="project")(x)
            x = BatchNorm(dtype=self.dtype, name="project_norm")(x)
        return nn.relu(y + x)


class Deep3DRecon(nn.Module):
    """Aligned 224² RGB photos in **[0, 1]**, without ImageNet's normalisation, to coefficients [b, 257], float32."""

    units: tuple[int, ...] = (3, 4, 6, 3)  # ResNet-50
    width: int = 64
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b 257"]:
        x = image.astype(self.dtype)
        x = nn.Conv(self.width, (7, 7), 2, ((3, 3), (3, 3)), use_bias=False, dtype=self.dtype, name="stem_conv")(x)
        x = nn.relu(BatchNorm(dtype=self.dtype, name="stem_norm")(x))
        x = nn.max_pool(x, (3, 3), (2, 2), PADDING)
        for group, count in enumerate(self.units, start=1):
            for i in range(count):
                stride = 2 if group > 1 and i == 0 else 1
                width = self.width * 2 ** (group - 1)
                x = Bottleneck(width, stride, i == 0, dtype=self.dtype, name=f"layer{group}_{i}")(x)
        x = jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
        return jnp.concatenate([nn.Dense(n, name=f"head_{name}")(x) for name, n in GROUPS.items()], axis=-1)
