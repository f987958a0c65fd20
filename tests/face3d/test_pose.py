"""Closed-form poses against known ones."""

import numpy as np
import pytest
from scipy.spatial.transform import Rotation, Slerp

from nofa_jax.face3d.pose import cam2world_of, rotation_angle_deg, slerp, weak_perspective

RNG = np.random.default_rng(0)
FACING = np.diag([1.0, -1.0, -1.0])  # world to camera of a frontal view


def random_rotations(count: int, degrees: float) -> np.ndarray:
    return Rotation.from_rotvec(np.radians(degrees) * RNG.uniform(-1, 1, (count, 3))).as_matrix()


def test_weak_perspective_is_exact_on_its_own_model() -> None:
    template = RNG.standard_normal((33, 3)) * 0.2
    rotation = FACING @ random_rotations(20, 60)
    scale, origin = RNG.uniform(50, 500, 20), RNG.uniform(0, 1000, (20, 2))
    points = scale[:, None, None] * np.einsum("fij,nj->fni", rotation, template)[..., :2] + origin[:, None]
    pose = weak_perspective(points, template)
    np.testing.assert_allclose(pose.scale, scale, rtol=1e-9)
    np.testing.assert_allclose(pose.origin, origin, atol=1e-6)
    assert rotation_angle_deg(pose.rotation, rotation).max() < 1e-5


@pytest.mark.parametrize("roll_deg", [-170, -30, 0, 15, 90])
def test_roll_is_clockwise_in_the_picture(roll_deg: float) -> None:
    template = RNG.standard_normal((20, 3))
    c, s = np.cos(np.radians(roll_deg)), np.sin(np.radians(roll_deg))
    clockwise = np.array([[c, -s], [s, c]])  # x right, y down
    points = (template @ FACING.T)[:, :2] @ clockwise.T
    np.testing.assert_allclose(np.degrees(weak_perspective(points[None], template).roll), [roll_deg], atol=1e-6)


def test_cam2world_inverts_world_to_camera() -> None:
    rotation, translation, points = random_rotations(5, 90), RNG.standard_normal((5, 3)), RNG.standard_normal((5, 7, 3))
    local = np.einsum("fij,fnj->fni", rotation, points) + translation[:, None]
    homogeneous = np.concatenate([local, np.ones((5, 7, 1))], axis=2)
    back = np.einsum("fij,fnj->fni", cam2world_of(rotation, translation), homogeneous)
    np.testing.assert_allclose(back[..., :3], points, atol=1e-12)


def test_rotation_angle_of_tiny_and_large_turns() -> None:
    for degrees in (0.0, 1e-6, 0.1, 45.0, 179.0):
        turn = Rotation.from_rotvec([0, np.radians(degrees), 0]).as_matrix()[None]
        np.testing.assert_allclose(rotation_angle_deg(turn, np.eye(3)[None]), degrees, rtol=1e-6, atol=1e-9)


def test_slerp_against_scipy() -> None:
    a, b = random_rotations(1, 60), random_rotations(1, 60)
    share = np.linspace(0, 1, 7)
    reference = Slerp([0, 1], Rotation.from_matrix(np.concatenate([a, b])))(share).as_matrix()
    np.testing.assert_allclose(slerp(np.repeat(a, 7, 0), np.repeat(b, 7, 0), share), reference, atol=1e-12)
    np.testing.assert_allclose(slerp(a, a, np.array([0.3])), a, atol=1e-12)
