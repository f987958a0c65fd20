"""Square crops around a head, as EG3D's (crop_images_in_the_wild: Deep3DFaceRecon alignment, the centre 700 of 1024).

EG3D sizes and centres the crop by a weak-perspective fit of standard 3D landmarks, so that the head appears 2.7 from
a camera of focal length 4.2647 whose axis passes through the world's origin. Here the same follows from the morphable
model's own mean landmarks. EG3D leaves the head's roll in the picture (and so in the camera); so do clips, while a
photo is turned upright by default, since no training picture is rolled far.

A crop is a 3x3 matrix from picture pixels to crop fractions: (x, y, 1) -> (u, v, 1), (0,0) top left, (1,1) bottom
right, pixel centres at halves. It is a similarity, hence invertible: results can be pasted back.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from nofa_jax.face3d.pose import RIGID_68, WeakPerspective, weak_perspective

FOCAL = 4.2647  # EG3D's, in widths of the crop
RADIUS = 2.7  # distance of EG3D's camera from the origin

FOLLOW_SIGMA = 0.5  # seconds of Gaussian smoothing of a crop that follows
FIXED_OFFSET = 0.15  # a fixed crop serves while the head stays within this many crop sizes of the middle ...
FIXED_SCALE = 1.2  # ... and its size within this factor of the median


@dataclasses.dataclass(frozen=True)
class Framing:
    """How the crops of a clip lie.

    follow=False: one crop of the median size, in which the head moves freely (paper Sec. 4.1, "Modeling Head
    Translation"); its middle is at the head's median place, or at `centre`. follow=True: place and size follow the head
    through a Gaussian of FOLLOW_SIGMA, so quick motion stays visible and wandering does not leave the frame. None:
    fixed if the head stays near the middle (FIXED_OFFSET, FIXED_SCALE), else following.
    """

    follow: bool | None = None
    centre: tuple[float, float] | None = None  # pixels of the clip's pictures; of a fixed crop


AUTO = Framing()
FRAMINGS = ("auto", "fixed", "follow", "source")  # by name, see Avatar.framing


def photo_crop(
    points: Float[np.ndarray, "68 2"], template: Float[np.ndarray, "68 3"], upright: bool = True
) -> Float[np.ndarray, "3 3"]:
    """Crop of a photo from its 68 landmarks in pixels; `template` is the model's mean landmarks.

    upright=False keeps the roll, as EG3D does.
    """
    pose = _pose(points[None], template)
    return crop_matrices(pose.origin, _crop_size(pose, template), pose.roll if upright else np.zeros(1))[0]


def clip_crops(
    points: Float[np.ndarray, "f 68 2"],
    valid: Bool[np.ndarray, " f"],
    timestamps: Float[np.ndarray, " f"],
    template: Float[np.ndarray, "68 3"],
    framing: Framing = AUTO,
) -> Float[np.ndarray, "f 3 3"]:
    """Crops of a clip from its landmarks in pixels; see `crops_around`."""
    if not valid.any():
        raise ValueError("clip_crops needs at least one frame with a face")
    pose = _pose(points[valid], template)
    return crops_around(pose.origin, _crop_size(pose, template), valid, timestamps, framing)


def crops_around(
    centre: Float[np.ndarray, "v 2"],
    size: Float[np.ndarray, " v"],
    valid: Bool[np.ndarray, " f"],
    timestamps: Float[np.ndarray, " f"],
    framing: Framing = AUTO,
) -> Float[np.ndarray, "f 3 3"]:
    """Crops of a clip whose v valid frames have their own crops at `centre`, with side `size`, in pixels; roll is kept.

    Frames without a face take the crop between their neighbours'.
    """
    middle, typical, follow = np.median(centre, axis=0), np.median(size), framing.follow
    if follow is None:
        offset = np.abs(centre - middle).max() / typical
        follow = bool(offset > FIXED_OFFSET or np.abs(np.log(size / typical)).max() > np.log(FIXED_SCALE))
    frames = len(valid)
    if not follow:
        middle = middle if framing.centre is None else np.array(framing.centre)
        centre, size = np.tile(middle, (frames, 1)), np.full(frames, typical)
    else:
        path = np.concatenate([centre, np.log(size)[:, None]], axis=1)
        path = _smooth(np.asarray(timestamps)[valid], path, np.asarray(timestamps))
        centre, size = path[:, :2], np.exp(path[:, 2])
    return crop_matrices(centre, size, np.zeros(frames))


def crop_matrices(
    centre: Float[np.ndarray, "f 2"], size: Float[np.ndarray, " f"], roll: Float[np.ndarray, " f"]
) -> Float[np.ndarray, "f 3 3"]:
    """Picture pixels to crop fractions, for squares of side `size` pixels turned clockwise by `roll` radians."""
    cos, sin = np.cos(roll) / size, np.sin(roll) / size
    matrices = np.zeros((len(size), 3, 3))
    matrices[:, 0, 0], matrices[:, 0, 1], matrices[:, 1, 0], matrices[:, 1, 1] = cos, sin, -sin, cos
    matrices[:, :2, 2] = 0.5 - np.einsum("fij,fj->fi", matrices[:, :2, :2], centre)
    matrices[:, 2, 2] = 1.0
    return matrices


def to_crop(points: Float[np.ndarray, "*f n 2"], matrix: Float[np.ndarray, "*f 3 3"]) -> Float[np.ndarray, "*f n 2"]:
    """Picture pixels to crop fractions; with an inverted matrix, the way back."""
    return points @ np.swapaxes(matrix[..., :2, :2], -1, -2) + matrix[..., None, :2, 2]


def apply_crop(
    image: UInt8[np.ndarray, "h w 3"],
    matrix: Float[np.ndarray, "3 3"],
    size: int,
    colour: Sequence[int] | None = None,
) -> UInt8[np.ndarray, "size size 3"]:
    """The crop as a picture of size x size pixels, antialiased (Lanczos).

    What lies outside the picture is its nearest edge pixel, or `colour`.
    """
    inverse = np.linalg.inv(matrix)
    step = np.hypot(*inverse[:2, 0]) / size  # picture pixels per crop pixel
    picture = Image.fromarray(np.ascontiguousarray(image))
    shrink = max(1, int(step / 2))  # a first reduction by whole pixels bounds time and memory for large photos
    if shrink > 1:
        picture = picture.reduce(shrink)
        inverse = np.diag([1 / shrink, 1 / shrink, 1.0]) @ inverse
    corners = inverse[:2, :2] @ np.array([[0, 1, 0, 1], [0, 0, 1, 1]]) + inverse[:2, 2:]
    margin = 4 * max(1.0, step / shrink)  # what the filters look at around the crop
    low, high = np.floor(corners.min(axis=1) - margin).astype(int), np.ceil(corners.max(axis=1) + margin).astype(int)
    window = _window(np.asarray(picture), low, high, colour)
    inverse = np.array([[1, 0, -low[0]], [0, 1, -low[1]], [0, 0, 1.0]]) @ inverse
    if abs(matrix[0, 1]) < 1e-9 * abs(matrix[0, 0]):
        x, y, dx, dy = (float(v) for v in (inverse[0, 2], inverse[1, 2], inverse[0, 0], inverse[1, 1]))
        return np.array(window.resize((size, size), Image.Resampling.LANCZOS, box=(x, y, x + dx, y + dy)))
    return np.array(_turned(window, inverse, size))


def _pose(points: np.ndarray, template: np.ndarray) -> WeakPerspective:
    rigid = list(RIGID_68)
    return weak_perspective(points[:, rigid], np.asarray(template)[rigid])


def _crop_size(pose: WeakPerspective, template: np.ndarray) -> Float[np.ndarray, " f"]:
    """Side in pixels at which a camera at RADIUS with focal length FOCAL sees the landmarks at the pose's scale."""
    towards_camera = -pose.rotation[:, 2] @ np.asarray(template)[list(RIGID_68)].mean(axis=0)
    return pose.scale * (RADIUS - towards_camera) / FOCAL


def _smooth(times: np.ndarray, values: Float[np.ndarray, "k d"], at: np.ndarray) -> Float[np.ndarray, "f d"]:
    """Gaussian-weighted means at `at`, on neighbours only, so that long clips stay linear in time and memory."""
    filled = np.stack([np.interp(at, times, v) for v in values.T], axis=1)
    out = np.empty_like(filled)
    for i, t in enumerate(at):
        near = slice(np.searchsorted(at, t - 3 * FOLLOW_SIGMA), np.searchsorted(at, t + 3 * FOLLOW_SIGMA, "right"))
        weight = np.exp(-0.5 * ((at[near] - t) / FOLLOW_SIGMA) ** 2)
        out[i] = weight @ filled[near] / weight.sum()
    return out


def _window(pixels: np.ndarray, low: np.ndarray, high: np.ndarray, colour: Sequence[int] | None) -> Image.Image:
    """Pixels [low, high) of the picture, x first, continued beyond its borders."""
    height, width = pixels.shape[:2]
    x, y = np.arange(low[0], high[0]), np.arange(low[1], high[1])
    window = pixels[np.clip(y, 0, height - 1)[:, None], np.clip(x, 0, width - 1)[None, :]]
    if colour is not None:
        outside = ((y < 0) | (y >= height))[:, None] | ((x < 0) | (x >= width))[None, :]
        window[outside] = np.asarray(colour, np.uint8)
    return Image.fromarray(window)


def _turned(window: Image.Image, inverse: np.ndarray, size: int) -> Image.Image:
    """A rotated crop: the window is brought to the crop's scale by an antialiased resize, then turned bicubically."""
    step = np.hypot(*inverse[:2, 0]) / size
    scaled = (max(1, round(window.width / step)), max(1, round(window.height / step)))
    factor = np.diag([scaled[0] / window.width, scaled[1] / window.height, 1.0])
    mapping = factor @ inverse @ np.diag([1 / size, 1 / size, 1.0])  # crop pixels to pixels of the scaled window
    coefficients = tuple(float(v) for v in mapping[:2].ravel())
    resized = window.resize(scaled, Image.Resampling.LANCZOS)
    return resized.transform((size, size), Image.Transform.AFFINE, coefficients, Image.Resampling.BICUBIC)
