"""GFPGAN v1.3 / v1.4 (clean architecture): restores faces, the targets of the teeth refinement (Sec. 3.3).

A U-Net reads the degraded face; its bottleneck gives one style code per layer and its decoder gives, at every
resolution, the scale and shift of half of a StyleGAN2 decoder's channels. Written from the behaviour of
TencentARC/GFPGAN's GFPGANv1Clean (Apache-2.0) as the published helper runs it (codes used as latents, half-channel
SFT), with the stored noises, so that the result is reproducible.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nofa_jax.models.layers import PADDING, Dtype
from nofa_jax.ops.conv import modulated_conv, pointwise
from nofa_jax.ops.resize import double_bilinear, halve_bilinear

LEAK = 0.2


class ResBlock(nn.Module):
    """conv, resample by two, conv; the skip resamples and projects."""

    features: int
    up: bool
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j k"]:
        resample = double_bilinear if self.up else halve_bilinear
        y = nn.Conv(x.shape[-1], (3, 3), 1, PADDING, dtype=self.dtype, name="conv1")(x)
        y = resample(nn.leaky_relu(y, LEAK))
        y = nn.leaky_relu(nn.Conv(self.features, (3, 3), 1, PADDING, dtype=self.dtype, name="conv2")(y), LEAK)
        return y + nn.Conv(self.features, (1, 1), use_bias=False, dtype=self.dtype, name="skip")(resample(x))


class Condition(nn.Module):
    """conv, LeakyReLU, conv: one side (scale or shift) of the decoder's modulation."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
        y = nn.Conv(x.shape[-1], (3, 3), 1, PADDING, dtype=self.dtype, name="conv1")(x)
        return nn.Conv(x.shape[-1], (3, 3), 1, PADDING, dtype=self.dtype, name="conv2")(nn.leaky_relu(y, LEAK))


class StyleConv(nn.Module):
    """Modulated 3x3 convolution (bilinear doubling before it), gain sqrt 2, stored noise, bias, LeakyReLU.

    Not the generator's layer: the style is a plain linear map, no FIR filter, and noise and bias follow the gain.
    """

    features: int
    up: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], code: Float[Array, "b s"]) -> Float[Array, "b i j k"]:
        channels = x.shape[-1]
        style = nn.Dense(channels, bias_init=nn.initializers.ones, name="modulation")(code)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (3, 3, channels, self.features), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        strength = self.param("noise_strength", nn.initializers.zeros, (), jnp.float32)
        if self.up:
            x = double_bilinear(x)
        size = x.shape[1:3]
        noise = self.variable("buffers", "noise", lambda: jax.random.normal(self.make_rng("params"), size))
        y = modulated_conv(x, kernel, style) * math.sqrt(2.0)
        y = y + (strength * noise.value)[None, :, :, None].astype(self.dtype)
        return nn.leaky_relu(y + bias[None, None, None, :].astype(self.dtype), LEAK)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution without demodulation, added to the doubled image of the level below."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b h w c"], code: Float[Array, "b s"], below: Float[Array, "b i j 3"] | None = None
    ) -> Float[Array, "b h w 3"]:
        channels = x.shape[-1]
        style = nn.Dense(channels, bias_init=nn.initializers.ones, name="modulation")(code)
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (channels, 3), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (3,), jnp.float32)
        rgb = pointwise(x, kernel, style).astype(jnp.float32) + bias[None, None, None, :]
        return rgb if below is None else rgb + double_bilinear(below)


class Decoder(nn.Module):
    """StyleGAN2 decoder from a learned 4² constant; (scale, shift) of each level act on the second half of channels."""

    channels: tuple[int, ...]  # at 4², 8², …
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(
        self, codes: Float[Array, "b l s"], conditions: list[tuple[Float[Array, "b _ _ _"], Float[Array, "b _ _ _"]]]
    ) -> Float[Array, "b h w 3"]:
        first = self.channels[0]
        constant = self.param("constant", nn.initializers.normal(1.0), (4, 4, first), jnp.float32)
        x = jnp.broadcast_to(constant.astype(self.dtype), (codes.shape[0], 4, 4, first))
        x = StyleConv(first, dtype=self.dtype, name="conv_0")(x, codes[:, 0])
        rgb = ToRGB(self.dtype, name="to_rgb_0")(x, codes[:, 1])
        for level, (width, (scale, shift)) in enumerate(zip(self.channels[1:], conditions, strict=True), start=1):
            code = 2 * level - 1  # toRGB shares its code with the next level's first convolution
            x = StyleConv(width, up=True, dtype=self.dtype, name=f"conv_{code}")(x, codes[:, code])
            same, modulated = jnp.split(x, 2, axis=-1)
            x = jnp.concatenate([same, modulated * scale + shift], axis=-1)
            x = StyleConv(width, dtype=self.dtype, name=f"conv_{code + 1}")(x, codes[:, code + 1])
            rgb = ToRGB(self.dtype, name=f"to_rgb_{level}")(x, codes[:, code + 2], rgb)
        return rgb


class GFPGAN(nn.Module):
    """Aligned RGB faces [b, 512, 512, 3] in [-1, 1] to restored faces, about [-1, 1] and not clipped, float32."""

    unet_channels: tuple[int, ...] = (32, 64, 128, 256, 256, 256, 256, 256)  # at 512², 256², … 4²
    decoder_channels: tuple[int, ...] = (512, 512, 512, 512, 512, 256, 128, 64)  # at 4², 8², … 512²
    code_dim: int = 512
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
        levels = len(self.unet_channels) - 1
        if image.shape[1:3] != (4 << levels, 4 << levels):
            raise ValueError(f"GFPGAN is built for {4 << levels}² images, got {image.shape}")
        x = nn.Conv(self.unet_channels[0], (1, 1), dtype=self.dtype, name="first")(image.astype(self.dtype))
        x, skips = nn.leaky_relu(x, LEAK), []
        for i, width in enumerate(self.unet_channels[1:]):
            x = ResBlock(width, up=False, dtype=self.dtype, name=f"down_{i}")(x)
            skips.append(x)
        x = nn.leaky_relu(nn.Conv(x.shape[-1], (3, 3), 1, PADDING, dtype=self.dtype, name="last")(x), LEAK)
        num_codes = 2 * levels + 2
        codes = nn.Dense(num_codes * self.code_dim, name="to_codes")(x.reshape(x.shape[0], -1).astype(jnp.float32))
        conditions = []
        for i, width in enumerate(self.unet_channels[-2::-1]):
            x = ResBlock(width, up=True, dtype=self.dtype, name=f"up_{i}")(x + skips.pop())
            scale = Condition(self.dtype, name=f"scale_{i}")(x)
            conditions.append((scale, Condition(self.dtype, name=f"shift_{i}")(x)))
        codes = codes.reshape(-1, num_codes, self.code_dim)
        return Decoder(self.decoder_channels, self.dtype, name="decoder")(codes, conditions)
