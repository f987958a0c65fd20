"""Points and triangles of the procedural head's skin.

The skin is one closed surface of the topology of a sphere: every vertex has a direction on the unit sphere, the
triangles are the convex hull of those directions, and each vertex is then placed in space. Rings of vertices around
mouth and eyes follow lips and lids exactly and continue inwards to line the mouth and the eye sockets. Everything is
made for x >= 0 and mirrored. Centimetres, as in sculpt.py.
"""

import dataclasses

import numpy as np
from scipy.spatial import ConvexHull, cKDTree

from nofa_jax.face3d.procedural.sculpt import EYE_CENTER, EYE_RADIUS, LID_THICKNESS, cast

CENTRE = np.array([0.0, 0.5, -3.5])  # rays of the directions start here, or on the axis of the neck below it
NECK_BOTTOM = -16.5
MOUTH_WIDTH = 2.45  # half the distance of the corners
MOUTH_POINTS, EYE_POINTS = 21, 28  # of half the mouth, of a whole eye
# Ring numbers: 0 is the rim (where the lips meet; the edge of the lids), positive outwards, negative inwards.
MOUTH_RINGS = (-5, -4, -3, -2, -1, 0, 1, 2, 3, 4)
EYE_RINGS = (-2, -1, 0, 1, 2, 3)


@dataclasses.dataclass(frozen=True)
class Skin:
    """Skin of the whole head. ring is the ring number, NO_RING elsewhere; angle goes around the ring (0 = outer
    corner, pi/2 = top); eye is -1 off the eyes, else 0 left, 1 right."""

    points: np.ndarray  # [n,3] cm
    triangles: np.ndarray  # [t,3]
    mouth_ring: np.ndarray  # [n]
    eye_ring: np.ndarray  # [n]
    angle: np.ndarray  # [n]
    eye: np.ndarray  # [n]


NO_RING = 99


def build_skin() -> Skin:
    """The mean head's skin."""
    half = _half()
    twin = np.flatnonzero(half.points[:, 0] > 1e-6)
    n, flip = len(half.points), np.array([-1.0, 1.0, 1.0])
    points = np.concatenate([half.points, half.points[twin] * flip])
    directions = np.concatenate([half.directions, half.directions[twin] * flip])
    mouth_ring, eye_ring, angle, eye = (np.concatenate([a, a[twin]]) for a in half.tags())
    eye[n:][eye[n:] == 0] = 1
    around = angle.copy()  # counter-clockwise seen from the front, for every set of rings
    around[n:] = np.mod(np.pi - around[n:], 2.0 * np.pi)
    around[:n][mouth_ring[:n] != NO_RING] = np.mod(angle[:n][mouth_ring[:n] != NO_RING], 2.0 * np.pi)
    kept, triangles = [np.flatnonzero((mouth_ring == NO_RING) & (eye_ring == NO_RING))], []
    for ring, members in (
        (mouth_ring, np.flatnonzero(mouth_ring != NO_RING)),
        (eye_ring, np.flatnonzero(eye == 0)),
        (eye_ring, np.flatnonzero(eye == 1)),
    ):
        strip, border = _strips(ring, around, members)
        triangles.append(strip)
        kept.append(border)
    index = np.concatenate(kept)
    hull = index[ConvexHull(directions[index]).simplices]
    a, b, c = (directions[hull[:, k]] for k in range(3))
    inward = np.einsum("ij,ij->i", np.cross(b - a, c - a), a) < 0
    hull[inward] = hull[inward][:, ::-1]
    for border in kept[1:]:
        hull = hull[~_within(hull, border)]
    return Skin(points, np.concatenate([hull, *triangles]), mouth_ring, eye_ring, angle, eye)


def _within(triangles: np.ndarray, border: np.ndarray) -> np.ndarray:
    """Which triangles lie inside a loop. border: the point in its middle, then the loop, counter-clockwise.

    A counter-clockwise triangle of three points of the loop is inside if it meets them in the loop's order; in the
    pockets outside a loop that is not convex the order is reversed.
    """
    place = np.full(triangles.max() + 1, -1)
    place[border] = np.arange(len(border))
    at = place[triangles]
    first = at.argmin(1)
    at = np.stack([at[np.arange(len(at)), (first + k) % 3] for k in range(3)], axis=1)
    return (at[:, 0] >= 0) & ((at[:, 0] == 0) | (at[:, 1] < at[:, 2]))


