"""Where the colours of a head go: brows, lips, lids, hairline, beard and irises, found from the 68 landmarks.

A `Canvas` subdivides every triangle of a model's mean into a small grid of points, finer than its vertices, and says
for each point how much of each region it is. It knows nothing of identities: appearance.py turns it into colours.
Works for any morphable model with the part names of model.py. Lengths are centimetres on the mean.
"""

import dataclasses
import zlib

import numpy as np

from nofa_jax.face3d.model import WORLD_PER_CM, MorphableModel
from nofa_jax.face3d.ramp import smoothstep
from nofa_jax.face3d.scene import openness, vertex_normals

GRID = 4  # segments along an edge of a triangle
POINTS = (GRID + 1) * (GRID + 2) // 2
_I, _J = np.array([(i, j) for i in range(GRID + 1) for j in range(GRID + 1 - i)]).T
GRID_INDEX = np.zeros((GRID + 1, GRID + 1), np.int32)  # (i, j) -> point of the triangle
GRID_INDEX[_I, _J] = np.arange(POINTS)
# Barycentric weights of corners 0, 1, 2 for each point of the grid.
GRID_WEIGHTS = np.stack([GRID - _I - _J, _I, _J], axis=1).astype(np.float32) / GRID


@dataclasses.dataclass(frozen=True)
class Canvas:
    """n = t * POINTS points, triangle-major. Distances in cm; weights in [0, 1]."""

    points: np.ndarray  # [n,3] on the mean
    part: np.ndarray  # [n] part of the triangle
    lip: np.ndarray  # [n] weight of the red of the lips
    lip_line: np.ndarray  # [n] weight of the dark line where the lips meet
    brow_distance: np.ndarray  # [n] from the brows' midline
    brow_along: np.ndarray  # [n] 0 at the inner end, 1 at the outer
    lash: np.ndarray  # [n] weight of the dark edge of the lids
    lid: np.ndarray  # [n] weight of the skin on the lids
    nostril: np.ndarray  # [n]
    cheek: np.ndarray  # [n]
    beard: np.ndarray  # [n] weight of where a beard can grow
    moustache: np.ndarray  # [n]
    ear: np.ndarray  # [n]
    azimuth: np.ndarray  # [n] degrees about the head's axis: 0 front, 180 back
    height: np.ndarray  # [n] cm above the outer corners of the eyes
    gaze_angle: np.ndarray  # [n] radians from the optical axis, on eyeballs
    behind_lips: np.ndarray  # [n] cm behind the front of the lips
    openness: np.ndarray  # [n] 1 where light comes from everywhere, less in folds and hollows; 1 inside mouth and eyes

    def rows(self, index: np.ndarray) -> "Canvas":
        """These points alone."""
        return Canvas(**{field.name: getattr(self, field.name)[index] for field in dataclasses.fields(self)})


_CANVASES: dict[tuple, Canvas] = {}


def canvas(model: MorphableModel) -> Canvas:
    """The canvas of a model; made once per model and kept."""
    mean = np.asarray(model.mean)
    key = (model.name, mean.shape, zlib.crc32(mean.tobytes()))
    if key not in _CANVASES:
        _CANVASES[key] = _make(model)
    return _CANVASES[key]


def _make(model: MorphableModel) -> Canvas:
    vertices = np.asarray(model.mean, np.float32) / np.float32(WORLD_PER_CM)
    triangles = np.asarray(model.triangles)
    lm = vertices[np.asarray(model.landmark_index)]
    p = np.einsum("gk,tkc->tgc", GRID_WEIGHTS, vertices[triangles]).reshape(-1, 3)
    part = np.repeat(_triangle_part(model), POINTS)
    face = part == model.part_names.index("face")
    ear = (part == model.part_names.index("ear_left")) | (part == model.part_names.index("ear_right"))
    skin = face | ear | (part == model.part_names.index("head_and_neck"))
    lip, line = _lips(p, face, lm)
    brow_distance, brow_along = _brows(p, face, lm)
    lash, lid = _lids(p, face, lm)
    azimuth, height = scalp_coordinates(p, lm)
    beard, moustache = _beard(p, skin, lm)
    cheek = sum(_blob(p, c, 2.2) for c in (lm[[41, 31, 48]].mean(0), lm[[46, 35, 54]].mean(0))) * face
    nostril = sum(_blob(p, 0.5 * (lm[33] + lm[k]) + [0.0, 0.02, 0.05], 0.45) for k in (31, 35)) * face
    return Canvas(
        points=p,
        part=part,
        lip=lip,
        lip_line=line,
        brow_distance=brow_distance,
        brow_along=brow_along,
        lash=lash,
        lid=lid,
        nostril=nostril,
        cheek=cheek,
        beard=beard,
        moustache=moustache,
        ear=ear.astype(np.float32),
        azimuth=azimuth,
        height=height,
        gaze_angle=_gaze_angle(p, part, model),
        openness=_openness(model, p, skin),
        behind_lips=(lm[[51, 57], 2].mean() - p[:, 2]).astype(np.float32),
    )


