"""MediaPipe's face landmarker: 478 landmarks, 52 blendshape scores and a rigid matrix per face.

MediaPipe is imported only when a landmarker is made, so precomputed track files work without it.
"""

import contextlib
import dataclasses
import os
import sys
import zipfile
from collections.abc import Generator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from nofa_jax.compile_cache import cache_dir
from nofa_jax.errors import UserError
from nofa_jax.face3d.mediapipe import MEDIAPIPE_BLENDSHAPES
from nofa_jax.weights import WEIGHTS, weight_path

URL = WEIGHTS["face_landmarker"].url
MAX_FACES = 10  # looked for in a photo


@dataclasses.dataclass(frozen=True)
class Face:
    """One detected face; fields as in a track file's frame (landmarks.py)."""

    landmarks: Float[np.ndarray, "478 3"]
    blendshapes: Float[np.ndarray, " 52"]
    matrix: Float[np.ndarray, "4 4"]

    def area(self) -> float:
        """Of the landmarks' bounding box, as a fraction of the picture."""
        return float(np.prod(np.ptp(self.landmarks[:, :2], axis=0)))


def find_landmarker(path: str | Path | None = None) -> Path:
    """The model file: `path`, else $NOFA_LANDMARKER, else face_landmarker.task in the cache folder.

    Raises:
        UserError: there is none (the message says where to get it and where to put it), or it is not complete.
    """
    found = Path(path) if path else weight_path("face_landmarker")
    how = (
        f"run `nofa weights fetch face_landmarker`, or download {URL} and give its path with --landmarker=, or in "
        f"$NOFA_LANDMARKER, or put it at {cache_dir(WEIGHTS['face_landmarker'].source)}"
    )
    if not found.is_file():
        raise UserError(f"{found}: the face landmarker's model is not there; {how}")
    try:
        with zipfile.ZipFile(found) as bundle:
            inside = [name for name in bundle.namelist() if name.endswith(".tflite")]
    except (zipfile.BadZipFile, OSError) as e:
        size = found.stat().st_size
        raise UserError(f"{found}: not a complete landmarker model ({size} bytes, {e}); {how}") from e
    if not inside:
        raise UserError(f"{found}: not a landmarker model (no network inside); {how}")
    return found


class Landmarker:
    """A face landmarker for single photos, or for the frames of one clip in order; close it, or use `with`.

    Args:
        path: model file, see find_landmarker.
        video: follow one face, whichever is found first, through a clip (frames must come with increasing times)
            instead of treating each picture by itself; see follow.py for one that is chosen.
        max_faces: faces looked for in a photo.

    Raises:
        UserError: mediapipe or its system libraries are missing; the model file is missing or damaged.
    """

    def __init__(self, path: str | Path | None = None, video: bool = False, max_faces: int = MAX_FACES) -> None:
        model = find_landmarker(path)
        self._video = video
        self._time_ms = -1
        self._used = False
        self._mp = _import_mediapipe()
        vision = self._mp.tasks.vision
        options = vision.FaceLandmarkerOptions(
            base_options=self._mp.tasks.BaseOptions(model_asset_path=os.fspath(model)),
            running_mode=vision.RunningMode.VIDEO if video else vision.RunningMode.IMAGE,
            num_faces=1 if video else max_faces,
            output_face_blendshapes=True,
            output_facial_transformation_matrixes=True,
        )
        self._landmarker: Any = None
        try:
            with _quiet_stderr():
                self._landmarker = vision.FaceLandmarker.create_from_options(options)
        except (RuntimeError, ValueError, OSError) as e:
            self.close()
            raise UserError(f"{model}: MediaPipe cannot use this landmarker model ({e})") from e

    def detect(self, image: UInt8[np.ndarray, "h w 3"], time: Fraction | float = 0) -> list[Face]:
        """Faces in an RGB picture, largest first; in a clip at most one. `time` in seconds matters for clips only."""
        # MediaPipe's clock counts whole milliseconds and must advance.
        result = self._run(image, max(round(1000 * time), self._time_ms + 1) if self._video else 0)
        faces = [
            Face(_landmarks(points), _scores(scores), np.asarray(matrix, np.float32))
            for points, scores, matrix in zip(
                result.face_landmarks, result.face_blendshapes, result.facial_transformation_matrixes, strict=True
            )
        ]
        return sorted(faces, key=Face.area, reverse=True)

    def close(self) -> None:
        """Must happen before the interpreter exits; harmless when repeated."""
        landmarker, self._landmarker = self._landmarker, None
        if landmarker is not None:
            landmarker.close()

    def __enter__(self) -> "Landmarker":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _run(self, image: np.ndarray, time_ms: int) -> Any:
        # mp.Image misreads arrays that are not C-contiguous, without a word.
        picture = self._mp.Image(image_format=self._mp.ImageFormat.SRGB, data=np.ascontiguousarray(image))
        first, self._used = not self._used, True
        with _quiet_stderr() if first else contextlib.nullcontext():  # the first picture brings more notices
            if not self._video:
                return self._landmarker.detect(picture)
            self._time_ms = time_ms
            return self._landmarker.detect_for_video(picture, time_ms)


def detect_photo(
    image: UInt8[np.ndarray, "h w 3"],
    landmarker: str | Path | None = None,
    face: int | None = None,
    name: str = "photo",
) -> Face:
    """The largest face of a photo, or with `face` = K the K-th from the left (1 is the leftmost).

    Raises:
        UserError: no face, or fewer than K; the message begins with `name`.
    """
    with Landmarker(landmarker) as detector:
        faces = detector.detect(image)
    if not faces:
        raise UserError(f"{name}: no face found (it must be turned less than about 70 degrees and not be very small)")
    return pick_face(faces, face, name)


def pick_face(faces: list[Face], face: int | None, name: str) -> Face:
    """The largest, or with `face` = K the K-th from the left.

    Raises:
        UserError: fewer than K; the message begins with `name`.
    """
    if face is None:
        return max(faces, key=Face.area)
    if not 1 <= face <= len(faces):
        raise UserError(f"{name}: there is no face number {face}: {len(faces)} found, counted from the left")
    return sorted(faces, key=lambda f: f.landmarks[:, 0].mean())[face - 1]


def _landmarks(points: Any) -> Float[np.ndarray, "478 3"]:
    return np.array([(p.x, p.y, p.z) for p in points], np.float32)


def _scores(scores: Any) -> Float[np.ndarray, " 52"]:
    by_name = {s.category_name: s.score for s in scores}
    return np.array([by_name[name] for name in MEDIAPIPE_BLENDSHAPES], np.float32)


def _import_mediapipe() -> Any:
    try:
        with _quiet_stderr():
            import mediapipe

            # Loads the part that needs system libraries.
            mediapipe.tasks.vision.FaceLandmarker  # noqa: B018  # ty: ignore[missing-attribute]
    except ImportError as e:
        raise UserError(f"the face landmarker needs MediaPipe: pip install mediapipe ({e})") from e
    except OSError as e:
        raise UserError(f"MediaPipe lacks a system library: apt install libegl1 libgles2 ({e})") from e
    return mediapipe


@contextlib.contextmanager
def _quiet_stderr() -> Generator[None]:
    """Silences C++ log lines, which go to the file descriptor; errors still arrive as exceptions."""
    sys.stderr.flush()
    try:
        saved = os.dup(2)
    except OSError:  # no stderr at all
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(saved)
