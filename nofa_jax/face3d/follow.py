"""One person through a clip in which others come and go.

MediaPipe follows the face it found first and, when it loses that one, takes up any other. Here every face is compared
with the person who is followed: it must be near the place and of the size where the person was last, and shaped alike.
After a cut, or when the person has been away for more than GAP seconds, the shape alone tells.
"""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from nofa_jax.errors import UserError
from nofa_jax.face3d.fit import GAP
from nofa_jax.face3d.landmarker import Face, Landmarker, pick_face
from nofa_jax.face3d.landmarks import NUM_LANDMARKS, LandmarkTrack
from nofa_jax.face3d.mediapipe import MEDIAPIPE_BLENDSHAPES
from nofa_jax.media.video import VideoReader
from nofa_jax.progress import track as show_progress

# Landmarks that expressions hardly move: nose, forehead, ends of the brows, corners of the eyes, temples.
SHAPE_POINTS = (
    *(168, 6, 197, 195, 5, 4, 1, 2, 98, 327),
    *(8, 9, 151, 10, 108, 337, 109, 338, 21, 251),
    *(55, 285, 70, 300),
    *(33, 133, 362, 263, 130, 359, 243, 463),
    *(127, 356, 234, 454, 93, 323),
)
EYES = (SHAPE_POINTS.index(33), SHAPE_POINTS.index(263))  # outer corners
REACH = 0.8  # sides of its box that a face may have moved since it was last seen
GROWTH = 1.5  # factor by which its size may have changed
# Distances of shapes, see `shape_distance`. In five people's videos frames up to half a second apart differ by at most
# 0.030; from the mean of the first second 99 % of the later frames are within 0.024, and of 150 strangers' photos 5 %.
SAME_PLACE_SHAPE = 0.03
SAME_SHAPE = 0.024
SHAPE_MEMORY = 50  # frames over which a person's mean shape is taken
CUT = 0.12  # mean difference of neighbouring pictures, above which there is a cut
THUMBNAIL = 32  # pixels a side of the pictures whose difference shows a cut


class Seen(NamedTuple):
    """What one frame shows."""

    face: Face | None  # the person's
    change: float  # mean difference from the picture before, in [0, 1]; 0 for the first


class Person:
    """Who is followed: last place and size, and the mean shape of the last SHAPE_MEMORY faces.

    Args:
        face: in the first frame.
        time: seconds.
        size: of the pictures, (width, height).
    """

    def __init__(self, face: Face, time: float, size: tuple[int, int]) -> None:
        self._size = size
        self._count = 0
        self._mean = shape_of(face, size)
        self._remember(face, time)

    @property
    def last_seen(self) -> float:
        """Seconds."""
        return self._time

    def forget_place(self) -> None:
        """After a cut."""
        self._time = -np.inf

    def find(self, faces: Sequence[Face], time: float) -> Face | None:
        """The person's face among those of a frame, which is remembered; None when it is not there.

        Of several that could be the nearest is taken, or where place says nothing the most alike.
        """
        nearby = time - self._time <= GAP
        distances = [self._distance(face) if nearby else self._unlikeness(face) for face in faces]
        best = min(range(len(faces)), key=distances.__getitem__, default=None)
        if best is None or not np.isfinite(distances[best]):
            return None
        self._remember(faces[best], time)
        return faces[best]

    def _distance(self, face: Face) -> float:
        """How far it moved, in sides of its box; infinite if this cannot be the person."""
        (centre, side), (before, side_before) = _box(face, self._size), _box(self._face, self._size)
        moved = float(np.linalg.norm(centre - before)) / min(side, side_before)
        possible = moved <= REACH and max(side / side_before, side_before / side) <= GROWTH
        shape = shape_of(face, self._size)
        alike = shape_distance(shape, shape_of(self._face, self._size)) <= SAME_PLACE_SHAPE
        return moved if possible and alike else np.inf

    def _unlikeness(self, face: Face) -> float:
        distance = shape_distance(shape_of(face, self._size), self._mean)
        return distance if distance <= SAME_SHAPE else np.inf

    def _remember(self, face: Face, time: float) -> None:
        self._face, self._time = face, time
        self._count = min(self._count + 1, SHAPE_MEMORY)
        self._mean = self._mean + (_onto(shape_of(face, self._size), self._mean) - self._mean) / self._count


