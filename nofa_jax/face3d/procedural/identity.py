"""Identity basis of the procedural head: what makes faces differ, one axis per row, at one standard deviation.

An axis is a sum of Moves (expressions.py) in centimetres, applied to both sides. Eyeballs and the lids on them move
rigidly, by the displacement of the eye's centre, so that they stay spheres that fit.
"""

import numpy as np

from nofa_jax.face3d.procedural.anatomy import Anatomy
from nofa_jax.face3d.procedural.expressions import Move, move
from nofa_jax.face3d.procedural.sculpt import EYE_CENTER

FAR = 1e6  # radius of a Move that does not fade

# Moves with x != 0 in their centre are mirrored.
AXES: dict[str, tuple[Move, ...]] = {
    "head size": (Move((0.0, 0.0, -3.0), (FAR, FAR, FAR), scale=(0.035, 0.035, 0.035)),),
    "head width": (Move((0.0, 2.0, -3.0), (FAR, 14.0, FAR), scale=(0.055, 0.0, 0.0)),),
    "face length": (Move((0.0, 3.0, 2.0), (FAR, 14.0, 14.0), scale=(0.0, 0.055, 0.0)),),
    "lower face length": (Move((0.0, -2.5, 3.0), (9.0, 6.0, 9.0), scale=(-0.01, 0.09, 0.0)),),
    "jaw width": (Move((0.0, -5.0, -1.0), (FAR, 3.6, 7.0), scale=(0.1, 0.0, 0.0)),),
    "chin forward": (Move((0.0, -7.4, 4.0), (3.5, 2.6, 4.0), (0.0, -0.1, 0.6)),),
    "chin height": (Move((0.0, -8.0, 3.5), (3.8, 2.4, 5.0), (0.0, -0.55, 0.0)),),
    "chin width": (Move((0.0, -7.4, 3.5), (FAR, 2.0, 4.0), scale=(0.16, 0.0, 0.0)),),
    "forehead slope": (Move((0.0, 8.5, 2.5), (7.0, 4.0, 6.0), (0.0, 0.0, -0.6)),),
    "crown height": (Move((0.0, 13.0, -4.0), (10.0, 5.5, 12.0), (0.0, 0.65, 0.0)),),
    "back of the head": (Move((0.0, 5.0, -14.0), (10.0, 9.0, 7.0), (0.0, 0.0, 0.6)),),
    "brow ridge": (Move((2.4, 4.4, 4.2), (2.6, 1.1, 2.5), (0.0, -0.12, 0.32)),),
    "brow height": (Move((2.8, 4.9, 4.0), (3.0, 1.3, 3.0), (0.0, 0.32, 0.0)),),
    "eye distance": (Move((3.15, 2.65, 3.5), (2.3, 2.0, 3.0), (0.2, 0.0, 0.0)),),
    "eye size": (Move((3.15, 2.65, 3.0), (2.6, 2.6, 3.0), scale=(0.085, 0.085, 0.085)),),
    "eye tilt": (
        Move((4.6, 2.65, 2.6), (1.1, 1.6, 2.0), (0.0, 0.2, 0.0)),
        Move((1.8, 2.65, 3.4), (1.0, 1.4, 2.0), (0.0, -0.14, 0.0)),
    ),
    "eye depth": (Move((3.15, 2.65, 3.0), (2.4, 1.9, 3.0), (0.0, 0.0, -0.25)),),
    "nose length": (Move((0.0, -0.7, 5.5), (1.9, 2.2, 3.5), (0.0, -0.38, 0.0)),),
    "nose width": (Move((0.0, -0.8, 5.0), (2.6, 1.5, 2.5), scale=(0.24, 0.0, 0.0)),),
    "nose bridge": (Move((0.0, 1.7, 5.0), (0.9, 1.6, 2.5), (0.0, 0.0, 0.36)),),
    "nose tip": (Move((0.0, -0.5, 6.5), (1.5, 1.2, 2.0), (0.0, 0.14, 0.45)),),
    "nose upturned": (Move((0.0, -0.8, 6.6), (1.4, 1.0, 1.6), (0.0, 0.38, 0.05)),),
    "cheekbones": (Move((4.6, 0.6, 2.4), (2.2, 1.5, 2.6), (0.3, 0.05, 0.22)),),
    "cheek fullness": (Move((4.0, -2.6, 2.4), (2.3, 2.4, 3.0), (0.4, 0.0, 0.32)),),
    "mouth width": (Move((0.0, -4.2, 4.4), (4.5, 1.9, 3.0), scale=(0.105, 0.0, 0.0)),),
    "upper lip": (
        Move((0.0, -3.55, 5.0), (2.3, 0.42, 1.2), (0.0, 0.15, 0.08), only="upper"),
        Move((0.0, -3.95, 5.1), (2.3, 0.35, 1.2), (0.0, 0.0, 0.16), only="upper"),
    ),
    "lower lip": (
        Move((0.0, -5.1, 4.8), (2.2, 0.5, 1.2), (0.0, -0.17, 0.05), only="lower"),
        Move((0.0, -4.65, 5.0), (2.2, 0.4, 1.2), (0.0, 0.0, 0.18), only="lower"),
    ),
    "mouth height": (Move((0.0, -4.2, 4.0), (4.5, 1.7, 4.5), (0.0, 0.28, 0.0)),),
    "mouth forward": (Move((0.0, -4.2, 4.5), (3.2, 2.2, 4.5), (0.0, 0.0, 0.35)),),
    "ear size": (Move((7.5, 1.0, -5.0), (2.0, 4.5, 2.6), (0.05, 0.0, 0.0), (0.0, 0.12, 0.12)),),
    "ears out": (Move((8.6, 1.2, -5.8), (1.3, 4.0, 2.5), (0.4, 0.0, 0.0)),),
    "neck width": (Move((0.0, -13.0, -6.0), (FAR, 4.5, FAR), scale=(0.11, 0.0, 0.09)),),
}


def identity_basis(a: Anatomy) -> np.ndarray:
    """Displacements [i,n,3] in centimetres of one standard deviation of each axis."""
    return np.stack([_displace(a, _both_sides(moves)) for moves in AXES.values()])


def _both_sides(moves: tuple[Move, ...]) -> list[Move]:
    out = []
    for m in moves:
        out.append(m)
        (x, y, z), (sx, sy, sz) = m.centre, m.shift
        if x:
            out.append(Move((-x, y, z), m.radius, (-sx, sy, sz), m.scale, m.only))
    return out


def _displace(a: Anatomy, moves: list[Move]) -> np.ndarray:
    inner = (a.mouth_ring < -1) | ~a.skin
    lower = a.lower
    delta = np.zeros_like(a.points)
    for m in moves:
        delta += move(a.points, lower, m) * (~inner if m.only else np.ones(len(inner)))[:, None]
    for eye, side in enumerate((1.0, -1.0)):
        middle = EYE_CENTER * [side, 1.0, 1.0]
        rigid = sum(move(middle[None], np.zeros(1, bool), m)[0] for m in moves)
        grow = [np.asarray(m.scale) for m in moves if np.allclose(m.centre[:2], middle[:2]) and any(m.scale)]
        ball = (a.eye == eye) & (a.eye_ring != 2) & (a.eye_ring != 3)
        delta[ball] = rigid + (a.points[ball] - middle) * (grow[0] if grow else 0.0)
        rim = (a.eye == eye) & (a.eye_ring == 2)
        delta[rim] = 0.65 * (rigid + (a.points[rim] - middle) * (grow[0] if grow else 0.0)) + 0.35 * delta[rim]
    return delta
