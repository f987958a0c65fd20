"""Pixel losses: the first term of Eqs. 3, 4 and 8. Unweighted; images in [-1, 1]."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def l2(
    a: Float[Array, "b h w c"], b: Float[Array, "b h w c"], mask: Float[Array, "b h w"] | None = None
) -> Float[Array, ""]:
    """Mean squared difference. The paper writes ||a - b||_2; we take the square, and its mean over all values, so that
    the weight does not depend on the image size.

    With a `mask` (weights >= 0) it is the mean over the masked pixels: their sum is divided by the mask's sum, and is
    0 where the mask is empty.
    """
    square = jnp.square(a - b)
    if mask is None:
        return jnp.mean(square)
    total = jnp.sum(jnp.mean(square, axis=-1) * mask)
    return total / jnp.maximum(jnp.sum(mask), 1e-8)
