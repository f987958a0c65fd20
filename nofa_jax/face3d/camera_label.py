"""EG3D's camera labels from Deep3DFaceRecon's pose coefficients, as EG3D's preprocessing scripts make them. Numpy."""

import numpy as np
from jaxtyping import Float

from nofa_jax.rendering.camera import EG3D_RADIUS

FOCAL = 2985.29 / 700  # of the 1024² cut, in the 700 pixels that are kept
UNIT = 0.27  # world units in one unit of the face model
SHIFT = (0.0, 0.006, 0.161)  # of the face model's origin in EG3D's world
PIVOT = (0.0, 0.0, 0.175)  # what re-centred cameras keep their distance from
CAMERA_DISTANCE = 10.0  # of the face model's camera
MIRRORED = (1, 2, 4, 8, 3)  # entries of the label that change sign in a mirrored picture


def camera_label(
    angle: Float[np.ndarray, "b 3"], translation: Float[np.ndarray, "b 3"], recentred: bool = False
) -> Float[np.ndarray, "b 25"]:
    """Labels (cam2world and intrinsics, row-major) of aligned pictures.

    Args:
      angle: radians about x, y, z, as the network gives them.
      translation: likewise.
      recentred: keep the camera 2.7 from `PIVOT` (EG3D's corrected labels) instead of from the origin (its script for
        pictures in the wild).
    """
    rotation, center = camera_pose(angle, translation)
    pivot = np.array(PIVOT if recentred else (0.0, 0.0, 0.0))
    away = center - pivot
    center = pivot + away * (EG3D_RADIUS / np.linalg.norm(away, axis=1, keepdims=True))
    pose = np.tile(np.eye(4), (len(angle), 1, 1))
    pose[:, :3, :3] = rotation
    pose[:, :3, 3] = center
    intrinsics = np.array([FOCAL, 0, 0.5, 0, FOCAL, 0.5, 0, 0, 1])
    return np.concatenate([pose.reshape(-1, 16), np.tile(intrinsics, (len(angle), 1))], axis=1)


def camera_pose(
    angle: Float[np.ndarray, "b 3"], translation: Float[np.ndarray, "b 3"]
) -> tuple[Float[np.ndarray, "b 3 3"], Float[np.ndarray, "b 3"]]:
    """The rotation of cam2world, and the camera's centre where the coefficients say it is: `camera_label` moves that to
    a fixed distance.
    """
    rotation = _transposed_rotation(angle.astype(np.float32))
    moved = translation.astype(np.float32) - np.array([0, 0, CAMERA_DISTANCE], np.float32)
    center = -np.einsum("bij,bj->bi", rotation, moved).astype(np.float64) * UNIT + SHIFT
    return rotation * np.array([1.0, -1.0, -1.0]), center  # the face model's camera looks along -z, y up


def mirrored(label: Float[np.ndarray, "b 25"]) -> Float[np.ndarray, "b 25"]:
    """Labels of the pictures mirrored left to right."""
    signs = np.ones(25)
    signs[list(MIRRORED)] = -1
    return label * signs


def _transposed_rotation(angles: np.ndarray) -> np.ndarray:
    """(Rz Ry Rx) transposed, float32."""
    zero, one = np.zeros_like(angles[:, 0]), np.ones_like(angles[:, 0])
    (sx, sy, sz), (cx, cy, cz) = np.sin(angles).T, np.cos(angles).T

    def matrix(*entries: np.ndarray) -> np.ndarray:
        return np.stack(entries, axis=1).reshape(-1, 3, 3)

    x = matrix(one, zero, zero, zero, cx, -sx, zero, sx, cx)
    y = matrix(cy, zero, sy, zero, one, zero, -sy, zero, cy)
    z = matrix(cz, -sz, zero, sz, cz, zero, zero, zero, one)
    return np.swapaxes(z @ y @ x, 1, 2)
