"""Adapting a trained model to one photo: one-shot fine-tuning of C (Sec. 3.3, Eq. 12), and PTI, the paper's baseline.

Phases run one after the other, each with its own trained part, losses and rate. While C alone is trained, E and G run
once: ws, the canonical planes and the feature that C reads are constants of the loop. It stops when the error on views
it does not train on (`held_out`) no longer falls, and keeps the parameters that were best there.
"""

import dataclasses
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from nofa_jax.models.nofa import NOFA, Volume
from nofa_jax.ops.resample import shrink
from nofa_jax.progress import Progress, clock
from nofa_jax.train.held_out import HeldOutViews, orbit, warp_photo
from nofa_jax.train.objective import Objective, View, weighted_sum
from nofa_jax.train.state import join_params, split_params, trained_factors
from nofa_jax.train.step import Rendering
from nofa_jax.types import Frame, Output

C_ALONE = (("compensation/.*", 1.0), (".*", 0.0))
IMPROVEMENT = 0.99  # an error counts as lower when it is below this share of the lowest so far

LEAST_VISIBLE = 0.05  # share of the held-out views' pixels


@dataclasses.dataclass(frozen=True)
class Phase:
    """Adam with a cosine from `learning_rate` to a tenth of it, for at most `steps`."""

    steps: int
    learning_rate: float
    losses: Mapping[str, float]  # terms and their weights
    trainable: Sequence[tuple[str, float]] = C_ALONE  # as `state.label_params` takes it
    compensate: bool = True


@dataclasses.dataclass(frozen=True)
class Limits:
    """When a phase ends before its steps are done."""

    seconds: float = 0.0  # for all phases together, compilation included; 0: any number
    check_every: int = 0  # steps from one look at the held-out views to the next; 0: never
    patience: int = 3  # looks without improvement


@dataclasses.dataclass(frozen=True)
class Finetuned:
    """The model adapted to one photo, and what it took."""

    variables: PyTree
    steps: int
    seconds: float  # compilation included
    losses: dict[str, float]  # at the last step, unweighted
    held_out: list[tuple[int, float]]  # (step, error), empty if never looked at
    stopped: str  # "steps", "no improvement" or "time"


