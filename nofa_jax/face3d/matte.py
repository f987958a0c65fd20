"""The head of a photo cut out of its background, for models trained on plain backgrounds.

GrabCut (Rother et al. 2004) on a window of the photo around the crop. The fitted head says what surely belongs to the
head (its own silhouette, made a little smaller) and how far hair may reach; what lies beyond shows the background's
colours. Where GrabCut finds next to nothing or nearly everything, the fitted head's silhouette takes its place. What
the crop shows beyond the photo's border is background, but for the head itself, where the border's colours go on.
"""

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8

from nofa_jax.errors import UserError
from nofa_jax.face3d.crop import apply_crop, to_crop
from nofa_jax.face3d.model import WORLD_PER_CM, MorphableModel
from nofa_jax.face3d.track import Track

# Lengths are fractions of the crop's side.
CONTEXT = 1.7  # side of the window
WORK_SIZE = 224  # pixels of the crop's side in the window: enough for an outline, quick
SHRINK = 0.04  # of the silhouette: certainly head
HAIR = 0.15  # reach of hair beyond the silhouette
NECK_CM = 4.0  # below the chin; the models' necks widen further down
FEATHER = 0.006  # standard deviation of the mask's soft edge
ITERATIONS = 4
PLAUSIBLE = (0.88, 1.8)  # area of the mask in areas of the silhouette; the certain part alone has 0.8


@dataclasses.dataclass(frozen=True)
class Matte:
    """A crop whose surroundings are one colour."""

    image: UInt8[np.ndarray, "s s 3"]
    mask: Float[np.ndarray, "s s"]  # [0, 1]
    plausible: bool  # False: no outline found; the mask is the fitted head's silhouette


def cut_out(
    picture: UInt8[np.ndarray, "h w 3"], track: Track, model: MorphableModel, size: int, background: int = 255
) -> Matte:
    """Frame 0 of `track` cropped from its picture, with everything but the head (hair, neck) in one grey.

    Args:
      track: of a photo.
      size: of the crop in pixels.
      background: grey value.
    """
    crop = track.crop[0]
    window, to_window = _window(picture, crop)
    from_window = crop @ np.linalg.inv(to_window)  # window pixels to crop fractions
    skull, neck = _silhouettes(track, model, np.linalg.inv(from_window), window.shape[:2])
    side = 1 / np.hypot(*from_window[:2, 0])
    found = _grab_cut(window, skull, neck, side)
    share = found.sum() / max(1, (skull | neck).sum())
    plausible = PLAUSIBLE[0] <= share <= PLAUSIBLE[1]
    if not plausible:
        found = skull | neck
    soft = _opencv().GaussianBlur(found.astype(np.float32), (0, 0), max(0.7, FEATHER * side))
    mask = _cropped(soft, from_window, size)
    inside = _cropped(np.ones(picture.shape[:2], np.float32), crop, size, beyond=0)
    if inside.min() < 1:
        scale = np.diag([WORK_SIZE, WORK_SIZE, 1.0])
        whole = np.logical_or(*_silhouettes(track, model, scale, (WORK_SIZE, WORK_SIZE)))
        mask = inside * mask + (1 - inside) * _cropped(whole.astype(np.float32), np.linalg.inv(scale), size)
    image = apply_crop(picture, crop, size) * mask[..., None] + background * (1 - mask[..., None])
    return Matte(np.round(image).astype(np.uint8), mask, bool(plausible))


def _cropped(
    mask: Float[np.ndarray, "y x"], matrix: Float[np.ndarray, "3 3"], size: int, beyond: int | None = None
) -> Float[np.ndarray, "s s"]:
    """apply_crop of a mask in [0, 1]; outside it is its edge, or `beyond`."""
    grey = np.repeat(np.round(255 * mask).astype(np.uint8)[..., None], 3, axis=-1)
    colour = None if beyond is None else (beyond,) * 3
    return apply_crop(grey, matrix, size, colour)[..., 0].astype(np.float32) / 255


def _window(
    picture: UInt8[np.ndarray, "h w 3"], crop: Float[np.ndarray, "3 3"]
) -> tuple[UInt8[np.ndarray, "y x 3"], Float[np.ndarray, "3 3"]]:
    """The part of the picture around the crop, at work size, and the matrix from picture to window pixels."""
    inverse = np.linalg.inv(crop)
    centre = inverse[:2, :2] @ np.array([0.5, 0.5]) + inverse[:2, 2]
    side = np.hypot(*inverse[:2, 0])
    size = np.array([picture.shape[1], picture.shape[0]])
    low = np.floor(np.clip(centre - CONTEXT / 2 * side, 0, size - 1)).astype(int)
    high = np.ceil(np.clip(centre + CONTEXT / 2 * side, low + 1, size)).astype(int)
    shape = np.maximum(1, np.round((high - low) * WORK_SIZE / side)).astype(int)
    part = picture[low[1] : high[1], low[0] : high[0]]
    scale = shape / (high - low)
    matrix = np.array([[scale[0], 0, -scale[0] * low[0]], [0, scale[1], -scale[1] * low[1]], [0, 0, 1.0]])
    interpolation = _opencv().INTER_AREA if scale.max() < 1 else _opencv().INTER_CUBIC
    return _opencv().resize(np.ascontiguousarray(part), tuple(int(n) for n in shape), None, 0, 0, interpolation), matrix


