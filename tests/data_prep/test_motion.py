"""Motion of the embedded heads: bounded speed, ranges, coverage of the expressions, rigid cameras."""

import numpy as np
import pytest

from data_prep import motion
from data_prep.motion import CAMERA_RANGE, ExpressionSampler, camera_path
from nofa_jax.face3d.mediapipe import MEDIAPIPE_BLENDSHAPES
from nofa_jax.rendering.camera import look_at

ARKIT = MEDIAPIPE_BLENDSHAPES[1:]
ICT = tuple(n.replace("Left", "_L").replace("Right", "_R") if len(n) > 10 else n for n in ARKIT)


def expressions(seed: int, seconds: float, step: float) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return ExpressionSampler(ARKIT).path(seconds, rng)(np.arange(0, seconds, step))


def test_expressions_stay_in_range_and_move_at_bounded_speed():
    # The four parts of the face move different shapes, except for a mouth pose's extra one: two at most add up.
    fastest = 2 * motion.STEEPEST / motion.EXPRESSION_GAPS[0]
    for seed in range(10):
        beta = expressions(seed, 8.0, 0.01)
        assert beta.min() >= 0
        assert beta.max() <= 1
        assert np.abs(np.diff(beta, axis=0)).max() <= fastest * 0.01 + 1e-9
        assert np.abs(np.diff(beta, n=2, axis=0)).max() < 0.02, "no kinks"
        assert np.ptp(beta, axis=0).max() > 0.5, "something moves"


def test_expressions_are_sparse_and_cover_every_shape():
    frames = np.concatenate([expressions(seed, 2.0, 0.25) for seed in range(300)])
    active = (frames > 0.2).mean(axis=0)
    assert (active > 0.002).all(), [n for n, a in zip(ARKIT, active, strict=True) if a <= 0.002]
    share = dict(zip(ARKIT, active, strict=True))
    assert share["jawOpen"] > 0.2
    assert share["mouthSmileLeft"] > 0.15
    assert share["eyeBlinkLeft"] > 0.15
    assert (frames > 0.2).sum(axis=1).mean() < 10, "a face does a few things at a time"
    jaw = frames[:, ARKIT.index("jawOpen")]
    assert (jaw > 0.8).mean() > 0.03, "wide open mouths occur"
    assert (frames[:, ARKIT.index("eyeBlinkLeft")] > 0.8).mean() > 0.05, "closed eyes occur"
    assert np.abs(np.corrcoef(jaw, frames[:, ARKIT.index("eyeBlinkLeft")])[0, 1]) < 0.1, "parts are independent"


def test_both_sides_move_together_and_ict_names_are_understood():
    left, right = ARKIT.index("mouthSmileLeft"), ARKIT.index("mouthSmileRight")
    smiles = [
        ExpressionSampler(n).pose([(1.0, {"mouthSmile": (0.5, 1.0)})], np.random.default_rng(3)) for n in (ARKIT, ICT)
    ]
    assert ICT[left] == "mouthSmile_L"
    for beta in smiles:
        assert set(np.flatnonzero(beta)) == {left, right}
        assert 0.8 <= beta[left] / beta[right] <= 1.25
    np.testing.assert_array_equal(smiles[0], smiles[1])


def test_cameras_are_rigid_bounded_and_smooth():
    times = np.arange(0, 6, 0.01)
    angles = []
    for seed in range(20):
        poses = camera_path(6.0, np.random.default_rng(seed))(times)
        turn, centre = poses[:, :3, :3], poses[:, :3, 3]
        np.testing.assert_allclose(turn @ turn.transpose(0, 2, 1), np.broadcast_to(np.eye(3), turn.shape), atol=1e-12)
        np.testing.assert_allclose(np.linalg.det(turn), 1.0, atol=1e-12)
        forward = turn[:, :, 2]
        yaw = np.degrees(np.arctan2(-forward[:, 0], -forward[:, 2]))
        pitch = np.degrees(np.arcsin(-forward[:, 1]))
        angles.append(np.stack([yaw, pitch], axis=1))
        radius = np.linalg.norm(centre, axis=1)
        assert np.abs(radius - motion.RADIUS).max() < CAMERA_RANGE["radius"] + 0.001
        speed = motion.STEEPEST * motion.CAMERA_STEP["yaw"] / motion.CAMERA_GAPS[0]
        assert np.abs(np.diff(yaw)).max() <= speed * 0.01 + 1e-9
    yaw, pitch = np.concatenate(angles).T
    assert np.abs(yaw).max() <= CAMERA_RANGE["yaw"]
    assert np.abs(pitch).max() <= CAMERA_RANGE["pitch"]
    assert np.ptp(yaw) > 1.7 * CAMERA_RANGE["yaw"]
    assert np.ptp(pitch) > 1.7 * CAMERA_RANGE["pitch"]


def test_camera_agrees_with_the_renderers():
    parameters = {"yaw": 25.0, "pitch": -10.0, "roll": 0.0, "radius": 0.0, "x": 0.0, "y": 0.0}
    wanted = look_at(np.radians(25.0), np.radians(-10.0), motion.RADIUS, (0.0, 0.0, 0.0))[0]
    np.testing.assert_allclose(motion._camera(parameters), np.asarray(wanted), atol=1e-6)


@pytest.mark.parametrize("seed", [0, 1])
def test_motion_is_a_function_of_the_seed(seed: int):
    np.testing.assert_array_equal(expressions(seed, 2.0, 0.1), expressions(seed, 2.0, 0.1))
    assert not np.array_equal(expressions(seed, 2.0, 0.1), expressions(seed + 1, 2.0, 0.1))
