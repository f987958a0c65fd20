"""C: the compensation network (Sec. 3.2 and Fig. 9), which adds to the tri-plane what the encoder lost.

SPADE residual blocks modulate the generator's intermediate feature with the photo and widen it step by step to the
planes' resolution. The blocks are those of NVlabs/SPADE (written from the paper and from behaviour), with the
parameter-free norm left out as NOFA does (Fig. 9: "we discard the batch normalization layers"). Where the paper is
silent: one block per resolution with a nearest ×2 between them and LeakyReLU before the last convolution, as in
SPADE's generator; no spectral norm, which the paper does not mention (field `spectral`).
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nofa_jax.models.layers import PADDING, Dtype
from nofa_jax.ops.resize import resize_nearest_floor

LEAK = 0.2  # SPADE's LeakyReLU


def normalize(x: Float[Array, " n"], epsilon: float = 1e-12) -> Float[Array, " n"]:
    """x / max(|x|, epsilon)."""
    return x / jnp.maximum(jnp.linalg.norm(x), epsilon)


class SpectralConv(nn.Module):
    """Convolution, its kernel divided by an estimate of its largest singular value if `spectral`.

    The kernel is seen as the matrix W [out, kh*kw*in]. "batch_stats" keeps its singular vectors u, v (as
    `torch.nn.utils.spectral_norm`); `train=True` improves them by one power iteration per call and needs that
    collection mutable. The estimate u·Wv carries gradient, u and v do not.
    """

    features: int
    kernel_size: tuple[int, int]
    use_bias: bool = True
    spectral: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b h w k"]:
        shape = (*self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), shape, jnp.float32)
        if self.spectral:
            kernel = kernel / self._largest_singular_value(kernel.reshape(-1, self.features), train)
        padding = [(k // 2, k // 2) for k in self.kernel_size]
        y = jax.lax.conv_general_dilated(
            x.astype(self.dtype), kernel.astype(self.dtype), (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        if self.use_bias:
            bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
            y = y + bias.astype(self.dtype)[None, None, None, :]
        return y

    def _largest_singular_value(self, matrix: Float[Array, "i o"], train: bool) -> Float[Array, ""]:
        def step(u: Float[Array, " o"]) -> tuple[Float[Array, " o"], Float[Array, " i"]]:
            fixed = jax.lax.stop_gradient(matrix)
            v = normalize(jnp.dot(fixed, u, precision="highest"))
            return normalize(jnp.dot(v, fixed, precision="highest")), v

        first = self.is_initializing()
        u = self.variable(
            "batch_stats", "u", lambda: normalize(jax.random.normal(self.make_rng("params"), (matrix.shape[1],)))
        )
        v = self.variable("batch_stats", "v", lambda: step(u.value)[1])
        if train and not first:
            u.value, v.value = step(u.value)
        return jnp.dot(jnp.dot(v.value, matrix, precision="highest"), u.value)


class Spade(nn.Module):
    """x (1 + gamma) + beta with gamma, beta predicted per pixel from the image, resized to x by nearest."""

    hidden: int = 128
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], image: Float[Array, "b i j 3"]) -> Float[Array, "b h w c"]:
        channels = x.shape[-1]
        image = resize_nearest_floor(image.astype(self.dtype), x.shape[1], x.shape[2])
        shared = nn.relu(nn.Conv(self.hidden, (3, 3), 1, PADDING, dtype=self.dtype, name="shared")(image))
        gamma = nn.Conv(channels, (3, 3), 1, PADDING, dtype=self.dtype, name="gamma")(shared)
        beta = nn.Conv(channels, (3, 3), 1, PADDING, dtype=self.dtype, name="beta")(shared)
        return x.astype(self.dtype) * (1 + gamma) + beta


class SpadeResBlock(nn.Module):
    """Fig. 9 (a): twice (SPADE, LeakyReLU, conv3x3), plus a shortcut that projects where the width changes."""

    features: int
    hidden: int = 128
    spectral: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], image: Float[Array, "b i j 3"], train: bool = False
    ) -> Float[Array, "b h w k"]:
        channels = x.shape[-1]
        middle = min(channels, self.features)
        shortcut = x.astype(self.dtype)
        if channels != self.features:
            shortcut = Spade(self.hidden, self.dtype, name="norm_s")(shortcut, image)
            shortcut = self._conv(self.features, 1, "conv_s", use_bias=False)(shortcut, train)
        y = nn.leaky_relu(Spade(self.hidden, self.dtype, name="norm_0")(x, image), LEAK)
        y = self._conv(middle, 3, "conv_0")(y, train)
        y = nn.leaky_relu(Spade(self.hidden, self.dtype, name="norm_1")(y, image), LEAK)
        return shortcut + self._conv(self.features, 3, "conv_1")(y, train)

    def _conv(self, features: int, size: int, name: str, use_bias: bool = True) -> SpectralConv:
        return SpectralConv(features, (size, size), use_bias, self.spectral, self.dtype, name=name)


class Compensation(nn.Module):
    """Generator feature and photo in [-1, 1] to the volume to add to the planes; zero until trained."""

    # Widths at the feature's resolution and after each block; the resolution doubles between blocks (Sec. 3.2 gives
    # the 512-channel 64² input and the 3×32×256² output; the widths between are halvings).
    channels: tuple[int, ...] = (512, 256, 128, 96)
    plane_channels: int = 32
    hidden: int = 128  # SPADE's hidden width
    spectral: bool = False  # spectral norm on the blocks' convolutions (SPADE's own default; not in the paper)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, feature: Float[Array, "b h w c"], image: Float[Array, "b i j 3"], train: bool = False
    ) -> Float[Array, "b 3 H W p"]:
        """[b, 3, s h, s w, plane_channels], s = 2^(blocks - 1), float32. `train` matters for spectral norm only."""
        if feature.shape[-1] != self.channels[0]:
            raise ValueError(f"Compensation.channels starts at {self.channels[0]}, the feature has {feature.shape[-1]}")
        x = feature.astype(self.dtype)
        for i, width in enumerate(self.channels[1:]):
            if i > 0:
                x = resize_nearest_floor(x, 2 * x.shape[1], 2 * x.shape[2])
            x = SpadeResBlock(width, self.hidden, self.spectral, self.dtype, name=f"block_{i}")(x, image, train)
        x = nn.Conv(
            3 * self.plane_channels,
            (3, 3),
            padding=PADDING,
            kernel_init=nn.initializers.zeros,  # an untrained C changes nothing
            dtype=self.dtype,
            name="to_planes",
        )(nn.leaky_relu(x, LEAK))
        b, h, w, _ = x.shape
        planes = x.reshape(b, h, w, 3, self.plane_channels)  # plane-major channels, as the generator's
        return planes.transpose(0, 3, 1, 2, 4).astype(jnp.float32)
