"""The paper's tracker: Deep3DFaceRecon's network on every frame, its coefficients as alpha, beta and EG3D's camera.

A frame is aligned by five of its landmarks (alignment.py), the network gives 257 coefficients of the Basel Face Model.
Frames are taken one by one, as in the paper: nothing is smoothed over time. alpha is the mean over the clip's frames.

The network's camera sees the aligned cut, in which every face is in the middle. Paper Sec. 4.1, "Modeling Head
Translation": the offset of the cut from the clip's crop, in pixels, becomes an offset of the camera. With the camera's
x_c = R x + t in the cut, f EG3D's focal length, d the cut's middle in the crop (fractions, from the crop's middle), s
the side that the cut's EG3D crop has in the clip's crop, and z the depth of the face's inner landmarks:

    t' = t + (d_x z' / f, d_y z' / f, z' - z),   z' = z / s

so the face has the size and place that it has in the picture. The distance is that of the coefficients; EG3D's own
labels set it to 2.7 whatever the coefficients say, after which the face would not lie where the label puts it.
"""

import dataclasses
import functools
import itertools
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from nofa_jax.extractors.deep3d import GROUPS, IMAGE_SIZE, Deep3DRecon
from nofa_jax.face3d.alignment import DEEP3D, EG3D, EG3D_CROP, STANDARD_FACE, Alignment, align
from nofa_jax.face3d.camera_label import camera_pose
from nofa_jax.face3d.crop import FOCAL, to_crop
from nofa_jax.face3d.fit import FitResult
from nofa_jax.face3d.model import MorphableModel
from nofa_jax.face3d.pose import INNER_68
from nofa_jax.weights import find_file

NAME = "deep3d"
NUM_COEFFS = sum(GROUPS.values())
BATCH = 8  # frames at once; the last batch is padded to it, so one program is compiled
# Of MediaPipe's 478: irises, tip of the nose, corners of the mouth, left of the picture first. These align the
# release's example photos most like its own detections: with the middles of eye corners faces came out 3 % larger.
FIVE = (468, 473, 4, 61, 291)
# Side of EG3D's crop (the middle 700 of 1024 pixels, made with factor 300) in pixels of the network's cut.
EG3D_SIDE = (EG3D_CROP[2] - EG3D_CROP[0]) * DEEP3D["factor"] / EG3D["factor"]


class Cuts(NamedTuple):
    """Where the network's cuts lie in their pictures, pixels."""

    centre: Float[np.ndarray, "f 2"]
    side: Float[np.ndarray, " f"]  # of EG3D's crop around the same centre


@dataclasses.dataclass(frozen=True)
class Deep3D:
    """The network with its weights."""

    network: Deep3DRecon
    variables: Any

    def coefficients(
        self, frames: Iterable[tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "5 2"]]]
    ) -> Float[np.ndarray, "f 257"]:
        """Of pictures with their five points (`five_points`); pictures are read one by one, BATCH are kept."""
        cuts = (np.asarray(_align(five, *image.shape[1::-1]).apply(Image.fromarray(image))) for image, five in frames)
        found = [np.zeros((0, NUM_COEFFS), np.float32)]
        while batch := list(itertools.islice(cuts, BATCH)):
            padded = np.stack(batch + batch[-1:] * (BATCH - len(batch)))
            found.append(np.asarray(_apply(self.network, self.variables, padded))[: len(batch)])
        return np.concatenate(found)


@functools.partial(jax.jit, static_argnums=0)
def _apply(network: Deep3DRecon, variables: Any, cuts: UInt8[jax.Array, "b h w 3"]) -> Float[jax.Array, "b 257"]:
    with jax.default_matmul_precision("highest"):
        return network.apply(variables, cuts.astype(np.float32) / 255)


def load_deep3d(path: str | Path | None = None) -> Deep3D:
    """The network from its ported or published file; None: where `nofa weights` looks for it.

    Raises:
      UserError: no such file (the message says how to make it), or another one.
    """
    file = find_file(NAME, path)
    return _load(file, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=1)
def _load(path: Path, modified_ns: int) -> Deep3D:
    from nofa_jax.port.run import load_network  # deferred: it imports every network

    return Deep3D(Deep3DRecon(), jax.device_put(dict(load_network(NAME, path)[1])))


def five_points(landmarks: Float[np.ndarray, "*f 478 c"], width: int, height: int) -> Float[np.ndarray, "*f 5 2"]:
    """What faces are aligned by, in pixels, of MediaPipe's landmarks in fractions of the picture."""
    return landmarks[..., list(FIVE), :2] * np.array([width, height])


def find_cuts(five: Float[np.ndarray, "f 5 2"], width: int, height: int) -> Cuts:
    """The cuts that the network sees of pictures of that size, with all roundings of the alignment."""
    found = [_align(points, width, height) for points in five]
    step = np.array([width, height]) / np.array([a.resized for a in found])  # picture pixels in one of the cut
    corner = np.array([a.box[:2] for a in found])
    return Cuts(step * (corner + IMAGE_SIZE / 2), np.sqrt(step.prod(axis=1)) * EG3D_SIDE)


def fit_coefficients(
    head: MorphableModel, coeffs: Float[np.ndarray, "f 257"], cuts: Cuts, crop: Float[np.ndarray, "f 3 3"]
) -> FitResult:
    """alpha, beta and cameras of frames in their crops (module's docstring); crops may not be turned.

    Args:
      head: `bfm_head.load_bfm_head`'s.
      crop: picture pixels to crop fractions.
    """
    ends = np.cumsum(list(GROUPS.values()))[:-1]
    parts = dict(zip(GROUPS, np.split(np.asarray(coeffs, np.float64), ends, axis=1), strict=True))
    alpha, beta = parts["id"].mean(axis=0).astype(np.float32), parts["exp"].astype(np.float32)
    cam2world, centre = camera_pose(
        parts["angle"], np.concatenate([parts["translation_xy"], parts["translation_z"]], 1)
    )
    rotation = np.swapaxes(cam2world, 1, 2)
    translation = -np.einsum("fij,fj->fi", rotation, centre)
    points = head.landmarks(alpha, beta)
    depth = np.einsum("fj,fj->f", rotation[:, 2], points[:, INNER_68].mean(axis=1)) + translation[:, 2]
    moved = depth / (cuts.side * crop[:, 0, 0])
    offset = (to_crop(cuts.centre[:, None], crop)[:, 0] - 0.5) * moved[:, None] / FOCAL
    translation = translation + np.concatenate([offset, (moved - depth)[:, None]], axis=1)
    local = np.einsum("fij,fnj->fni", rotation, points) + translation[:, None]
    seen = (FOCAL * local[..., :2] / local[..., 2:] + 0.5).astype(np.float32)
    return FitResult(alpha, beta, rotation, translation, landmarks=seen, detector=seen)


def _align(five: Float[np.ndarray, "5 2"], width: int, height: int) -> Alignment:
    """The alignment counts pixels from the centre of the first, everything here from its corner."""
    return align(five - 0.5, width, height, STANDARD_FACE, IMAGE_SIZE, DEEP3D["factor"])
