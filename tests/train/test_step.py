"""The training step: what it changes, that it repeats, and fine-tuning."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from nofa_jax import build
from nofa_jax.ops.resample import shrink
from nofa_jax.train.objective import View, weighted_sum
from nofa_jax.train.stages import abstract_states, begin_stage, plan, stage_optimizer
from nofa_jax.train.step import forward, make_train_step
from tests.fakes import fake_batch, tiny_config


@pytest.fixture(scope="module")
def setup():
    config = tiny_config()
    model = build.build_model(config)
    variables = dict(build.init_variables(config, model, (5, 6), jax.random.key(0)))
    return config, model, variables, build.objective(config)


@pytest.fixture(scope="module")
def passes(setup):
    """(volume, output, view) of the same batch: a window of each image, and the whole; without jitter."""
    config, model, variables, _ = setup
    windowed = dataclasses.replace(build.rendering(config, plan(config)[0].options), jitter=False)
    run = jax.jit(forward, static_argnums=(0, 3))
    batch, key = fake_batch(config), jax.random.key(3)
    return tuple(run(model, variables, batch, r, key) for r in (windowed, dataclasses.replace(windowed, window=0)))


def _run(setup, stage_index, steps=2):
    config, model, variables, objective = setup
    stage = plan(config)[stage_index]
    constants = {k: v for k, v in variables.items() if k != "params"}
    state = begin_stage(config, stage, *jax.tree.map(jnp.copy, (variables["params"], constants)))  # steps donate
    weights = dict(stage.options.losses)
    optimizer = stage_optimizer(config, stage, state.params)
    rendering, trainable = build.rendering(config, stage.options), stage.options.trainable
    step = make_train_step(model, optimizer, objective, rendering, frozenset(weights), trainable, 0.9, config.seed)
    values = {}
    for i in range(steps):
        state, values = step(
            state, fake_batch(config, i), {k: np.float32(v) for k, v in weights.items()}, objective.networks
        )
    return stage, state, values, step


def _changed(before, after):
    a, b = traverse_util.flatten_dict(before, sep="/"), traverse_util.flatten_dict(after, sep="/")
    return {path for path in a if not np.array_equal(a[path], b[path])}


def test_general_stage_trains_everything_but_mapping_and_compensation(setup):
    _, state, values, _ = _run(setup, 0)
    changed = _changed(setup[2]["params"], state.params)
    parts = {path.split("/")[0] for path in changed}
    assert parts == {"encoder", "generator", "deformation", "renderer", "superres"}
    assert not any(path.startswith("generator/mapping") for path in changed)
    assert all(np.isfinite(float(v)) for v in values.values())
    assert set(values) == set(plan(setup[0])[0].options.losses) | {"loss", "grad_norm"}


def test_compensation_stage_trains_compensation_alone(setup):
    _, state, values, _ = _run(setup, 1)
    changed = _changed(setup[2]["params"], state.params)
    assert changed
    assert all(path.startswith("compensation/") for path in changed)
    assert "depth" in values


def test_a_step_repeats_bit_for_bit_and_new_weights_do_not_recompile(setup):
    _, one, _, step = _run(setup, 0)
    _, two, _, _ = _run(setup, 0)
    assert not _changed(one.params, two.params)
    weights = {k: np.float32(0.25) for k in plan(setup[0])[0].options.losses}
    step(one, fake_batch(setup[0], 5), weights, setup[3].networks)
    assert step._cache_size() == 1


def test_states_of_both_stages_are_known_from_the_step(setup):
    config, _, variables, _ = setup
    stages = plan(config)
    state = begin_stage(config, stages[0], variables["params"], {})
    after = abstract_states(config, stages, state)
    size = lambda s: sum(np.prod(leaf.shape) for leaf in jax.tree.leaves(s.opt_state))  # noqa: E731
    assert size(after(2)) > size(after(3))  # step 2 was made by the general stage, step 3 by the compensation stage


def test_loss_is_the_weighted_sum_of_its_terms(setup, passes):
    objective = setup[3]
    volume, output, view = passes[0]
    terms = objective(frozenset({"l2", "raw_l2", "mask", "latent"}), output, volume, view)
    np.testing.assert_allclose(terms["l2"], np.mean((output.image - view.image) ** 2), rtol=1e-6)
    np.testing.assert_allclose(terms["raw_l2"], np.mean((output.image_raw - shrink(view.image, 8)) ** 2), rtol=1e-6)
    np.testing.assert_allclose(terms["latent"], np.mean(volume.offsets**2), rtol=1e-6)
    total = weighted_sum({"a": jnp.float32(2), "b": jnp.float32(3)}, {"a": 0.5, "b": 2.0})
    assert float(total) == 7.0
    with pytest.raises(ValueError, match="lpisp"):
        objective(frozenset({"lpisp"}), output, volume, view)


def test_window_shows_the_same_part_of_target_and_rendering(passes):
    """Without jitter a window's rays are the whole image's rays cut out: raw colours agree."""
    (_, part, view), (_, full, full_view) = passes
    for i in range(4):
        found = [
            (r, c)
            for r in range(9)
            for c in range(9)
            if np.array_equal(full_view.image[i, 2 * r : 2 * r + 16, 2 * c : 2 * c + 16], view.image[i])
        ]
        (r, c) = found[0]
        np.testing.assert_allclose(part.image_raw[i], full.image_raw[i, r : r + 8, c : c + 8], atol=1e-5)


def test_fine_tuning_changes_compensation_alone_and_brings_the_photo_nearer(setup):
    config, model, variables, _ = setup
    with config.unlocked():
        config.finetune.learning_rate = 1e-2
    finetuner = build.finetuner(config, model)
    source = jax.tree.map(lambda x: x[:1], fake_batch(config).source)
    before = finetuner(variables, source, 0, show_progress=False)
    assert before.variables["params"].keys() == variables["params"].keys()
    assert not _changed(variables["params"], before.variables["params"])
    first, last = (finetuner(variables, source, n, show_progress=False) for n in (1, 30))
    assert last.losses["l2"] < first.losses["l2"]
    assert all(p.startswith("compensation/") for p in _changed(variables["params"], last.variables["params"]))


def test_view_is_a_pytree():
    view = View(image=jnp.zeros((1, 2, 2, 3)), mask=jnp.zeros((1, 2, 2)), landmarks=jnp.zeros((1, 68, 2)))
    assert len(jax.tree.leaves(view)) == 3
