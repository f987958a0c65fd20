"""Estimates: what can be counted is counted right."""

import dataclasses

import jax
import pytest

from nofa_jax import build
from nofa_jax.errors import UserError
from nofa_jax.train.estimate import count, estimate, nbytes
from tests.fakes import tiny_config


def test_counts_of_a_toy_run():
    config = tiny_config().unlock()
    config.stages = ("compensation",)
    config.mesh.fsdp = 2
    (stage,) = estimate(config, devices=2, compiled=False)
    model = build.build_model(config)
    head = build.morphable_model(config)
    counts = (head.num_id, head.num_exp)
    shapes = jax.eval_shape(lambda: build.init_variables(config, model, counts, jax.random.key(0)))
    params, trained = shapes["params"], shapes["params"]["compensation"]
    assert (stage.name, stage.steps, stage.batch_size) == ("compensation", 4, 2)
    assert (stage.parameters, stage.trained, stage.networks) == (count(params), count(trained), 0)
    assert stage.memory_bytes is None
    # Parameters, their average, two moments of what is trained, and a few counters.
    least = 2 * nbytes(params) + 2 * nbytes(trained)
    constants = sum(nbytes(tree) for name, tree in shapes.items() if name != "params")
    assert least <= stage.checkpoint_bytes - constants < least + 1000
    assert stage.state_bytes - constants == pytest.approx(least / 2, abs=1000)
    assert stage.flops > 2 * count(params)
    assert dataclasses.replace(stage, flops=3600e12, steps=10).hours(1.0) == pytest.approx(5.0)


def test_a_batch_that_cannot_be_shared_is_refused():
    with pytest.raises(UserError, match="cannot be shared by 3 devices"):
        estimate(tiny_config(), devices=3, compiled=False)
