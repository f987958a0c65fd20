"""Every config at the paper's size: it builds, its names mean something, and one step of each stage traces."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax import build
from nofa_jax.cli import load_config
from nofa_jax.errors import UserError
from nofa_jax.extractors.gfpgan import GFPGAN
from nofa_jax.train.frozen import Frozen, identity_network, perceptual_network
from nofa_jax.train.objective import Objective
from nofa_jax.train.stages import begin_stage, plan, stage_optimizer
from nofa_jax.train.state import trained_factors
from nofa_jax.train.step import make_train_step
from nofa_jax.types import Batch, Frame

STAGES = ("general", "teeth", "compensation", "finetune", "pti")
ABLATIONS = (
    *("no_weight_net", "no_identity_condition", "no_mouth_loss", "no_latent_regularisation", "frozen_generator"),
    *("no_teeth", "no_compensation", "no_depth_regularisation"),
)
SOURCES = [f"configs/{name}.py" for name in STAGES] + [f"configs/ablations.py:{name}" for name in ABLATIONS]
COUNTS = (80, 64)


@functools.cache
def abstract_variables(use_weight_net: bool = True, use_identity: bool = True) -> dict:
    config = load_config("configs/general.py").unlock()
    config.model.deformation.update({"use_weight_net": use_weight_net, "use_identity": use_identity})
    model = build.build_model(config)
    return dict(jax.eval_shape(lambda: build.init_variables(config, model, COUNTS, jax.random.key(0))))


def variables_of(config) -> dict:
    d = config.model.deformation
    return dict(abstract_variables(d.use_weight_net, d.use_identity))


def abstract_batch(config) -> Batch:
    def frame(*lead: int) -> Frame:
        size = config.data.size
        shapes = {"image": (size, size, 3), "mask": (size, size), "cam2world": (4, 4), "intrinsics": (3, 3)}
        shapes |= {"id_coeff": (COUNTS[0],), "exp_coeff": (COUNTS[1],), "landmarks": (68, 2)}
        return Frame(**{name: jax.ShapeDtypeStruct((*lead, *shape), np.float32) for name, shape in shapes.items()})

    b, t = config.train.batch_size, config.train.targets_per_source
    return Batch(source=frame(b), target=frame(b, t), clip=jax.ShapeDtypeStruct((b,), np.int32))


def test_the_paper_is_in_the_configs() -> None:
    """Sec. 3.3 and 4.1, number by number."""
    rec, mouth, teeth = (
        dict.fromkeys((f"{p}l2", f"{p}lpips"), w) for p, w in (("", 1.0), ("mouth_", 0.5), ("teeth_", 1.0))
    )
    paper = {
        "general": (250_000, 16, rec | mouth | {"id": 0.1, "latent": 0.01}),
        "teeth": (25_000, 16, {"l2": 0.5, "lpips": 0.5, "id": 0.1, "latent": 0.01} | teeth),
        "compensation": (100_000, 32, rec | {"id": 0.1, "depth": 0.01}),
    }
    for name, (steps, batch, losses) in paper.items():
        config = load_config(f"configs/{name}.py")
        assert (config.train.steps, config.train.batch_size, config.train.learning_rate) == (steps, batch, 1e-4)
        assert config.stage[name].losses.to_dict() == losses
        assert config.train.window == 0
    photo = load_config("configs/finetune.py")
    assert photo.stage.finetune.losses.to_dict() == rec | mouth | {"id": 0.1, "depth": 0.01}
    stages = plan(load_config("configs/pti.py"))
    assert [(stage.name, stage.stop - stage.start) for stage in stages] == [("latent", 500), ("generator", 1000)]
    assert stages[0].options.losses.to_dict() == rec | {"id": 0.1}


@pytest.mark.parametrize("size", ["", "small", "quickstart"])
@pytest.mark.parametrize("source", SOURCES[1:])
def test_every_config_builds(source: str, size: str) -> None:
    separator = "," if ":" in source else ":"
    config = load_config(f"{source}{separator}{size}" if size else source)
    build.build_model(config)
    names = {"train.steps", "train.batch_size", "train.checkpoint_every", "seed"}
    assert names <= {f"train.{key}" for key in config.train} | set(config)
    if not size:
        for stage in plan(config):
            assert trained_factors(variables_of(config)["params"], stage.options.trainable)


@pytest.mark.parametrize(
    ("name", "stage", "gone"),
    [
        ("no_mouth_loss", "general", {"mouth_l2", "mouth_lpips"}),
        ("no_latent_regularisation", "general", {"latent"}),
        ("no_depth_regularisation", "compensation", {"depth"}),
    ],
)
def test_an_ablation_leaves_out_its_loss_alone(name: str, stage: str, gone: set[str]) -> None:
    whole, ablated = (load_config(f"configs/{s}") for s in (f"{stage}.py", f"ablations.py:{name}"))
    assert set(whole.stage[stage].losses) - set(ablated.stage[stage].losses) == gone
    rest = {term: weight for term, weight in whole.stage[stage].losses.items() if term not in gone}
    assert ablated.stage[stage].losses.to_dict() == rest


def test_ablations_of_the_model() -> None:
    parts = {
        name: variables_of(load_config(f"configs/ablations.py:{name}"))["params"]["deformation"]
        for name in ABLATIONS[:2]
    }
    assert not any(name.startswith("w_net") for name in parts["no_weight_net"])
    whole = abstract_variables()["params"]["deformation"]
    sizes = [sum(x.size for x in jax.tree.leaves(tree)) for tree in (parts["no_identity_condition"], whole)]
    assert sizes[0] < sizes[1]
    frozen = load_config("configs/ablations.py:frozen_generator").stage.general.trainable
    trained = trained_factors(abstract_variables()["params"], frozen)
    assert {path.split("/")[0] for path in trained} == {"encoder", "deformation", "renderer", "superres"}
    assert load_config("configs/ablations.py:no_teeth").init_from.run == "runs/general"


def test_unknown_names_are_told_what_there_is() -> None:
    with pytest.raises(UserError, match="no_weight_net, no_identity"):
        load_config("configs/ablations.py:no_wnet")
    with pytest.raises(UserError, match="paper, small, quickstart"):
        load_config("configs/teeth.py:tiny")


@pytest.mark.slow
@pytest.mark.parametrize("source", SOURCES)
def test_a_step_of_every_stage_traces_at_the_papers_size(source: str) -> None:
    """By shape alone; LPIPS and ArcFace are stood in for, GFPGAN is the published one."""
    config = load_config(source)
    model, gfpgan = build.build_model(config), GFPGAN()
    image = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)
    weights = jax.eval_shape(gfpgan.init, jax.random.key(0), image)
    standing_in = perceptual_network("laplacian-pyramid", True), identity_network("lowpass-cosine", True)
    objective = Objective(*standing_in, config.train.mouth_size, Frozen("gfpgan", gfpgan.apply, weights))
    for stage in plan(config):
        variables = variables_of(config)
        params = variables.pop("params")
        losses, trainable = stage.options.losses, stage.options.trainable
        state = jax.eval_shape(lambda p, c, stage=stage: begin_stage(config, stage, p, c), params, variables)
        step = make_train_step(
            *(model, stage_optimizer(config, stage, params), objective, build.rendering(config, stage.options)),
            *(frozenset(losses), trainable, 0.999, 0),
        )
        factors = dict.fromkeys(losses, jax.ShapeDtypeStruct((), np.float32))
        after, values = jax.eval_shape(step, state, abstract_batch(config), factors, objective.networks)
        assert jax.tree.map(lambda x: x.shape, after.params) == jax.tree.map(lambda x: x.shape, params)
        assert set(values) == {*losses, "loss", "grad_norm"}
