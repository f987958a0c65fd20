"""Expression basis of the procedural head: ARKit's shapes, each a displacement of the mean's vertices at weight 1.

Most shapes are sums of Moves: a shift in centimetres that fades as a Gaussian. Jaw, lids and gaze are rotations,
taken at full weight and linear in between. Shapes named Left are described on the subject's left (+x) and mirrored.
"""

import dataclasses

import numpy as np

from nofa_jax.face3d.procedural.anatomy import Anatomy
from nofa_jax.face3d.procedural.rings import MOUTH_WIDTH, eye_contour, lip_line
from nofa_jax.face3d.procedural.sculpt import EYE_CENTER
from nofa_jax.face3d.ramp import smoothstep

JAW_HINGE = np.array([0.0, -0.3, -4.2])
JAW_OPEN_DEG, JAW_SIDE_DEG = 18.0, 8.0


@dataclasses.dataclass(frozen=True)
class Move:
    """Shift of the skin by `shift`, plus `scale` times the offset from the centre, times a Gaussian.

    only: "upper" or "lower" keeps the shift on that side of the mouth's line.
    """

    centre: tuple[float, float, float]
    radius: tuple[float, float, float]
    shift: tuple[float, float, float] = (0.0, 0.0, 0.0)
    scale: tuple[float, float, float] = (0.0, 0.0, 0.0)
    only: str = ""


def move(points: np.ndarray, lower: np.ndarray, m: Move) -> np.ndarray:
    """Displacement [n,3] of points [n,3] by a Move."""
    offset = points - np.asarray(m.centre)
    weight = np.exp(-((offset / np.asarray(m.radius)) ** 2).sum(1))
    if m.only:
        # Lips part where they meet, but the corners stay together.
        corner = np.sqrt(np.clip(1.0 - (points[:, 0] / (MOUTH_WIDTH + 0.1)) ** 2, 0.0, 1.0))
        near_line = np.exp(-(((points[:, 1] - lip_line(points[:, 0])) / 1.2) ** 2))
        weight = weight * (lower == (m.only == "lower")) * (1.0 - near_line * (1.0 - corner))
    return weight[:, None] * (np.asarray(m.shift) + offset * np.asarray(m.scale))


LEFT_CORNER = (MOUTH_WIDTH, -4.3, 3.9)
MOUTH = (0.0, -4.2, 4.6)

ONE_SIDED: dict[str, tuple[Move, ...]] = {
    "browDown": (
        Move((2.2, 4.6, 4.2), (2.4, 1.3, 3.0), (-0.25, -0.75, 0.12)),
        Move((1.0, 4.4, 4.4), (0.9, 1.0, 2.0), (-0.15, -0.2, 0.25)),
    ),
    "browOuterUp": (Move((4.6, 5.0, 3.0), (1.7, 1.5, 3.0), (0.05, 0.95, -0.1)),),
    "cheekSquint": (
        Move((3.3, 0.6, 3.2), (1.7, 1.2, 2.5), (0.0, 0.75, 0.6)),
        Move((3.2, 1.9, 3.6), (1.5, 0.5, 1.5), (0.0, 0.18, 0.05)),
    ),
    "mouthSmile": (
        Move(LEFT_CORNER, (1.7, 1.5, 3.0), (0.85, 0.95, -0.7)),
        Move((3.5, -0.7, 3.2), (1.5, 1.4, 2.5), (0.15, 0.45, 0.45)),
        Move((1.2, -3.9, 5.0), (1.2, 1.0, 2.0), (0.1, 0.18, -0.15)),
    ),
    "mouthFrown": (
        Move(LEFT_CORNER, (1.4, 1.4, 3.0), (0.15, -1.0, -0.1)),
        Move((1.3, -5.3, 4.4), (1.3, 0.8, 2.0), (0.0, 0.15, 0.15)),
    ),
    "mouthDimple": (
        Move(LEFT_CORNER, (1.2, 1.2, 2.5), (0.8, 0.2, -0.9)),
        Move((3.8, -3.9, 3.0), (0.8, 1.2, 2.0), (0.1, 0.0, 0.45)),
    ),
    "mouthStretch": (Move((MOUTH_WIDTH + 0.2, -4.7, 3.7), (1.8, 1.7, 3.0), (1.0, -0.5, -0.8)),),
    "mouthUpperUp": (
        Move((1.1, -3.6, 4.8), (1.25, 1.5, 2.5), (0.05, 0.85, 0.1), only="upper"),
        Move((1.8, -1.8, 4.2), (0.9, 1.0, 2.0), (0.1, 0.25, 0.2)),
    ),
    "mouthLowerDown": (Move((1.1, -4.8, 4.6), (1.25, 1.4, 2.5), (0.1, -0.9, 0.0), only="lower"),),
    "mouthPress": (
        Move((1.2, -3.9, 4.9), (1.2, 0.5, 2.0), (0.0, -0.22, -0.45), only="upper"),
        Move((1.2, -4.8, 4.7), (1.2, 0.6, 2.0), (0.0, 0.4, -0.5), only="lower"),
        Move(LEFT_CORNER, (0.8, 0.9, 2.0), (0.2, 0.1, -0.3)),
    ),
    "noseSneer": (
        Move((1.25, -0.6, 4.8), (0.9, 0.9, 1.8), (0.15, 0.5, -0.1)),
        Move((1.3, -3.3, 4.8), (1.1, 1.1, 2.0), (0.0, 0.5, 0.15), only="upper"),
        Move((0.9, 1.9, 4.4), (0.7, 1.2, 2.0), (0.1, 0.3, 0.3)),
    ),
}

