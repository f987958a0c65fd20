"""CSIM: how well the identity is kept, by face recognition embeddings. Numpy, one value per picture."""

import numpy as np
from jaxtyping import Float


def csim(a: Float[np.ndarray, "*b e"], b: Float[np.ndarray, "*b e"]) -> Float[np.ndarray, "*b"]:
    """Cosine of two embeddings of any length, in [-1, 1]; NaN where one of them is all zero. Averaged over frames
    afterwards; the identity loss of the same frames is 1 - mean.
    """
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    norms = np.linalg.norm(a, axis=-1) * np.linalg.norm(b, axis=-1)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.sum(a * b, axis=-1) / norms)
