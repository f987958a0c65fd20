"""The head of a photo cut out of its background, for models trained on plain backgrounds.

GrabCut (Rother et al. 2004) on a window of the photo around the crop. The fitted head says what surely belongs to the
head (its own silhouette, made a little smaller) and how far hair may reach; what lies beyond shows the background's
colours. Where GrabCut finds next to nothing or nearly everything, the fitted head's silhouette takes its place. What
the crop shows beyond the photo's border is background, but for the head itself, where the border's colours go on.

In a clip GrabCut goes on from the frame before: with its colours, and with its mask moved along by optical flow (DIS,
Kroeger et al. 2016). The new mask is then averaged with that one, where the picture is what the flow says.
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
ITERATIONS = 4  # from the silhouette; one is enough from the frame before
CONTINUES = 0.1  # seconds between frames, up to which one goes on from the other
FLOW_PIXELS = 12  # a side of the least window in which OpenCV finds any
MEMORY = 0.7  # weight of the mask before
SAME_COLOUR = 25.0  # difference of levels of 255 at which that weight has fallen to 1/e
PLAUSIBLE = (0.88, 1.8)  # area of the mask in areas of the silhouette; the certain part alone has 0.8


@dataclasses.dataclass(frozen=True)
class Matte:
    """A crop whose surroundings are one colour."""

    image: UInt8[np.ndarray, "s s 3"]
    mask: Float[np.ndarray, "s s"]  # [0, 1]
    plausible: bool  # False: no outline found; the mask is the fitted head's silhouette


class HeadCutter:
    """Cuts the head out of the frames of one take, called in their order, with an outline that keeps steady.

    Args:
        size: of the crops in pixels.
        background: grey value in place of everything but the head (hair, neck).
    """

    def __init__(self, model: MorphableModel, size: int, background: int = 255) -> None:
        self._model, self._size, self._background = model, size, background
        self._before: _Before | None = None

    def __call__(self, picture: UInt8[np.ndarray, "h w 3"], track: Track) -> Matte:
        """Frame 0 of `track` cropped from its picture."""
        crop, size = track.crop[0], self._size
        window = _window(picture, crop)
        from_window = crop @ np.linalg.inv(window.matrix)  # window pixels to crop fractions
        skull, neck = _silhouettes(track, self._model, np.linalg.inv(from_window), window.pixels.shape[:2])
        soft, plausible = self._outline(window, skull, neck, float(track.timestamps[0]))
        mask = _cropped(soft, from_window, size)
        if _leaves(picture, crop):
            inside = _cropped(np.ones(picture.shape[:2], np.float32), crop, size, beyond=0)
            scale = np.diag([WORK_SIZE, WORK_SIZE, 1.0])
            whole = np.logical_or(*_silhouettes(track, self._model, scale, (WORK_SIZE, WORK_SIZE)))
            mask = inside * mask + (1 - inside) * _cropped(whole.astype(np.float32), np.linalg.inv(scale), size)
        image = apply_crop(picture, crop, size) * mask[..., None] + self._background * (1 - mask[..., None])
        return Matte(np.round(image).astype(np.uint8), mask, plausible)

    def _outline(
        self, window: "_Window", skull: np.ndarray, neck: np.ndarray, time: float
    ) -> tuple[Float[np.ndarray, "y x"], bool]:
        """The mask in [0, 1] of a window, and whether it is plausible (Matte)."""
        before, self._before = self._before, None
        flows = min(window.pixels.shape[:2]) >= FLOW_PIXELS
        if before is not None and flows and time - before.time <= CONTINUES:
            prior, weight = before.moved(window)
            found = _grab_cut(window, skull, neck, before.colours, prior)
            if _plausible(found, skull | neck):
                soft = weight * prior + (1 - weight) * window.feathered(found)
                self._before = _Before(window, soft, before.colours, time)
                return soft, True
        colours = np.zeros((1, 65)), np.zeros((1, 65))
        found = _grab_cut(window, skull, neck, colours)
        if not _plausible(found, skull | neck):
            return window.feathered(skull | neck), False
        soft = window.feathered(found)
        self._before = _Before(window, soft, colours, time)
        return soft, True


def cut_out(
    picture: UInt8[np.ndarray, "h w 3"], track: Track, model: MorphableModel, size: int, background: int = 255
) -> Matte:
    """A photo's crop: frame 0 of `track` by itself, see HeadCutter."""
    return HeadCutter(model, size, background)(picture, track)


@dataclasses.dataclass(frozen=True)
class _Window:
    """The part of a picture around the crop, at work size."""

    pixels: UInt8[np.ndarray, "y x 3"]
    matrix: Float[np.ndarray, "3 3"]  # picture to window pixels
    side: float  # of the crop in window pixels

    def feathered(self, mask: Bool[np.ndarray, "y x"]) -> Float[np.ndarray, "y x"]:
        return _opencv().GaussianBlur(mask.astype(np.float32), (0, 0), max(0.7, FEATHER * self.side))