class Finetuner:
    """Compiled once for a model, used for any number of photos."""

    def __init__(
        self,
        model: NOFA,
        rendering: Rendering,
        objective: Objective,
        phases: Sequence[Phase],
        limits: Limits = Limits(),
        seed: int = 0,
    ) -> None:
        self.model, self.objective, self.seed = model, objective, seed
        self.rendering = dataclasses.replace(rendering, window=0)
        self.phases, self.limits = tuple(phases), limits
        self._optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())
        self._steps = [jax.jit(self._make_step(phase), donate_argnums=(0, 1)) for phase in self.phases]
        self._canonical = jax.jit(lambda v, image: model.apply(v, image, method="canonical_volume"))
        self._views = jax.jit(self._held_out_views)
        self._errors = [jax.jit(self._make_error(phase)) for phase in self.phases]

    def _make_step(self, phase: Phase) -> Callable[..., tuple[dict[str, Array], PyTree, dict[str, Array]]]:
        def step(trained, opt_state, frozen, constants, base, source: Frame, rate, key, networks):
            def loss(trained: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
                variables = {"params": join_params(trained, frozen), **constants}
                volume = self._volume(variables, base, source, phase.compensate)
                output = self._render(variables, volume, source, source.cam2world, key)
                view = View(image=source.image, mask=source.mask, landmarks=source.landmarks)
                losses = self.objective(frozenset(phase.losses), output, volume, view, networks)
                return weighted_sum(losses, phase.losses), losses

            (_, losses), grads = jax.value_and_grad(loss, has_aux=True)(trained)
            updates, opt_state = self._optimizer.update(grads, opt_state)
            factors = trained_factors(join_params(trained, frozen), phase.trainable)
            trained = jax.tree.map(lambda p, factor, update: p - rate * factor * update, trained, factors, updates)
            return trained, opt_state, losses

        return step

    def _volume(self, variables: PyTree, base: tuple[Volume, Array] | None, source: Frame, compensate: bool) -> Volume:
        if base is None:
            return self.model.apply(variables, source.image, compensate, method="volume")
        canonical, feature = base
        delta = self.model.apply(variables, feature, source.image, method="compensate")
        return canonical.replace(planes=canonical.canonical + delta, compensation=delta)

    def _render(
        self, variables: PyTree, volume: Volume, source: Frame, cameras: Float[Array, "v 4 4"], key: Array | None = None
    ) -> Output:
        def repeat(x: Array) -> Array:
            return jnp.repeat(x, len(cameras), axis=0)

        seen = (repeat(x) for x in (source.intrinsics, source.id_coeff, source.exp_coeff))
        planes, ws = repeat(volume.planes), repeat(volume.ws)
        options = {"resolution": self.rendering.resolution, "key": key, "method": "render"}
        return self.model.apply(variables, planes, ws, cameras, *seen, **options)

    def _held_out_views(self, variables: PyTree, source: Frame) -> HeldOutViews:
        volume = self.model.apply(variables, source.image, True, method="volume")
        cameras = orbit(source.cam2world)
        all_views = self._render(variables, volume, source, jnp.concatenate([source.cam2world, cameras]))
        own, views = (jax.tree.map(lambda x, rows=rows: x[rows], all_views) for rows in (slice(0, 1), slice(1, None)))
        return warp_photo(source, own, cameras, views)

    def _make_error(self, phase: Phase) -> Callable[..., Array]:
        def error(trained, frozen, constants, base, source: Frame, views: HeldOutViews) -> Array:
            variables = {"params": join_params(trained, frozen), **constants}
            volume = self._volume(variables, base, source, phase.compensate)
            image = shrink(self._render(variables, volume, source, views.cam2world).image, views.image.shape[1])
            squared = jnp.mean(jnp.square(image - views.image), axis=-1)
            return jnp.sum(squared * views.visible) / jnp.maximum(jnp.sum(views.visible), 1.0)

        return error

    def __call__(
        self, variables: PyTree, source: Frame, steps: int | None = None, show_progress: bool = True
    ) -> Finetuned:
        """Adapts the model to `source` (leading axis 1); `variables` are not changed.

        steps: exactly so many, without stopping early (one phase only); 0 returns the variables as they are.
        """
        begin = time.perf_counter()
        phases, limits = self.phases, self.limits
        if steps is not None:
            (phase,) = phases
            phases, limits = (dataclasses.replace(phase, steps=steps),), Limits()
        views = self._views(variables, source) if limits.check_every else None
        if views is not None and float(views.visible.mean()) < LEAST_VISIBLE:
            views = None  # a model that shows no face yet has no views to hold out: all steps are taken
        end = begin + limits.seconds if limits.seconds else float("inf")
        total, done, losses, history, stopped = sum(p.steps for p in phases), 0, {}, [], "steps"
        progress = Progress(total, "fine-tuning on the photo") if show_progress else None
        for index, phase in enumerate(phases):
            run = _PhaseRun(self, index, phase, variables, source)
            best, stopped = _Best(limits.patience), "steps"
            for i in range(phase.steps):
                if views is not None and i % limits.check_every == 0:
                    history.append((done, run.error(views)))
                    if not best.improving(history[-1][1], run.trained):
                        stopped = "no improvement"
                        break
                if time.perf_counter() > end and i > 0:
                    stopped = "time"
                    break
                losses = run.step(i, done)
                done += 1
                if progress:
                    progress.update(**_shown(losses, history, end))
            if views is not None and stopped != "no improvement":
                history.append((done, run.error(views)))
                best.improving(history[-1][1], run.trained)
            variables = run.variables(best.trained)
        if progress:
            progress.close()
        values = {name: float(value) for name, value in losses.items()}
        return Finetuned(variables, done, time.perf_counter() - begin, values, history, stopped)


class _PhaseRun:
    """A phase on one photo: what changes from step to step, and what does not."""

    def __init__(self, tuner: Finetuner, index: int, phase: Phase, variables: PyTree, source: Frame) -> None:
        self.tuner, self.index, self.phase, self.source = tuner, index, phase, source
        trained, self.frozen = split_params(variables["params"], phase.trainable)
        self.trained = jax.tree.map(jnp.array, trained)  # a copy: the step donates it
        self.constants = {name: tree for name, tree in variables.items() if name != "params"}
        only_c = phase.compensate and all(path.startswith("compensation/") for path in trained)
        self.base = tuner._canonical(variables, source.image) if only_c else None
        self.opt_state = tuner._optimizer.init(self.trained)

    def step(self, i: int, done: int) -> dict[str, Array]:
        rate = self.phase.learning_rate * (0.1 + 0.45 * (1 + np.cos(np.pi * i / self.phase.steps)))
        key = jax.random.fold_in(jax.random.key(self.tuner.seed), done)
        rest = (self.frozen, self.constants, self.base, self.source, jnp.float32(rate), key)
        step = self.tuner._steps[self.index]
        self.trained, self.opt_state, losses = step(self.trained, self.opt_state, *rest, self.tuner.objective.networks)
        return losses

    def error(self, views: HeldOutViews) -> float:
        error = self.tuner._errors[self.index]
        return float(error(self.trained, self.frozen, self.constants, self.base, self.source, views))

    def variables(self, trained: dict[str, Array] | None) -> PyTree:
        """With the parameters given, or the last ones."""
        return {"params": join_params(self.trained if trained is None else trained, self.frozen), **self.constants}


class _Best:
    """The parameters with the lowest error so far, and whether there is hope for lower."""

    def __init__(self, patience: int) -> None:
        self.patience, self.left = patience, patience
        self.error = float("inf")
        self.trained: dict[str, Array] | None = None

    def improving(self, error: float, trained: dict[str, Array]) -> bool:
        self.left = self.patience if error < IMPROVEMENT * self.error else self.left - 1
        if error < self.error:
            self.error, self.trained = error, jax.tree.map(jnp.copy, trained)  # the step donates its own
        return self.left > 0


def _shown(losses: Mapping[str, Array], history: list[tuple[int, float]], end: float) -> dict[str, Any]:
    shown: dict[str, Any] = {"l2": float(losses["l2"])} if "l2" in losses else {}
    if history:
        shown["held_out"] = history[-1][1]
    if end < float("inf"):
        shown["at_most"] = clock(max(end - time.perf_counter(), 0.0))
    return shown