def _triangle_part(model: MorphableModel) -> np.ndarray:
    """Part of each triangle: that of most of its corners; skin wins ties, so that borders are not drawn twice."""
    corner = np.sort(np.asarray(model.vertex_part)[np.asarray(model.triangles)], axis=1)
    return np.where(corner[:, 0] == corner[:, 1], corner[:, 0], corner[:, 1])


def _blob(p: np.ndarray, centre: np.ndarray, radius: float) -> np.ndarray:
    return np.exp(-(((p - centre) / radius) ** 2).sum(1))


def _smooth_curve(points: np.ndarray, closed: bool, per_segment: int = 6) -> np.ndarray:
    """Catmull-Rom curve through points [k,2] -> [m,2]."""
    n = len(points)
    padded = points[np.arange(-1, n + 2) % n] if closed else np.concatenate([points[:1], points, points[-1:]])
    t = np.arange(per_segment)[:, None] / per_segment
    pieces = []
    for a, b, c, d in zip(padded[:-3], padded[1:-2], padded[2:-1], padded[3:], strict=True):
        pieces.append(b + 0.5 * t * (c - a + t * (2 * a - 5 * b + 4 * c - d + t * (3 * (b - c) + d - a))))
    return np.concatenate(pieces if closed else [*pieces, points[-1:]])


def _to_curve(xy: np.ndarray, curve: np.ndarray, closed: bool) -> tuple[np.ndarray, np.ndarray]:
    """Distance [n] of points to a polyline and the position [n] along it in [0, 1]; negative inside a closed one."""
    ends = np.roll(curve, -1, axis=0) if closed else curve[1:]
    starts = curve if closed else curve[:-1]
    step = ends - starts
    offset = xy[:, None] - starts
    t = np.clip((offset * step).sum(-1) / np.maximum((step * step).sum(-1), 1e-12), 0.0, 1.0)
    distance = np.linalg.norm(offset - t[..., None] * step, axis=-1)
    nearest = distance.argmin(1)
    row = np.arange(len(xy))
    along = (nearest + t[row, nearest]) / len(starts)
    distance = distance[row, nearest]
    if closed:
        y = xy[:, None, 1]
        crosses = (starts[:, 1] > y) != (ends[:, 1] > y)
        slope = step[:, 0] / np.where(step[:, 1] == 0.0, 1e-12, step[:, 1])
        x_at = starts[:, 0] + (y - starts[:, 1]) * slope
        inside = (crosses & (xy[:, None, 0] < x_at)).sum(1) % 2 == 1
        distance = np.where(inside, -distance, distance)
    return distance, along


def _near(p: np.ndarray, mask: np.ndarray, marks: np.ndarray, margin: float) -> np.ndarray:
    """Indices of masked points whose xyz lies within `margin` of the marks' bounding box."""
    low, high = marks.min(0) - margin, marks.max(0) + margin
    return np.flatnonzero(mask & ((p > low) & (p < high)).all(1))


