"""StyleGAN2 layers shared by the generator and the super-resolution (Karras et al. 2020, as EG3D uses them).

Weights are stored at unit variance ("equalised") and scaled when used: by lr_multiplier / sqrt(inputs) in linear
layers; not in demodulated convolutions, where it would cancel; on the style in toRGB. Parameters are float32, `dtype`
is what the convolutions compute in.
"""

import functools

import jax
import jax.numpy as jnp
from flax import linen as nn
from jaxtyping import Array, Float

from nofa_jax.ops.conv import modulated_conv, pointwise
from nofa_jax.ops.resample import upsample2d

NOISE_MODES = ("const", "random", "none")
_GAIN = 2.0**0.5  # keeps the variance through leaky ReLU


def normalize_2nd_moment(x: Float[Array, "*b c"]) -> Float[Array, "*b c"]:
    """x over its root mean square."""
    return x * jax.lax.rsqrt(jnp.mean(jnp.square(x), axis=-1, keepdims=True) + 1e-8)


def bias_act(
    x: Float[Array, "*b c"], bias: Float[Array, " c"], clamp: float | None = None, gain: float = _GAIN
) -> Float[Array, "*b c"]:
    """Leaky ReLU (0.2) of x + bias, times gain, limited to +-clamp."""
    y = nn.leaky_relu(x + bias.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (-1,)), 0.2) * gain
    return y if clamp is None else jnp.clip(y, -clamp, clamp)


