"""First step: every frame is looked at once. Landmarks, sharpness of the face, and how much the picture changed."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import NamedTuple

import numpy as np
from jaxtyping import Float, UInt8

from data_prep.sources import SEQUENCE_RATE, Source
from nofa_jax.errors import UserError
from nofa_jax.face3d.deep3d import NUM_COEFFS, Deep3D
from nofa_jax.face3d.follow import PersonLandmarker, Seen, landmark_track
from nofa_jax.face3d.landmarker import Face, Landmarker
from nofa_jax.face3d.landmarks import LandmarkTrack, load_track, save_track
from nofa_jax.face3d.npz import read_npz
from nofa_jax.face3d.track import faces_of
from nofa_jax.media.photo import load_photo
from nofa_jax.media.video import VideoReader

FACE_SIZE = 128  # pixels of the face's box in which sharpness is measured, so that it does not depend on the zoom


@dataclass(frozen=True)
class Detection:
    """What `detect` saw in each of f frames."""

    landmarks: LandmarkTrack
    sharpness: Float[np.ndarray, " f"]  # variance of the Laplacian (grey levels of 255); NaN without a face
    change: Float[np.ndarray, " f"]  # mean difference from the frame before, in [0, 1]; 0 for the first
    coeffs: Float[np.ndarray, "f 257"] | None = None  # of the tracker deep3d; NaN without a face


class Picture(NamedTuple):
    """One frame of what a source shows."""

    time: Fraction  # seconds
    image: UInt8[np.ndarray, "h w 3"]
    corner: tuple[int, int]  # (x, y) of its first pixel in the file's picture


def frames(source: Source) -> Iterator[Picture]:
    """Every frame of the part that is used; a photo is one. Raises UserError for a file that cannot be read."""
    if source.sequence:
        paths = enumerate(source.pictures())
        pictures = ((Fraction(i, SEQUENCE_RATE), load_photo(path)) for i, path in paths)
    elif source.video:
        pictures = ((frame.time, frame.image) for frame in VideoReader(source.path, source.start, source.end))
    else:
        pictures = iter([(Fraction(0), load_photo(source.path))])
    for time, image in pictures:
        height, width = image.shape[:2]
        left, top, right, bottom = np.clip(source.box or (0, 0, 1, 1), 0, 1) * (width, height, width, height)
        x, y = min(int(left), width - 1), min(int(top), height - 1)
        part = image[y : max(y + 1, math.ceil(bottom)), x : max(x + 1, math.ceil(right))]
        yield Picture(time, np.ascontiguousarray(part), (x, y))


def detect(source: Source, landmarker: str | Path | None = None) -> Detection:
    """Looks at every frame of a file: of a photo at the largest face, of a video at one person (follow.py).

    Where others take that person's place, in a cut or after a long gap, the largest of them is followed from there.

    Raises:
      UserError: unreadable, or no face in it.
    """
    rate = 1.0
    if source.video:
        rate = SEQUENCE_RATE if source.sequence else float(VideoReader(source.path).info.rate)
    faces: list[Face | None] = []
    times, sharp, changes, size = [], [], [], (0, 0)
    for time, image, (face, change) in _look(source, landmarker):
        faces.append(face)
        times.append(float(time))
        sharp.append(np.nan if face is None else _sharpness(image, face))
        changes.append(change)
        size = image.shape[1], image.shape[0]
    if not any(faces):
        if not faces:
            raise UserError(f"{source.path}: no frame between {source.start:g} and {source.end:g} s")
        raise UserError(f"{source.path}: no face found in any of {len(faces)} frames")
    track = landmark_track(faces, times, size, rate)
    return Detection(track, np.array(sharp, np.float32), np.array(changes, np.float32))


def _look(source: Source, landmarker: str | Path | None) -> Iterator[tuple[Fraction, np.ndarray, Seen]]:
    if source.video:
        with PersonLandmarker(landmarker, restart=True) as detector:
            for time, image, _ in frames(source):
                yield time, image, detector.detect(image, time)
        return
    with Landmarker(landmarker) as detector:
        for time, image, _ in frames(source):
            yield time, image, Seen(next(iter(detector.detect(image)), None), 0.0)


def save(folder: Path, detection: Detection) -> None:
    """Two files: a track file like any other, and what this step adds."""
    save_track(folder / "landmarks.npz", detection.landmarks)
    part = folder / "pictures.part.npz"
    np.savez(part, sharpness=detection.sharpness, change=detection.change)
    part.replace(folder / "pictures.npz")


def load(folder: Path) -> Detection:
    """What `save` wrote, without coefficients."""
    added = read_npz(folder / "pictures.npz", ("sharpness", "change"), "detection")
    return Detection(load_track(folder / "landmarks.npz"), added["sharpness"], added["change"])


def find_coefficients(source: Source, seen: LandmarkTrack, network: Deep3D) -> Float[np.ndarray, "f 257"]:
    """Deep3DFaceRecon's coefficients of every frame with a face; NaN in the others."""
    coeffs = np.full((len(seen), NUM_COEFFS), np.nan, np.float32)
    coeffs[seen.valid] = network.coefficients(faces_of(seen, (frame.image for frame in frames(source))))
    return coeffs


def _sharpness(image: UInt8[np.ndarray, "h w 3"], face: Face) -> float:
    import cv2

    size = np.array(image.shape[1::-1])
    points = face.landmarks[:, :2] * size
    low, high = np.clip(points.min(axis=0), 0, size - 1), np.clip(points.max(axis=0), 1, size)
    (x0, y0), (x1, y1) = np.floor(low).astype(int), np.ceil(high).astype(int)
    if x1 - x0 < 2 or y1 - y0 < 2:
        return 0.0
    grey = cv2.cvtColor(np.ascontiguousarray(image[y0:y1, x0:x1]), cv2.COLOR_RGB2GRAY)
    shrinks = min(grey.shape) > FACE_SIZE
    face_pixels = cv2.resize(grey, (FACE_SIZE,) * 2, interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
    return float(cv2.Laplacian(face_pixels, cv2.CV_64F).var())
