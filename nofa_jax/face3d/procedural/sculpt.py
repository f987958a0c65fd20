"""The skin of the procedural head as an implicit surface: smooth unions and cuts of ellipsoids and cones.

Lengths are centimetres about EG3D's origin (world = 0.027 * cm); only x >= 0 is described, the head is symmetric.
Sizes follow ordinary adult proportions (head 15 wide, 19 deep, 22 from chin to crown; eye corners 2.7 apart).
"""

import numpy as np

EYE_CENTER = np.array([3.15, 2.65, 2.05])  # the subject's left eye
EYE_RADIUS = 1.5  # larger than life (1.2), as in most face models: the corners of the lids lie on the ball
LID_THICKNESS = 0.16

# centre, radii, blend: the wider the blend, the softer the transition to what came before
ELLIPSOIDS: tuple[tuple[tuple[float, float, float], tuple[float, float, float], float], ...] = (
    ((0.0, 5.3, -5.2), (7.3, 8.0, 9.2), 0.0),  # cranium
    ((0.0, 1.6, -1.9), (6.6, 8.9, 5.9), 2.0),  # face block
    ((0.0, 5.6, -0.6), (5.4, 4.2, 5.0), 2.0),  # forehead
    ((0.0, -3.8, -1.5), (5.3, 4.3, 5.3), 1.8),  # jaw
    ((4.4, -4.1, -3.0), (1.1, 1.5, 1.7), 1.8),  # angle of the jaw
    ((0.0, -7.05, 2.45), (1.75, 1.3, 1.95), 1.7),  # chin
    ((4.3, 0.25, 1.3), (1.7, 1.3, 1.75), 2.2),  # cheekbone
    ((3.0, -2.0, 2.0), (1.9, 2.1, 1.9), 1.8),  # cheek
    ((0.0, -3.55, 2.55), (2.75, 2.55, 2.9), 1.3),  # muzzle
    ((2.6, 4.5, 2.95), (2.3, 0.7, 0.9), 1.1),  # brow ridge
    ((0.0, 4.4, 3.2), (1.2, 0.8, 1.0), 1.0),  # glabella
)
NECK = ((0.0, -6.2), (4.8, 4.9))  # centre (x, z) and radii of the elliptic cylinder
EYE_CUT = ((3.1, 2.75, 4.75), (1.75, 1.05, 1.35), 0.9)
# round cones: from, to, radius at each end, blend
CONES: tuple[tuple[tuple[float, float, float], tuple[float, float, float], float, float, float], ...] = (
    ((0.0, 3.4, 3.7), (0.0, 0.0, 5.6), 0.62, 0.85, 0.9),  # bridge of the nose
    ((0.0, -0.35, 5.85), (0.0, -0.45, 6.0), 0.9, 0.88, 0.6),  # tip
    ((1.05, -0.75, 4.45), (0.95, -0.75, 5.0), 0.8, 0.66, 0.55),  # wing of the nose
    ((0.0, -1.3, 4.4), (0.0, -0.95, 5.5), 0.5, 0.45, 0.4),  # columella
)


def _ellipsoid(p: np.ndarray, centre: tuple[float, ...], radii: tuple[float, ...]) -> np.ndarray:
    """First-order signed distance to an ellipsoid."""
    radii_ = np.asarray(radii)
    q = (p - np.asarray(centre)) / radii_
    k0 = np.linalg.norm(q, axis=-1)
    k1 = np.linalg.norm(q / radii_, axis=-1)
    return k0 * (k0 - 1.0) / np.maximum(k1, 1e-9)


def _cone(p: np.ndarray, a: tuple[float, ...], b: tuple[float, ...], ra: float, rb: float) -> np.ndarray:
    """Signed distance to a capsule whose radius changes linearly from a to b."""
    a_, ab = np.asarray(a), np.asarray(b) - np.asarray(a)
    t = np.clip(((p - a_) @ ab) / (ab @ ab), 0.0, 1.0)
    return np.linalg.norm(p - a_ - t[..., None] * ab, axis=-1) - (ra + (rb - ra) * t)


def _smooth_min(a: np.ndarray, b: np.ndarray, blend: float) -> np.ndarray:
    if blend <= 0.0:
        return np.minimum(a, b)
    h = np.maximum(blend - np.abs(a - b), 0.0) / blend
    return np.minimum(a, b) - 0.25 * blend * h * h


def skin_distance(points: np.ndarray) -> np.ndarray:
    """Approximate signed distance [n] of points [n,3] to the skin, without lips and lid rims (negative inside)."""
    p = points.copy()
    p[..., 0] = np.abs(p[..., 0])
    (cx, cz), (rx, rz) = NECK
    flare = 1.0 + 0.012 * np.maximum(-10.0 - p[..., 1], 0.0) ** 1.6
    ring = np.hypot((p[..., 0] - cx) / (rx * flare), (p[..., 2] - cz - 0.12 * np.minimum(p[..., 1] + 8.0, 0.0)) / rz)
    d = np.maximum((ring - 1.0) * min(rx, rz), p[..., 1] + 0.5)
    blends = [1.8]  # of the neck with the cranium
    for centre, radii, blend in ELLIPSOIDS:
        d = _smooth_min(d, _ellipsoid(p, centre, radii), blend or blends.pop())
    for a, b, ra, rb, blend in CONES[:1]:
        d = _smooth_min(d, _cone(p, a, b, ra, rb), blend)
    centre, radii, blend = EYE_CUT
    d = -_smooth_min(-d, _ellipsoid(p, centre, radii), blend)
    for a, b, ra, rb, blend in CONES[1:]:
        d = _smooth_min(d, _cone(p, a, b, ra, rb), blend)
    lids = np.linalg.norm(p - EYE_CENTER, axis=-1) - (EYE_RADIUS + LID_THICKNESS)
    return _smooth_min(d, lids, 0.25)


def cast(origins: np.ndarray, directions: np.ndarray, reach: float = 22.0, steps: int = 48) -> np.ndarray:
    """Outermost crossing [n,3] of the skin along rays that start inside: march back from `reach`, then bisect.

    Sphere tracing from outside with an under-relaxed step, because blended distances are not exact.
    """
    t = np.full(len(origins), reach)
    for _ in range(steps):
        d = skin_distance(origins + t[:, None] * directions)
        t = np.maximum(t - 0.8 * d, 0.0)
    return origins + t[:, None] * directions
