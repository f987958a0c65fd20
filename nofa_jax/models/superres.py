"""Super-resolution of the rendered feature image (paper Sec. 3.2 "hybrid neural renderer"; EG3D Sec. 4.3).

Two StyleGAN2 blocks modulated by the last w code. EG3D's variants differ in sizes only: `EG3D_SUPERRES`.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from nofa_jax.models.stylegan2 import SynthesisBlock
from nofa_jax.ops.resample import resize

# Fields of each published class, by the end of its name. "4X" and "Deepfp32" resize only what is too small.
EG3D_SUPERRES = {
    "2X": {"input_resolution": 64, "widths": (128, 64), "doubles": (False, True)},
    "4X": {"input_resolution": 128, "widths": (128, 64), "doubles": (False, True), "shrinks": False},
    "Deepfp32": {"input_resolution": 128, "widths": (128, 64), "doubles": (False, True), "shrinks": False},
    "8X": {"input_resolution": 128, "widths": (128, 64), "doubles": (True, True)},
    "8XDC": {"input_resolution": 128, "widths": (256, 128), "doubles": (True, True)},
}


class SuperResolution(nn.Module):
    """Feature image, whose first three channels are the raw colour, -> image of `output_resolution`."""

    input_resolution: int = 128
    widths: tuple[int, int] = (256, 128)
    doubles: tuple[bool, bool] = (True, True)  # which blocks double the size
    shrinks: bool = True  # also resize feature images that are too large, not only those too small
    antialias: bool = True
    clamp: float | None = 256.0  # EG3D clamps wherever it once trained in half precision
    noise_mode: str = "none"  # EG3D's published setting; "const" only fits whole images
    dtype: jnp.dtype = jnp.float32

    @property
    def output_resolution(self) -> int:
        return self.input_resolution * 2 ** sum(self.doubles)

    @nn.compact
    def __call__(
        self,
        feature_image: Float[Array, "b h w c"],
        ws: Float[Array, "b l w_dim"],
        resize_input: bool = True,
        noise_mode: str | None = None,
        key: Array | None = None,
    ) -> Float[Array, "b y x 3"]:
        """Image in about [-1, 1].

        resize_input: bring the feature image to `input_resolution` first. False for a window of it, which keeps its
        size (pixels near a window's edge differ from those of the whole image: the convolutions see zeros there).
        """
        size = feature_image.shape[1]
        wanted = self.input_resolution
        if resize_input and (size < wanted or (self.shrinks and size != wanted)):
            feature_image = resize(feature_image, (wanted, wanted), self.antialias)
        noise_mode = self.noise_mode if noise_mode is None else noise_mode
        keys = (None, None) if key is None else jax.random.split(key)
        codes = jnp.broadcast_to(ws[:, -1:], (ws.shape[0], 3, ws.shape[2]))  # the same code for all three layers
        x, image = feature_image, feature_image[..., :3]
        resolution = wanted
        for i, (width, double) in enumerate(zip(self.widths, self.doubles, strict=True)):
            resolution *= 1 + double
            block = SynthesisBlock(
                width, 3, resolution, up=1 + double, clamp=self.clamp, dtype=self.dtype, name=f"block{i}"
            )
            x, image = block(x, image, codes, noise_mode, keys[i])
        return image
