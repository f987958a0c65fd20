"""Stratified and importance sampling: EG3D's numbers, and order."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.rendering import sampling
from tests.eg3d_golden import assert_matches, golden


@pytest.mark.parametrize("disparity", [False, True])
@pytest.mark.parametrize("jitter", ["half", "jitter"])
def test_stratified_matches_eg3d(jitter, disparity):
    g = golden("ops")
    offsets = g.input("strat_jitter")[..., 0] if jitter == "jitter" else np.full((2, 40, 12), 0.5, np.float32)
    depths = sampling.stratified(2.25, 3.3, jnp.asarray(offsets), disparity)
    assert_matches(g, f"stratified/{jitter}" + ("_disparity" if disparity else ""), depths[..., None])


def test_box_limits_and_per_ray_depths_match_eg3d():
    g = golden("ops")
    origins = g.input("box_o") + np.array([0, 0, 2], np.float32)
    directions = 0.3 * g.input("box_d") + np.array([0, 0, -1], np.float32)
    directions = directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    near, far = sampling.box_limits(jnp.asarray(origins), jnp.asarray(directions), 1.6)
    assert_matches(g, "box/near", near[..., None])
    assert_matches(g, "box/far", far[..., None])
    depths = sampling.stratified(near, far, jnp.asarray(g.input("strat_jitter")[..., 0]))
    assert_matches(g, "stratified/per_ray", depths[..., None])


@pytest.mark.parametrize("name", ["linspace", "random_u"])
def test_importance_matches_eg3d(name):
    g = golden("ops")
    u = np.linspace(0, 1, 14, dtype=np.float32) if name == "linspace" else g.input("pdf_u").reshape(2, 40, 14)
    depths, weights = g["march/depths"][..., 0], g["march/black_weights"][..., 0]
    fine = sampling.importance(jnp.asarray(depths), jnp.asarray(weights), jnp.asarray(np.broadcast_to(u, (2, 40, 14))))
    assert_matches(g, f"importance/{name}", fine[..., None])


def test_sample_pdf_matches_eg3d():
    g = golden("ops")
    u = jnp.broadcast_to(jnp.linspace(0, 1, 11), (6, 11))
    assert_matches(g, "pdf/det", sampling.sample_pdf(jnp.asarray(g["pdf/bins"]), jnp.asarray(g["pdf/weights"]), u))


def test_sorted_u_gives_sorted_depths_within_the_bins():
    key = jax.random.split(jax.random.key(0), 3)
    depths = jnp.sort(jax.random.uniform(key[0], (50, 9)), axis=-1)
    weights = jax.random.uniform(key[1], (50, 8)) ** 8
    u = jnp.sort(jax.random.uniform(key[2], (50, 200)), axis=-1)
    fine = sampling.importance(depths, weights, u)
    assert (jnp.diff(fine, axis=-1) >= 0).all()
    assert (fine >= depths[:, :1]).all()
    assert (fine <= depths[:, -1:]).all()


def test_importance_finds_the_surface_and_blocks_gradients():
    depths = jnp.linspace(2.0, 3.0, 21)[None]
    weights = jnp.zeros((1, 20)).at[0, 12].set(1.0)
    u = jnp.linspace(0, 1, 50)[None]
    fine = sampling.importance(depths, weights, u)
    assert (jnp.abs(fine - 2.625) < 0.1).mean() > 0.8
    gradient = jax.grad(lambda w: sampling.importance(depths, w, u).sum())(weights)
    assert (gradient == 0).all()


def test_all_rays_missing_the_box_stay_finite():
    origins, directions = jnp.full((1, 4, 3), 9.0), jnp.tile(jnp.array([0.0, 0.0, 1.0]), (1, 4, 1))
    near, far = sampling.auto_limits(origins, directions, 1.0)
    assert np.isfinite(near).all()
    assert np.isfinite(far).all()


def test_merging_sorts_and_splitting_undoes_it():
    rng = np.random.default_rng(0)
    coarse, fine = (np.sort(rng.integers(0, 12, (20, n)).astype(np.float32), axis=-1) for n in (7, 5))  # with ties
    values = [rng.normal(size=x.shape).astype(np.float32) for x in (coarse, fine)]
    merge = jax.jit(sampling.Merge.of)(jnp.asarray(coarse), jnp.asarray(fine))
    order = np.argsort(np.concatenate([coarse, fine], axis=-1), axis=-1, kind="stable")
    np.testing.assert_array_equal(merge.source, order)
    joined = merge.join(*map(jnp.asarray, values))
    np.testing.assert_array_equal(joined, np.take_along_axis(np.concatenate(values, axis=-1), order, axis=-1))
    for back, value in zip(merge.split(joined, 7), values, strict=True):
        np.testing.assert_array_equal(back, value)
    gradient = jax.grad(lambda a, b: (merge.join(a, b) * joined).sum(), (0, 1))(*map(jnp.asarray, values))
    for back, value in zip(gradient, values, strict=True):
        np.testing.assert_array_equal(back, value)