class PersonLandmarker:
    """The landmarks of one person in the frames of a clip, in order; close it, or use `with`.

    Begins with the largest face of the first frame that shows any, or with `face` = K the K-th from the left.

    Args:
        path: model file, see landmarker.find_landmarker.
        face: K, or None.
        restart: begin anew with the largest face after a cut to other people, or when the person has been away for
            more than GAP seconds; else nobody ever takes the person's place.

    Raises:
        UserError: see landmarker.Landmarker.
    """

    def __init__(self, path: str | Path | None = None, face: int | None = None, restart: bool = False) -> None:
        self._face, self._restart = face, restart
        self._person: Person | None = None
        self._before: np.ndarray | None = None
        self._follower = Landmarker(path, video=True)  # quick and steady
        self._finder = Landmarker(path)  # all faces; asked when the follower does not see the person

    def detect(self, image: UInt8[np.ndarray, "h w 3"], time: Fraction | float, name: str = "clip") -> Seen:
        """The person in the next RGB frame, at `time` in seconds.

        Raises:
            UserError: the first frame with a face has fewer than K; the message begins with `name`.
        """
        change = self._change(image)
        seconds = float(time)
        followed = self._follower.detect(image, time)
        if self._person is not None:
            if change > CUT:
                self._person.forget_place()
            found = self._person.find(followed, seconds)
            if found is not None:
                return Seen(found, change)
        faces = self._finder.detect(image) or followed
        if self._person is not None:
            found = self._person.find(faces, seconds)
            if found is not None or not self._restart or seconds - self._person.last_seen <= GAP:
                return Seen(found, change)
        if not faces:
            return Seen(None, change)
        chosen = pick_face(faces, self._face if self._person is None else None, name)
        self._person = Person(chosen, seconds, (image.shape[1], image.shape[0]))
        return Seen(self._person.find(followed, seconds) or chosen, change)

    def close(self) -> None:
        """Must happen before the interpreter exits; harmless when repeated."""
        self._follower.close()
        self._finder.close()

    def __enter__(self) -> "PersonLandmarker":
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def _change(self, image: UInt8[np.ndarray, "h w 3"]) -> float:
        import cv2

        small = cv2.resize(image, (THUMBNAIL,) * 2, interpolation=cv2.INTER_AREA)
        before, self._before = self._before, small.astype(np.float32).mean(axis=-1) / 255
        return 0.0 if before is None else float(np.abs(self._before - before).mean())


def track_video(reader: VideoReader, landmarker: str | Path | None = None, face: int | None = None) -> LandmarkTrack:
    """Follows one person through a clip, see PersonLandmarker; frames without their face are marked (landmarks.py).

    Raises:
        UserError: no face in any frame, or fewer than `face` in the first with one.
    """
    faces: list[Face | None] = []
    times: list[float] = []
    with PersonLandmarker(landmarker, face) as detector:
        for frame in show_progress(reader, total=reader.info.frames, description="landmarks"):
            faces.append(detector.detect(frame.image, frame.time, str(reader.path)).face)
            times.append(float(frame.time))
    if not any(faces):
        raise UserError(
            f"{reader.path}: no face found in any of {len(faces)} frames (is it too small, or turned away?)"
        )
    return landmark_track(faces, times, (reader.info.width, reader.info.height), float(reader.info.rate))


def landmark_track(
    faces: Sequence[Face | None], times: Sequence[float], size: tuple[int, int], rate: float
) -> LandmarkTrack:
    """Faces of a clip's frames, None where there is none; `size` (width, height) in pixels, `rate` frames a second."""

    def stack(field: str, shape: tuple[int, ...]) -> np.ndarray:
        empty = np.full(shape, np.nan, np.float32)
        return np.stack([empty if face is None else getattr(face, field) for face in faces])

    return LandmarkTrack(
        landmarks=stack("landmarks", (NUM_LANDMARKS, 3)),
        blendshapes=stack("blendshapes", (len(MEDIAPIPE_BLENDSHAPES),)),
        matrix=stack("matrix", (4, 4)),
        valid=np.array([face is not None for face in faces]),
        timestamps=np.array(times),
        width=size[0],
        height=size[1],
        fps=rate,
    )


def shape_of(face: Face, size: tuple[int, int]) -> Float[np.ndarray, "n 3"]:
    """SHAPE_POINTS about their mean, in distances of the eyes' outer corners; `size` of the picture in pixels."""
    width, height = size
    points = face.landmarks[list(SHAPE_POINTS)].astype(np.float64) * (width, height, 1)
    # MediaPipe gives z in lengths of a line of the picture along the eyes, which in a rolled head is not its width.
    across = points[EYES[1], :2] - points[EYES[0], :2]
    points[:, 2] *= np.linalg.norm(across) / max(np.hypot(*(across / size)), 1e-9)
    points -= points.mean(axis=0)
    return points / max(np.linalg.norm(points[EYES[0]] - points[EYES[1]]), 1e-9)


def shape_distance(a: Float[np.ndarray, "n 3"], b: Float[np.ndarray, "n 3"]) -> float:
    """Root mean square distance of the points after turning and scaling `a` onto `b`."""
    return float(np.sqrt(((_onto(a, b) - b) ** 2).sum(axis=1).mean()))


def _onto(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """`a` turned and scaled onto `b`, both about their mean (Umeyama 1991)."""
    u, s, vt = np.linalg.svd(a.T @ b)
    signs = np.array([1, 1, np.sign(np.linalg.det(u @ vt))])
    return (s @ signs) / max((a**2).sum(), 1e-12) * a @ (u * signs) @ vt


def _box(face: Face, size: tuple[int, int]) -> tuple[np.ndarray, float]:
    """Centre and geometric mean of the sides of the landmarks' box, in pixels."""
    points = face.landmarks[:, :2] * size
    sides = np.ptp(points, axis=0)
    return points.min(axis=0) + sides / 2, max(float(np.sqrt(np.prod(sides))), 1e-6)
