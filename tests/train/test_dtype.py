"""bfloat16 is for networks alone: parameters, sums along rays, losses and gradients stay float32. From shapes alone."""

import jax
import jax.numpy as jnp
import numpy as np

from nofa_jax import build
from nofa_jax.train.stages import begin_stage, plan
from nofa_jax.train.step import forward
from tests.fakes import fake_batch, tiny_config

FLOAT32 = {jnp.dtype("float32")}


def _dtypes(*trees) -> set:
    return {x.dtype for x in jax.tree.leaves(trees)}


def test_bfloat16_is_for_networks_alone():
    config = tiny_config().unlock()
    config.model.dtype = "bfloat16"
    model, stage, batch = build.build_model(config), plan(config)[0], fake_batch(config)
    variables = dict(jax.eval_shape(lambda: build.init_variables(config, model, (5, 6), jax.random.key(0))))
    assert _dtypes(variables["params"]) == FLOAT32
    rendering = build.rendering(config, stage.options)
    run = lambda v: forward(model, v, batch, rendering, jax.random.key(0))  # noqa: E731
    volume, output, _ = jax.eval_shape(run, variables)
    assert _dtypes(volume.ws, volume.offsets, output) == FLOAT32
    networks = [line for line in str(jax.make_jaxpr(run)(variables)).splitlines() if "conv_general_dilated[" in line]
    assert sum("bf16" in line.split("=")[0] for line in networks) > 0.8 * len(networks) > 0

    params = variables.pop("params")
    state = jax.eval_shape(lambda p, c: begin_stage(config, stage, p, c), params, variables)
    objective = build.objective(config)
    step = build.train_step(config, model, objective, stage, state)
    weights = dict.fromkeys(stage.options.losses, np.float32(1))
    new, values = jax.eval_shape(step, state, batch, weights, objective.networks)
    assert _dtypes(new.params, new.ema, values) == FLOAT32
