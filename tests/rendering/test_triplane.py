"""The tri-plane read: PyTorch's grid_sample with EG3D's axes, its borders and its gradients."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.rendering.triplane import EG3D_PLANE_AXES, plane_features, read_plane, sample_planes
from tests import tolerances
from tests.eg3d_golden import check, golden


def _hat(plane, uv):
    """Brute force: every texel times its tent function."""
    h, w, _ = plane.shape
    x, y = (uv[:, 0] + 1) * w / 2 - 0.5, (uv[:, 1] + 1) * h / 2 - 0.5
    tent_x = jnp.maximum(1 - jnp.abs(x[:, None] - jnp.arange(w)[None]), 0)
    tent_y = jnp.maximum(1 - jnp.abs(y[:, None] - jnp.arange(h)[None]), 0)
    return jnp.einsum("ny,nx,yxc->nc", tent_y, tent_x, plane)


def test_plane_axes_are_eg3ds():
    """Plane 2 reads (z, x), not (y, z): the slip is part of the published weights."""
    assert EG3D_PLANE_AXES == ((0, 1), (0, 2), (2, 0))
    g = golden("ops")
    projected = np.stack([g.input("tri_points")[..., list(pair)] for pair in EG3D_PLANE_AXES], axis=1)
    check(g, "triplane/projected", projected.reshape(6, -1, 2))


@pytest.mark.parametrize("name", ["grid", "grid_edges"])
def test_grid_sample_matches_pytorch(name):
    g = golden("ops")
    plane = jnp.asarray(np.moveaxis(g.input("interp_x")[0], 0, -1))
    values = read_plane(plane, jnp.asarray(g.input(name)[0, 0]))
    check(g, {"grid": "grid_sample", "grid_edges": "grid_sample_edges"}[name], np.asarray(values).T[None, :, None])


def test_features_match_eg3d():
    g = golden("ops")
    planes = jnp.moveaxis(jnp.asarray(g.input("tri_planes")), 2, -1)
    points = jnp.asarray(g.input("tri_points"))
    features = jax.jit(plane_features)(planes, points)
    check(g, "triplane/features", features)
    np.testing.assert_allclose(sample_planes(planes, points), features.mean(1), atol=tolerances.OPS_ATOL)


def test_value_and_gradients_against_brute_force():
    key = jax.random.split(jax.random.key(0), 3)
    plane = jax.random.normal(key[0], (5, 7, 3))
    uv = jax.random.uniform(key[1], (400, 2), minval=-1.4, maxval=1.4)
    g = jax.random.normal(key[2], (400, 3))
    np.testing.assert_allclose(read_plane(plane, uv), _hat(plane, uv), atol=tolerances.OPS_ATOL)
    mine = jax.grad(lambda p, u: (read_plane(p, u) * g).sum(), (0, 1))(plane, uv)
    brute = jax.grad(lambda p, u: (_hat(p, u) * g).sum(), (0, 1))(plane, uv)
    for a, b in zip(mine, brute, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerances.OPS_RTOL, atol=1e-4)


def test_far_and_broken_coordinates_stay_finite():
    plane = jnp.ones((4, 4, 2))
    uv = jnp.array([[1e30, 0.0], [-1e30, 1e30], [jnp.inf, 0.0], [1.25, 0.0]])
    value, gradients = jax.value_and_grad(lambda p, u: read_plane(p, u).sum(), (0, 1))(plane, uv)
    assert value == 0
    assert all(np.isfinite(x).all() for x in gradients)
    read_plane(plane, jnp.full((1, 2), jnp.nan))  # must not read out of bounds


def test_batched_reads_equal_single_ones_under_remat_and_jit():
    key = jax.random.split(jax.random.key(1), 2)
    planes = jax.random.normal(key[0], (3, 3, 8, 8, 4))
    points = jax.random.uniform(key[1], (3, 50, 3), minval=-0.6, maxval=0.6)
    loss = jax.jit(jax.grad(lambda p, x: (jax.checkpoint(sample_planes)(p, x) ** 2).sum(), (0, 1)))
    together = loss(planes, points)
    for i in range(3):
        for a, b in zip(loss(planes[i : i + 1], points[i : i + 1]), together, strict=True):
            np.testing.assert_allclose(a[0], b[i], atol=tolerances.OPS_ATOL)
