"""Eyeballs, teeth, gums, tongue and ears of the procedural head: closed meshes of their own. Centimetres."""

import dataclasses

import numpy as np

from nofa_jax.face3d.procedural.sculpt import EYE_CENTER, EYE_RADIUS

IRIS_ANGLE, PUPIL_ANGLE = 0.40, 0.15  # radians about the optical axis
EYE_AXIS = np.array([0.07, 0.0, 1.0]) / np.hypot(0.07, 1.0)  # left eye; eyes at rest look slightly outwards
TEETH_FRONT = 4.2  # z of the incisors


@dataclasses.dataclass(frozen=True)
class Part:
    """A closed mesh; jaw says whether it moves with the lower jaw."""

    name: str
    points: np.ndarray
    triangles: np.ndarray
    jaw: bool = False


def all_parts() -> list[Part]:
    """Every part of the mean head except the skin."""
    eye, ear = _eyeball(), _ear()
    upper, lower = _teeth(upper=True), _teeth(upper=False)
    upper_gum, lower_gum = _gums(upper=True), _gums(upper=False)
    return [
        Part("eyeball_left", *eye),
        Part("eyeball_right", *_mirror(*eye)),
        Part("teeth", *upper),
        Part("teeth", *lower, jaw=True),
        Part("gums_and_tongue", *upper_gum),
        Part("gums_and_tongue", *lower_gum, jaw=True),
        Part("gums_and_tongue", *_tongue(), jaw=True),
        Part("ear_left", *ear),
        Part("ear_right", *_mirror(*ear)),
    ]


