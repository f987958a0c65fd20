"""The five-point alignment that Deep3DFaceRecon's network and EG3D's training pictures were made with. Numpy and PIL.

Behaviour of sicxu/Deep3DFaceRecon_pytorch's util/preprocess.py and of EG3D's in-the-wild script, with their roundings.
Points are pixels, y down: left eye, right eye, nose, left and right corner of the mouth, as seen in the picture. The
template is `STANDARD_FACE`.
"""

import dataclasses

import numpy as np
from jaxtyping import Float
from PIL import Image

DEEP3D = {"size": 224, "factor": 102.0}  # the coefficient network's input
EG3D = {"size": 1024, "factor": 300.0}  # whose middle 700 pixels become EG3D's 512
LARGE = 1 << 24  # pixels of a resized picture that is not made whole
EG3D_CROP, EG3D_SIZE = (162, 162, 862, 862), 512
# The template of the release: five points of its standard face (similarity_Lm3D_all.mat), model units.
STANDARD_FACE = np.array(
    [
        [-0.31148657, 0.29036078, 0.13377953],
        [0.30979887, 0.28972036, 0.13179526],
        [0.0032535, -0.04617932, 0.55244243],
        [-0.25216928, -0.38133916, 0.22405732],
        [0.2484662, -0.38128236, 0.22235769],
    ],
    np.float32,
)
# Where face recognition wants the five points, in 112 x 112 pixels (insightface).
ARCFACE_POINTS = np.array(
    [[38.2946, 51.6963], [73.5318, 51.5014], [56.0252, 71.7366], [41.5493, 92.3655], [70.7299, 92.2041]]
)


@dataclasses.dataclass(frozen=True)
class Alignment:
    """How to scale and cut a picture."""

    scale: float
    offset: Float[np.ndarray, " 2"]  # the template's origin in the picture, pixels, y up
    resized: tuple[int, int]  # width and height to resize to
    box: tuple[int, int, int, int]  # left, upper, right, lower of the cut; it may leave the picture
    points: Float[np.ndarray, "5 2"]  # the five points in the cut, **y up**; off the pixels by up to one

    def apply(self, image: Image.Image) -> Image.Image:
        """The square cut; black where the picture ends.

        Of a small face in a large picture, which resized would be beyond LARGE pixels, only what the cut shows is
        resized; single bytes then differ from the original's by up to 2.
        """
        if self.resized[0] * self.resized[1] <= LARGE:
            return image.resize(self.resized, resample=Image.Resampling.BICUBIC).crop(self.box)
        left, upper, right, lower = self.box
        x0, x1 = (min(max(x, 0), self.resized[0]) for x in (left, right))
        y0, y1 = (min(max(y, 0), self.resized[1]) for y in (upper, lower))
        cut = Image.new(image.mode, (right - left, lower - upper))
        if x0 < x1 and y0 < y1:
            dx, dy = image.width / self.resized[0], image.height / self.resized[1]
            part = (x0 * dx, y0 * dy, x1 * dx, y1 * dy)  # pixels of the picture
            cut.paste(image.resize((x1 - x0, y1 - y0), Image.Resampling.BICUBIC, part), (x0 - left, y0 - upper))
        return cut


def five_of_68(landmarks: Float[np.ndarray, "68 2"]) -> Float[np.ndarray, "5 2"]:
    """An eye is the middle of its two corners."""
    eyes = landmarks[[36, 42]] / 2 + landmarks[[39, 45]] / 2
    return np.concatenate([eyes, landmarks[[30, 48, 54]]])


def align(
    points: Float[np.ndarray, "5 2"],
    width: int,
    height: int,
    template: Float[np.ndarray, "5 3"],
    size: int,
    factor: float,
) -> Alignment:
    """Puts the face where the template says: `factor` pixels a model unit in a cut of `size` pixels."""
    up = np.stack([points[:, 0], height - 1 - points[:, 1]], axis=1).astype(np.float64)
    scale, offset = _orthographic(up, template.astype(np.float64))
    scale = factor / scale
    resized = (int(width * scale), int(height * scale))  # the original truncates here and below
    middle = np.array(resized) / 2 - size / 2
    left = int(middle[0] + (offset[0] - width / 2) * scale)
    upper = int(middle[1] + (height / 2 - offset[1]) * scale)
    moved = (up - offset + np.array([width, height]) / 2) * scale - middle
    return Alignment(scale, offset, resized, (left, upper, left + size, upper + size), moved)


def eg3d_picture(aligned: Image.Image) -> Image.Image:
    """The 1024² cut (`EG3D`) as EG3D's 512² training picture."""
    return aligned.crop(EG3D_CROP).resize((EG3D_SIZE, EG3D_SIZE), Image.Resampling.LANCZOS)


def arcface_matrix(landmarks: Float[np.ndarray, "68 2"], height: int) -> Float[np.ndarray, "2 3"]:
    """Similarity from a picture, y down, to the 112² face that ArcFace sees; the landmarks' y is **up**."""
    points = five_of_68(np.asarray(landmarks, np.float64))
    points[:, 1] = height - 1 - points[:, 1]
    return _similarity(points, ARCFACE_POINTS)


def _orthographic(points: np.ndarray, template: np.ndarray) -> tuple[float, np.ndarray]:
    """Least squares of points = rows @ template + offset, both rows free; (mean length of the rows, offset)."""
    design = np.concatenate([template, np.ones((len(template), 1))], axis=1)
    solution = np.linalg.lstsq(design, points, rcond=None)[0]  # [4, 2]
    return float(np.linalg.norm(solution[:3], axis=0).mean()), solution[3]


def _similarity(source: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Umeyama's (1991) least-squares rotation, scale and translation in the plane, as a 2 x 3 matrix."""
    a, b = source - source.mean(axis=0), target - target.mean(axis=0)
    u, s, vt = np.linalg.svd(b.T @ a)
    signs = np.array([1.0, np.sign(np.linalg.det(u @ vt))])
    turn = (s * signs).sum() / (a**2).sum() * (u * signs) @ vt
    return np.concatenate([turn, (target.mean(axis=0) - turn @ source.mean(axis=0))[:, None]], axis=1)
