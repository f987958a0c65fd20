"""Cameras: EG3D's numbers, and projection undoing rays."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.rendering import camera
from tests import tolerances
from tests.eg3d_golden import assert_matches, golden


def _cameras():
    cam2world = camera.look_at(jnp.array([0.4, -0.7, 0.0]), jnp.array([0.2, -0.3, 0.0]))
    intrinsics = jnp.stack([camera.fov_to_intrinsics(fov) for fov in (18.837, 12.0, 30.0)])
    intrinsics = intrinsics.at[1, 0, 1].set(0.2).at[1, 0, 2].set(0.45)
    return cam2world, intrinsics


def test_pose_samplers_and_intrinsics_match_eg3d():
    g = golden("cameras")
    h, v, target, radius = np.split(g["lookat/params"].astype(np.float32), [1, 2, 5], axis=1)
    assert_matches(g, "lookat/poses", camera.eg3d_pose(*map(jnp.asarray, (h[:, 0], v[:, 0], radius[:, 0], target))))
    dh, dv = g.input("pose_h_noise")[:, 0], g.input("pose_v_noise")[:, 0]
    half = np.float32(np.pi / 2)
    angles = jnp.asarray(half + np.float32(0.3) * dh), jnp.asarray(half + np.float32(0.155) * dv)
    assert_matches(g, "lookat/random", camera.eg3d_pose(*angles, 2.7, (0.0, 0.0, 0.2)))
    assert_matches(g, "gaussian/random", camera.eg3d_pose(*angles, 1.3))
    assert_matches(g, "intrinsics", camera.fov_to_intrinsics(18.837))


@pytest.mark.parametrize("size", [8, 64])
def test_rays_match_eg3d(size):
    g = golden("cameras")
    rays = camera.make_rays(jnp.asarray(g["rays/cam2world"]), jnp.asarray(g["rays/intrinsics"]), size)
    assert_matches(g, f"rays/origins_{size}", rays.origins)
    assert_matches(g, f"rays/dirs_{size}", rays.directions)


def test_projecting_a_point_of_a_ray_gives_its_pixel():
    cam2world, intrinsics = _cameras()
    rays = camera.make_rays(cam2world, intrinsics, (6, 8))
    uv, depth = camera.project(rays.origins + 2.5 * rays.directions, cam2world, intrinsics)
    row, column = np.divmod(np.arange(48), 8)
    expected = np.stack([(column + 0.5) / 8, (row + 0.5) / 6], axis=-1)
    np.testing.assert_allclose(uv, np.broadcast_to(expected, uv.shape), atol=tolerances.OPS_ATOL)
    assert (depth < 2.5).all()
    assert (depth > 2.3).all()


def test_a_window_is_a_crop_of_all_rays():
    cam2world, intrinsics = _cameras()
    whole = camera.make_rays(cam2world, intrinsics, 12).directions.reshape(3, 12, 12, 3)
    corners = jnp.array([[0, 0], [3, 5], [8, 7]])
    part = jax.jit(lambda w: camera.make_rays(cam2world, intrinsics, 12, window=w, window_size=(4, 5)))(corners)
    expected = [whole[i, r : r + 4, c : c + 5].reshape(-1, 3) for i, (r, c) in enumerate(corners)]
    np.testing.assert_allclose(part.directions, np.stack(expected), atol=tolerances.OPS_ATOL)


def test_a_window_without_its_size_is_refused():
    cam2world, intrinsics = _cameras()
    with pytest.raises(ValueError, match="window_size"):
        camera.make_rays(cam2world, intrinsics, 12, window=jnp.zeros((3, 2), jnp.int32))


def test_look_at_axes():
    front, left, above = camera.look_at(jnp.array([0.0, 0.3, 0.0]), jnp.array([0.0, 0.0, 0.3]))
    np.testing.assert_allclose(front[:3], [[1, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 2.9]], atol=1e-6)
    assert left[0, 3] > 0.7
    assert above[1, 3] > 0.7
    for pose in (front, left, above):
        np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-6)
        assert np.linalg.det(pose[:3, :3]) > 0.99


def test_finite_at_degenerate_cameras():
    def total(pitch):
        return camera.look_at(0.0, pitch).sum()

    for value in jax.value_and_grad(total)(jnp.pi / 2):
        assert np.isfinite(value)
    cam2world, intrinsics = _cameras()
    uv, gradient = jax.value_and_grad(lambda p: camera.project(p, cam2world, intrinsics)[0].sum())(
        cam2world[:, None, :3, 3]
    )
    assert np.isfinite(uv)
    assert np.isfinite(gradient).all()


def test_labels_split_and_join():
    label = jnp.arange(50.0).reshape(2, 25)
    cam2world, intrinsics = camera.split_label(label)
    assert cam2world[1, 0, 3] == 28
    assert intrinsics[0, 1, 0] == 19
    np.testing.assert_array_equal(camera.join_label(cam2world, intrinsics), label)


def test_sampled_poses_look_at_the_pivot():
    poses = camera.sample_eg3d_poses(jax.random.key(0), 7)
    distance = jnp.array([[0.0, 0.0, 0.2]]) - poses[:, :3, 3]
    np.testing.assert_allclose(jnp.cross(poses[:, :3, 2], distance), np.zeros((7, 3)), atol=tolerances.OPS_ATOL)
    np.testing.assert_allclose(jnp.linalg.norm(poses[:, :3, 3], axis=-1), 2.7, rtol=tolerances.OPS_RTOL)