def _mirror(points: np.ndarray, triangles: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return points * [-1.0, 1.0, 1.0], triangles[:, ::-1]


def _tube(loops: list[np.ndarray], first: np.ndarray, last: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Loops of equal length joined by strips and closed by a point at each end. Outward if the loops run
    counter-clockwise seen from the first point's side."""
    n, k = len(loops[0]), len(loops)
    points = np.concatenate([first[None], *loops, last[None]])
    i = np.arange(n)
    j = (i + 1) % n
    triangles = [np.stack([np.zeros(n, int), 1 + i, 1 + j], axis=1)]
    for r in range(k - 1):
        a, b = 1 + r * n, 1 + (r + 1) * n
        triangles += [np.stack([a + i, b + i, b + j], axis=1), np.stack([a + i, b + j, a + j], axis=1)]
    a = 1 + (k - 1) * n
    triangles.append(np.stack([np.full(n, 1 + k * n), a + j, a + i], axis=1))
    return points, np.concatenate(triangles)


def _eyeball() -> tuple[np.ndarray, np.ndarray]:
    """Sphere with rings at the borders of pupil and iris, and a slightly raised cornea."""
    right = np.cross([0.0, 1.0, 0.0], EYE_AXIS)
    up = np.cross(EYE_AXIS, right)
    around = np.arange(20) * 2.0 * np.pi / 20
    loops = []
    for polar in (PUPIL_ANGLE, 0.27, IRIS_ANGLE, 0.5, 0.68, 0.95, 1.3, 1.8, 2.4):
        radius = EYE_RADIUS * (1.0 + 0.02 * max(0.0, 1.0 - polar / IRIS_ANGLE))
        spoke = np.cos(around)[:, None] * right + np.sin(around)[:, None] * up
        loops.append(EYE_CENTER + radius * (np.cos(polar) * EYE_AXIS + np.sin(polar) * spoke))
    return _tube(loops, EYE_CENTER + 1.02 * EYE_RADIUS * EYE_AXIS, EYE_CENTER - EYE_RADIUS * EYE_AXIS)


# widths of the teeth from the middle to the side
UPPER_TEETH = (0.86, 0.68, 0.78, 0.7, 0.7, 0.95)
LOWER_TEETH = (0.55, 0.6, 0.7, 0.7, 0.72, 0.95)


def _arch(s: np.ndarray, front: float) -> tuple[np.ndarray, np.ndarray]:
    """Dental arch by arc length s (cm) from the middle -> (x, z) [n,2] and outward normals [n,2]."""
    x = np.linspace(-2.9, 2.9, 401)
    z = front - 0.42 * x**2 - 0.035 * x**4
    length = np.concatenate([[0.0], np.cumsum(np.hypot(np.diff(x), np.diff(z)))])
    length -= length[len(x) // 2]
    at = np.stack([np.interp(s, length, x), np.interp(s, length, z)], axis=1)
    slope = -0.84 * at[:, 0] - 0.14 * at[:, 0] ** 3
    normal = np.stack([-slope, np.ones_like(slope)], axis=1)
    return at, normal / np.linalg.norm(normal, axis=1, keepdims=True)


def _sweep(s: np.ndarray, profile: np.ndarray, front: float) -> tuple[np.ndarray, np.ndarray]:
    """Sweep profiles [n,m,2] of (out, y) along the arch: a closed bar."""
    at, normal = _arch(s, front)
    xz = at[:, None] + profile[..., :1] * normal[:, None]
    points = np.stack([xz[..., 0], profile[..., 1], xz[..., 1]], axis=-1)
    points, triangles = _tube(list(points), points[0].mean(0), points[-1].mean(0))
    return points, triangles


def _teeth(upper: bool) -> tuple[np.ndarray, np.ndarray]:
    widths = np.array(UPPER_TEETH if upper else LOWER_TEETH)
    edges = np.concatenate([[0.0], np.cumsum(widths)])
    s, notch, length = [], [], []
    for k, width in enumerate(widths):
        for t, depth in ((0.0, 1.0), (0.18, 0.25), (0.5, 0.0), (0.82, 0.25)):
            s.append(edges[k] + t * width)
            notch.append(depth)
            length.append((0.0, -0.1, 0.02, -0.12, -0.16, -0.2)[k])
    s, notch, length = np.array([*s, edges[-1]]), np.array([*notch, 1.0]), np.array([*length, length[-1]])
    s, notch, length = (np.concatenate([f * a[:0:-1], a]) for f, a in ((-1, s), (1, notch), (1, length)))
    sign, root, edge = (1.0, -3.1, -4.42) if upper else (-1.0, -5.4, -4.5)
    out = -0.13 * notch
    tip = edge + sign * (0.12 * notch - (length if upper else 0.3 * length))
    columns = [(out - 0.02, root + 0 * s), (out + 0.06, 0.5 * (root + tip)), (out, tip), (out - 0.3, tip)]
    columns.append((out * 0 - 0.5, root + 0 * s))
    profile = np.stack([np.stack(c, axis=1) for c in (columns if upper else columns[::-1])], axis=1)
    return _sweep(s, profile[:, ::-1], TEETH_FRONT - (0.0 if upper else 0.22))


def _gums(upper: bool) -> tuple[np.ndarray, np.ndarray]:
    s = np.linspace(-4.7, 4.7, 25)
    sign, root = (1.0, -3.2) if upper else (-1.0, -5.2)
    profile = np.array([[0.02, 0.0], [0.08, 0.2], [0.0, 0.7], [-0.7, 0.7], [-0.6, 0.0]]) * [1.0, sign]
    profile = np.broadcast_to(profile + np.array([0.0, root]), (len(s), 5, 2))
    return _sweep(s, profile if upper else profile[:, ::-1], TEETH_FRONT - (0.0 if upper else 0.22))


def _tongue() -> tuple[np.ndarray, np.ndarray]:
    around = np.arange(14) * 2.0 * np.pi / 14
    loops = []
    for polar in (0.4, 0.8, 1.2, 1.6, 2.1, 2.7):
        x = 1.65 * np.sin(polar) * np.cos(around)
        y = 0.55 * np.sin(polar) * np.sin(around) - 0.08 * np.exp(-((x / 0.3) ** 2))
        loops.append(np.stack([x, -4.95 + y, 1.6 + 2.1 * np.cos(polar) + 0 * x], axis=1))
    return _tube(loops, np.array([0.0, -4.95, 3.7]), np.array([0.0, -4.95, -0.5]))


def _ear() -> tuple[np.ndarray, np.ndarray]:
    """The left ear: a shell with rim (helix), bowl (concha) and lobe, leaning out of the head."""
    around = np.arange(22) * 2.0 * np.pi / 22
    cosine, sine = np.cos(around), np.sin(around)
    back = 0.5 + 0.5 * cosine  # 1 at the rim's rear, 0 at the cheek
    outline = np.stack([1.55 * cosine - 0.28 * (1.0 - sine) * (0.4 + cosine), 3.05 * sine - 0.1], axis=1)
    # (fraction of the outline, height out of the ear's plane)
    front = ((0.22, -0.55), (0.45, -0.45), (0.62, 0.15), (0.74, 0.0), (0.87, 0.3), (0.97, 0.32))
    rear = ((1.0, 0.05), (0.9, -0.3), (0.6, -0.75), (0.3, -1.1))
    loops = []
    for scale, height in front + rear:
        flat = outline * scale + (1.0 - scale) * np.array([-0.3, -0.35])
        lift = height * (0.35 + 0.65 * back) * np.where(sine < -0.75, 0.6, 1.0)
        loops.append(np.concatenate([flat, lift[:, None]], axis=1))
    points, triangles = _tube(loops, np.array([-0.3, -0.35, -0.55]), np.array([-0.3, -0.35, -1.3]))
    lean, tilt = np.radians(32.0), np.radians(12.0)
    backward = np.array([np.sin(lean), 0.0, -np.cos(lean)])
    outward = np.array([np.cos(lean), 0.0, np.sin(lean)])
    up = np.array([0.0, 1.0, 0.0])
    b = np.cos(tilt) * backward - np.sin(tilt) * up
    u = np.sin(tilt) * backward + np.cos(tilt) * up
    world = points[:, :1] * b + points[:, 1:2] * u + points[:, 2:] * outward
    return world + np.array([7.05, 0.85, -4.6]), triangles
