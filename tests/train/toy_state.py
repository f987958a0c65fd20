"""A small training state that exercises everything a checkpoint must hold, and is a function of the step."""

import typing
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import struct


@typing.no_type_check
@struct.dataclass
class ToyState:
    step: Any
    params: Any
    ema: Any
    opt_state: Any
    constants: Any
    key: Any


def toy_state(step: int, width: int = 40) -> ToyState:
    """The state that a checkpoint of `step` has to give back, bit for bit."""
    params = {
        "encoder": {
            "kernel": jax.random.normal(jax.random.key(step), (64, width)),
            "bias": jnp.arange(3.0) + step,
        },
        "half": jnp.full((5,), step, jnp.bfloat16),
    }
    optimizer = optax.masked(optax.adam(1e-3), {"encoder": True, "half": False})  # leaves MaskedNodes in its state
    return ToyState(
        step=jnp.int32(step),
        params=params,
        ema=jax.tree.map(lambda x: x * 0.5, params),
        opt_state=optimizer.init(params),
        constants={"buffers": {"w_avg": np.arange(4, dtype=np.float32) * step, "empty": jnp.zeros((0, 3))}, "count": 7},
        key=jax.random.key(step + 100),
    )


def assert_same_state(found: Any, wanted: Any) -> None:
    """Structure, types, dtypes and every bit."""
    assert jax.tree.structure(found) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
        assert type(a) is type(b)
        if isinstance(b, jax.Array) and jax.dtypes.issubdtype(b.dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert np.asarray(a).dtype == np.asarray(b).dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))