def _silhouettes(
    track: Track, model: MorphableModel, to_window: Float[np.ndarray, "3 3"], shape: tuple[int, int]
) -> tuple[Bool[np.ndarray, "y x"], Bool[np.ndarray, "y x"]]:
    """Of the fitted head down to the chin, and of its neck; to_window: crop fractions to window pixels."""
    cv2 = _opencv()
    vertices = model.vertices(track.id_coeff.astype(np.float32), track.exp_coeff[0].astype(np.float32))
    world_to_camera = np.linalg.inv(track.cam2world[0].astype(np.float64))
    seen = np.asarray(vertices) @ world_to_camera[:3, :3].T + world_to_camera[:3, 3]
    fractions = seen[:, :2] / seen[:, 2:] * track.intrinsics[0, 0, 0] + 0.5
    pixels = to_crop(fractions, to_window)
    mean = np.asarray(model.mean)
    height = mean[:, 1] - mean[np.asarray(model.landmark_index)[8], 1]  # above the chin
    triangles = np.asarray(model.triangles)
    lowest = height[triangles].min(axis=1)
    masks = []
    for chosen in (lowest >= 0, (lowest < 0) & (lowest > -NECK_CM * WORLD_PER_CM)):
        mask = np.zeros(shape, np.uint8)
        for corners in np.round(16 * pixels[triangles[chosen]]).astype(np.int32):
            cv2.fillConvexPoly(mask, corners, 1, shift=4)
        masks.append(mask.astype(bool))
    return masks[0], masks[1]


def _grab_cut(
    window: UInt8[np.ndarray, "y x 3"], skull: Bool[np.ndarray, "y x"], neck: Bool[np.ndarray, "y x"], side: float
) -> Bool[np.ndarray, "y x"]:
    """The head's pixels; `side` is the crop's in window pixels. All False where GrabCut has nothing to learn from."""
    cv2 = _opencv()
    cv2.setRNGSeed(0)
    label = np.full(window.shape[:2], cv2.GC_BGD, np.uint8)
    reach = np.maximum.accumulate(_grown(skull, HAIR * side), axis=0)  # long hair falls
    lowest = np.flatnonzero((skull | neck).any(axis=1)).max(initial=0)
    label[: lowest + 1][reach[: lowest + 1]] = cv2.GC_PR_BGD
    label[skull | neck] = cv2.GC_PR_FGD
    label[_grown(skull | neck, -SHRINK * side)] = cv2.GC_FGD
    try:
        models = np.zeros((1, 65)), np.zeros((1, 65))
        cv2.grabCut(np.ascontiguousarray(window[..., ::-1]), label, None, *models, ITERATIONS, cv2.GC_INIT_WITH_MASK)
    except cv2.error:  # no pixel of one of the two kinds
        return np.zeros(window.shape[:2], bool)
    return _one_piece(np.isin(label, (cv2.GC_FGD, cv2.GC_PR_FGD)), skull)


def _one_piece(mask: Bool[np.ndarray, "y x"], seed: Bool[np.ndarray, "y x"]) -> Bool[np.ndarray, "y x"]:
    """The piece of the mask that covers most of `seed`, without holes."""
    cv2 = _opencv()
    _, pieces = cv2.connectedComponents(mask.astype(np.uint8), connectivity=4)
    inside = pieces[seed & mask]
    if not inside.size:
        return np.zeros_like(mask)
    piece = pieces == np.bincount(inside).argmax()
    around = np.pad(~piece, 1, constant_values=True).astype(np.uint8)
    _, gaps = cv2.connectedComponents(around, connectivity=4)
    return (gaps != gaps[0, 0])[1:-1, 1:-1]


def _grown(mask: Bool[np.ndarray, "y x"], by: float) -> Bool[np.ndarray, "y x"]:
    """The mask widened by so many pixels, or narrowed when negative."""
    cv2 = _opencv()
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * round(abs(by)) + 1,) * 2)
    change = cv2.dilate if by > 0 else cv2.erode
    return change(mask.astype(np.uint8), kernel).astype(bool)


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            "cutting out the head needs OpenCV, which comes with mediapipe: pip install mediapipe"
        ) from error
    return cv2
