"""The golden EG3D networks as modules with their rule-made weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp

from nofa_jax.models.eg3d import EG3D
from nofa_jax.port.eg3d import generator_config_from, model_from, port
from tests.eg3d_golden import golden, state


@functools.cache
def network(part: str) -> tuple[EG3D, dict]:
    """Model and variables of "mini", "tiny" or "full"."""
    init_kwargs = golden(part).meta["config"]["init_kwargs"]
    fields = generator_config_from(init_kwargs, init_kwargs["rendering_kwargs"], state(part), 128)
    model = model_from(fields)
    return model, jax.tree.map(jnp.asarray, port(state(part), model, part))


@functools.cache
def compiled(part: str):
    """Jitted synthesis (variables, ws, camera, resolution) of a network."""
    model, _ = network(part)
    return jax.jit(model.apply, static_argnums=3)


def replaced(model: EG3D, **renderer_fields) -> EG3D:
    """The same network with other renderer fields."""
    return model.clone(renderer=dataclasses.replace(model.renderer, **renderer_fields))
