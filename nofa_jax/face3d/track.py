"""Photo or clip in, morphable-model coefficients and cameras out (the face tracker of the paper, Sec. 3.2, 4.1).

Detector (landmarker.py, follow.py) or track file (landmarks.py) -> crop (crop.py) -> fit (fit.py) -> Track. The Basel
Face Model's coefficients come from Deep3DFaceRecon's network instead of the fit, as in the paper (deep3d.py).
"""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8

from nofa_jax.errors import UserError
from nofa_jax.face3d.calibration import calibration_for
from nofa_jax.face3d.crop import AUTO, FOCAL, Framing, clip_crops, crops_around, photo_crop, to_crop
from nofa_jax.face3d.deep3d import find_cuts, fit_coefficients, five_points, load_deep3d
from nofa_jax.face3d.fit import FitOptions, FitResult, fit_landmarks
from nofa_jax.face3d.follow import landmark_track, track_video
from nofa_jax.face3d.gaze import CORNERS, IRISES, gaze_of, has_eyes
from nofa_jax.face3d.landmarker import detect_photo
from nofa_jax.face3d.landmarks import LandmarkTrack, load_track
from nofa_jax.face3d.mediapipe import MEDIAPIPE_68
from nofa_jax.face3d.model import MorphableModel
from nofa_jax.face3d.pose import INNER_68, cam2world_of, slerp
from nofa_jax.media.video import VideoReader
from nofa_jax.progress import track as show_progress

MAX_INTERPOLATED = 0.5  # seconds; frames in a longer gap keep what was last seen


@dataclasses.dataclass(frozen=True)
class Track:
    """Head of one person through f frames (a photo: one), ready to drive or to render.

    Projecting model.landmarks(id_coeff, exp_coeff) with cam2world and intrinsics gives crop fractions that lie on the
    detected `landmarks`; `crop` maps picture pixels to crop fractions.

    Frames without a face (valid False) are filled: in gaps up to MAX_INTERPOLATED seconds between the neighbours, in
    longer ones with the last frame seen before; before the first face with the first, after the last with the last.
    """

    cam2world: Float[np.ndarray, "f 4 4"]
    intrinsics: Float[np.ndarray, "f 3 3"]
    id_coeff: Float[np.ndarray, " i"]
    exp_coeff: Float[np.ndarray, "f e"]
    landmarks: Float[np.ndarray, "f 68 2"]  # detected, corrected to the model's definition (calibration.py); fractions
    valid: Bool[np.ndarray, " f"]
    crop: Float[np.ndarray, "f 3 3"]
    timestamps: Float[np.ndarray, " f"]  # seconds
    error: Float[np.ndarray, " f"]  # median distance of inner landmarks from the fit, in eye distances; NaN if filled
    gaze: Float[np.ndarray, "f 2 2"] | None = None  # of the eyes (gaze.py); None without eyes or irises

    def __len__(self) -> int:
        return len(self.valid)


def track_photo(
    image: UInt8[np.ndarray, "h w 3"],
    model: MorphableModel,
    landmarker: str | Path | None = None,
    face: int | None = None,
    upright: bool = True,
    name: str = "photo",
    options: FitOptions | None = None,
) -> Track:
    """Fits the largest face of a photo, or the `face`-th from the left; `upright` turns a rolled head (see crop.py; not
    with the Basel model, whose alignment keeps the roll as EG3D's does).

    Raises:
        UserError: no face, no landmarker; see landmarker.py. Nor the network's weights, with the Basel model.
    """
    found = detect_photo(image, landmarker, face, name)
    height, width = image.shape[:2]
    if model.tracker == "deep3d":
        seen = landmark_track([found], [0.0], (width, height), 1.0)
        return fit_clip(model, seen, name, coeffs=load_deep3d().coefficients(faces_of(seen, iter([image]))))
    points = found.landmarks[list(MEDIAPIPE_68), :2] * np.array([width, height])
    return fit_photo(model, points, found.blendshapes, upright, options)


