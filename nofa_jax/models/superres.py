"""Super-resolution of the rendered feature image (paper Sec. 3.2 "hybrid neural renderer"; EG3D Sec. 4.3).

Two StyleGAN2 blocks modulated by the last w code. EG3D's variants differ in sizes only: `EG3D_SUPERRES`.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from nofa_jax.models.stylegan2 import SynthesisBlock
from nofa_jax.ops.resample import resize

# Fields of each published class, by the end of its name.
EG3D_SUPERRES = {
    "2X": {"input_resolution": 64, "output_resolution": 128, "channels": (128, 64), "resize": "always"},
    "4X": {"input_resolution": 128, "output_resolution": 256, "channels": (128, 64), "resize": "enlarge"},
    "Deepfp32": {"input_resolution": 128, "output_resolution": 256, "channels": (128, 64), "resize": "enlarge"},
    "8X": {"input_resolution": 128, "output_resolution": 512, "channels": (128, 64), "resize": "always"},
    "8XDC": {"input_resolution": 128, "output_resolution": 512, "channels": (256, 128), "resize": "always"},
}


class SuperResolution(nn.Module):
    """Feature image, whose first three channels are the raw colour, -> image of `output_resolution`."""

    input_resolution: int = 128
    output_resolution: int = 512  # 1, 2 or 4 times the input's
    channels: tuple[int, int] = (256, 128)  # of the two blocks
    resize: str = (
        "never"  # of other feature images to input_resolution: "always", "enlarge" (only the smaller), "never"
    )
    antialias: bool = True
    clamp: float | None = 256.0  # EG3D clamps wherever it once trained in half precision
    noise_mode: str = "none"  # EG3D's published setting; "const" only fits whole images
    dtype: jnp.dtype = jnp.float32

    @property
    def doubles(self) -> tuple[bool, bool]:
        """Which blocks double the size: both, the second, or none."""
        factor = self.output_resolution / self.input_resolution
        if factor not in (1, 2, 4):
            raise ValueError(f"superres: {self.input_resolution} -> {self.output_resolution} is not 1, 2 or 4 times")
        return factor == 4, factor >= 2

    @nn.compact
    def __call__(
        self,
        feature_image: Float[Array, "b h w c"],
        ws: Float[Array, "b l w_dim"],
        noise_mode: str | None = None,
        key: Array | None = None,
    ) -> Float[Array, "b y x 3"]:
        """Image in about [-1, 1], as many times larger as output_resolution is than input_resolution.

        With resize = "never" a window of a feature image gives a window of the image; pixels near its edges differ from
        those of the whole, since the convolutions see zeros there.
        """
        if self.resize not in ("always", "enlarge", "never"):
            raise ValueError(f"superres: resize is 'always', 'enlarge' or 'never', not {self.resize!r}")
        wanted = self.input_resolution
        if self.resize == "always" or (self.resize == "enlarge" and feature_image.shape[1] < wanted):
            feature_image = resize(feature_image, (wanted, wanted), self.antialias)
        noise_mode = self.noise_mode if noise_mode is None else noise_mode
        keys = (None, None) if key is None else jax.random.split(key)
        codes = jnp.broadcast_to(ws[:, -1:], (ws.shape[0], 3, ws.shape[2]))  # the same code for all three layers
        x, image = feature_image, feature_image[..., :3]
        resolution = wanted
        for i, (features, double) in enumerate(zip(self.channels, self.doubles, strict=True)):
            resolution *= 1 + double
            block = SynthesisBlock(
                features, 3, resolution, up=1 + double, clamp=self.clamp, dtype=self.dtype, name=f"block{i}"
            )
            x, image = block(x, image, codes, noise_mode, keys[i])
        return image
