"""A world of 24x24 pictures that anyone can read: what the protocol's tests render, drive and measure.

Bands of rows hold, from top to bottom, the identity's colour, the expression channels and the camera's yaw and pitch.
"""

import jax.numpy as jnp
import numpy as np

from nofa_jax.rendering.camera import fov_to_intrinsics, look_at
from nofa_jax.types import Frame

EXP_NAMES = ("jawOpen", "mouthSmileLeft", "mouthSmileRight", "eyeBlink_L", "eyeBlink_R", "mouthPucker")
SIZE = 24


def draw(colour: np.ndarray, exp_coeff: np.ndarray, angles: np.ndarray) -> np.ndarray:
    """[n,3] in [-1,1], [n,e] in [0,1], [n,2] radians -> pictures [n,24,24,3] in [-1,1]."""
    n, e = exp_coeff.shape
    image = np.broadcast_to(colour[:, None, None, :], (n, SIZE, SIZE, 3)).astype(np.float32)
    image = image.copy()
    bands = np.repeat(2.0 * exp_coeff - 1.0, SIZE // e, axis=1)  # [n, 24]
    image[:, 8:16] = bands[:, None, :, None]
    image[:, 16:20] = angles[:, 0][:, None, None, None]
    image[:, 20:24] = angles[:, 1][:, None, None, None]
    return image


def read(images: np.ndarray, cam2world: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A perfect regressor of this world."""
    assert images.shape[0] == cam2world.shape[0] == intrinsics.shape[0]
    columns = images[:, 8:16].mean(axis=(1, 3))
    e = len(EXP_NAMES)
    exp = (columns.reshape(len(images), e, SIZE // e).mean(axis=2) + 1.0) / 2.0
    angles = np.stack([images[:, 17, 0, 0], images[:, 21, 0, 0], np.zeros(len(images))], axis=1)
    return exp, angles


def frames(identity: np.ndarray, seed: int) -> Frame:
    """One random frame of each named identity."""
    rng = np.random.default_rng(seed)
    n = len(identity)
    yaw, pitch = rng.uniform(-0.6, 0.6, n), rng.uniform(-0.3, 0.3, n)
    exp = rng.uniform(0.0, 1.0, (n, len(EXP_NAMES))).astype(np.float32)
    colour = np.random.default_rng(0).uniform(-0.8, 0.8, (64, 3))[identity]
    cam2world = np.asarray(look_at(jnp.asarray(yaw), jnp.asarray(pitch)))
    landmarks = np.tile(np.linspace(0.3, 0.7, 68)[:, None], (n, 1, 2)).astype(np.float32)
    return Frame(
        image=draw(colour, exp, np.stack([yaw, pitch], axis=1)),
        mask=np.ones((n, SIZE, SIZE), np.float32),
        cam2world=cam2world,
        intrinsics=np.tile(np.asarray(fov_to_intrinsics(18.0)), (n, 1, 1)),
        id_coeff=colour.astype(np.float32),
        exp_coeff=exp,
        landmarks=landmarks,
    )