class Linear(nn.Module):
    """Equalised linear layer in the input's dtype. Weight and bias are both stored divided by lr_multiplier."""

    features: int
    activation: bool = False  # leaky ReLU with gain sqrt(2)
    lr_multiplier: float = 1.0
    bias_init: float = 0.0

    @nn.compact
    def __call__(self, x: Float[Array, "*b i"]) -> Float[Array, "*b o"]:
        inputs = x.shape[-1]
        scale = self.lr_multiplier
        kernel = self.param("kernel", nn.initializers.normal(1.0 / scale), (inputs, self.features))
        bias = self.param("bias", nn.initializers.constant(self.bias_init / scale), (self.features,)) * scale
        y = jnp.matmul(x, (kernel * (scale / inputs**0.5)).astype(x.dtype))
        if self.activation:
            return bias_act(y, bias)
        return y + bias.astype(x.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


class Mapping(nn.Module):
    """(z, camera label) -> ws, and the running mean of w that truncation pulls towards."""

    num_ws: int
    w_dim: int = 512
    c_dim: int = 25  # 0: not conditioned
    num_layers: int = 2
    lr_multiplier: float = 0.01
    embed_features: int | None = None  # of the label; None: w_dim
    layer_features: int | None = None  # of the layers before the last; None: w_dim

    def setup(self) -> None:
        self.w_avg = self.variable("buffers", "w_avg", jnp.zeros, (self.w_dim,), jnp.float32)
        if self.c_dim > 0:
            self.embed = Linear(self.w_dim if self.embed_features is None else self.embed_features)
        hidden = self.w_dim if self.layer_features is None else self.layer_features
        for i in range(self.num_layers):
            width = self.w_dim if i == self.num_layers - 1 else hidden
            setattr(self, f"fc{i}", Linear(width, activation=True, lr_multiplier=self.lr_multiplier))

    def __call__(
        self,
        z: Float[Array, "b z"],
        label: Float[Array, "b c"] | None,
        truncation_psi: float | Float[Array, ""] = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Float[Array, "b l w"]:
        """w_avg + psi (w - w_avg) for the first `truncation_cutoff` layers (all by default)."""
        x = normalize_2nd_moment(z)
        if self.c_dim > 0:
            x = jnp.concatenate([x, normalize_2nd_moment(self.embed(label))], axis=-1)
        for i in range(self.num_layers):
            x = getattr(self, f"fc{i}")(x)
        cutoff = self.num_ws if truncation_cutoff is None else truncation_cutoff
        mean = self.w_avg.value[None]
        truncated = mean + truncation_psi * (x - mean)
        keep = jnp.arange(self.num_ws)[None, :, None] < cutoff
        return jnp.where(keep, truncated[:, None], x[:, None])


class SynthesisLayer(nn.Module):
    """Modulated 3x3 convolution, noise, bias, leaky ReLU."""

    features: int
    resolution: int  # of the output: the size of the stored noise
    up: int = 1
    clamp: float | None = None
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w i"],
        w: Float[Array, "b w_dim"],
        noise_mode: str = "const",
        key: Array | None = None,
    ) -> Float[Array, "b y x o"]:
        inputs = x.shape[-1]
        style = Linear(inputs, bias_init=1.0, name="affine")(w)
        kernel = self.param("kernel", nn.initializers.normal(1.0), (3, 3, inputs, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        strength = self.param("noise_strength", nn.initializers.zeros, ())
        size = (self.resolution, self.resolution)
        stored = self.variable("buffers", "noise_const", lambda: jax.random.normal(self.make_rng("params"), size))
        y = modulated_conv(x.astype(self.dtype), kernel, style, self.up)
        if noise_mode == "const":
            y = y + (stored.value * strength)[None, :, :, None].astype(y.dtype)
        elif noise_mode == "random":
            if key is None:
                raise ValueError("noise_mode 'random' needs a key")
            y = y + (jax.random.normal(key, (*y.shape[:3], 1)) * strength).astype(y.dtype)
        elif noise_mode != "none":
            raise ValueError(f"noise_mode {noise_mode!r} is not one of {NOISE_MODES}")
        return bias_act(y, bias, self.clamp)


class ToRGB(nn.Module):
    """Modulated 1x1 convolution to the image channels, in float32."""

    features: int
    clamp: float | None = None
    init_std: float = 1.0
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w i"], w: Float[Array, "b w_dim"]) -> Float[Array, "b h w o"]:
        inputs = x.shape[-1]
        style = Linear(inputs, bias_init=1.0, name="affine")(w) / inputs**0.5
        kernel = self.param("kernel", nn.initializers.normal(self.init_std), (inputs, self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        y = pointwise(x.astype(self.dtype), kernel, style) + bias.astype(self.dtype)[None, None, None]
        y = y if self.clamp is None else jnp.clip(y, -self.clamp, self.clamp)
        return y.astype(jnp.float32)


class SynthesisBlock(nn.Module):
    """Two layers and a toRGB added to the doubled skip image. The first block starts from a learned constant."""

    features: int
    image_channels: int
    resolution: int  # of the output
    up: int = 2
    first: bool = False  # no input, one layer only
    clamp: float | None = None
    image_init_std: float = 1.0  # of toRGB's kernel
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        x: Float[Array, "b h w i"] | None,
        image: Float[Array, "b h w ci"] | None,
        ws: Float[Array, "b l w_dim"],
        noise_mode: str = "const",
        key: Array | None = None,
    ) -> tuple[Float[Array, "b y x o"], Float[Array, "b y x ci"]]:
        """ws: the block's codes in order: conv0 (absent in the first block), conv1, toRGB."""
        keys = (None, None) if key is None else jax.random.split(key)
        layer = functools.partial(SynthesisLayer, self.features, self.resolution, clamp=self.clamp, dtype=self.dtype)
        if self.first:
            const = self.param("const", nn.initializers.normal(1.0), (self.resolution, self.resolution, self.features))
            x = jnp.broadcast_to(const[None], (ws.shape[0], *const.shape))
        else:
            x = layer(up=self.up, name="conv0")(x, ws[:, 0], noise_mode, keys[0])
        x = layer(name="conv1")(x, ws[:, -2], noise_mode, keys[1])
        added = ToRGB(self.image_channels, self.clamp, self.image_init_std, self.dtype, name="torgb")(x, ws[:, -1])
        if image is None:
            return x, added
        return x, added + (upsample2d(image) if self.up == 2 else image)
