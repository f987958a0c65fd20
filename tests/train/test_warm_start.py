"""D's warm start on the morphable model."""

import jax
import jax.numpy as jnp
import numpy as np

from nofa_jax.face3d.model import load_morphable_model
from nofa_jax.models.deformation import Deformation
from nofa_jax.train.warm_start import WarmStart, displacement, moving_vertices, warm_start


def test_displacement_is_that_of_the_nearest_surface_fading_with_distance():
    target = jnp.array([[0.0, 0, 0], [1.0, 0, 0]])
    canonical = target + jnp.array([[0.0, 0.1, 0], [0.0, 0, 0.2]])
    points = jnp.array([[0.0, 0, 0], [0.9, 0, 0], [0.0, 0, 3.0]])
    moved = displacement(points, target, canonical, jnp.zeros(2), 0.5)
    np.testing.assert_allclose(moved[0], [0, 0.1, 0], atol=1e-7)
    np.testing.assert_allclose(moved[1], [0, 0, 0.2 * np.exp(-0.04)], rtol=1e-5)
    np.testing.assert_allclose(moved[2], 0.0, atol=1e-10)


def test_a_penalty_hides_the_vertex_behind():
    target = jnp.array([[0.0, 0, 0], [0.0, 0, 0.01]])
    canonical = target + jnp.array([[0.0, 0, 0], [0.0, 1, 0]])
    point = jnp.array([[0.0, 0, 0.004]])
    assert displacement(point, target, canonical, jnp.zeros(2), 1.0)[0, 1] == 0
    assert displacement(point, target, canonical, jnp.array([0.02**2, 0.0]), 1.0)[0, 1] > 0.9


def test_examples_obey_the_morphable_model():
    head = load_morphable_model("procedural")
    source = WarmStart(head, np.zeros((1, head.num_exp), np.float32), 300, 0.05, 0.8, seed=0)
    x, alpha, beta, moved = source.draw(jax.random.key(0), 16, 64)
    assert x.shape == moved.shape == (16, 64, 3)
    assert alpha.shape == (16, head.num_id)
    assert ((beta >= 0) & (beta <= 1)).all()
    rest = np.where(np.asarray(beta).max(axis=1) == 0)[0]  # half of the rows are the neutral `seen`
    assert 2 < len(rest) < 14
    travel = np.linalg.norm(moved, axis=-1)
    jaw = head.canonical_exp @ np.linalg.norm(head.exp_basis, axis=-1)
    assert travel[rest].max() <= jaw.max() + 1e-6
    chosen = moving_vertices(head, 300, np.random.default_rng(0))
    assert len(np.unique(chosen)) == 300


def test_training_lowers_the_error_and_repeats():
    head = load_morphable_model("procedural")
    module = Deformation(depth=2, width=24, skip=1, weight_depth=1, weight_width=8, octaves=3, modulate=True)
    args = (jnp.zeros((1, 2, 3)), jnp.zeros((1, head.num_id)), jnp.zeros((1, head.num_exp)))
    params = module.init(jax.random.key(0), *args)["params"]
    options = {"steps": 60, "heads": 8, "points": 32, "vertices": 200, "reach": 0.05, "id_scale": 0.8}
    options["learning_rate"] = 1e-2
    seen = np.zeros((1, head.num_exp), np.float32)
    first, errors = warm_start(module, params, head, seen, options, seed=0)
    assert errors["after"] < 0.8 * errors["before"]
    second, _ = warm_start(module, params, head, seen, options, seed=0)
    assert all(np.array_equal(a, b) for a, b in zip(jax.tree.leaves(first), jax.tree.leaves(second), strict=True))