def fit_photo(
    model: MorphableModel,
    points: Float[np.ndarray, "68 2"],
    scores: Float[np.ndarray, " 52"] | None = None,
    upright: bool = True,
    options: FitOptions | None = None,
) -> Track:
    """Fits a face from MediaPipe's 68 landmarks in pixels and, if known, its blendshape scores."""
    crop = photo_crop(points, _template(model), upright)[None]
    inside = to_crop(points[None], crop)
    scores = None if scores is None else scores[None]
    fit = fit_landmarks(model, inside, np.zeros(1), scores, calibration=calibration_for(model), options=options)
    return _track(fit, inside, np.array([True]), crop, np.zeros(1))


def track_clip(
    reader: VideoReader,
    model: MorphableModel,
    landmarker: str | Path | None = None,
    track_file: str | Path | None = None,
    framing: Framing = AUTO,
    options: FitOptions | None = None,
    face: int | None = None,
    network: str | Path | None = None,
) -> Track:
    """Tracks a clip frame by frame, with the landmarker or from a precomputed track file.

    Args:
        framing: where the head may move, see crop.py.
        face: of several, which person is followed (follow.py): the K-th from the left in the first frame that shows
            one; None: the largest.
        network: Deep3DFaceRecon's file, for the Basel model; default where `nofa weights` looks for it.

    Raises:
        UserError: no face in any frame, or fewer than `face`; a track file that does not belong to the clip; no weights
            of the network that the Basel model needs.
    """
    if face is not None and track_file is not None:
        raise UserError(f"{track_file}: a track file holds one person, so there is no face number {face} to choose")
    recon = load_deep3d(network) if model.tracker == "deep3d" else None
    seen = track_video(reader, landmarker, face) if track_file is None else _read_track(track_file, reader)
    coeffs = None
    if recon is not None and seen.valid.any():
        pictures = (frame.image for frame in show_progress(reader, len(seen), "coefficients"))
        coeffs = recon.coefficients(faces_of(seen, pictures))
    return fit_clip(model, seen, str(track_file or reader.path), framing, options, coeffs)


def faces_of(
    seen: LandmarkTrack, pictures: Iterator[UInt8[np.ndarray, "h w 3"]]
) -> Iterator[tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "5 2"]]]:
    """The pictures with a face and its five points, for `deep3d.Deep3D.coefficients`; `pictures` are of all frames."""
    five = five_points(seen.landmarks, seen.width, seen.height)
    return ((picture, five[i]) for i, picture in enumerate(pictures) if i < len(five) and seen.valid[i])


def _read_track(track_file: str | Path, reader: VideoReader) -> LandmarkTrack:
    """Raises UserError unless it belongs to the clip."""
    seen = load_track(track_file)
    info = reader.info
    if (seen.width, seen.height) != (info.width, info.height) or (info.frames or len(seen)) != len(seen):
        raise UserError(
            f"{track_file}: made for {len(seen)} frames of {seen.width}x{seen.height}, but {reader.path} has "
            f"{info.frames} of {info.width}x{info.height}"
        )
    return seen


def fit_clip(
    model: MorphableModel,
    seen: LandmarkTrack,
    name: str = "clip",
    framing: Framing = AUTO,
    options: FitOptions | None = None,
    coeffs: Float[np.ndarray, "v 257"] | None = None,
) -> Track:
    """Fits all frames of a landmark track jointly; with the Basel model, takes the network's `coeffs` of its v frames
    with a face.
    """
    valid = seen.valid
    if not valid.any():
        raise UserError(f"{name}: no face in any of {len(seen)} frames")
    if (coeffs is not None) != (model.tracker == "deep3d") or (coeffs is not None and len(coeffs) != valid.sum()):
        raise ValueError(f"the {model.name} head is tracked by {model.tracker}; coeffs do not fit that")
    points = seen.points68()
    if coeffs is not None:
        cuts = find_cuts(five_points(seen.landmarks[valid], seen.width, seen.height), seen.width, seen.height)
        crop = crops_around(cuts.centre, cuts.side, valid, seen.timestamps, framing)
        fit = fit_coefficients(model, coeffs, cuts, crop[valid])
        return _track(fit, to_crop(points, crop), valid, crop, seen.timestamps)
    crop = clip_crops(points, valid, seen.timestamps, _template(model), framing)
    inside = to_crop(points, crop)
    times, scores = seen.timestamps[valid], seen.blendshapes[valid]
    fit = fit_landmarks(model, inside[valid], times, scores, calibration=calibration_for(model), options=options)
    gaze = None
    if has_eyes(model):
        irises = seen.landmarks[valid][:, list(IRISES), :2] * np.array([seen.width, seen.height])
        # What the fit is off at the corners of an eye, its iris is off as well.
        off = np.stack([(fit.detector - inside[valid])[:, eye].mean(axis=1) for eye in CORNERS], axis=1)
        cam2world = cam2world_of(fit.rotation, fit.translation)
        gaze = gaze_of(model, fit.alpha, cam2world, FOCAL, to_crop(irises, crop[valid]) + off)
    return _track(fit, inside, valid, crop, seen.timestamps, gaze)


