"""The head of a photo cut out of its background, for models trained on plain backgrounds."""

import numpy as np
from jaxtyping import Float, UInt8

from nofa_jax.errors import UserError

_HULL_SHRINK = 0.85  # of the face's hull: certainly head
_HAIR = (1.35, 1.6)  # the hull widened sideways and upwards: hair may reach so far
_ITERATIONS = 5


def head_mask(image: UInt8[np.ndarray, "h w 3"], outline: Float[np.ndarray, "n 2"]) -> Float[np.ndarray, "h w"]:
    """Mask in [0, 1] of the head and what belongs to it (hair, neck), by GrabCut (Rother et al. 2004).

    Args:
      image: the crop, RGB.
      outline: points on the head, fractions of the crop (the fitted model's projected vertices).
    """
    try:
        import cv2
    except ImportError as error:
        raise UserError(
            "cutting out the head needs OpenCV, which comes with mediapipe: pip install mediapipe"
        ) from error
    height, width = image.shape[:2]
    pixels = np.asarray(outline, np.float32) * np.array([width, height], np.float32)
    hull = cv2.convexHull(pixels)[:, 0]
    centre = hull.mean(axis=0)
    label = np.full((height, width), cv2.GC_BGD, np.uint8)
    wide = centre + (hull - centre) * np.where((hull - centre)[:, 1:] < 0, np.array(_HAIR), np.array([_HAIR[0], 1.2]))
    cv2.fillConvexPoly(label, cv2.convexHull(wide.astype(np.float32))[:, 0].astype(np.int32), int(cv2.GC_PR_BGD))
    cv2.fillConvexPoly(label, hull.astype(np.int32), int(cv2.GC_PR_FGD))
    sure = centre + (hull - centre) * _HULL_SHRINK
    cv2.fillConvexPoly(label, sure.astype(np.int32), int(cv2.GC_FGD))
    models = np.zeros((1, 65)), np.zeros((1, 65))
    cv2.setRNGSeed(0)
    cv2.grabCut(np.ascontiguousarray(image[..., ::-1]), label, None, *models, _ITERATIONS, cv2.GC_INIT_WITH_MASK)
    mask = np.isin(label, (cv2.GC_FGD, cv2.GC_PR_FGD)).astype(np.float32)
    return np.clip(cv2.GaussianBlur(mask, (0, 0), max(1.0, width / 256)), 0.0, 1.0)
