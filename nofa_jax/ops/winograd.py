"""Winograd's 3x3 convolution F(4x4, 3x3) (Lavin and Gray 2016): 36 products for a tile of 4x4 pixels instead of 144.

Along one axis, four outputs y come of six inputs d and the kernel g, as polynomials known by their values at six
points: y = A^T ((G g) * (B^T d)). The points are 0, +-a, +-b and infinity with a = 3/4, b = 4/3. In float32 they lose
less than Lavin's 0, +-1, +-2 (relative error 2e-6 against 8e-6; a plain convolution 6e-7), and a b = 1.
"""

from collections.abc import Iterable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

A, B = 3 / 4, 4 / 3
TILE = 4
MIN_PIXELS, MIN_CHANNELS = 128**2, 256  # below, transforming the tiles costs more than it saves (docs/performance.md)

Six = tuple[Array, Array, Array, Array, Array, Array]


def pays(x: Float[Array, "b h w i"], kernel: Float[Array, "k k i o"]) -> bool:
    """Whether it serves such arrays, and faster than XLA's convolution on a CPU."""
    _, h, w, channels = x.shape
    fits = kernel.shape[:2] == (3, 3) and h % TILE == 0 and w % TILE == 0 and x.dtype == kernel.dtype == jnp.float32
    return fits and h * w >= MIN_PIXELS and min(channels, kernel.shape[3]) >= MIN_CHANNELS


@jax.custom_vjp
def correlate(x: Float[Array, "b h w i"], kernel: Float[Array, "3 3 i o"]) -> Float[Array, "b h w o"]:
    """Correlation with "same" padding; h and w are multiples of 4. Its gradients are the plain convolution's."""
    b, h, w, channels = x.shape
    tall, wide = h // TILE, w // TILE
    padded = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    spectrum = zip(*map(_of_kernel, zip(*map(_of_kernel, kernel), strict=True)), strict=True)  # rows of six
    rows = _of_input(_every_fourth(padded, tall, 1))
    columns = []
    for row, kernels in zip(rows, spectrum, strict=True):
        tiles = [tile.reshape(-1, channels) for tile in _of_input(_every_fourth(row, wide, 2))]
        products = [(t @ k).reshape(b, tall, wide, -1) for t, k in zip(tiles, kernels, strict=True)]
        columns.append(jnp.stack(_to_output(products), axis=3))
    return jnp.stack(_to_output(columns), axis=2).reshape(b, h, w, -1)


def correlate_plainly(
    x: Float[Array, "b h w i"], kernel: Float[Array, "p q i o"], padding: str | list[tuple[int, int]] = "SAME"
) -> Float[Array, "b y x o"]:
    """Correlation by XLA."""
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _backward(saved: tuple[Array, Array], g: Array) -> tuple[Array, Array]:
    return jax.vjp(correlate_plainly, *saved)[1](g)


correlate.defvjp(lambda x, kernel: (correlate(x, kernel), (x, kernel)), _backward)


def _every_fourth(x: Array, count: int, axis: int) -> list[Array]:
    """The six inputs of each tile along an axis."""
    return [jax.lax.slice_in_dim(x, k, k + TILE * (count - 1) + 1, TILE, axis) for k in range(6)]


def _of_input(d: list[Array]) -> Six:
    """B^T d: the coefficients d against the products of (x - point) over all other points."""
    even_a, odd_a = d[4] - B**2 * d[2], A * (d[3] - B**2 * d[1])
    even_b, odd_b = d[4] - A**2 * d[2], B * (d[3] - A**2 * d[1])
    both = A**2 + B**2  # and A**2 * B**2 = 1
    zero, infinity = d[4] - both * d[2] + d[0], d[5] - both * d[3] + d[1]
    return zero, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, infinity


def _of_kernel(g: Iterable[Array]) -> Six:
    """G g: the coefficients g's values at the points, over the products of their distances to the others."""
    first, second, third = g
    at_a, at_b = 2 * A**2 * (A**2 - B**2), 2 * B**2 * (B**2 - A**2)
    even_a, odd_a = (first + A**2 * third) / at_a, A / at_a * second
    even_b, odd_b = (first + B**2 * third) / at_b, B / at_b * second
    return first, even_a + odd_a, even_a - odd_a, even_b + odd_b, even_b - odd_b, third


def _to_output(m: list[Array]) -> list[Array]:
    """A^T m: the powers 0 to 3 of the points."""
    sum_a, difference_a, sum_b, difference_b = m[1] + m[2], m[1] - m[2], m[3] + m[4], m[3] - m[4]
    return [
        m[0] + sum_a + sum_b,
        A * difference_a + B * difference_b,
        A**2 * sum_a + B**2 * sum_b,
        A**3 * difference_a + B**3 * difference_b + m[5],
    ]
