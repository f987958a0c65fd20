"""Layers that several networks share, with PyTorch's rules where Linen's differ."""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

Dtype = Any  # what jax.numpy accepts as a dtype
PADDING = ((1, 1), (1, 1))  # PyTorch's padding=1; "SAME" pads strided convolutions on one side only


class BatchNorm(nn.Module):
    """Batch normalisation over all axes but the last, PyTorch's rule.

    `train=False` (the default everywhere in NOFA) is an affine map with the stored statistics. `train=True`
    normalises with the batch's own statistics and needs "batch_stats" mutable: the running variance takes the
    *unbiased* batch variance, unlike `flax.linen.BatchNorm`. Statistics are computed in float32.
    """

    momentum: float = 0.1  # weight of the new batch (PyTorch's convention)
    epsilon: float = 1e-5
    affine: bool = True  # False: no learned scale and bias
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"], train: bool = False) -> Float[Array, "*batch c"]:
        channels = x.shape[-1]
        mean = self.variable("batch_stats", "mean", jnp.zeros, (channels,), jnp.float32)
        var = self.variable("batch_stats", "var", jnp.ones, (channels,), jnp.float32)
        x32 = x.astype(jnp.float32)
        if train:
            axes = tuple(range(x.ndim - 1))
            count = x.size // channels
            use_mean, use_var = jnp.mean(x32, axes), jnp.var(x32, axes)
            if not self.is_initializing():
                unbiased = use_var * (count / max(count - 1, 1))
                mean.value = (1 - self.momentum) * mean.value + self.momentum * use_mean
                var.value = (1 - self.momentum) * var.value + self.momentum * unbiased
        else:
            use_mean, use_var = mean.value, var.value
        gain = jax.lax.rsqrt(use_var + self.epsilon)
        shift = -use_mean * gain
        if self.affine:
            scale = self.param("scale", nn.initializers.ones, (channels,), jnp.float32)
            bias = self.param("bias", nn.initializers.zeros, (channels,), jnp.float32)
            gain, shift = gain * scale, shift * scale + bias
        shape = (1,) * (x.ndim - 1) + (channels,)
        return (x32 * gain.reshape(shape) + shift.reshape(shape)).astype(self.dtype)


class PReLU(nn.Module):
    """x where positive, slope_c x elsewhere, one learned slope per channel."""

    init_slope: float = 0.25

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        channels = x.shape[-1]
        slope = self.param("slope", nn.initializers.constant(self.init_slope), (channels,), jnp.float32)
        slope = slope.astype(x.dtype).reshape((1,) * (x.ndim - 1) + (channels,))
        return jnp.where(x >= 0, x, slope * x)
