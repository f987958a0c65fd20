"""Separable resizing with PyTorch's exact sampling rules, as small static matrices along rows and columns.

The networks we port were trained with these rules and `jax.image.resize` has none of them. Matrices are built at
trace time from static sizes; products use full precision because an interpolation weight has no business being
rounded to bfloat16 or TF32 (they cost nothing next to the convolutions around them).
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nofa_jax.ops.resample import double


def bilinear_aligned_matrix(size_in: int, size_out: int) -> np.ndarray:
    """[size_out, size_in] linear interpolation with align_corners=True: first and last samples coincide."""
    if size_in == 1:
        return np.ones((size_out, 1), np.float32)
    positions = np.linspace(0.0, size_in - 1.0, size_out)
    lower = np.minimum(np.floor(positions).astype(int), size_in - 2)
    fraction = positions - lower
    matrix = np.zeros((size_out, size_in), np.float32)
    rows = np.arange(size_out)
    matrix[rows, lower] = 1.0 - fraction
    matrix[rows, lower + 1] += fraction
    return matrix


def adaptive_average_matrix(size_in: int, size_out: int) -> np.ndarray:
    """[size_out, size_in] PyTorch's AdaptiveAvgPool: output i averages inputs floor(i n/m) .. ceil((i+1) n/m) - 1."""
    matrix = np.zeros((size_out, size_in), np.float32)
    for i in range(size_out):
        start, stop = i * size_in // size_out, -(-(i + 1) * size_in // size_out)
        matrix[i, start:stop] = 1.0 / (stop - start)
    return matrix


def apply_separable(x: Float[Array, "b h w c"], rows: np.ndarray, columns: np.ndarray) -> Float[Array, "b i j c"]:
    """rows [i, h] and columns [j, w] applied along the two image axes; the result keeps x's dtype."""
    x32 = x.astype(jnp.float32)
    x32 = jnp.einsum("ih,bhwc->biwc", rows, x32, precision="highest")
    return jnp.einsum("jw,biwc->bijc", columns, x32, precision="highest").astype(x.dtype)


def resize_bilinear_aligned(x: Float[Array, "b h w c"], height: int, width: int) -> Float[Array, "b i j c"]:
    """F.interpolate(mode="bilinear", align_corners=True)."""
    _, h, w, _ = x.shape
    return apply_separable(x, bilinear_aligned_matrix(h, height), bilinear_aligned_matrix(w, width))


def adaptive_average_pool(x: Float[Array, "b h w c"], height: int, width: int) -> Float[Array, "b i j c"]:
    """nn.AdaptiveAvgPool2d: neither a bilinear nor an exact-area resize, windows may overlap."""
    _, h, w, _ = x.shape
    return apply_separable(x, adaptive_average_matrix(h, height), adaptive_average_matrix(w, width))


def resize_nearest_floor(x: Float[Array, "b h w c"], height: int, width: int) -> Float[Array, "b i j c"]:
    """F.interpolate(mode="nearest"): output i reads input floor(i in / out), not the half-pixel neighbour."""
    _, h, w, _ = x.shape
    if height % h == 0 and width % w == 0:  # whole multiples repeat pixels: no gather, cheap gradient
        return jnp.repeat(jnp.repeat(x, height // h, axis=1), width // w, axis=2)
    if h % height == 0 and w % width == 0:  # whole fractions are strided slices
        return x[:, :: h // height, :: w // width]
    rows = np.arange(height) * h // height
    columns = np.arange(width) * w // width
    return jnp.take(jnp.take(x, rows, axis=1), columns, axis=2)


def bilinear_tf1_matrix(size_in: int, size_out: int) -> np.ndarray:
    """[size_out, size_in] TensorFlow 1's bilinear: source position i in/out, no half-pixel shift, no antialias.

    Positions are float32 as there: at 320 -> 299 that moves a grey value by up to 3e-3 of 255.
    """
    positions = np.arange(size_out, dtype=np.float32) * np.float32(size_in / size_out)
    lower = np.minimum(np.floor(positions).astype(int), size_in - 1)
    fraction = positions - lower.astype(np.float32)
    matrix = np.zeros((size_out, size_in), np.float32)
    rows = np.arange(size_out)
    matrix[rows, lower] = 1.0 - fraction
    matrix[rows, np.minimum(lower + 1, size_in - 1)] += fraction
    return matrix


def resize_bilinear_tf1(x: Float[Array, "b h w c"], height: int, width: int) -> Float[Array, "b i j c"]:
    """tf.image.resize_bilinear(align_corners=False) of TensorFlow 1."""
    _, h, w, _ = x.shape
    return apply_separable(x, bilinear_tf1_matrix(h, height), bilinear_tf1_matrix(w, width))


def double_bilinear(x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
    """F.interpolate(scale_factor=2, mode="bilinear", align_corners=False): 3/4 nearest, 1/4 next, borders repeated."""
    return double(x, "edge")


def halve_bilinear(x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
    """F.interpolate(scale_factor=0.5, mode="bilinear", align_corners=False) of even sizes: the 2x2 mean."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))
