"""A Basel-like model with landmarks where faces have them, and a network that says what it is told to."""

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nofa_jax.face3d.alignment import STANDARD_FACE, five_of_68
from nofa_jax.face3d.bfm import BaselFaceModel
from nofa_jax.face3d.camera_label import SHIFT, UNIT
from nofa_jax.face3d.deep3d import FIVE
from nofa_jax.face3d.landmarks import LandmarkTrack
from nofa_jax.face3d.mediapipe import MEDIAPIPE_68
from nofa_jax.face3d.model import load_morphable_model
from nofa_jax.port.bfm import port_bfm
from nofa_jax.port.mat_file import load_mat
from tests.shared import shared_path

FRAMES = 12  # at most
ID, EXP, ANGLE, MOVE = slice(0, 80), slice(80, 144), slice(224, 227), slice(254, 257)


@functools.cache
def basel() -> BaselFaceModel:
    """The made-up model, its 68 landmarks moved to where the procedural head's are."""
    arrays = load_mat(shared_path("golden/face3d/made_up_BFM_model_front.mat"))
    model = BaselFaceModel(**port_bfm(arrays)[1]["buffers"])
    head = load_morphable_model("procedural")
    mean = np.array(model.mean)
    mean[model.keypoints] = (head.mean[head.landmark_index] - SHIFT) / UNIT
    return model.replace(mean=mean)


def in_cut(coeffs: np.ndarray) -> np.ndarray:
    """[f,68,2]: where the coefficients put the landmarks in the network's cut: pixels from its corner, y down."""
    padded = np.zeros((FRAMES, 257), np.float32)  # so that one program serves all tests
    padded[: len(coeffs)] = coeffs
    index = np.asarray(_landmarks(padded))[: len(coeffs)]  # the official: x counts from 0, y from 223
    return index + np.array([0.0, 1.0])


@jax.jit
def _landmarks(coeffs: jax.Array) -> jax.Array:
    model = basel()
    return model.landmarks(model.split(coeffs))


def made_up_coeffs(frames: int, rng: np.random.Generator) -> np.ndarray:
    """Coefficients of one person as a good network would give them: the five points lie as in the standard face."""
    coeffs = np.zeros((frames, 257), np.float32)
    coeffs[:, ID] = rng.normal(size=80)
    coeffs[:, EXP] = rng.normal(size=(frames, 64))
    coeffs[:, ANGLE] = rng.uniform(-0.3, 0.3, (frames, 3))
    for _ in range(8):
        for f, five in enumerate(map(five_of_68, in_cut(coeffs))):
            design = np.c_[STANDARD_FACE, np.ones(5)]
            rows = np.linalg.lstsq(design, five, rcond=None)[0]
            scale = np.linalg.norm(rows[:3], axis=0).mean()
            coeffs[f, MOVE] += np.array([112 - rows[3, 0], rows[3, 1] - 112, 0]) / 101.5
            coeffs[f, 256] += 10 * (102 / scale - 1) * (1 - coeffs[f, 256] / 10)
    return coeffs


def in_picture(coeffs: np.ndarray, centre: np.ndarray, zoom: np.ndarray) -> np.ndarray:
    """[f,68,2] pixels of a picture in which the cut's middle lies at `centre` and is shown `zoom` times as large."""
    return (in_cut(coeffs) - 112) * zoom[:, None, None] + centre[:, None]


def as_seen(points: np.ndarray, size: tuple[int, int], valid: np.ndarray | None = None) -> LandmarkTrack:
    """Landmarks in pixels as MediaPipe would report them, 25 frames a second."""
    frames = len(points)
    valid = np.ones(frames, bool) if valid is None else valid
    landmarks = np.full((frames, 478, 3), 0.5, np.float32)
    landmarks[:, list(MEDIAPIPE_68), :2] = points / np.array(size)
    landmarks[:, list(FIVE), :2] = np.stack([five_of_68(p) for p in points]) / np.array(size)
    scores, matrix = np.zeros((frames, 52), np.float32), np.tile(np.eye(4, dtype=np.float32), (frames, 1, 1))
    for array in (landmarks, scores, matrix):
        array[~valid] = np.nan
    return LandmarkTrack(landmarks, scores, matrix, valid, np.arange(frames) / 25, *size, 25.0)


@dataclasses.dataclass(frozen=True, eq=False)
class Telling:
    """Stands for the network: answers with the row of `variables` that the cut's brightness names, grey 10 i for i."""

    batches: list[int] = dataclasses.field(default_factory=list)  # sizes it was traced for

    def apply(self, variables: Any, cuts: jax.Array) -> jax.Array:
        self.batches.append(len(cuts))
        grey = 255 * cuts[:, 92:132, 92:132].mean(axis=(1, 2, 3))
        return jnp.asarray(variables)[jnp.round(grey / 10).astype(int)]


def plain_picture(i: int, size: tuple[int, int]) -> np.ndarray:
    """The picture of width and height `size` to which `Telling` answers with row i."""
    return np.full((size[1], size[0], 3), 10 * i, np.uint8)
