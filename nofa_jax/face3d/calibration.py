"""How MediaPipe's landmarks and scores relate to a morphable model's, as measured on rendered heads.

The numbers come from data_prep/calibrate_landmarks.py, which writes calibration.json beside this file. A model that was
not measured (BFM) gets no offsets and the mean scatter of those that were.

Some things are known to differ between drawn heads and people, and are not taken over. Where the hair of a brow grows
is personal, while every drawn head has it at the same place of the mesh: each person may have their own brow height, or
it would be mistaken for a frown. A drawn expression moves MediaPipe's scores too little: slopes above 1 are not used.
And drawn heads are hardly ever at rest, people often: a score of 0 means a weight of 0, so positive intercepts are not
used.
"""

import dataclasses
import functools
import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from nofa_jax.face3d.mediapipe import MEDIAPIPE_BLENDSHAPES
from nofa_jax.face3d.model import WORLD_PER_CM, MorphableModel

TABLE = Path(__file__).with_name("calibration.json")
BROWS = slice(17, 27)
BROW_HEIGHT_CM = 0.3  # deviation of the personal height of both brows
UNMEASURED_SCORE = (1.0, 0.0, 0.25)  # slope, intercept, deviation of a score without a row


@dataclasses.dataclass(frozen=True)
class Calibration:
    """Of one model. 2D lengths in crop widths, 3D lengths in world units."""

    offset: Float[np.ndarray, "68 3"]  # MediaPipe's point minus the model's, head axes
    personal: Float[np.ndarray, "p 68 3"]  # one deviation of further offsets that differ from person to person
    deviation: Float[np.ndarray, " 68"]  # scatter of the points about that
    gap_deviation: Float[np.ndarray, " g"]  # scatter of the openings of lids and lips (fit_solver.GAPS)
    slope: Float[np.ndarray, " 52"]  # weight = intercept + slope * score, with this deviation
    intercept: Float[np.ndarray, " 52"]
    score_deviation: Float[np.ndarray, " 52"]


def _exact() -> Calibration:
    deviation = np.full(68, 0.002)  # a pixel of 512
    deviation[:17] = 0.007  # a jaw line is no row of fixed points for any detector
    gaze = np.array(["eyeLook" in name for name in MEDIAPIPE_BLENDSHAPES])
    return Calibration(
        offset=np.zeros((68, 3)),
        personal=np.zeros((1, 68, 3)),
        deviation=deviation,
        gap_deviation=np.full(7, 0.002),
        slope=np.ones(52),
        intercept=np.zeros(52),
        score_deviation=np.where(gaze, 0.05, 0.25),  # lids tell little about the gaze
    )


EXACT = _exact()  # for points that are a model's own landmarks, with noise


def calibration_for(model: MorphableModel) -> Calibration:
    """The table's rows for a model."""
    table = _table()
    heads = table["heads"]
    measured = model.name in heads
    rows = [heads[model.name]] if measured else list(heads.values())
    scores = np.array([table["scores"].get(name, UNMEASURED_SCORE) for name in MEDIAPIPE_BLENDSHAPES])
    offset = np.mean([row["offset_cm"] for row in rows], axis=0) * WORLD_PER_CM
    return Calibration(
        offset=offset if measured else np.zeros_like(offset),
        personal=_brow_height(BROW_HEIGHT_CM * WORLD_PER_CM),
        deviation=np.mean([row["deviation"] for row in rows], axis=0) / 1000,
        gap_deviation=np.mean([row["gap_deviation"] for row in rows], axis=0) / 1000,
        slope=np.minimum(scores[:, 0], 1.0),
        intercept=np.minimum(scores[:, 1], 0.0),
        score_deviation=scores[:, 2],
    )


def mirror68() -> np.ndarray:
    """Index of each of the 68 points' mirror image."""
    pairs = [(i, 16 - i) for i in range(17)] + [(17 + i, 26 - i) for i in range(10)]
    pairs += [(i, i) for i in range(27, 31)] + [(31 + i, 35 - i) for i in range(5)]
    pairs += [(36, 45), (37, 44), (38, 43), (39, 42), (40, 47), (41, 46)]
    pairs += [(48 + i, 54 - i) for i in range(7)] + [(55 + i, 59 - i) for i in range(5)]
    pairs += [(60 + i, 64 - i) for i in range(5)] + [(65 + i, 67 - i) for i in range(3)]
    mirror = np.arange(68)
    for a, b in pairs:
        mirror[a], mirror[b] = b, a
    return mirror


def _brow_height(deviation: float) -> Float[np.ndarray, "1 68 3"]:
    axis = np.zeros((1, 68, 3))
    axis[:, BROWS, 1] = deviation
    return axis


@functools.cache
def _table() -> dict[str, Any]:
    return json.loads(TABLE.read_text())
