"""softplus against float64, and at the ends of its range."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.ops.softplus import softplus


def test_softplus_is_exact_to_float32():
    x = np.concatenate([np.linspace(-80, 80, 20001), np.logspace(-30, 1, 200), -np.logspace(-30, 1, 200)])
    x = x.astype(np.float32)
    np.testing.assert_allclose(jax.jit(softplus)(x), np.logaddexp(0, x.astype(np.float64)), rtol=3e-7)


def test_softplus_gradient_is_the_sigmoid():
    x = jnp.array([-jnp.inf, -50, -1, 0, 1e-8, 2, 50, jnp.inf])
    np.testing.assert_array_equal(jax.vmap(jax.grad(softplus))(x), jax.nn.sigmoid(x))
    second = jax.vmap(jax.grad(jax.grad(softplus)))(x[1:-1])
    np.testing.assert_allclose(second, jax.nn.sigmoid(x[1:-1]) * jax.nn.sigmoid(-x[1:-1]), rtol=1e-5, atol=1e-20)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_softplus_at_the_ends(dtype):
    y = softplus(jnp.array([-jnp.inf, -200, 200, jnp.inf, jnp.nan], dtype))
    assert y.dtype == dtype
    np.testing.assert_array_equal(np.asarray(y, np.float32), [0, 0, 200, np.inf, np.nan])
