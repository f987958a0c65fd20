"""Each loss against a hand-computed or brute-force value, and its gradient against finite differences."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.losses import identity, perceptual, pixel, regularization
from tests import tolerances as tol

RNG = np.random.default_rng(0)
A, B = (jnp.asarray(RNG.uniform(-1, 1, (2, 20, 24, 3)), jnp.float32) for _ in range(2))
MASK = jnp.asarray(RNG.uniform(size=(2, 20, 24)) > 0.6, jnp.float32)


def check_gradient(loss: Callable[[jax.Array], jax.Array], x: jax.Array) -> None:
    """The gradient along random directions, against central differences in float64."""
    with jax.enable_x64(True):
        x = jnp.asarray(np.asarray(x), jnp.float64)
        gradient = jax.jit(jax.grad(loss))(x)
        value = jax.jit(loss)
        for seed in range(3):
            step = jax.random.normal(jax.random.key(seed), x.shape, jnp.float64)
            step /= jnp.linalg.norm(step.ravel())
            numeric = (value(x + 1e-6 * step) - value(x - 1e-6 * step)) / 2e-6
            np.testing.assert_allclose(jnp.sum(gradient * step), numeric, rtol=tol.FINITE_RTOL, atol=tol.FINITE_ATOL)


def test_l2() -> None:
    a, b = (np.asarray(x, np.float64) for x in (A, B))
    np.testing.assert_allclose(pixel.l2(A, B), np.mean((a - b) ** 2), rtol=tol.OPS_RTOL)
    kept = np.asarray(MASK) > 0
    np.testing.assert_allclose(pixel.l2(A, B, MASK), np.mean((a - b)[kept] ** 2), rtol=tol.OPS_RTOL)
    np.testing.assert_allclose(jax.grad(pixel.l2)(A, B), 2 * (a - b) / a.size, rtol=tol.OPS_RTOL, atol=1e-9)
    assert pixel.l2(A, B, 0 * MASK) == 0
    assert not np.any(jax.grad(pixel.l2)(A, B, 0 * MASK))
    check_gradient(lambda x: pixel.l2(x, B.astype(x.dtype), MASK.astype(x.dtype)), A)


def test_lpips_is_the_mean_of_the_extractor() -> None:
    def apply(params, a, b):
        return params * jnp.mean(jnp.abs(a - b), axis=(1, 2, 3))

    np.testing.assert_allclose(
        perceptual.lpips(apply, 3.0, A, B), 3 * np.mean(np.abs(np.asarray(A - B))), rtol=tol.OPS_RTOL
    )


pyramid = jax.jit(perceptual.laplacian_pyramid, static_argnums=2)
lowpass = jax.jit(identity.lowpass_cosine, static_argnames="size")


def brute_force_pyramid(x: np.ndarray, levels: int) -> list[np.ndarray]:
    """Laplacian pyramid of one [h, w] image by dense matrices that spell out Burt and Adelson's kernel."""

    def reduce_matrix(n: int) -> np.ndarray:
        m = np.zeros(((n + 1) // 2, n))
        for i in range(len(m)):
            for offset, w in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
                m[i, min(max(2 * i + offset, 0), n - 1)] += w / 16
        return m

    def expand_matrix(n: int, size: int) -> np.ndarray:
        m = np.zeros((size, n))
        for i in range(size):
            for offset, w in zip(range(-2, 3), (1, 4, 6, 4, 1), strict=True):
                if (i + offset) % 2 == 0:
                    m[i, min(max((i + offset) // 2, 0), n - 1)] += w / 8
        return m

    parts = []
    for _ in range(levels - 1):
        h, w = x.shape
        low = reduce_matrix(h) @ x @ reduce_matrix(w).T
        parts.append(x - expand_matrix(len(low), h) @ low @ expand_matrix(low.shape[1], w).T)
        x = low
    return [*parts, x]


@pytest.mark.parametrize("size", [(20, 24), (17, 21)])
def test_laplacian_pyramid(size: tuple[int, int]) -> None:
    a, b = A[:, : size[0], : size[1]], B[:, : size[0], : size[1]]
    total = 0.0
    for i in range(2):
        for c in range(3):
            difference = np.asarray(a - b, np.float64)[i, :, :, c]
            total += sum(np.mean(np.abs(part)) for part in brute_force_pyramid(difference, 3)) / 6
    np.testing.assert_allclose(pyramid(a, b, 3), total, rtol=tol.OPS_RTOL)


def test_laplacian_pyramid_gradient_and_edges() -> None:
    check_gradient(lambda x: perceptual.laplacian_pyramid(x, B.astype(x.dtype)), A)
    flat = jnp.full((1, 16, 16, 3), 0.3)
    np.testing.assert_allclose(pyramid(flat, 0 * flat), 0.3, rtol=tol.OPS_RTOL)
    assert not np.any(jax.jit(jax.grad(perceptual.laplacian_pyramid))(A, A))
    tiny = jnp.full((1, 3, 3, 3), 0.5)
    np.testing.assert_allclose(pyramid(tiny, 0 * tiny), 0.5, rtol=tol.OPS_RTOL)


def test_cosine_distance() -> None:
    a = jnp.asarray([[3.0, 0.0], [1.0, 1.0], [2.0, 0.0]])
    b = jnp.asarray([[5.0, 0.0], [0.0, 2.0], [-1.0, 0.0]])
    wanted = np.mean([0, 1 - np.sqrt(0.5), 2])
    np.testing.assert_allclose(identity.cosine_distance(a, b), wanted, rtol=tol.OPS_RTOL)
    gradient = jax.grad(identity.cosine_distance)(a, b)
    np.testing.assert_allclose(gradient[1] * 3, [0.35355339, -0.35355339], rtol=tol.OPS_RTOL)  # -(b - <a,b> a) / |a|
    zero = jax.grad(identity.cosine_distance)(0 * a, b)
    assert not np.any(zero)
    assert identity.cosine_distance(0 * a, b) == 1


def test_lowpass_cosine_by_hand() -> None:
    """Cells of the image average exactly; gain and offset of a channel-wise constant kind do not matter."""
    blocks = RNG.normal(size=(1, 4, 4, 3))
    image = jnp.asarray(np.repeat(np.repeat(blocks, 5, 1), 6, 2), jnp.float32)
    other = jnp.asarray(np.repeat(np.repeat(RNG.normal(size=(1, 4, 4, 3)), 5, 1), 6, 2), jnp.float32)
    u, v = (np.asarray(x, np.float64)[0, ::5, ::6] for x in (image, other))
    u, v = ((x - x.mean((0, 1))).ravel() for x in (u, v))
    wanted = 1 - u @ v / np.sqrt(u @ u * (v @ v))
    np.testing.assert_allclose(lowpass(image, other, size=4), wanted, rtol=tol.OPS_RTOL)
    offset = jnp.asarray([0.1, -0.3, 0.2])[None, None, None]
    np.testing.assert_allclose(lowpass(image, 0.5 * image + offset, size=4), 0, atol=1e-6)


def test_lowpass_cosine_mask_and_gradient() -> None:
    outside = jnp.where(MASK[..., None] > 0, A, 9.0)  # what lies outside the mask does not count
    got, wanted = (lowpass(x, B, MASK, size=7) for x in (A, outside))
    np.testing.assert_allclose(got, wanted, rtol=tol.OPS_RTOL)
    check_gradient(lambda x: identity.lowpass_cosine(x, B.astype(x.dtype), MASK.astype(x.dtype), size=7), A)
    flat = jnp.zeros((2, 20, 24, 3))
    gradient = jax.jit(jax.grad(identity.lowpass_cosine))
    assert np.all(np.isfinite(gradient(flat, B, MASK)))
    assert np.all(np.isfinite(gradient(A, B, 0 * MASK)))


def test_regularization() -> None:
    offsets = jnp.asarray([[[1.0, -2.0], [0.0, 3.0]]])
    np.testing.assert_allclose(regularization.latent(offsets), 3.5)
    np.testing.assert_allclose(jax.grad(regularization.latent)(offsets), offsets / 2)
    planes = jnp.full((1, 3, 2, 2, 4), 2.0)
    np.testing.assert_allclose(regularization.depth_consistency(planes, 0 * planes), 0.04, rtol=tol.OPS_RTOL)
    np.testing.assert_allclose(regularization.depth_consistency(planes, 0.1 * planes), 0, atol=1e-12)
    gradient = jax.grad(regularization.depth_consistency, argnums=1)(planes, 0 * planes + 1)
    np.testing.assert_allclose(gradient, 2 * (1 - 0.2) / planes.size * np.ones(planes.shape), rtol=tol.OPS_RTOL)