CENTRAL: dict[str, tuple[Move, ...]] = {
    "browInnerUp": (
        Move((1.3, 4.8, 4.3), (1.6, 1.4, 3.0), (0.1, 0.95, 0.0)),
        Move((-1.3, 4.8, 4.3), (1.6, 1.4, 3.0), (-0.1, 0.95, 0.0)),
    ),
    "cheekPuff": (
        Move((3.9, -3.0, 2.6), (2.0, 2.0, 2.5), (0.95, 0.0, 0.75)),
        Move((-3.9, -3.0, 2.6), (2.0, 2.0, 2.5), (-0.95, 0.0, 0.75)),
    ),
    "mouthPucker": (
        Move(MOUTH, (3.6, 1.9, 3.5), (0.0, 0.0, 0.5), (-0.6, 0.0, 0.0)),
        Move(MOUTH, (1.9, 1.7, 3.5), (0.0, 0.0, 0.75), (0.0, 0.12, 0.0)),
    ),
    "mouthFunnel": (
        Move(MOUTH, (3.4, 2.2, 3.5), (0.0, 0.0, 0.8), (-0.4, 0.1, 0.0)),
        Move((0.0, -3.6, 4.8), (1.7, 1.4, 2.5), (0.0, 0.5, 0.15), only="upper"),
        Move((0.0, -4.9, 4.6), (1.7, 1.4, 2.5), (0.0, -0.75, 0.15), only="lower"),
    ),
    "mouthLeft": (Move(MOUTH, (2.9, 1.9, 3.5), (1.3, 0.1, -0.1)),),
    "mouthRight": (Move(MOUTH, (2.9, 1.9, 3.5), (-1.3, 0.1, -0.1)),),
    "mouthRollLower": (Move((0.0, -4.7, 4.8), (2.2, 0.75, 1.8), (0.0, 0.35, -0.75), only="lower"),),
    "mouthRollUpper": (Move((0.0, -3.9, 5.0), (2.2, 0.7, 1.8), (0.0, -0.28, -0.6), only="upper"),),
    "mouthShrugLower": (
        Move((0.0, -6.0, 4.4), (2.2, 1.3, 2.0), (0.0, 0.75, 0.2)),
        Move((0.0, -4.8, 4.8), (2.0, 0.8, 2.0), (0.0, 0.1, 0.4), only="lower"),
    ),
    "mouthShrugUpper": (Move((0.0, -3.6, 4.9), (2.2, 1.0, 2.0), (0.0, 0.3, 0.5), only="upper"),),
}

EYE_SHAPES = ("eyeBlink", "eyeLookDown", "eyeLookIn", "eyeLookOut", "eyeLookUp", "eyeSquint", "eyeWide")
# lids: (part of the way the upper lid closes, part of the opening the lower lid rises, at weight 1)
LIDS = {
    "eyeBlink": (1.0, 0.12),
    "eyeLookDown": (0.42, -0.1),
    "eyeLookIn": (0.02, 0.0),
    "eyeLookOut": (0.02, 0.0),
    "eyeLookUp": (-0.2, 0.06),
    "eyeSquint": (0.22, 0.3),
    "eyeWide": (-0.34, -0.12),
}


def expression_basis(a: Anatomy) -> tuple[tuple[str, ...], np.ndarray]:
    """Names and displacements [e,n,3] in centimetres, in alphabetical order of ARKit's names."""
    shapes: dict[str, np.ndarray] = {}
    for name, moves in CENTRAL.items():
        shapes[name] = _moves(a, moves)
    for name, moves in ONE_SIDED.items():
        for side, sign in (("Left", 1.0), ("Right", -1.0)):
            shapes[name + side] = _moves(a, tuple(_flip(m, sign) for m in moves))
    for name in EYE_SHAPES:
        for eye, side in enumerate(("Left", "Right")):
            shapes[name + side] = _lids(a, eye, *LIDS[name])
            if name == "eyeSquint":
                shapes[name + side] += (
                    _moves(a, tuple(_flip(m, (1.0, -1.0)[eye]) for m in ONE_SIDED["cheekSquint"])) * 0.5
                )
    shapes |= _jaw(a)
    names = tuple(sorted(shapes))
    return names, np.stack([shapes[n] for n in names])


