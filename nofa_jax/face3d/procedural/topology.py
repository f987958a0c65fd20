"""Points and triangles of the procedural head's skin.

The skin is one closed surface of the topology of a sphere: every vertex has a direction on the unit sphere, the
triangles are the convex hull of those directions, and each vertex is then placed in space. Rings of vertices around
mouth and eyes follow lips and lids exactly and continue inwards to line the mouth and the eye sockets. Everything is
made for x >= 0 and mirrored. Centimetres, as in sculpt.py.
"""

import dataclasses

import numpy as np
from scipy.spatial import ConvexHull, KDTree

from nofa_jax.face3d.procedural.rings import (
    CENTRE,
    EYE_RINGS,
    MOUTH_RINGS,
    NO_RING,
    HalfSkin,
    eye_rings,
    mouth_rings,
    plain,
)
from nofa_jax.face3d.procedural.sculpt import cast

NECK_BOTTOM = -16.5


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


def _half() -> HalfSkin:
    mouth, eye = mouth_rings(), eye_rings()
    lips = mouth.directions[mouth.mouth_ring == MOUTH_RINGS[-1]]
    holes = [np.concatenate([lips, lips[1:-1] * [-1.0, 1.0, 1.0]]), eye.directions[eye.eye_ring == EYE_RINGS[-1]]]
    parts = [mouth, eye, _fill(holes)]
    return HalfSkin(*(np.concatenate([getattr(p, f.name) for p in parts]) for f in dataclasses.fields(HalfSkin)))


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


def _fill(holes: list[np.ndarray]) -> HalfSkin:
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
    near_ring = KDTree(np.concatenate(holes)).query(candidates)[0]
    alive &= near_ring > 0.75 * spacing
    for ring in holes:
        alive &= ~_inside(candidates, ring)
    tree = KDTree(candidates)
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
    return plain(points, directions)


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
