"""Regularisation of the latent code and of the compensation volume: Eqs. 6 and 10. Unweighted."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def latent(offsets: Float[Array, "b l w"]) -> Float[Array, ""]:
    """Eq. 6: mean square of w_s - w_avg, which is what the encoder puts out. The paper writes the L2 norm; the mean
    makes the weight independent of the number and size of the codes.
    """
    return jnp.mean(jnp.square(offsets))


def depth_consistency(
    planes: Float[Array, "b 3 h w c"], delta: Float[Array, "b 3 h w c"], mu: float = 0.1
) -> Float[Array, ""]:
    """Eq. 10: mean square of mu V_c - V_m, with the canonical planes V_c and the compensation V_m = `delta`.

    It pulls the compensation towards a faint copy of the planes, which keeps depth and views consistent. The paper
    writes the L2 norm; the mean makes the weight independent of the planes' size. In the stages where it is used the
    planes come from frozen networks; here nothing is stopped.
    """
    return jnp.mean(jnp.square(mu * planes - delta))
