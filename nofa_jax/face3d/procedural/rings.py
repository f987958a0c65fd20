"""The rings of vertices that follow the procedural head's lips and lids and line its mouth and eye sockets.

Made for x >= 0, in centimetres, as in sculpt.py. topology.py joins them with the rest of the skin.
"""

import dataclasses

import numpy as np

from nofa_jax.face3d.procedural.sculpt import EYE_CENTER, EYE_RADIUS, LID_THICKNESS, cast

CENTRE = np.array([0.0, 0.5, -3.5])  # the directions of the skin are seen from here
MOUTH_WIDTH = 2.45  # half the distance of the corners
MOUTH_POINTS, EYE_POINTS = 21, 28  # of half the mouth, of a whole eye
# Ring numbers: 0 is the rim (where the lips meet; the edge of the lids), positive outwards, negative inwards.
MOUTH_RINGS = (-5, -4, -3, -2, -1, 0, 1, 2, 3, 4)
EYE_RINGS = (-2, -1, 0, 1, 2, 3)
NO_RING = 99


@dataclasses.dataclass
class HalfSkin:
    points: np.ndarray
    directions: np.ndarray
    mouth_ring: np.ndarray
    eye_ring: np.ndarray
    angle: np.ndarray
    eye: np.ndarray

    def tags(self) -> tuple[np.ndarray, ...]:
        return self.mouth_ring, self.eye_ring, self.angle, self.eye


def plain(points: np.ndarray, directions: np.ndarray) -> HalfSkin:
    n = len(points)
    return HalfSkin(points, directions, np.full(n, NO_RING), np.full(n, NO_RING), np.zeros(n), np.full(n, -1))


def onto_front(xy: np.ndarray) -> np.ndarray:
    """Skin points [n,3] seen from the front at xy [n,2]."""
    origins = np.concatenate([xy, np.full((len(xy), 1), -3.5)], axis=1)
    return cast(origins, np.broadcast_to([0.0, 0.0, 1.0], origins.shape), reach=12.0)


def direction_of(points: np.ndarray) -> np.ndarray:
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


def mouth_rings() -> HalfSkin:
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


def eye_rings() -> HalfSkin:
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


def _nest(
    rings: list[np.ndarray], numbers: tuple[int, ...], angle: np.ndarray, middle: np.ndarray, eye: int
) -> HalfSkin:
    """Rings (innermost first) and the point that closes them. Only the outermost ring has directions of its own; the
    others share that of its middle, because strips of triangles join them (`_strips`), not the convex hull."""
    outer = direction_of(rings[-1])
    centre = outer.mean(0)
    centre[0] = 0.0 if eye < 0 else centre[0]
    inside = np.broadcast_to(centre / np.linalg.norm(centre), (1 + sum(map(len, rings[:-1])), 3))
    tags = np.concatenate([[numbers[0] - 1], np.repeat(numbers, len(angle))])
    none = np.full(len(tags), NO_RING)
    return HalfSkin(
        np.concatenate([middle[None], *rings]),
        np.concatenate([inside, outer]),
        none if eye >= 0 else tags,
        tags if eye >= 0 else none,
        np.concatenate([[0.0], np.tile(angle, len(rings))]),
        np.full(len(tags), eye),
    )