@dataclasses.dataclass(frozen=True)
class _Before:
    """What a frame leaves to the next."""

    window: _Window
    mask: Float[np.ndarray, "y x"]
    colours: tuple[np.ndarray, np.ndarray]  # GrabCut's mixtures for background and head
    time: float

    def moved(self, window: _Window) -> tuple[Float[np.ndarray, "y x"], Float[np.ndarray, "y x"]]:
        """The mask as it should be in the next window, and how much that weighs there."""
        cv2 = _opencv()
        shape, still = window.pixels.shape[1::-1], {"flags": cv2.INTER_LINEAR, "borderMode": cv2.BORDER_REPLICATE}
        between = (window.matrix @ np.linalg.inv(self.window.matrix))[:2]
        between[:, 2] += between[:, :2].sum(axis=1) / 2 - 0.5  # pixel centres at halves
        old, mask = (cv2.warpAffine(a, between, shape, **still) for a in (self.window.pixels, self.mask))
        grey = [cv2.cvtColor(a, cv2.COLOR_RGB2GRAY) for a in (window.pixels, old)]
        flow = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_FAST).calc(*grey, None)
        x, y = np.moveaxis(flow + np.stack(np.meshgrid(*map(np.arange, shape)), axis=-1).astype(np.float32), -1, 0)
        old, mask = (cv2.remap(a, x, y, cv2.INTER_LINEAR, None, cv2.BORDER_REPLICATE) for a in (old, mask))
        difference = cv2.GaussianBlur(np.abs(old.astype(np.float32) - window.pixels).max(axis=-1), (0, 0), 2)
        return mask, MEMORY * np.exp(-((difference / SAME_COLOUR) ** 2))


def _plausible(found: Bool[np.ndarray, "y x"], silhouette: Bool[np.ndarray, "y x"]) -> bool:
    return bool(PLAUSIBLE[0] <= found.sum() / max(1, silhouette.sum()) <= PLAUSIBLE[1])


def _leaves(picture: UInt8[np.ndarray, "h w 3"], crop: Float[np.ndarray, "3 3"]) -> bool:
    """Whether a crop shows what is beyond the picture."""
    corners = to_crop(np.array([[0.0, 0], [0, 1], [1, 0], [1, 1]]), np.linalg.inv(crop))
    return bool(corners.min() < 0 or (corners > picture.shape[1::-1]).any())


def _cropped(
    mask: Float[np.ndarray, "y x"], matrix: Float[np.ndarray, "3 3"], size: int, beyond: int | None = None
) -> Float[np.ndarray, "s s"]:
    """apply_crop of a mask in [0, 1]; outside it is its edge, or `beyond`."""
    grey = np.repeat(np.round(255 * mask).astype(np.uint8)[..., None], 3, axis=-1)
    colour = None if beyond is None else (beyond,) * 3
    return apply_crop(grey, matrix, size, colour)[..., 0].astype(np.float32) / 255


def _window(picture: UInt8[np.ndarray, "h w 3"], crop: Float[np.ndarray, "3 3"]) -> _Window:
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
    pixels = _opencv().resize(np.ascontiguousarray(part), tuple(int(n) for n in shape), None, 0, 0, interpolation)
    return _Window(pixels, matrix, float(1 / np.hypot(*(crop @ np.linalg.inv(matrix))[:2, 0])))


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
    window: _Window,
    skull: Bool[np.ndarray, "y x"],
    neck: Bool[np.ndarray, "y x"],
    colours: tuple[np.ndarray, np.ndarray],
    prior: Float[np.ndarray, "y x"] | None = None,
) -> Bool[np.ndarray, "y x"]:
    """The head's pixels; all False where GrabCut has nothing to learn from.

    `colours` are written to; with a `prior` mask they are also what it begins with.
    """
    cv2 = _opencv()
    cv2.setRNGSeed(0)
    label = np.full(skull.shape, cv2.GC_BGD, np.uint8)
    reach = np.maximum.accumulate(_grown(skull, HAIR * window.side), axis=0)  # long hair falls
    lowest = np.flatnonzero((skull | neck).any(axis=1)).max(initial=0)
    label[: lowest + 1][reach[: lowest + 1]] = cv2.GC_PR_BGD
    label[skull | neck] = cv2.GC_PR_FGD
    if prior is not None:
        open_ = label != cv2.GC_BGD
        label[open_] = np.where(prior[open_] > 0.5, cv2.GC_PR_FGD, cv2.GC_PR_BGD)
    label[_grown(skull | neck, -SHRINK * window.side)] = cv2.GC_FGD
    how = (ITERATIONS, cv2.GC_INIT_WITH_MASK) if prior is None else (1, cv2.GC_EVAL)
    try:
        cv2.grabCut(np.ascontiguousarray(window.pixels[..., ::-1]), label, None, *colours, *how)
    except cv2.error:  # no pixel of one of the two kinds
        return np.zeros(skull.shape, bool)
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
    """The mask widened by so many pixels, or narrowed when negative; beyond the window there is neither."""
    if by < 0:
        return ~_grown(~mask, -by)
    if not mask.any():
        return mask
    cv2 = _opencv()
    return cv2.distanceTransform((~mask).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= by


def _opencv() -> Any:
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            "cutting out the head needs OpenCV, which comes with mediapipe: pip install mediapipe"
        ) from error
    return cv2
