"""All vertices of the procedural head in one array, with what the shape bases need to know about each."""

import dataclasses

import numpy as np

from nofa_jax.face3d.model import PARTS
from nofa_jax.face3d.procedural.parts import all_parts
from nofa_jax.face3d.procedural.rings import MOUTH_WIDTH, NO_RING, lip_line
from nofa_jax.face3d.procedural.topology import build_skin
from nofa_jax.face3d.ramp import smoothstep


@dataclasses.dataclass(frozen=True)
class Anatomy:
    """n vertices in centimetres about EG3D's origin."""

    points: np.ndarray  # [n,3]
    triangles: np.ndarray  # [t,3]
    part: np.ndarray  # [n] index into PARTS
    skin: np.ndarray  # [n] bool: the closed surface of build_skin (with the lining of mouth and eye sockets)
    jaw: np.ndarray  # [n] 0..1: how far the vertex follows the lower jaw
    lower: np.ndarray  # [n] bool: below the line where the lips meet
    mouth_ring: np.ndarray  # [n] ring number of rings.py, or NO_RING
    eye_ring: np.ndarray
    angle: np.ndarray
    eye: np.ndarray  # [n] 0 left, 1 right, -1 none; eyeballs and lid rings


def build_anatomy() -> Anatomy:
    """The mean head: skin first, then eyeballs, teeth, gums, tongue and ears."""
    skin, parts = build_skin(), all_parts()
    counts = [len(skin.points), *(len(p.points) for p in parts)]
    starts = np.cumsum([0, *counts])[:-1]
    total = sum(counts)
    points = np.concatenate([skin.points, *(p.points for p in parts)])
    triangles = np.concatenate([skin.triangles, *(p.triangles + s for p, s in zip(parts, starts[1:], strict=True))])
    part = np.concatenate([_skin_part(skin), *(np.full(len(p.points), PARTS.index(p.name)) for p in parts)])
    rest = total - counts[0]
    none = np.full(rest, NO_RING)
    mouth_ring, eye_ring = np.concatenate([skin.mouth_ring, none]), np.concatenate([skin.eye_ring, none])
    angle = np.concatenate([skin.angle, np.zeros(rest)])
    eye = np.concatenate([skin.eye, np.full(rest, -1)])
    eye[part == PARTS.index("eyeball_left")], eye[part == PARTS.index("eyeball_right")] = 0, 1
    on_skin = np.arange(total) < counts[0]
    lower = np.where(mouth_ring != NO_RING, np.sin(angle) < 0, points[:, 1] < lip_line(points[:, 0]))
    jaw = jaw_weight(points, lower)
    for p, start in zip(parts, starts[1:], strict=True):
        jaw[start : start + len(p.points)] = float(p.jaw)
    return Anatomy(points, triangles, part, on_skin, jaw, lower, mouth_ring, eye_ring, angle, eye)


def _skin_part(skin) -> np.ndarray:
    """Part of each skin vertex: face in front of the ears, above the neck; lining of the mouth and the eye sockets."""
    _, y, z = skin.points.T
    front = (z > -3.0 - 0.15 * np.maximum(-y, 0.0)) & (y < 9.5) & (y > -9.0 - 0.25 * np.minimum(z, 0.0))
    part = np.where(front, PARTS.index("face"), PARTS.index("head_and_neck"))
    part[(skin.mouth_ring < 0)] = PARTS.index("mouth_socket")
    for eye, side in enumerate(("left", "right")):
        part[(skin.eye == eye) & (skin.eye_ring < 0)] = PARTS.index(f"eye_socket_{side}")
    return part


def jaw_weight(points: np.ndarray, lower: np.ndarray) -> np.ndarray:
    """How far skin follows the jaw: all the way at the chin, not at all above the mouth, half at its corners."""
    x, y, z = np.abs(points[:, 0]), points[:, 1], points[:, 2]
    centre = 0.5 + 0.5 * np.sqrt(1.0 - np.clip(x / MOUTH_WIDTH, 0.0, 1.0) ** 2)
    reach = 1.5 + 0.6 * np.maximum(x - MOUTH_WIDTH, 0.0)
    near = np.exp(-(((y - lip_line(x)) / reach) ** 2))
    weight = np.where(lower, 1.0 - (1.0 - centre) * near, (1.0 - centre) * near)
    return weight * smoothstep(-7.0, -2.0, z) * smoothstep(-14.0, -9.3, y)
