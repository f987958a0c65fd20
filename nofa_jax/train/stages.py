"""A run as a list of stages: the paper's training paragraph as data."""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from nofa_jax.errors import UserError
from nofa_jax.train.state import TrainState, learning_rate_schedule, make_optimizer


@dataclasses.dataclass(frozen=True)
class Stage:
    """Steps start <= step < stop of a run; `options` is config.stage.NAME."""

    name: str
    start: int
    stop: int
    options: ConfigDict


def plan(config: ConfigDict) -> list[Stage]:
    """config.stages in order, each up to its share `until` of config.train.steps; the last must end at 1."""
    stages: list[Stage] = []
    for name in config.stages:
        if name not in config.stage:
            raise UserError(f"config.stages names {name!r}; config.stage has {', '.join(config.stage.keys())}")
        start = stages[-1].stop if stages else 0
        stop = round(config.stage[name].until * config.train.steps)
        if stop < start:
            raise UserError(f"config.stage.{name}.until ends before the stage before it")
        stages.append(Stage(name, start, stop, config.stage[name]))
    if not stages or stages[-1].stop != config.train.steps:
        raise UserError("config.stages: the last stage must have until = 1.0")
    return stages


def stage_before(stages: list[Stage], step: int) -> Stage:
    """The stage whose optimizer made the state after `step` finished steps."""
    return next(stage for stage in stages if step <= stage.stop)


def stage_optimizer(config: ConfigDict, stage: Stage, params: PyTree):
    """The stage's own Adam: fresh moments and a schedule of its own length."""
    t = config.train
    steps = stage.stop - stage.start
    schedule = learning_rate_schedule(
        t.learning_rate, steps, min(t.learning_rate_warmup, steps // 10), t.learning_rate_final
    )
    return make_optimizer(params, stage.options.trainable, schedule, t.adam_b2, t.clip or None, t.muon)


def begin_stage(config: ConfigDict, stage: Stage, params: PyTree, constants: PyTree) -> TrainState:
    """State at the first step of a stage: earlier parameters carry over, the average starts from them."""
    return TrainState(
        step=jnp.asarray(stage.start, jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),  # a copy: the step donates both
        opt_state=stage_optimizer(config, stage, params).init(params),
        constants=constants,
    )


def abstract_states(config: ConfigDict, stages: list[Stage], state: TrainState) -> Callable[[int], TrainState]:
    """Shapes of the state after a number of steps; the optimizer's part differs from stage to stage."""

    def after(step: int) -> TrainState:
        stage = stage_before(stages, step)
        return jax.eval_shape(lambda p, c: begin_stage(config, stage, p, c), state.params, state.constants)

    return after
