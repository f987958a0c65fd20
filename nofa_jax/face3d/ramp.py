"""The one soft step that shapes, colours and hair are blended with."""

import numpy as np


def smoothstep(low: float | np.floating, high: float | np.floating, value: np.ndarray) -> np.ndarray:
    """0 at low, 1 at high, with flat ends; low > high falls instead of rising."""
    t = np.clip((value - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)