def _flip(m: Move, sign: float) -> Move:
    (cx, cy, cz), (sx, sy, sz) = m.centre, m.shift
    return dataclasses.replace(m, centre=(sign * cx, cy, cz), shift=(sign * sx, sy, sz))


def _moves(a: Anatomy, moves: tuple[Move, ...]) -> np.ndarray:
    """Sum of moves on the skin; lids on the eyeball keep still, the lining of the mouth fades out inwards."""
    on_lid = (a.eye_ring <= 1) & (a.eye >= 0)
    inward = np.where(a.mouth_ring < 0, 1.0 + 0.25 * np.minimum(a.mouth_ring + 2, 0), 1.0)
    free = a.skin * ~on_lid * np.where(a.eye_ring == 2, 0.4, 1.0) * inward
    return sum(move(a.points, a.lower, m) for m in moves) * free[:, None]


def _jaw(a: Anatomy) -> dict[str, np.ndarray]:
    t = np.radians(JAW_OPEN_DEG)
    turn = np.array([[1, 0, 0], [0, np.cos(t), -np.sin(t)], [0, np.sin(t), np.cos(t)]])
    swing = (a.points - JAW_HINGE) @ (turn.T - np.eye(3)) + np.array([0.0, 0.0, 0.25])
    jaw = a.jaw[:, None]
    lift = Move((0.0, -3.6, 5.0), (2.0, 1.2, 2.5), (0.0, 0.32, 0.05), only="upper")
    narrow = _moves(a, (Move(MOUTH, (2.6, 1.6, 3.0), scale=(-0.13, 0.0, 0.0)), lift))
    near = np.exp(-(((a.points[:, 1] - lip_line(a.points[:, 0])) / 1.4) ** 2)) * a.skin
    near *= smoothstep(1.5, 4.0, a.points[:, 2])
    return {
        "jawOpen": jaw * swing + narrow,
        "jawLeft": jaw * _sideways(a.points, 1.0),
        "jawRight": jaw * _sideways(a.points, -1.0),
        "jawForward": jaw * np.array([0.0, 0.0, 0.9]),
        "mouthClose": (near * (0.45 - a.jaw))[:, None] * swing - narrow * near[:, None],
    }


def _sideways(points: np.ndarray, side: float) -> np.ndarray:
    """The jaw swings about the hinge of the other side, dropping a little."""
    t = np.radians(side * JAW_SIDE_DEG)
    turn = np.array([[np.cos(t), 0, np.sin(t)], [0, 1, 0], [-np.sin(t), 0, np.cos(t)]])
    hinge = JAW_HINGE - np.array([side * 5.0, 0.0, 0.0])
    return (points - hinge) @ (turn.T - np.eye(3)) + np.array([0.0, -0.2, 0.0])


def _lids(a: Anatomy, eye: int, close: float, rise: float) -> np.ndarray:
    """Turn the lids about the eye: `close` of the way from the upper lid down to the lower, `rise` of it up."""
    delta = np.zeros_like(a.points)
    side = 1.0 if eye == 0 else -1.0
    middle = EYE_CENTER * [side, 1.0, 1.0]
    opening = eye_contour(np.linspace(0.0, 2.0 * np.pi, 721))
    # share of the lid's way that each ring goes
    for ring, share in ((-3, 0.0), (-2, 1.0), (-1, 1.0), (0, 1.0), (1, 1.0), (2, 0.55), (3, 0.12)):
        index = np.flatnonzero((a.eye == eye) & (a.eye_ring == ring))
        offset = a.points[index] - middle
        x = np.clip(offset[:, 0] * side, -1.3, 1.3)
        upper_line = np.interp(x, opening[:361, 0][::-1], opening[:361, 1][::-1])
        lower_line = np.interp(x, opening[360:, 0], opening[360:, 1])
        gap = upper_line - lower_line
        is_upper = np.sin(a.angle[index]) > 1e-6
        is_lower = np.sin(a.angle[index]) < -1e-6
        way = np.where(is_upper, -close * (1.0 - min(max(rise, 0.0), 0.2)) * gap, 0.0)
        way = np.where(is_lower, rise * gap, way) * share
        target = offset.copy()
        target[:, 1] += way
        if ring <= 2:
            radius = np.linalg.norm(offset, axis=1)
            ball = np.sqrt(np.maximum(radius**2 - target[:, 0] ** 2 - target[:, 1] ** 2, 0.0))
            target[:, 2] = np.maximum(ball, 0.3) if ring <= 1 else np.maximum(offset[:, 2], ball * 0.98)
        delta[index] = target - offset
    return delta