@dataclasses.dataclass
class _Half:
    points: np.ndarray
    directions: np.ndarray
    mouth_ring: np.ndarray
    eye_ring: np.ndarray
    angle: np.ndarray
    eye: np.ndarray

    def tags(self) -> tuple[np.ndarray, ...]:
        return self.mouth_ring, self.eye_ring, self.angle, self.eye


def _half() -> _Half:
    mouth, eye = _mouth(), _eye()
    lips = mouth.directions[mouth.mouth_ring == MOUTH_RINGS[-1]]
    holes = [np.concatenate([lips, lips[1:-1] * [-1.0, 1.0, 1.0]]), eye.directions[eye.eye_ring == EYE_RINGS[-1]]]
    parts = [mouth, eye, _fill(holes)]
    return _Half(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(_Half)))


def _plain(points: np.ndarray, directions: np.ndarray) -> _Half:
    n = len(points)
    return _Half(points, directions, np.full(n, NO_RING), np.full(n, NO_RING), np.zeros(n), np.full(n, -1))


def onto_front(xy: np.ndarray) -> np.ndarray:
    """Skin points [n,3] seen from the front at xy [n,2]."""
    origins = np.concatenate([xy, np.full((len(xy), 1), -3.5)], axis=1)
    return cast(origins, np.broadcast_to([0.0, 0.0, 1.0], origins.shape), reach=12.0)


def _direction(points: np.ndarray) -> np.ndarray:
    d = points - CENTRE
    return d / np.linalg.norm(d, axis=1, keepdims=True)


def lip_line(x: np.ndarray) -> np.ndarray:
    """Height of the closed mouth's line at x: a flat M that falls at the corners."""
    s = np.clip(np.abs(x) / MOUTH_WIDTH, 0.0, 1.0)
    return -4.18 + 0.1 * np.cos(2.0 * np.pi * s) * (1.0 - s) + 0.02 * s**3


