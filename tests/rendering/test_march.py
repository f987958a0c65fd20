"""Compositing: EG3D's numbers, a brute-force loop, and bounds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.rendering import march
from tests import tolerances
from tests.eg3d_golden import assert_matches, golden


def _render(depths, sigma, colors, white_back=False):
    weights = march.interval_weights(depths, sigma)
    features = jnp.einsum("...s,...sc->...c", march.sample_weights(weights), colors)
    image = march.to_image_range(features, weights.sum(-1), white_back)
    depth = jnp.clip(march.composite_depth(depths, weights), depths.min(), depths.max())
    return image, depth, weights


@pytest.mark.parametrize("case", ["black", "white", "empty"])
def test_marching_matches_eg3d(case):
    g = golden("ops")
    depths = jnp.asarray(2.25 + np.cumsum(g.input("vr_depth_steps"), axis=2))[..., 0]
    sigma = jnp.asarray(g.input("vr_sigma"))[..., 0] - (1000.0 if case == "empty" else 0.0)
    image, depth, weights = _render(depths, sigma, jnp.asarray(g.input("vr_colors")), case == "white")
    assert_matches(g, f"march/{case}_rgb", image)
    assert_matches(g, f"march/{case}_depth", depth[..., None])
    if case != "empty":
        assert_matches(g, f"march/{case}_weights", weights[..., None])


def test_against_a_loop_over_samples():
    rng = np.random.default_rng(0)
    depths = np.cumsum(rng.uniform(0.01, 0.2, (30, 10)), axis=1)
    sigma = rng.normal(0, 10, (30, 10))
    expected = np.zeros((30, 9))
    transmittance = np.ones(30)
    for i in range(9):
        density = np.logaddexp(0, 0.5 * (sigma[:, i] + sigma[:, i + 1]) - 1)
        alpha = 1 - np.exp(-density * (depths[:, i + 1] - depths[:, i]))
        expected[:, i] = alpha * transmittance
        transmittance *= 1 - alpha
    weights = march.interval_weights(jnp.asarray(depths, jnp.float32), jnp.asarray(sigma, jnp.float32))
    np.testing.assert_allclose(weights, expected, atol=tolerances.OPS_ATOL)
    np.testing.assert_allclose(weights.sum(-1), 1 - transmittance, atol=tolerances.OPS_ATOL)
    assert (weights >= 0).all()
    assert (weights.sum(-1) <= 1 + tolerances.OPS_ATOL).all()


def test_depth_of_nearly_empty_space_keeps_its_digits():
    """Opacity 1e-8 to 1e-4; 1 - exp(-x) in float32 would give the depth to one or two digits, or none."""
    rng = np.random.default_rng(1)
    depths = np.float32(np.linspace(2.25, 3.3, 12))[None].repeat(40, 0)
    sigma = np.float32(np.linspace(-17, -8, 40)[:, None] + rng.normal(size=(40, 12)))
    d, s = depths.astype(np.float64), sigma.astype(np.float64)
    weights = np.logaddexp(0, 0.5 * (s[:, 1:] + s[:, :-1]) - 1) * np.diff(d, axis=1)  # nothing is hidden
    expected = (weights * 0.5 * (d[:, 1:] + d[:, :-1])).sum(1) / weights.sum(1)
    found = march.composite_depth(jnp.asarray(depths), march.interval_weights(jnp.asarray(depths), jnp.asarray(sigma)))
    np.testing.assert_allclose(found, expected, rtol=1e-4)  # the neglected shadow of 1e-4


def test_sample_weights_move_colours_to_interval_middles():
    key = jax.random.split(jax.random.key(0), 2)
    weights, colors = jax.random.uniform(key[0], (5, 7)), jax.random.uniform(key[1], (5, 8, 3))
    middles = (weights[..., None] * 0.5 * (colors[:, 1:] + colors[:, :-1])).sum(1)
    per_sample = (march.sample_weights(weights)[..., None] * colors).sum(1)
    np.testing.assert_allclose(per_sample, middles, atol=tolerances.OPS_ATOL)


@pytest.mark.parametrize("sigma", [-1e6, -30.0, -15.0, 0.0, 30.0, 1e6])
@pytest.mark.parametrize("step", [0.0, 1e-7, 0.05])
def test_finite_value_and_gradient_at_extremes(sigma, step):
    depths = 2.25 + step * jnp.arange(8.0)[None]

    def loss(sigma):
        weights = march.interval_weights(depths, sigma)
        depth = jnp.clip(march.composite_depth(depths, weights), depths.min(), depths.max())
        return depth.sum() + weights.sum()

    value, gradient = jax.value_and_grad(loss)(jnp.full((1, 8), sigma))
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()
