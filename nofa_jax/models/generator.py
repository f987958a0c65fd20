"""The tri-plane generator G (paper Fig. 2, Sec. 3.1): EG3D's StyleGAN2 backbone, ws -> canonical planes.

Field defaults are those of EG3D's ffhqrebalanced512-128, which the paper builds on.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from nofa_jax.models.stylegan2 import Mapping, SynthesisBlock
from nofa_jax.types import TriPlane


class Generator(nn.Module):
    """`mapping` makes ws of noise and a camera label; calling the module makes the planes of ws."""

    z_dim: int = 512
    c_dim: int = 25
    w_dim: int = 512
    num_mapping_layers: int = 2
    mapping_lr_multiplier: float = 0.01
    mapping_embed_features: int | None = None  # None: w_dim, like the next
    mapping_layer_features: int | None = None
    plane_resolution: int = 256  # a power of two, at least 16
    plane_channels: int = 32
    channel_base: int = 32768  # a block of resolution r has min(channel_base / r, channel_max) channels
    channel_max: int = 512
    c_scale: float = 1.0  # times the camera label
    zero_conditioning: bool = False  # ignore the camera label
    clamp: float | None = None
    # Of the toRGB kernels of blocks above 16². Small where G is trained from scratch on few steps: the planes then
    # start smooth, while fine random structure in them shows as streaks that take long to unlearn.
    fine_init_std: float = 1.0
    dtype: jnp.dtype = jnp.float32

    @property
    def resolutions(self) -> tuple[int, ...]:
        return tuple(2**i for i in range(2, self.plane_resolution.bit_length()))

    @property
    def num_ws(self) -> int:
        return 2 * len(self.resolutions)

    @property
    def feature_resolution(self) -> int:
        """Of the feature the compensation network reads: EG3D's b64 at the paper's size."""
        return self.plane_resolution // 4

    def block_channels(self, resolution: int) -> int:
        return min(self.channel_base // resolution, self.channel_max)

    @property
    def feature_channels(self) -> int:
        return self.block_channels(self.feature_resolution)

    def setup(self) -> None:
        self.mapping_network = Mapping(
            self.num_ws,
            self.w_dim,
            self.c_dim,
            self.num_mapping_layers,
            self.mapping_lr_multiplier,
            self.mapping_embed_features,
            self.mapping_layer_features,
            name="mapping",
        )
        for r in self.resolutions:
            block = SynthesisBlock(
                self.block_channels(r),
                3 * self.plane_channels,
                r,
                up=1 if r == 4 else 2,
                first=r == 4,
                clamp=self.clamp,
                image_init_std=self.fine_init_std if r > 16 else 1.0,
                dtype=self.dtype,
            )
            setattr(self, f"b{r}", block)

    @property
    def w_avg(self) -> Float[Array, " w"]:
        """The mean w, learned with the weights."""
        return self.mapping_network.w_avg.value

    def mapping(
        self,
        z: Float[Array, "b z"],
        camera_label: Float[Array, "b c"] | None = None,
        truncation_psi: float | Float[Array, ""] = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Float[Array, "b l w"]:
        """z ~ N(0, 1) and EG3D's 25-vector camera label -> one w for each layer."""
        if camera_label is not None:
            camera_label = camera_label * (0.0 if self.zero_conditioning else self.c_scale)
        return self.mapping_network(z, camera_label, truncation_psi, truncation_cutoff)

    def __call__(self, ws: Float[Array, "b l w"], noise_mode: str = "const", key: Array | None = None) -> TriPlane:
        """noise_mode: "const" (the stored noise), "random" (needs key) or "none"."""
        if self.is_initializing():  # the mapping gets its parameters too
            self.mapping(jnp.zeros((1, self.z_dim)), jnp.zeros((1, self.c_dim)))
        count = len(self.resolutions)
        keys = [None] * count if key is None else list(jax.random.split(key, count))
        x = image = feature = None
        for i, resolution in enumerate(self.resolutions):
            # A block's toRGB shares its code with the next block's first convolution.
            codes = ws[:, :2] if i == 0 else ws[:, 2 * i - 1 : 2 * i + 2]
            x, image = getattr(self, f"b{resolution}")(x, image, codes, noise_mode, keys[i])
            if resolution == self.feature_resolution:
                feature = x
        if image is None or feature is None:
            raise ValueError(f"feature_resolution {self.feature_resolution} is not one of {self.resolutions}")
        b, h, w, _ = image.shape
        planes = image.reshape(b, h, w, 3, self.plane_channels).transpose(0, 3, 1, 2, 4)
        return TriPlane(planes=planes, feature=feature.astype(jnp.float32))
