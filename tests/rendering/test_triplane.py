"""The tri-plane read with EG3D's axes."""

import jax
import jax.numpy as jnp
import numpy as np

from nofa_jax.rendering.triplane import EG3D_PLANE_AXES, plane_features, sample_planes
from tests import tolerances
from tests.eg3d_golden import assert_matches, golden


def test_plane_axes_are_eg3ds():
    """Plane 2 reads (z, x), not (y, z): the slip is part of the published weights."""
    assert EG3D_PLANE_AXES == ((0, 1), (0, 2), (2, 0))
    g = golden("ops")
    projected = np.stack([g.input("tri_points")[..., list(pair)] for pair in EG3D_PLANE_AXES], axis=1)
    assert_matches(g, "triplane/projected", projected.reshape(6, -1, 2))


def test_features_match_eg3d():
    g = golden("ops")
    planes = jnp.moveaxis(jnp.asarray(g.input("tri_planes")), 2, -1)
    points = jnp.asarray(g.input("tri_points"))
    features = jax.jit(plane_features)(planes, points)
    assert_matches(g, "triplane/features", features)
    np.testing.assert_allclose(sample_planes(planes, points), features.mean(1), atol=tolerances.OPS_ATOL)


def test_a_pair_of_axes_is_read_in_its_order():
    """Lists too, as a configuration may hold."""
    ramp = jnp.broadcast_to(jnp.linspace(-1, 1, 33)[None, None, None, :, None] * 16 / 33, (1, 6, 33, 33, 1))
    point = jnp.array([[[0.1, 0.2, -0.3]]])
    pairs = [[0, 1], [1, 0], [0, 2], [2, 0], [1, 2], [2, 1]]  # the ramp along the width shows the first
    read = plane_features(ramp, point, axes=pairs)[0, :, 0, 0]
    np.testing.assert_allclose(read, [point[0, 0, first] for first, _ in pairs], atol=tolerances.OPS_ATOL)


def test_batched_reads_equal_single_ones_under_remat_and_jit():
    key = jax.random.split(jax.random.key(1), 2)
    planes = jax.random.normal(key[0], (3, 3, 8, 8, 4))
    points = jax.random.uniform(key[1], (3, 50, 3), minval=-0.6, maxval=0.6)
    loss = jax.jit(jax.grad(lambda p, x: (jax.checkpoint(sample_planes)(p, x) ** 2).sum(), (0, 1)))
    together = loss(planes, points)
    for i in range(3):
        for a, b in zip(loss(planes[i : i + 1], points[i : i + 1]), together, strict=True):
            np.testing.assert_allclose(a[0], b[i], atol=tolerances.OPS_ATOL)
