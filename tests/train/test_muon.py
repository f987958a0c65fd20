"""Muon against the singular value decomposition and optax's own."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nofa_jax.train.muon import RMS, is_matrix, orthogonalize, scale_by_muon


@pytest.mark.parametrize("shape", [(8, 8), (40, 12), (12, 40)])
def test_singular_vectors_stay_and_values_become_about_one(shape: tuple[int, int]) -> None:
    matrix = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    u, _, vt = np.linalg.svd(matrix, full_matrices=False)
    result = np.asarray(orthogonalize(jnp.asarray(1e3 * matrix)))
    between = u.T @ result @ vt.T
    assert np.diag(between).min() > 0.6
    assert np.diag(between).max() < 1.3
    np.testing.assert_allclose(between - np.diag(np.diag(between)), 0.0, atol=1e-4)


def test_no_gradient_no_step() -> None:
    np.testing.assert_array_equal(orthogonalize(jnp.zeros((8, 9))), 0.0)


def test_first_step_is_optaxs() -> None:
    """Later ones differ in how the momentum's start is corrected."""
    rng = np.random.default_rng(1)
    params = {"dense": jnp.zeros((16, 24)), "conv": jnp.zeros((3, 3, 10, 12))}
    grads = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params)
    numbers = {
        name: optax.contrib.MuonDimensionNumbers(tuple(range(leaf.ndim - 1)), leaf.ndim - 1)
        for name, leaf in params.items()
    }
    theirs = optax.contrib.muon(1.0, consistent_rms=RMS, muon_weight_dimension_numbers=numbers)
    ours = scale_by_muon()
    mine, _ = ours.update(grads, ours.init(params))
    other, _ = theirs.update(grads, theirs.init(params), params)
    for name in params:  # optax's sign is that of a descent
        np.testing.assert_allclose(mine[name], -other[name], atol=1e-4)


def test_momentum_outlives_a_gradient() -> None:
    ours = scale_by_muon(beta=0.5)
    grad = jnp.eye(8)
    _, momentum = ours.update(grad, ours.init(grad))
    step, momentum = ours.update(jnp.zeros_like(grad), momentum)
    np.testing.assert_allclose(momentum, 0.25 * np.eye(8))
    assert np.diag(step).min() > 0.1 * RMS


def test_vectors_and_thin_matrices_are_not_matrices() -> None:
    assert is_matrix(jnp.zeros((3, 3, 4, 8)))
    assert not is_matrix(jnp.zeros((8,)))
    assert not is_matrix(jnp.zeros((64, 3)))
    assert not is_matrix(jnp.zeros((1, 64)))
