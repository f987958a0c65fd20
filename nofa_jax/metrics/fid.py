"""Frechet distance of two sets of features: FID (Heusel et al. 2017) when they are Inception's.

Three steps: features (from `extractors`) -> statistics -> distance.
"""

import numpy as np
from jaxtyping import Float

from nofa_jax.errors import UserError

Statistics = tuple[np.ndarray, np.ndarray]  # mean [c], covariance [c, c], float64


def statistics(features: Float[np.ndarray, "n c"]) -> Statistics:
    """Mean and covariance (divisor n - 1) in float64.

    Raises:
      UserError: fewer than two samples, or values that are not finite.
    """
    if len(features) < 2:
        raise UserError(f"a Frechet distance needs at least two samples a side, got {len(features)}")
    features = np.asarray(features, np.float64)
    if not np.all(np.isfinite(features)):
        raise UserError("a Frechet distance cannot be computed: some features are not finite")
    return features.mean(axis=0), np.cov(features, rowvar=False).reshape(features.shape[1], -1)


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """|mu_a - mu_b|^2 + tr(S_a + S_b - 2 (S_a S_b)^(1/2)).

    The trace of the root is the sum of the singular values of S_a^(1/2) S_b^(1/2): symmetric in the sets, without a
    matrix root that fails near singular covariances (fewer samples than dimensions), and exact to rounding there.
    """
    (mu_a, sigma_a), (mu_b, sigma_b) = a, b
    roots = np.linalg.svd(_root(sigma_a) @ _root(sigma_b), compute_uv=False)
    return float(np.sum(np.square(mu_a - mu_b)) + np.trace(sigma_a) + np.trace(sigma_b) - 2 * np.sum(roots))


def _root(sigma: Float[np.ndarray, "c c"]) -> Float[np.ndarray, "c c"]:
    """The symmetric root of a covariance; eigenvalues below zero are rounding errors."""
    values, vectors = np.linalg.eigh(sigma)
    return (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
