"""Track files: MediaPipe's landmarks of a clip, frame by frame, strictly checked when read.

A track file is an .npz without pickled objects. With f frames: `landmarks` float [f,478,3] (x, y as fractions of width
and height; z in the scale of x, smaller is nearer), `blendshapes` float [f,52], `matrix` float [f,4,4] (rigid,
canonical face to camera, cm), `valid` bool [f] (the other three are NaN where False), `timestamps` float [f] in
seconds, and the scalars `width`, `height`, `fps`. Optional: `blendshape_names`, `running_mode`.
"""

import dataclasses
import os
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float

from nofa_jax.errors import UserError
from nofa_jax.face3d.mediapipe import MEDIAPIPE_68, MEDIAPIPE_BLENDSHAPES
from nofa_jax.face3d.npz import read_npz

NUM_LANDMARKS = 478
MAX_FRAMES = 1_000_000
MAX_SIDE = 65536
WHAT = "track"
FIELDS = ("landmarks", "blendshapes", "matrix", "valid", "timestamps", "width", "height", "fps")
OPTIONAL = ("blendshape_names", "running_mode")
RIGID_ATOL = 1e-3  # of matrix' rotation; MediaPipe's own are good to 1e-6
FARTHEST = 10.0  # landmarks farther than this many picture sizes away are damage, not faces


@dataclasses.dataclass(frozen=True)
class LandmarkTrack:
    """Landmarks of one face through a clip; fields as in the module's docstring."""

    landmarks: Float[np.ndarray, "f 478 3"]
    blendshapes: Float[np.ndarray, "f 52"]
    matrix: Float[np.ndarray, "f 4 4"]
    valid: Bool[np.ndarray, " f"]
    timestamps: Float[np.ndarray, " f"]
    width: int
    height: int
    fps: float

    def __len__(self) -> int:
        return len(self.valid)

    def points68(self) -> Float[np.ndarray, "f 68 2"]:
        """The 68 Multi-PIE landmarks in pixels (x right, y down); NaN where there is no face."""
        size = np.array([self.width, self.height], np.float32)
        return self.landmarks[:, list(MEDIAPIPE_68), :2] * size


def load_track(path: str | Path) -> LandmarkTrack:
    """Reads a track file.

    Raises:
        UserError: no such file, damaged, pickled objects, member names that are paths or unknown, a field that is
            missing or of the wrong shape or type, NaN in a frame marked valid, times that do not increase, a matrix
            that is not rigid, blendshapes in another order.
    """
    path = Path(path)
    arrays = read_npz(path, FIELDS, WHAT)
    unknown = sorted(set(arrays) - set(FIELDS) - set(OPTIONAL))
    if unknown:
        raise UserError(f"{path}: not a {WHAT}: unknown arrays {', '.join(unknown)}")
    names = arrays.get("blendshape_names")
    if names is not None and tuple(str(n) for n in names.ravel()) != MEDIAPIPE_BLENDSHAPES:
        raise UserError(f"{path}: blendshape_names are not MediaPipe's 52 in their order")
    frames = _check_shapes(path, arrays)
    track = LandmarkTrack(
        landmarks=arrays["landmarks"].astype(np.float32),
        blendshapes=arrays["blendshapes"].astype(np.float32),
        matrix=arrays["matrix"].astype(np.float32),
        valid=arrays["valid"],
        timestamps=arrays["timestamps"].astype(np.float64),
        width=int(arrays["width"]),
        height=int(arrays["height"]),
        fps=float(arrays["fps"]),
    )
    _check_values(path, track, frames)
    return track


def save_track(path: str | Path, track: LandmarkTrack) -> None:
    """Writes a track file through a temporary name."""
    path = Path(path)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    arrays = {name: np.asarray(getattr(track, name)) for name in FIELDS}
    try:
        with part.open("wb") as file:
            np.savez_compressed(file, blendshape_names=np.array(MEDIAPIPE_BLENDSHAPES), **arrays)  # ty: ignore[invalid-argument-type]
        part.replace(path)
    except OSError as e:
        raise UserError(f"{path}: cannot be written ({e.strerror or e})") from e
    finally:
        part.unlink(missing_ok=True)


def _check_shapes(path: Path, arrays: dict[str, np.ndarray]) -> int:
    """Shapes and types of all fields; returns the number of frames."""
    if arrays["valid"].ndim != 1 or arrays["valid"].dtype != np.bool_:
        raise UserError(f"{path}: valid is {_kind(arrays['valid'])}, expected bool of shape (frames,)")
    frames = len(arrays["valid"])
    if not 1 <= frames <= MAX_FRAMES:
        raise UserError(f"{path}: the {WHAT} has {frames} frames, expected 1 to {MAX_FRAMES}")
    shapes = {
        "landmarks": (frames, NUM_LANDMARKS, 3),
        "blendshapes": (frames, len(MEDIAPIPE_BLENDSHAPES)),
        "matrix": (frames, 4, 4),
        "timestamps": (frames,),
        "width": (),
        "height": (),
        "fps": (),
    }
    for name, shape in shapes.items():
        kinds = "iu" if name in ("width", "height") else "fiu" if name == "fps" else "f"
        if arrays[name].shape != shape or arrays[name].dtype.kind not in kinds:
            wanted = "integer" if kinds == "iu" else "number" if kinds == "fiu" else "floating point"
            raise UserError(f"{path}: {name} is {_kind(arrays[name])}, expected {wanted} of shape {shape}")
    return frames


def _kind(array: np.ndarray) -> str:
    return f"{array.dtype} of shape {array.shape}"


def _check_values(path: Path, track: LandmarkTrack, frames: int) -> None:
    for name in ("landmarks", "blendshapes", "matrix"):
        finite = np.isfinite(getattr(track, name)).reshape(frames, -1).all(axis=1)
        bad = np.flatnonzero(track.valid & ~finite)
        if bad.size:
            raise UserError(f"{path}: frame {bad[0]} is marked valid but its {name} hold NaN or infinity")
    if not (1 <= track.width <= MAX_SIDE and 1 <= track.height <= MAX_SIDE):
        raise UserError(f"{path}: the picture size {track.width}x{track.height} is not possible")
    if not (np.isfinite(track.fps) and track.fps > 0):
        raise UserError(f"{path}: fps is {track.fps}, expected a positive number")
    if not np.isfinite(track.timestamps).all() or (np.diff(track.timestamps) <= 0).any():
        raise UserError(f"{path}: timestamps must be finite and increase from frame to frame")
    points, scores = track.landmarks[track.valid], track.blendshapes[track.valid]
    if np.abs(points).max(initial=0) > FARTHEST:
        raise UserError(f"{path}: landmarks lie up to {np.abs(points).max():.3g} picture sizes away")
    if scores.min(initial=0) < -1e-3 or scores.max(initial=0) > 1 + 1e-3:
        raise UserError(f"{path}: blendshapes lie in {scores.min():.3g} to {scores.max():.3g}, expected 0 to 1")
    _check_rigid(path, track.matrix[track.valid])


def _check_rigid(path: Path, matrix: Float[np.ndarray, "f 4 4"]) -> None:
    rotation = matrix[:, :3, :3]
    square = np.einsum("fij,fkj->fik", rotation, rotation)
    rigid = np.abs(square - np.eye(3)).max(initial=0) < RIGID_ATOL and (np.linalg.det(rotation) > 0).all()
    if not rigid or np.abs(matrix[:, 3] - [0, 0, 0, 1]).max(initial=0) > RIGID_ATOL:
        raise UserError(f"{path}: matrix is not a rigid transform in every valid frame")