def intrinsics() -> Float[np.ndarray, "3 3"]:
    """EG3D's, as fractions of the crop."""
    return np.array([[FOCAL, 0, 0.5], [0, FOCAL, 0.5], [0, 0, 1]], np.float32)


def reprojection_error(
    fitted: Float[np.ndarray, "f 68 2"], seen: Float[np.ndarray, "f 68 2"]
) -> Float[np.ndarray, " f"]:
    """Median distance of the inner landmarks, divided by the distance of the eyes' centres."""
    eyes = np.linalg.norm(seen[:, 36:42].mean(axis=1) - seen[:, 42:48].mean(axis=1), axis=1)
    return np.median(np.linalg.norm(fitted - seen, axis=2)[:, INNER_68], axis=1) / np.maximum(eyes, 1e-9)


def _template(model: MorphableModel) -> Float[np.ndarray, "68 3"]:
    """The mean head's landmarks where the detector sees them."""
    return np.asarray(model.mean)[np.asarray(model.landmark_index)] + calibration_for(model).offset


def _track(
    fit: FitResult,
    seen: np.ndarray,
    valid: np.ndarray,
    crop: np.ndarray,
    timestamps: np.ndarray,
    gaze: Float[np.ndarray, "v 2 2"] | None = None,
) -> Track:
    """Fills the frames without a face, see Track."""
    frames = len(valid)
    before, after, share = _neighbours(valid, timestamps)
    rotation = slerp(fit.rotation[before], fit.rotation[after], share)
    blend = share[:, None]
    translation = fit.translation[before] * (1 - blend) + fit.translation[after] * blend
    error = np.full(frames, np.nan, np.float32)
    points = seen[valid] - (fit.detector - fit.landmarks)  # the detector's points as the model defines them
    error[valid] = reprojection_error(fit.landmarks, points)
    if gaze is not None:
        gaze = (gaze[before] * (1 - blend[..., None]) + gaze[after] * blend[..., None]).astype(np.float32)
    return Track(
        cam2world=cam2world_of(rotation, translation).astype(np.float32),
        intrinsics=np.tile(intrinsics(), (frames, 1, 1)),
        id_coeff=fit.alpha.astype(np.float32),
        exp_coeff=(fit.beta[before] * (1 - blend) + fit.beta[after] * blend).astype(np.float32),
        landmarks=(points[before] * (1 - blend[..., None]) + points[after] * blend[..., None]).astype(np.float32),
        valid=valid.copy(),
        crop=crop,
        timestamps=np.asarray(timestamps, np.float64),
        error=error,
        gaze=gaze,
    )


def _neighbours(valid: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For every frame the valid frames (counted among the valid) before and after it, and how far it is between."""
    known = np.flatnonzero(valid)
    frame = np.arange(len(valid))
    before = np.clip(np.searchsorted(known, frame, "right") - 1, 0, len(known) - 1)
    after = np.clip(np.searchsorted(known, frame, "left"), 0, len(known) - 1)
    gap = times[known[after]] - times[known[before]]
    share = np.where(gap > 0, (times - times[known[before]]) / np.where(gap > 0, gap, 1), 0.0)
    share = np.where(gap <= MAX_INTERPOLATED + 1e-9, np.clip(share, 0, 1), 0.0)
    return before, after, share