def _lips(p: np.ndarray, face: np.ndarray, lm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lip, line = np.zeros(len(p), np.float32), np.zeros(len(p), np.float32)
    near = _near(p, face, lm[48:60], 1.2)
    xy = p[near, :2]
    distance, _ = _to_curve(xy, _smooth_curve(lm[48:60, :2], closed=True), closed=True)
    lip[near] = smoothstep(0.07, -0.07, distance)
    seam = 0.5 * (lm[[60, 61, 62, 63, 64], :2] + lm[[60, 67, 66, 65, 64], :2])
    distance, _ = _to_curve(xy, _smooth_curve(seam, closed=False), closed=False)
    depth = lm[[51, 57], 2].mean() - p[near, 2]
    line[near] = smoothstep(0.16, 0.04, distance) * smoothstep(0.1, 0.5, depth)
    return lip, line


def _brows(p: np.ndarray, face: np.ndarray, lm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    distance, along = np.full(len(p), 9.0, np.float32), np.zeros(len(p), np.float32)
    for marks in (lm[17:22][::-1], lm[22:27]):  # from the inner end
        near = _near(p, face, marks, 1.5)
        d, s = _to_curve(p[near, :2], _smooth_curve(marks[:, :2], closed=False), closed=False)
        distance[near], along[near] = d, s
    return distance, along


def _lids(p: np.ndarray, face: np.ndarray, lm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    lash, lid = np.zeros(len(p), np.float32), np.zeros(len(p), np.float32)
    for marks in (lm[36:42], lm[42:48]):
        near = _near(p, face, marks, 1.3)
        xy = p[near, :2]
        distance, _ = _to_curve(xy, _smooth_curve(marks[:, :2], closed=True), closed=True)
        upper = smoothstep(-0.12, 0.12, xy[:, 1] - marks[[0, 3], 1].mean())
        lash[near] = smoothstep(0.11, 0.02, np.abs(distance)) * (0.35 + 0.65 * upper)
        lid[near] = smoothstep(0.9, 0.1, distance)
    return lash, lid


def _beard(p: np.ndarray, skin: np.ndarray, lm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of cheeks, chin and throat below a line from ear to mouth, and of the moustache."""
    x, y = np.abs(p[:, 0]), p[:, 1]
    corner, ear = np.abs(lm[54]), np.abs(lm[15])
    t = np.clip((x - 0.5 * corner[0]) / (ear[0] - 0.5 * corner[0]), 0.0, 1.0)
    top = lm[54, 1] + 0.6 + (lm[15, 1] - lm[54, 1] - 0.3) * t**1.6
    bottom = lm[8, 1] - 2.2 - 0.25 * np.minimum(p[:, 2] - lm[8, 2], 0.0)
    front = smoothstep(lm[1, 2] - 2.2, lm[1, 2] - 0.4, p[:, 2])
    beard = smoothstep(0.7, -0.5, y - top) * smoothstep(-1.2, 0.5, y - bottom) * front * skin
    arch = lm[33, 1] - 0.15 - 0.1 * x**1.6  # falls from the nose to beside the mouth
    under_nose = smoothstep(0.3, -0.3, y - arch) * smoothstep(lm[48, 1] - 1.0, lm[48, 1] + 0.4, y)
    moustache = under_nose * smoothstep(corner[0] + 1.0, corner[0], x) * smoothstep(2.0, 3.0, p[:, 2]) * skin
    return beard.astype(np.float32), moustache.astype(np.float32)


def scalp_coordinates(p: np.ndarray, lm: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(azimuth in degrees from the front about a vertical axis between the ears, height over the eyes in cm)."""
    axis_z = lm[[0, 16], 2].mean() - 2.5
    azimuth = np.degrees(np.abs(np.arctan2(p[:, 0], p[:, 2] - axis_z)))
    return azimuth.astype(np.float32), (p[:, 1] - lm[[36, 45], 1].mean()).astype(np.float32)


def _openness(model: MorphableModel, p: np.ndarray, skin: np.ndarray) -> np.ndarray:
    vertices, triangles = np.asarray(model.mean, np.float32), np.asarray(model.triangles)
    normals = vertex_normals(vertices, triangles)
    at_vertices = openness(vertices, triangles, normals, reach=3.0 * WORLD_PER_CM)
    on_grid = np.einsum("gk,tk->tg", GRID_WEIGHTS, at_vertices[triangles]).reshape(-1)
    return np.where(skin, on_grid, np.float32(1.0))


def _gaze_angle(p: np.ndarray, part: np.ndarray, model: MorphableModel) -> np.ndarray:
    angle = np.full(len(p), np.pi, np.float32)
    for eye, side in enumerate(("left", "right")):
        ball = part == model.part_names.index(f"eyeball_{side}")
        offset = p[ball] - np.asarray(model.eye_centers)[eye] / WORLD_PER_CM
        cosine = offset @ np.asarray(model.eye_axes)[eye] / np.linalg.norm(offset, axis=1)
        angle[ball] = np.arccos(np.clip(cosine, -1.0, 1.0))
    return angle
