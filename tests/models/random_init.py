"""Variables for tests that need numbers, not an initialisation: nothing is compiled."""

import jax
import jax.numpy as jnp
import numpy as np


def random_variables(module, *args, seed: int = 0) -> dict:
    """Normal draws in the shapes of `module.init(key, *args)`."""
    rng = np.random.default_rng(seed)
    shapes = jax.eval_shape(module.init, jax.random.key(0), *args)
    return jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), leaf.dtype), shapes)
