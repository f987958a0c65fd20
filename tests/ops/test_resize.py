"""The separable resizes against PyTorch's documented rules, written out as loops."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.ops import resize
from tests.tolerances import OPS_ATOL, OPS_RTOL


@pytest.fixture(scope="module")
def x() -> np.ndarray:
    return np.random.default_rng(0).standard_normal((2, 5, 7, 3)).astype(np.float32)


@pytest.mark.parametrize("size", [(10, 14), (5, 7), (3, 2), (9, 1), (13, 20)])
def test_bilinear_aligned(x, size):
    """Corners coincide and every value is the linear interpolation between the two nearest samples, per axis."""
    out = resize.resize_bilinear_aligned(jnp.asarray(x), *size)
    expected = x
    for axis, n in ((1, size[0]), (2, size[1])):
        m = expected.shape[axis]
        at = np.arange(n) * (m - 1) / max(n - 1, 1)
        expected = np.apply_along_axis(lambda v, at=at, m=m: np.interp(at, np.arange(m), v), axis, expected)
    np.testing.assert_allclose(out, expected, rtol=OPS_RTOL, atol=OPS_ATOL)


def test_bilinear_aligned_repeats_a_single_sample():
    out = resize.resize_bilinear_aligned(jnp.full((1, 1, 1, 2), 3.0), 4, 5)
    np.testing.assert_array_equal(out, np.full((1, 4, 5, 2), 3.0))


@pytest.mark.parametrize("size", [(5, 7), (2, 3), (1, 1), (4, 11)])
def test_adaptive_average_pool(x, size):
    out = resize.adaptive_average_pool(jnp.asarray(x), *size)
    for i in range(size[0]):
        for j in range(size[1]):
            rows = slice(int(np.floor(i * 5 / size[0])), int(np.ceil((i + 1) * 5 / size[0])))
            columns = slice(int(np.floor(j * 7 / size[1])), int(np.ceil((j + 1) * 7 / size[1])))
            np.testing.assert_allclose(
                out[:, i, j], x[:, rows, columns].mean((1, 2)), rtol=OPS_RTOL, atol=OPS_ATOL, err_msg=f"{i} {j}"
            )


@pytest.mark.parametrize("size", [(5, 7), (10, 21), (1, 1), (8, 3), (3, 14)])
def test_nearest_takes_the_floor(x, size):
    out = resize.resize_nearest_floor(jnp.asarray(x), *size)
    for i in range(size[0]):
        for j in range(size[1]):
            np.testing.assert_array_equal(out[:, i, j], x[:, int(i * 5 / size[0]), int(j * 7 / size[1])])


def test_bfloat16_stays_bfloat16_and_constant():
    x = jnp.ones((1, 188, 188, 1), jnp.bfloat16)
    out = resize.adaptive_average_pool(x, 112, 112)
    assert out.dtype == jnp.bfloat16
    np.testing.assert_array_equal(out.astype(jnp.float32), np.ones((1, 112, 112, 1)))


def test_gradient_of_nearest_counts_the_copies():
    grad = jax.grad(lambda x: resize.resize_nearest_floor(x, 4, 4).sum())(jnp.zeros((1, 2, 2, 1)))
    np.testing.assert_array_equal(grad, np.full((1, 2, 2, 1), 4.0))


@pytest.mark.parametrize("scale", [2, 0.5])
def test_bilinear_by_two(scale):
    """Half-pixel centres, no antialias, as PyTorch's."""
    x = jnp.asarray(np.random.default_rng(1).standard_normal((2, 4, 6, 3)), jnp.float32)
    shape = (2, int(4 * scale), int(6 * scale), 3)
    out = resize.double_bilinear(x) if scale == 2 else resize.halve_bilinear(x)
    expected = jax.image.resize(x, shape, "bilinear", antialias=False)
    np.testing.assert_allclose(out, expected, rtol=OPS_RTOL, atol=OPS_ATOL)
