"""Hair as a shell: the scalp's triangles once more, lifted off the skin by the hair's thickness.

At the hairline the shell dives under the skin, so that its edge is the smooth line where they cross.
"""

import dataclasses
import zlib

import numpy as np

from nofa_jax.face3d.appearance import Appearance, hair_depth, waves
from nofa_jax.face3d.model import WORLD_PER_CM, MorphableModel
from nofa_jax.face3d.paint import GRID_WEIGHTS, scalp_coordinates
from nofa_jax.face3d.ramp import smoothstep

LOWEST = -16.5  # cm over the eyes: no hair below


@dataclasses.dataclass(frozen=True)
class Scalp:
    """The part of a model's skin that can carry hair."""

    vertex: np.ndarray  # [h] rows of the model
    triangles: np.ndarray  # [t,3] into vertex
    points: np.ndarray  # [h,3] cm on the mean
    azimuth: np.ndarray
    height: np.ndarray


@dataclasses.dataclass(frozen=True)
class Hair:
    """One person's shell on one model."""

    scalp: Scalp
    thickness: np.ndarray  # [h] world units, negative where bare
    colour: np.ndarray  # [t, POINTS, 3] linear RGB

    def vertices(self, skin: np.ndarray, normals: np.ndarray) -> np.ndarray:
        """World positions [h,3] over the head's current vertices and their normals."""
        k = self.scalp.vertex
        return skin[k] + normals[k] * self.thickness[:, None]


_SCALPS: dict[tuple, Scalp] = {}


def scalp(model: MorphableModel) -> Scalp:
    """The scalp of a model; made once per model and kept."""
    mean = np.asarray(model.mean)
    key = (model.name, mean.shape, zlib.crc32(mean.tobytes()))
    if key not in _SCALPS:
        points = mean / np.float32(WORLD_PER_CM)
        lm = points[np.asarray(model.landmark_index)]
        azimuth, height = scalp_coordinates(points, lm)
        able = model.part("face", "head_and_neck") & (height > LOWEST)
        # Faces have hair only above the brows and beside the cheeks.
        able &= (height > 3.0) | (azimuth > 50.0)
        triangles = np.asarray(model.triangles)
        triangles = triangles[able[triangles].all(1)]
        vertex, local = np.unique(triangles, return_inverse=True)
        _SCALPS[key] = Scalp(vertex, local.reshape(-1, 3), points[vertex], azimuth[vertex], height[vertex])
    return _SCALPS[key]


def grow(model: MorphableModel, a: Appearance) -> Hair | None:
    """The shell of a person, or None when bald."""
    if a.bald:
        return None
    s = scalp(model)
    depth = hair_depth(a, s.azimuth, s.height)
    top = smoothstep(5.0, 12.0, s.height)
    lift = a.hair_volume + (a.hair_top - a.hair_volume) * top
    lift = lift + 0.35 * smoothstep(110.0, 150.0, s.azimuth) * (1.0 - top)
    lift = lift + a.hair_wave * waves(s.points, a.pattern + 21, 2.2)
    rise = smoothstep(-0.1, 2.6, depth)
    thickness = np.where(depth > 0.0, np.maximum(lift, 0.15) * rise + 0.04, 0.4 * depth)
    thickness = np.maximum(thickness, -0.4)
    used = (depth > -1.5)[s.triangles].any(1)
    points = np.einsum("gk,tkc->tgc", GRID_WEIGHTS, s.points[s.triangles[used]]).reshape(-1, 3)
    around = np.arctan2(points[:, 0], points[:, 2] + 5.0)
    strand = np.stack([around * 9.0, points[:, 1] * 0.25, 0.1 * points[:, 2]], axis=1).astype(np.float32)
    shade = 1.0 + 0.32 * waves(strand, a.pattern + 22, 0.6, count=6) + 0.16 * waves(strand * 3.1, a.pattern + 23, 0.6)
    colour = a.hair * np.clip(shade, 0.35, 1.8)[:, None]
    scalp_used = dataclasses.replace(s, triangles=s.triangles[used])
    return Hair(
        scalp_used, (thickness * WORLD_PER_CM).astype(np.float32), colour.reshape(used.sum(), -1, 3).astype(np.float32)
    )
