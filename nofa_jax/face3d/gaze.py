"""Where the eyes look: the turn of the fitted head's eyeballs that brings their irises to where the detector sees them.

The gaze of an eye is (yaw, pitch) in radians against the head, 0 at rest: yaw > 0 towards the subject's left (+x),
pitch > 0 up (+y), as the eyeLook shapes turn the eyeballs (ict.turn_eyeballs). Eyes are in the order of the model's
`eye_centers`: the subject's left first.
"""

import numpy as np
from jaxtyping import Float

from nofa_jax.face3d.model import MorphableModel

IRISES = (473, 468)  # MediaPipe's landmarks of the irises' centres, the subject's left first
CORNERS = ((42, 45), (36, 39))  # of the eyes, among the 68; lids leave them in place
EYEBALLS = ("eyeball_left", "eyeball_right")


def has_eyes(model: MorphableModel) -> bool:
    """Whether the model has eyeballs that can turn."""
    return all(model.part(name).any() for name in EYEBALLS)


def gaze_of(
    model: MorphableModel,
    id_coeff: Float[np.ndarray, " i"],
    cam2world: Float[np.ndarray, "f 4 4"],
    focal: float,
    irises: Float[np.ndarray, "f 2 2"],
) -> Float[np.ndarray, "f 2 2"]:
    """(yaw, pitch) of both eyes; an iris seen outside its eyeball counts as on the eyeball's rim.

    Args:
        model: with eyes.
        focal: in widths of the crop.
        irises: centres, crop fractions.
    """
    centre, rest, radius = _eyeballs(model, id_coeff)
    origin, rotation = cam2world[:, None, :3, 3].astype(np.float64), cam2world[:, :3, :3].astype(np.float64)
    ray = np.concatenate([(irises - 0.5) / focal, np.ones((*irises.shape[:2], 1))], axis=-1)
    ray = np.einsum("fij,fkj->fki", rotation, ray / np.linalg.norm(ray, axis=-1, keepdims=True))
    # The nearer of the two points where the ray meets the eyeball, or where it passes closest.
    middle = ((centre - origin) * ray).sum(axis=-1, keepdims=True)
    closest = origin + middle * ray - centre
    half = np.sqrt(np.maximum(radius[:, None] ** 2 - (closest**2).sum(axis=-1, keepdims=True), 0))
    return _angles(closest - half * ray) - _angles(rest)


def _eyeballs(model: MorphableModel, id_coeff: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of a person's eyeballs: centres [2,3], the irises' direction at rest [2,3], radius at the iris [2]."""
    mean, centres, irises = np.asarray(model.mean, np.float64), [], []
    for centre, axis, name in zip(np.asarray(model.eye_centers), np.asarray(model.eye_axes), EYEBALLS, strict=True):
        ball = np.flatnonzero(model.part(name))
        moved = np.tensordot(id_coeff, np.asarray(model.id_basis)[:, ball], 1)
        pole = ((mean[ball] - centre) @ axis).argmax()
        centres.append(centre + moved.mean(axis=0))
        irises.append(mean[ball[pole]] + moved[pole] - centres[-1])
    return np.stack(centres), np.stack(irises), np.linalg.norm(irises, axis=1)


def _angles(direction: Float[np.ndarray, "*n 3"]) -> Float[np.ndarray, "*n 2"]:
    x, y, z = np.moveaxis(direction, -1, 0)
    return np.stack([np.arctan2(x, z), np.arctan2(y, np.hypot(x, z))], axis=-1)