def _lip_border(s: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """Height of the red's border above (below) the lip line, at the fraction s of the half width."""
    bow = 0.66 + 0.16 * np.exp(-(((s - 0.22) / 0.13) ** 2))
    top = bow * np.sqrt(np.clip(1.0 - s**1.7, 0.0, 1.0))
    bottom = -0.95 * np.sqrt(np.clip(1.0 - s**2.2, 0.0, 1.0))
    return np.where(upper, top, bottom)


def _mouth() -> _Half:
    angle = np.linspace(-np.pi / 2, np.pi / 2, MOUTH_POINTS)
    sine, upper = np.sin(angle), angle > 0
    s = np.abs(np.cos(angle)) ** 0.95
    s[[0, -1]] = 0.0
    line = lip_line(s * MOUTH_WIDTH)
    border = _lip_border(s, upper)
    swell = np.where(upper, 0.3, 0.42) * (1.0 - 0.75 * s**3)
    # ring: (half width, height over the lip line, push out of the skin)
    shape = {
        0: (s * MOUTH_WIDTH, -0.03 * np.sign(angle), -0.25 + 0.2 * s),  # the lips press a little into each other
        1: (s * (MOUTH_WIDTH + 0.04), 0.5 * border, swell),
        2: (s * (MOUTH_WIDTH + 0.1), border, 0.3 * swell),
        3: (s * (MOUTH_WIDTH + 0.35), 1.15 * border + 0.25 * sine, 0.0 * s),
        4: (s * (MOUTH_WIDTH + 0.75), 1.3 * border + 0.6 * sine, 0.0 * s),
    }
    rings = []
    for ring in MOUTH_RINGS:
        if ring < 0:
            rings.append(_lining(ring, s, sine))
            continue
        x, above, push = shape[ring]
        points = onto_front(np.stack([x, line + above], axis=1))
        points[:, 2] += push
        rings.append(points)
    return _nest(rings, MOUTH_RINGS, angle, np.array([0.0, -4.3, -1.0]), eye=-1)


def _lining(ring: int, s: np.ndarray, sine: np.ndarray) -> np.ndarray:
    """Lining of the mouth: behind the lips it opens to the height of the teeth and closes at the throat."""
    depth = {-1: 0.3, -2: 0.8, -3: 1.8, -4: 3.4, -5: 5.0}[ring]
    height = {-1: 0.25, -2: 1.2, -3: 1.7, -4: 1.4, -5: 0.8}[ring]
    width = {-1: 2.42, -2: 2.75, -3: 2.6, -4: 2.2, -5: 1.3}[ring]
    line = lip_line(s * MOUTH_WIDTH)
    front = onto_front(np.stack([s * MOUTH_WIDTH, line], axis=1))
    return np.stack([s * width, line + height * sine, front[:, 2] - 0.25 - depth], axis=1)


def eye_contour(angle: np.ndarray) -> np.ndarray:
    """Opening of the lids as offsets (x, y) [n,2] from the eye's centre; angle 0 is the outer corner."""
    c, s = np.cos(angle), np.sin(angle)
    top = 0.5 * np.maximum(s, 0.0) ** 0.9 * (1.0 - 0.14 * c)
    bottom = -0.4 * np.maximum(-s, 0.0) ** 0.9 * (1.0 + 0.15 * c)
    return np.stack([1.3 * c, np.where(s >= 0, top, bottom) + 0.05 * c - 0.03], axis=1)


def _eye() -> _Half:
    angle = np.arange(EYE_POINTS) * 2.0 * np.pi / EYE_POINTS
    opening = eye_contour(angle)
    outward = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    above = np.sin(angle) > 0
    # ring: (distance outwards from the opening, radius about the eye's centre)
    on_ball = {-2: (0.1, -0.5), -1: (0.02, -0.12), 0: (0.0, 0.1), 1: (0.09, LID_THICKNESS)}
    on_skin = {2: np.where(above, 0.36, 0.3), 3: np.where(above, 0.62, 0.6)}
    rings = []
    for ring in EYE_RINGS:
        if ring in on_skin:
            rings.append(onto_front(EYE_CENTER[:2] + opening + on_skin[ring][:, None] * outward))
            continue
        out, thick = on_ball[ring]
        offset = opening + out * outward
        depth = np.sqrt(np.maximum((EYE_RADIUS + thick) ** 2 - (offset**2).sum(1), 0.05))
        rings.append(EYE_CENTER + np.concatenate([offset, depth[:, None]], axis=1))
    return _nest(rings, EYE_RINGS, angle, EYE_CENTER + np.array([0.0, 0.0, 0.8]), eye=0)


def _nest(rings: list[np.ndarray], numbers: tuple[int, ...], angle: np.ndarray, middle: np.ndarray, eye: int) -> _Half:
    """Rings (innermost first) and the point that closes them. Only the outermost ring has directions of its own; the
    others share that of its middle, because strips of triangles join them (`_strips`), not the convex hull."""
    outer = _direction(rings[-1])
    centre = outer.mean(0)
    centre[0] = 0.0 if eye < 0 else centre[0]
    inside = np.broadcast_to(centre / np.linalg.norm(centre), (1 + sum(map(len, rings[:-1])), 3))
    tags = np.concatenate([[numbers[0] - 1], np.repeat(numbers, len(angle))])
    none = np.full(len(tags), NO_RING)
    return _Half(
        np.concatenate([middle[None], *rings]),
        np.concatenate([inside, outer]),
        none if eye >= 0 else tags,
        tags if eye >= 0 else none,
        np.concatenate([[0.0], np.tile(angle, len(rings))]),
        np.full(len(tags), eye),
    )


def _strips(ring: np.ndarray, angle: np.ndarray, members: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Triangles that join consecutive rings and fan to the point in their middle -> (triangles, middle and outer ring).

    ring, angle [n] describe all vertices; members are those of one set of rings.
    """
    numbers = np.unique(ring[members])
    middle = members[ring[members] == numbers[0]]
    loops = [members[ring[members] == r] for r in numbers[1:]]
    loops = [loop[np.argsort(angle[loop], kind="stable")] for loop in loops]
    following = [np.roll(loop, -1) for loop in loops]
    triangles = [np.stack([np.broadcast_to(middle, loops[0].shape), loops[0], following[0]], axis=1)]
    for a, a1, b, b1 in zip(loops[:-1], following[:-1], loops[1:], following[1:], strict=True):
        triangles += [np.stack([a, b, b1], axis=1), np.stack([a, b1, a1], axis=1)]
    return np.concatenate(triangles), np.concatenate([middle, loops[-1]])


def rays(directions: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Ray (origin, direction) of each topological direction: from CENTRE, and off the neck's axis further down."""
    elevation = np.arcsin(np.clip(directions[:, 1], -1.0, 1.0))
    flat = directions[:, [0, 2]] / np.maximum(np.linalg.norm(directions[:, [0, 2]], axis=1, keepdims=True), 1e-9)
    behind = 0.5 - 0.5 * flat[:, 1]
    start = -1.333 + behind * (1.333 - 0.785)  # elevation where the neck begins: under the chin, at the nape
    reach = 2.5 + 5.0 * behind  # horizontal distance from the axis to the neck
    top = CENTRE[1] - reach * np.tan(-start)
    s = np.clip((start - elevation) / (start + np.pi / 2), 0.0, 1.0)
    height = top + (NECK_BOTTOM - top) * s
    tilt = start + (-0.1 - start) * np.minimum(2.0 * s, 1.0)
    tilt = np.where(s > 0.0, tilt, elevation)
    axis = np.where(s > 0.0, height + reach * np.tan(-tilt), CENTRE[1])
    origins = np.stack([np.zeros_like(axis), axis, np.full_like(axis, CENTRE[2])], axis=1)
    directions = np.stack([np.cos(tilt) * flat[:, 0], np.sin(tilt), np.cos(tilt) * flat[:, 1]], axis=1)
    return origins, directions


def _spacing(d: np.ndarray) -> np.ndarray:
    """Wanted distance of neighbours in radians."""
    front = np.clip((d[:, 2] - 0.15) / 0.5, 0.0, 1.0)
    face = front * np.clip((0.62 - d[:, 1]) / 0.15, 0.0, 1.0)
    nose = np.exp(-(((d[:, 0]) / 0.17) ** 2) - ((d[:, 1] + 0.08) / 0.2) ** 2) * (d[:, 2] > 0)
    neck = np.clip((-0.8 - d[:, 1]) / 0.15, 0.0, 1.0)
    return (0.07 - 0.029 * face) * (1.0 - 0.5 * nose) * (1.0 - 0.2 * neck)


def _fill(holes: list[np.ndarray]) -> _Half:
    """Evenly spread points (Poisson disks of varying size) outside the outermost rings of mouth and eye."""
    n = 60000
    k = np.arange(n) + 0.5
    z = 1.0 - 2.0 * k / n
    phi = k * np.pi * (3.0 - np.sqrt(5.0))
    sphere = np.stack([np.sqrt(1 - z * z) * np.sin(phi), np.sqrt(1 - z * z) * np.cos(phi), z], axis=1)
    sphere = sphere[sphere[:, 0] > 0]
    sphere = sphere[np.random.default_rng(7).permutation(len(sphere))]
    midline = np.linspace(-np.pi / 2, 1.5 * np.pi, 900, endpoint=False)
    middle = np.stack([0 * midline, np.sin(midline), np.cos(midline)], axis=1)
    candidates = np.concatenate([middle, sphere])
    spacing = _spacing(candidates)
    # A point may not sit nearer to its mirror image than to a neighbour: it would make slivers along the midline.
    alive = (candidates[:, 0] == 0) | (candidates[:, 0] > 0.45 * spacing)
    near_ring = cKDTree(np.concatenate(holes)).query(candidates)[0]
    alive &= near_ring > 0.75 * spacing
    for ring in holes:
        alive &= ~_inside(candidates, ring)
    tree = cKDTree(candidates)
    chosen = []
    for i in range(len(candidates)):
        if alive[i]:
            chosen.append(i)
            alive[tree.query_ball_point(candidates[i], spacing[i])] = False
    directions = candidates[chosen]
    origins, towards = rays(directions)
    points = cast(origins, towards)
    bottom = directions[:, 1] < -0.9999
    points[bottom] = [0.0, NECK_BOTTOM, -7.2]
    points[:, 1] = np.maximum(points[:, 1], NECK_BOTTOM)
    points[directions[:, 0] == 0, 0] = 0.0
    return _plain(points, directions)


def _inside(d: np.ndarray, ring: np.ndarray) -> np.ndarray:
    """Whether directions d fall inside a ring of directions that is star-shaped about its mean, seen from CENTRE."""
    plane = ring[:, :2] / ring[:, 2:]
    centre = plane.mean(0)
    ring_angle = np.arctan2(*(plane - centre).T[::-1])
    order = np.argsort(ring_angle)
    offset = d[:, :2] / np.maximum(d[:, 2:], 1e-6) - centre
    radius = np.interp(
        np.arctan2(offset[:, 1], offset[:, 0]),
        ring_angle[order],
        np.linalg.norm(plane - centre, axis=1)[order],
        period=2.0 * np.pi,
    )
    return (d[:, 2] > 0.1) & (np.linalg.norm(offset, axis=1) < radius)
