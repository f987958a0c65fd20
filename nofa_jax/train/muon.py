"""Muon: momentum whose matrices are made orthogonal before they are applied (Jordan et al. 2024; Liu et al. 2025).

A step moves every direction of a weight matrix by about the same amount, however small its gradient is. In runs of a
few hundred steps from random weights this learns faster than Adam (docs/training.md). optax.contrib.muon does the same
with a loop that XLA's CPU backend runs at half the speed.
"""

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, PyTree

QUINTIC = (3.4445, -4.7750, 2.0315)  # of the Newton-Schulz iteration, by Jordan: steep at zero, not quite flat at one
ITERATIONS = 5
RMS = 0.2  # root mean square of an update, about that of Adam's (Liu et al., Eq. 4): one learning rate serves both


def orthogonalize(matrix: Float[Array, "m n"]) -> Float[Array, "m n"]:
    """U V^T of the singular value decomposition U S V^T, up to singular values within about [0.7, 1.2].

    Every iterate is the matrix times a polynomial in its Gram matrix, so the iteration needs that small square alone.
    """
    a, b, c = QUINTIC
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix / (jnp.linalg.norm(matrix) + 1e-12)
    gram = x.T @ x if tall else x @ x.T
    identity = jnp.eye(gram.shape[0], dtype=gram.dtype)
    factor = identity
    for i in range(ITERATIONS):
        step = a * identity + b * gram + c * (gram @ gram)
        factor = factor @ step
        if i + 1 < ITERATIONS:
            gram = step @ gram @ step
    return x @ factor if tall else factor @ x


def scale_by_muon(beta: float = 0.95) -> optax.GradientTransformation:
    """Nesterov momentum, orthogonalised; a kernel [..., in, out] counts as the matrix [... * in, out]."""

    def update(updates: PyTree, state: PyTree, params: PyTree | None = None) -> tuple[PyTree, PyTree]:
        del params
        momentum = jax.tree.map(lambda m, g: beta * m + (1.0 - beta) * g, state, updates)

        def direction(m: Array, g: Array) -> Array:
            matrix = (beta * m + (1.0 - beta) * g).reshape(-1, g.shape[-1])
            return (RMS * max(matrix.shape) ** 0.5 * orthogonalize(matrix)).reshape(g.shape)

        return jax.tree.map(direction, momentum, updates), momentum

    return optax.GradientTransformation(lambda params: jax.tree.map(jnp.zeros_like, params), update)


def is_matrix(parameter: Array) -> bool:
    """Whether Muon is for it: kernels of linear layers and convolutions with at least 8 inputs and outputs."""
    return parameter.ndim >= 2 and min(parameter.shape[-1], parameter.size // parameter.shape[-1]) >= 8
