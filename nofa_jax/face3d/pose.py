"""Closed-form pose of a rigid head from landmarks: where crops and fits start from.

Pictures: x right, y down, pixels or fractions. Camera axes are OpenCV's (x right, y down, z forward), the world is
y up with the face looking along +z.
"""

import dataclasses

import numpy as np
from jaxtyping import Float

# Of the 68 points, those that expressions move little: brows, nose, eyes and the corners of the mouth.
RIGID_68 = (*range(17, 48), 48, 54)
INNER_68 = slice(17, 68)  # all but the jaw line
OPENCV_AXES = np.diag([1.0, -1.0, -1.0])  # world axes to those of a camera that looks along -z


@dataclasses.dataclass(frozen=True)
class WeakPerspective:
    """Scaled orthographic cameras: picture = scale * (rotation @ X)[:2] + origin, for each frame f."""

    scale: Float[np.ndarray, " f"]  # pixels (or fractions) per world unit
    rotation: Float[np.ndarray, "f 3 3"]  # world to camera axes
    origin: Float[np.ndarray, "f 2"]  # where the world's origin falls

    @property
    def roll(self) -> Float[np.ndarray, " f"]:
        """Angle in radians by which the head's left-right axis is turned clockwise in the picture."""
        across = self.rotation[:, :2, 0]
        return np.arctan2(across[:, 1], across[:, 0])


def weak_perspective(points: Float[np.ndarray, "f n 2"], template: Float[np.ndarray, "n 3"]) -> WeakPerspective:
    """Least-squares affine camera from the template to each frame's points, made a scaled rotation.

    The same estimate as EG3D's and Deep3DFaceRecon's alignment (eight affine unknowns, scale = mean length of the two
    rows), with all given points instead of five.
    """
    design = np.concatenate([template, np.ones((len(template), 1))], axis=1)
    affine = np.einsum("in,fnc->fci", np.linalg.pinv(design), np.asarray(points, np.float64))  # [f,2,4]
    rows = affine[:, :, :3]
    lengths = np.maximum(np.linalg.norm(rows, axis=2), 1e-12)
    unit = rows / lengths[:, :, None]
    full = np.concatenate([unit, np.cross(unit[:, 0], unit[:, 1])[:, None]], axis=1)
    u, _, vt = np.linalg.svd(full)
    # Its determinant is |unit0 x unit1|^2 >= 0, so the nearest orthogonal matrix is a rotation.
    return WeakPerspective(scale=lengths.mean(axis=1), rotation=u @ vt, origin=affine[:, :, 3])


def cam2world_of(rotation: Float[np.ndarray, "f 3 3"], translation: Float[np.ndarray, "f 3"]) -> np.ndarray:
    """World-to-camera (x_camera = rotation @ x + translation) to cam2world [f,4,4]."""
    inverse = np.swapaxes(rotation, 1, 2)
    cam2world = np.tile(np.eye(4), (len(rotation), 1, 1))
    cam2world[:, :3, :3] = inverse
    cam2world[:, :3, 3] = -np.einsum("fij,fj->fi", inverse, translation)
    return cam2world


def turned(yaw: float, pitch: float, roll: float) -> Float[np.ndarray, "3 3"]:
    """Rotation of a head in world axes, by radians.

    First yaw, > 0 to its left (+x), then pitch, > 0 up, then roll, > 0 clockwise for who looks at it from +z.
    """
    (cy, cp, cr), (sy, sp, sr) = np.cos([yaw, pitch, roll]), np.sin([yaw, pitch, roll])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_x = np.array([[1, 0, 0], [0, cp, sp], [0, -sp, cp]])
    about_z = np.array([[cr, sr, 0], [-sr, cr, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y


def rotation_angle_deg(a: Float[np.ndarray, "f 3 3"], b: Float[np.ndarray, "f 3 3"]) -> Float[np.ndarray, " f"]:
    """Angle between rotations in degrees, exact also for tiny ones."""
    # |a - b|_F = 2 sqrt(2) sin(angle / 2)
    half = np.linalg.norm(np.asarray(a, np.float64) - b, axis=(1, 2)) / np.sqrt(8.0)
    return np.degrees(2 * np.arcsin(np.clip(half, 0.0, 1.0)))


def slerp(
    a: Float[np.ndarray, "f 3 3"], b: Float[np.ndarray, "f 3 3"], share: Float[np.ndarray, " f"]
) -> Float[np.ndarray, "f 3 3"]:
    """Rotations between a (share 0) and b (share 1) along the shortest arc."""
    turn = np.einsum("fij,fkj->fik", b, a)
    skew = np.stack([turn[:, 2, 1] - turn[:, 1, 2], turn[:, 0, 2] - turn[:, 2, 0], turn[:, 1, 0] - turn[:, 0, 1]], 1)
    sine = np.linalg.norm(skew, axis=1) / 2
    angle = np.arctan2(sine, (np.trace(turn, axis1=1, axis2=2) - 1) / 2) * share
    x, y, z = (skew / np.maximum(2 * sine, 1e-12)[:, None]).T
    zero = np.zeros_like(x)
    k = np.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=1).reshape(-1, 3, 3)
    step = np.eye(3) + np.sin(angle)[:, None, None] * k + (1 - np.cos(angle))[:, None, None] * (k @ k)
    return step @ a
