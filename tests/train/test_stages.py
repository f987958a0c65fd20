"""Every stage of the paper at a tiny size: what it trains, that the rest stays bit-identical, where it starts from."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util
from ml_collections import ConfigDict

from nofa_jax import build
from nofa_jax.errors import UserError
from nofa_jax.face3d.model import load_morphable_model
from nofa_jax.train.digest import params_digest
from nofa_jax.train.earlier_run import load_run
from nofa_jax.train.stages import begin_stage, plan, stage_optimizer
from nofa_jax.train.state import label_params
from nofa_jax.train.step import make_train_step
from tests.fakes import fake_batch, tiny_config
from tests.quick import fast_compile
from tests.tiny_run import save_tiny_run

BASE = {"encoder", "generator", "deformation", "renderer", "superres"}
TRAINED = {
    "configs/quickstart.py": {"general": BASE, "compensation": {"compensation"}},
    "configs/teeth.py:quickstart": {"teeth": BASE - {"deformation"}},
    "configs/compensation.py:quickstart": {"compensation": {"compensation"}},
    "configs/finetune.py:quickstart": {"finetune": {"compensation"}},
    "configs/pti.py:quickstart": {"latent": {"encoder"}, "generator": {"generator", "renderer", "superres"}},
}


def tiny(source: str) -> ConfigDict:
    config = tiny_config(source)
    if source.startswith("configs/teeth"):
        with config.unlocked():
            config.train.restorer = "untrained"
    return config


@pytest.fixture(scope="module")
def variables() -> dict:
    config = tiny_config()
    with fast_compile():
        return dict(build.init_variables(config, build.build_model(config), (5, 6), jax.random.key(0)))


def changed_parts(before: dict, after: dict) -> set[str]:
    """Top-level parts of which any leaf differs in any bit."""
    a, b = (traverse_util.flatten_dict(tree, sep="/") for tree in (before, after))
    assert a.keys() == b.keys()
    return {k.split("/")[0] for k in a if np.asarray(a[k]).tobytes() != np.asarray(b[k]).tobytes()}


@pytest.mark.parametrize("source", TRAINED)
def test_each_stage_is_free_to_train_what_the_paper_says(source: str, variables: dict) -> None:
    for stage in plan(tiny(source)):
        labels = traverse_util.flatten_dict(label_params(variables["params"], stage.options.trainable), sep="/")
        trained = {path for path, label in labels.items() if label != "frozen"}
        assert {path.split("/")[0] for path in trained} == TRAINED[source][stage.name]
        assert not any(path.startswith("generator/mapping") for path in trained)
        if stage.name == "latent":
            assert all(path.endswith("/bias") and path.startswith("encoder/heads_") for path in trained)


@pytest.mark.parametrize(
    "source",
    [pytest.param("configs/teeth.py:quickstart", marks=pytest.mark.slow), "configs/compensation.py:quickstart"],
)
def test_a_stage_changes_its_parts_and_no_bit_of_the_others(source: str, variables: dict) -> None:
    """The general and the compensation stage of one run are in test_step; finetune and PTI in test_finetune."""
    config = tiny(source)
    model, objective, (stage,) = build.build_model(config), build.objective(config), plan(config)
    constants = {k: v for k, v in variables.items() if k != "params"}
    weights = dict(stage.options.losses)
    trainable = stage.options.trainable
    rendering = build.rendering(config, stage.options)
    batch = fake_batch(config)
    with fast_compile():
        state = begin_stage(config, stage, *jax.tree.map(jnp.copy, (variables["params"], constants)))
        optimizer = stage_optimizer(config, stage, state.params)
        step = make_train_step(model, optimizer, objective, rendering, frozenset(weights), trainable, 0.9, 0)
        for i in range(2):  # other weights and another rate: no second compilation
            state, values = step(
                state, batch, {k: np.float32(v * (1 + i)) for k, v in weights.items()}, objective.networks
            )
    assert step._cache_size() == 1
    assert changed_parts(variables["params"], state.params) == TRAINED[source][stage.name]
    assert changed_parts(variables["params"], state.ema) == TRAINED[source][stage.name]
    assert all(np.isfinite(float(v)) for v in values.values())
    assert set(values) == {*weights, "loss", "grad_norm"}


def test_a_stage_starts_from_an_earlier_run_of_the_same_model(tmp_path: Path) -> None:
    run, head = save_tiny_run(tmp_path / "run"), load_morphable_model("procedural")
    config = tiny("configs/compensation.py:quickstart").unlock()
    config.init_from.run = str(run)
    assert not build.missing_prerequisites(config)
    model, counts = build.build_model(config), (head.num_id, head.num_exp)
    abstract = jax.eval_shape(lambda: build.init_variables(config, model, counts, jax.random.key(0)))
    assert params_digest(load_run(config, abstract)) == params_digest(build.load(run)[2])
    config.model.deformation.use_weight_net = False
    with pytest.raises(UserError, match="use_weight_net: true -> false"):
        load_run(config, abstract)


def test_a_missing_run_names_the_command_that_makes_it(tmp_path: Path) -> None:
    config = tiny("configs/compensation.py:quickstart").unlock()
    config.init_from.run = str(tmp_path / "none")
    said = build.missing_prerequisites(config)
    assert f"python train.py --config=configs/quickstart.py --workdir={tmp_path / 'none'}" in said


def test_teeth_need_whole_images_and_weights(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOFA_WEIGHTS", str(tmp_path))
    config = tiny_config("configs/teeth.py:quickstart").unlock()
    with pytest.raises(UserError, match="nofa weights fetch gfpgan.*restorer=untrained"):
        build.objective(config)
    config.train.window = 8
    with pytest.raises(UserError, match="window must be 0"):
        build.build_model(config)
