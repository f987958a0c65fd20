"""Optimizer groups, freezing, averages."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nofa_jax.errors import UserError
from nofa_jax.train.muon import RMS
from nofa_jax.train.state import label_params, learning_rate_schedule, make_optimizer, update_ema

PARAMS = {"encoder": {"a": jnp.ones(3), "b": jnp.ones(2)}, "deformation": {"w": jnp.ones(4)}}


def test_first_match_decides_and_frozen_leaves_stay_bit_identical_without_moments():
    optimizer = make_optimizer(PARAMS, (("encoder/a", 0.0), ("deformation/.*", 0.1), (".*", 1.0)), 1e-2)
    state = optimizer.init(PARAMS)
    held = sum(np.size(leaf) for leaf in jax.tree.leaves(state) if np.ndim(leaf))
    assert held == 2 * (2 + 4)  # first and second moments of the trained leaves alone
    params, grads = PARAMS, jax.tree.map(jnp.ones_like, PARAMS)
    for _ in range(3):
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    np.testing.assert_array_equal(params["encoder"]["a"], PARAMS["encoder"]["a"])
    moved = 1 - params["encoder"]["b"][0], 1 - params["deformation"]["w"][0]
    np.testing.assert_allclose(moved[0], 3e-2, rtol=1e-4)
    np.testing.assert_allclose(moved[1], 0.1 * moved[0], rtol=1e-4)


def test_clip_ignores_the_gradients_of_frozen_leaves():
    optimizer = make_optimizer(PARAMS, (("encoder/a", 0.0), (".*", 1.0)), 1.0, clip=1.0)
    huge = {"encoder": {"a": jnp.full(3, 1e9), "b": jnp.full(2, 0.1)}, "deformation": {"w": jnp.full(4, 0.1)}}
    updates, _ = optimizer.update(huge, optimizer.init(PARAMS), PARAMS)
    assert np.abs(updates["encoder"]["b"]).min() > 0.9  # Adam's first step, not squeezed by a huge norm
    np.testing.assert_array_equal(updates["encoder"]["a"], 0.0)


@pytest.mark.parametrize(
    ("schedule", "named"),
    [
        ((("encodr/.*", 1.0), (".*", 1.0)), "encodr"),
        ((("encoder/.*", 1.0),), "deformation/w"),
        (((".*", 0.0),), "frozen"),
    ],
)
def test_schedules_that_make_no_sense_are_refused_by_name(schedule, named):
    with pytest.raises(UserError, match=named):
        make_optimizer(PARAMS, schedule, 1e-3)


def test_labels_cover_every_leaf():
    labels = label_params(PARAMS, ((".*/w", 0.5), (".*", 1.0)))
    assert labels == {"encoder": {"a": "x1", "b": "x1"}, "deformation": {"w": "x0.5"}}


def test_schedule_and_average():
    rate = learning_rate_schedule(1.0, 100, 10, 0.1)
    assert rate(0) == 0.0
    assert rate(10) == pytest.approx(1.0)
    assert rate(100) == pytest.approx(0.1)
    assert learning_rate_schedule(3e-4, 100, 0, 1.0)(50) == pytest.approx(3e-4)
    early = update_ema({"p": jnp.zeros(1)}, {"p": jnp.ones(1)}, 0.999, jnp.asarray(0))["p"]
    late = update_ema({"p": jnp.zeros(1)}, {"p": jnp.ones(1)}, 0.999, jnp.asarray(10**6))["p"]
    np.testing.assert_allclose(early, 0.9, rtol=1e-6)
    np.testing.assert_allclose(late, 0.001, rtol=1e-3)


def test_muon_moves_the_matrices_named_and_adam_the_rest():
    params = {
        "encoder": {"kernel": jnp.zeros((8, 8)), "bias": jnp.zeros(8)},
        "deformation": {"kernel": jnp.zeros((8, 8))},
    }
    optimizer = make_optimizer(params, ((".*/bias", 0.0), (".*", 1.0)), 1.0, muon="encoder/.*")
    grads = jax.tree.map(lambda x: jnp.asarray(np.random.default_rng(0).normal(size=x.shape), jnp.float32), params)
    updates, _ = optimizer.update(grads, optimizer.init(params), params)
    values = np.linalg.svd(updates["encoder"]["kernel"], compute_uv=False)
    assert values.min() > 0.6 * RMS * 8**0.5
    np.testing.assert_allclose(np.abs(updates["deformation"]["kernel"]), 1.0, rtol=1e-3)  # Adam's first step
    np.testing.assert_array_equal(updates["encoder"]["bias"], 0.0)
    with pytest.raises(UserError, match="train.muon"):
        make_optimizer(params, ((".*", 1.0),), 1.0, muon="encodr/.*")
