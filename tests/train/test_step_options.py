"""Gradients in parts, networks in bfloat16, and steps whose numbers are not finite."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax import build
from nofa_jax.train.stages import begin_stage, plan, stage_optimizer
from nofa_jax.train.step import make_train_step
from tests.fakes import fake_batch, tiny_config
from tests.quick import fast_compile


@pytest.fixture(scope="module")
def stage_zero():
    config = tiny_config().unlock()
    config.stage.general.losses = {"l2": 1.0, "latent": 0.1}
    config.model.renderer.ray_chunk = 0
    model = build.build_model(config)
    with fast_compile():
        variables = dict(build.init_variables(config, model, (5, 6), jax.random.key(0)))
    state = begin_stage(config, plan(config)[0], variables.pop("params"), variables)
    return config, model, state


def _step(config, model, state, accumulate):
    """Whole images without jitter: nothing random that parts of a batch would draw differently."""
    stage, objective = plan(config)[0], build.objective(config)
    rendering = dataclasses.replace(build.rendering(config, stage.options), window=0, jitter=False)
    optimizer = stage_optimizer(config, stage, state.params)
    terms = frozenset(stage.options.losses)
    step = make_train_step(
        model, optimizer, objective, rendering, terms, stage.options.trainable, 0.9, 0, True, accumulate
    )
    weights = {name: np.float32(value) for name, value in stage.options.losses.items()}
    return lambda state, batch: step(jax.tree.map(jnp.copy, state), batch, weights, objective.networks)


def _largest_difference(a, b):
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(jnp.max(jnp.abs(x - y), initial=0.0)), a, b)))


@pytest.mark.slow
def test_accumulated_gradients_are_the_batchs_and_bad_batches_change_nothing(stage_zero):
    config, model, state = stage_zero
    batch = fake_batch(config)
    with fast_compile():
        whole, parts = (_step(config, model, state, n) for n in (1, 2))
        (new, values), (new_of_parts, values_of_parts) = whole(state, batch), parts(state, batch)
        for name in values:
            np.testing.assert_allclose(values_of_parts[name], values[name], rtol=1e-4)
        # Adam's first moments are a tenth of the gradient (after clipping).
        assert _largest_difference(new.params, state.params) > 1e-4
        moments = [jax.tree.leaves(s.opt_state) for s in (new, new_of_parts)]
        for a, b in zip(*moments, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-2, atol=1e-5)

        bad = batch.replace(target=batch.target.replace(image=batch.target.image.at[1, 0, 0, 0, 0].set(jnp.nan)))
        kept, values = whole(new, bad)
    assert not np.isfinite(float(values["l2"]))
    assert not np.isfinite(float(values["grad_norm"]))
    assert np.isfinite(float(values["latent"]))
    assert int(kept.step) == int(new.step) + 1
    for part in ("params", "ema", "opt_state"):
        assert _largest_difference(getattr(kept, part), getattr(new, part)) == 0.0, part


@pytest.mark.slow
def test_bfloat16_sees_the_same_picture(stage_zero):
    config, _, state = stage_zero
    half = config.copy_and_resolve_references().unlock()
    half.model.dtype = "bfloat16"
    with fast_compile():
        (_, full), (_, low) = (_step(c, build.build_model(c), state, 1)(state, fake_batch(c)) for c in (config, half))
    for name in full:
        np.testing.assert_allclose(low[name], full[name], rtol=0.1, err_msg=name)
