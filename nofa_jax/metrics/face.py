"""Metrics of face motion, per picture: AED and APD from 3DMM coefficients, AKD from landmarks, PSNR at the mouth.

AED and APD ("average expression / pose distance", PIRenderer) exist in several variants. Ours is the one of the
published scripts (Next3D, OTAvatar): the mean absolute difference over the coefficients, for Deep3DFaceRecon over its
64 expression numbers and 3 angles in radian. `coefficient_distance` has the others, so that a report can say which.
"""

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from nofa_jax.losses.regions import mouth_box
from nofa_jax.metrics.image import region_psnr


def coefficient_distance(
    a: Float[np.ndarray, "*b k"], b: Float[np.ndarray, "*b k"], variant: str = "mean_l1"
) -> Float[np.ndarray, "*b"]:
    """Distance of two coefficient vectors: "mean_l1", "sum_l1", "l2" or "mean_square". Averaged over frames afterwards;
    the root of the averaged "mean_square" is the root mean square of Next3D's other script.

    Raises:
      ValueError: another variant.
    """
    difference = np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64))
    if variant == "mean_l1":
        return np.asarray(difference.mean(axis=-1))
    if variant == "sum_l1":
        return np.asarray(difference.sum(axis=-1))
    if variant == "l2":
        return np.asarray(np.linalg.norm(difference, axis=-1))
    if variant == "mean_square":
        return np.asarray(np.square(difference).mean(axis=-1))
    raise ValueError(f"unknown variant {variant!r}; there are mean_l1, sum_l1, l2, mean_square")


def aed(exp_a: Float[np.ndarray, "*b e"], exp_b: Float[np.ndarray, "*b e"]) -> Float[np.ndarray, "*b"]:
    """Average expression distance: mean absolute difference of the expression coefficients."""
    return coefficient_distance(exp_a, exp_b)


def apd(pose_a: Float[np.ndarray, "*b p"], pose_b: Float[np.ndarray, "*b p"]) -> Float[np.ndarray, "*b"]:
    """Average pose distance: mean absolute difference of the three angles, in radian (or of angles and translation)."""
    return coefficient_distance(pose_a, pose_b)


def akd(
    landmarks_a: Float[np.ndarray, "*b n 2"], landmarks_b: Float[np.ndarray, "*b n 2"]
) -> tuple[Float[np.ndarray, "*b"], Float[np.ndarray, "*b"]]:
    """Average keypoint distance, in the landmarks' unit: mean absolute difference per coordinate (OTAvatar's), and mean
    distance of the points."""
    difference = np.asarray(landmarks_a, np.float64) - np.asarray(landmarks_b, np.float64)
    points = np.linalg.norm(difference, axis=-1)
    return np.asarray(np.abs(difference).mean(axis=(-2, -1))), np.asarray(points.mean(axis=-1))


def mouth_psnr(
    a: Float[np.ndarray, "b h w c"], b: Float[np.ndarray, "b h w c"], landmarks: Float[np.ndarray, "b 68 2"]
) -> Float[np.ndarray, " b"]:
    """PSNR inside `losses.regions.mouth_box` of the target's landmarks; images in [0, 1]."""
    boxes = np.asarray(mouth_box(jnp.asarray(landmarks, jnp.float32)), np.float64)
    return region_psnr(a, b, boxes)
