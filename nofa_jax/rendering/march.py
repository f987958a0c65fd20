"""Volume rendering along rays: opacity, weights, composited features and depth (EG3D's mip ray marcher)."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from nofa_jax.ops.softplus import softplus


def interval_weights(depths: Float[Array, "*rays s"], sigma: Float[Array, "*rays s"]) -> Float[Array, "*rays i"]:
    """Compositing weights of the i = s - 1 intervals between sorted samples; each ray's sum is at most 1.

    density = softplus(mean of the two raw densities - 1); alpha = 1 - exp(-density * length);
    weight = alpha * transmittance so far.
    """
    length = depths[..., 1:] - depths[..., :-1]
    optical = softplus(0.5 * (sigma[..., :-1] + sigma[..., 1:]) - 1.0) * length
    intervals = optical.shape[-1]
    # An exclusive running sum as a product with a triangle of ones: exact enough, parallel, and so is its gradient.
    before = jnp.triu(jnp.ones((intervals, intervals), optical.dtype), 1)
    passed = jnp.matmul(optical, before, precision="highest")
    # 1 - exp(-x) would keep few digits where space is nearly empty, and the depth is a quotient of such numbers.
    return -jnp.expm1(-optical) * jnp.exp(-passed)


def sample_weights(weights: Float[Array, "*rays i"]) -> Float[Array, "*rays s"]:
    """Weights of the samples: an interval takes the mean of its two ends, so each end gets half its weight."""
    none = jnp.zeros_like(weights[..., :1])
    return 0.5 * (jnp.concatenate([weights, none], axis=-1) + jnp.concatenate([none, weights], axis=-1))


def composite_depth(depths: Float[Array, "*rays s"], weights: Float[Array, "*rays i"]) -> Float[Array, "*rays"]:
    """Expected depth given that the ray was stopped; +inf for a ray through empty space."""
    total = weights.sum(-1)
    middles = 0.5 * (depths[..., :-1] + depths[..., 1:])
    # A product with ones: XLA's CPU takes ten times as long for the sum.
    summed = jnp.matmul(weights * middles, jnp.ones(weights.shape[-1], weights.dtype), precision="highest")
    solid = total > 1e-18  # below that the quotient's gradient overflows
    return jnp.where(solid, summed / jnp.where(solid, total, 1.0), jnp.inf)


def to_image_range(
    features: Float[Array, "*rays c"], opacity: Float[Array, "*rays"], white_back: bool = False
) -> Float[Array, "*rays c"]:
    """Composited features in [0, 1] -> [-1, 1], on black or on white."""
    if white_back:
        features = features + (1.0 - opacity)[..., None]
    return 2.0 * features - 1.0
