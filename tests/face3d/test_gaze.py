"""The gaze of heads whose eyes were turned on purpose, seen by known cameras."""

import functools

import numpy as np
import pytest

from nofa_jax.face3d.calibration import calibration_for
from nofa_jax.face3d.crop import FOCAL
from nofa_jax.face3d.gaze import EYEBALLS, IRISES, gaze_of, has_eyes
from nofa_jax.face3d.ict import GAZE, GAZE_PITCH_DEG, GAZE_YAW_DEG
from nofa_jax.face3d.landmarks import NUM_LANDMARKS, LandmarkTrack
from nofa_jax.face3d.mediapipe import MEDIAPIPE_68
from nofa_jax.face3d.model import MorphableModel, load_morphable_model
from nofa_jax.face3d.pose import turned
from nofa_jax.face3d.scene import project
from nofa_jax.face3d.track import fit_clip, intrinsics
from tests.shared import shared_path


@functools.cache
def head(name: str) -> MorphableModel:
    return load_morphable_model(name, shared_path("ict_facekit") if name == "ict" else None)


def camera(yaw: float, pitch: float) -> np.ndarray:
    """A camera at 2.7 that sees the head turned by radians."""
    cam2world = np.eye(4)
    cam2world[:3, :3] = turned(yaw, pitch, 0).T @ np.diag([1.0, -1.0, -1.0])
    cam2world[:3, 3] = -2.7 * cam2world[:3, 2]
    return cam2world


def irises(model: MorphableModel, alpha: np.ndarray, beta: np.ndarray) -> np.ndarray:
    """World positions [2,3] of the vertices where the eyes' irises are."""
    rows = []
    for centre, axis, name in zip(model.eye_centers, model.eye_axes, EYEBALLS, strict=True):
        ball = np.flatnonzero(model.part(name))
        rows.append(ball[((model.mean[ball] - centre) @ axis).argmax()])
    return np.asarray(model.vertices(alpha, beta))[rows]


@pytest.mark.parametrize("name", ["procedural", "ict"])
@pytest.mark.parametrize("shape", GAZE)
def test_each_look_shape_is_its_angle(name: str, shape: str) -> None:
    model = head(name)
    eye, yaw, pitch = GAZE[shape]
    alpha = model.sample_id(np.random.default_rng(0))
    cam2world = camera(-0.3, 0.1)
    seen = project(irises(model, alpha, model.expression(**{shape: 1.0})), cam2world, intrinsics())
    found = np.degrees(gaze_of(model, alpha, cam2world[None], FOCAL, seen[None])[0])
    wanted = np.zeros((2, 2))
    wanted[eye] = yaw * GAZE_YAW_DEG, pitch * GAZE_PITCH_DEG
    np.testing.assert_allclose(found, wanted, atol=2)  # eyeballs grow with people, their turn does not


def test_an_iris_beside_its_eyeball_is_on_the_rim() -> None:
    model = head("procedural")
    nowhere = np.array([[[0.95, 0.4], [0.05, 0.4]]])
    found = np.degrees(gaze_of(model, np.zeros(model.num_id), camera(0, 0)[None], FOCAL, nowhere)[0])
    assert 60 < found[0, 0] < 100
    assert -100 < found[1, 0] < -60


def test_a_clip_carries_the_gaze_and_a_head_without_eyes_has_none() -> None:
    model = head("procedural")
    beta = model.expression(eyeLookOutLeft=1.0, eyeLookInRight=1.0)
    alpha, cam2world = np.zeros(model.num_id), camera(0.2, 0.0)
    points = np.asarray(model.landmarks(alpha, beta)) + calibration_for(model).offset
    landmarks = np.zeros((1, NUM_LANDMARKS, 3), np.float32)
    landmarks[0, list(MEDIAPIPE_68), :2] = project(points, cam2world, intrinsics())
    landmarks[0, list(IRISES), :2] = project(irises(model, alpha, beta), cam2world, intrinsics())
    one = np.ones(1)
    clip = LandmarkTrack(landmarks, np.zeros((1, 52)), np.eye(4)[None], one > 0, 0 * one, 512, 512, 25.0)
    gaze = fit_clip(model, clip).gaze
    assert gaze is not None
    np.testing.assert_allclose(np.degrees(gaze), [[[30, 0], [30, 0]]], atol=3)
    landmarks[0, list(IRISES), 0] += 0.01 / 2.7 * FOCAL  # both irises a hundredth of a world unit to the right
    further = fit_clip(model, clip).gaze
    assert further is not None
    assert (further - gaze)[0, :, 0].min() > 0.2

    blind = model.replace(vertex_part=np.zeros_like(model.vertex_part))
    assert not has_eyes(blind)
    assert fit_clip(blind, clip).gaze is None
