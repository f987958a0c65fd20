"""From detections to takes: stretches of one person without a cut or a long gap, fitted jointly, and held to gates."""

import dataclasses
import inspect
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

from data_prep.detect import Detection
from nofa_jax.data.check import MAX_COEFF
from nofa_jax.face3d.fit import GAP
from nofa_jax.face3d.landmarks import LandmarkTrack
from nofa_jax.face3d.model import MorphableModel
from nofa_jax.face3d.track import Track, fit_clip

EYES = (slice(36, 42), slice(42, 48))  # of the 68 landmarks


@dataclass(frozen=True)
class Gates:
    """What a frame or take must have to be packed. Each comment is the option's help."""

    min_eye_distance: float = 20.0  # pixels between the eyes' centres in the file
    min_sharpness: float = 10.0  # variance of the Laplacian of the face at 128 pixels, grey levels of 255
    max_yaw: float = 60.0  # degrees that the head is turned aside
    max_pitch: float = 40.0  # degrees that it looks up or down
    max_error: float = 0.06  # median distance of inner landmarks from the fitted head's, in eye distances
    min_frames: int = 8  # of a video's take that pass all of these
    max_change: float = 0.12  # mean difference of neighbouring pictures (0 to 1), above which there is a cut
    max_jump: float = 1.5  # eye distances that a face may move from frame to frame before it counts as another
    max_duplicate_bits: int = 3  # of 64, in which the hashes of two files' first faces may differ to be one; -1: off


@dataclass(frozen=True)
class Take:
    """Frames of a file that were fitted together."""

    number: int
    rows: np.ndarray  # frame numbers in the file, all with a face
    track: Track  # one row for each of them
    keep: np.ndarray  # bool: rows that pass the gates

    def thinned(self, every: int) -> "Take":
        """The same with every n-th of the rows that pass."""
        chosen = np.zeros_like(self.keep)
        chosen[np.flatnonzero(self.keep)[::every]] = True
        return dataclasses.replace(self, keep=chosen)


def gate_help() -> Iterator[tuple[str, float, str]]:
    """(name, default, help) of every gate; the help is the comment on its line."""
    lines = inspect.getsource(Gates).splitlines()
    for name, default in dataclasses.asdict(Gates()).items():
        line = next(line for line in lines if line.strip().startswith(f"{name}:"))
        yield name, default, line.partition("# ")[2]


def find_takes(detection: Detection, gates: Gates) -> list[np.ndarray]:
    """Frame numbers with a face, cut where the picture changes at once, the face jumps, or is gone for too long."""
    seen = detection.landmarks
    rows = np.flatnonzero(seen.valid)
    points = seen.points68()[rows]
    between = _eye_distance(points)
    middle = points.mean(axis=1)
    # A cut may fall into frames without a face: the largest change since the last face counts.
    change = np.maximum.reduceat(detection.change[: rows[-1] + 1], np.append(0, rows[:-1] + 1))
    away = np.linalg.norm(np.diff(middle, axis=0), axis=1) / np.maximum(np.minimum(between[1:], between[:-1]), 1e-6)
    frames = np.maximum(np.diff(rows), 1)
    cut = (np.diff(seen.timestamps[rows]) > GAP) | (change[1:] > gates.max_change) | (away / frames > gates.max_jump)
    return np.split(rows, np.flatnonzero(cut) + 1)


def fit_takes(detection: Detection, model: MorphableModel, gates: Gates, video: bool) -> tuple[list[Take], list[str]]:
    """(takes that pass, reasons why others do not); a reason names the frames."""
    takes, reasons = [], []
    for number, rows in enumerate(find_takes(detection, gates)):
        needed = gates.min_frames if video else 1
        where = f"frames {rows[0]} to {rows[-1]}" if video else "the photo"
        if len(rows) < needed:
            reasons.append(f"{where}: {len(rows)} frames, a take needs {needed}")
            continue
        coeffs = None if detection.coeffs is None else detection.coeffs[rows]
        track = fit_clip(model, _rows(detection.landmarks, rows), where, coeffs=coeffs)
        keep, why = judge(track, _eye_distance(detection.landmarks.points68()[rows]), detection.sharpness[rows], gates)
        if keep.sum() < needed:
            reasons.append(f"{where}: {why}" if not keep.any() else f"{where}: only {keep.sum()} frames pass ({why})")
            continue
        takes.append(Take(number, rows, track, keep))
    return takes, reasons


def judge(
    track: Track, eye_distance: Float[np.ndarray, " f"], sharpness: Float[np.ndarray, " f"], gates: Gates
) -> tuple[np.ndarray, str]:
    """(bool [f]: frames that pass, what the others fail in, most frequent first)."""
    yaw, pitch = head_angles(track.cam2world)
    fails = {
        f"the eyes are less than {gates.min_eye_distance:g} pixels apart": eye_distance < gates.min_eye_distance,
        f"sharpness below {gates.min_sharpness:g}": ~(sharpness >= gates.min_sharpness),
        f"turned aside by more than {gates.max_yaw:g} degrees": np.abs(yaw) > gates.max_yaw,
        f"looking up or down by more than {gates.max_pitch:g} degrees": np.abs(pitch) > gates.max_pitch,
        f"coefficients beyond {MAX_COEFF:g}": ~(np.abs(track.exp_coeff).max(axis=1) <= MAX_COEFF)
        | ~(np.abs(track.id_coeff).max() <= MAX_COEFF),
        f"the fit is off by more than {gates.max_error:g} eye distances": ~(track.error <= gates.max_error),
    }
    counts = sorted(((int(bad.sum()), name) for name, bad in fails.items() if bad.any()), reverse=True)
    keep = ~np.any(list(fails.values()), axis=0)
    return keep, "; ".join(f"{name} ({count} of {len(keep)})" for count, name in counts)


def head_angles(cam2world: Float[np.ndarray, "f 4 4"]) -> tuple[np.ndarray, np.ndarray]:
    """Degrees (yaw, pitch) at which the camera sees the head: 0 from the front, yaw > 0 from the subject's left."""
    place = cam2world[:, :3, 3] / np.linalg.norm(cam2world[:, :3, 3], axis=1, keepdims=True)
    return np.degrees(np.arctan2(place[:, 0], place[:, 2])), np.degrees(np.arcsin(np.clip(place[:, 1], -1, 1)))


def _eye_distance(points: Float[np.ndarray, "f 68 2"]) -> Float[np.ndarray, " f"]:
    left, right = (points[:, eye].mean(axis=1) for eye in EYES)
    return np.linalg.norm(left - right, axis=1)


def _rows(track: LandmarkTrack, rows: np.ndarray) -> LandmarkTrack:
    names = ("landmarks", "blendshapes", "matrix", "valid", "timestamps")
    return dataclasses.replace(track, **{name: getattr(track, name)[rows] for name in names})
