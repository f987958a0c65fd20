"""One-shot fine-tuning (Sec. 3.3, Eq. 12): the compensation network C adapted to one photo, all else frozen.

Only C changes, so E and G run once: ws, the canonical planes and the feature that C reads are constants of the loop.
"""

import dataclasses
import time
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, PyTree

from nofa_jax.models.nofa import NOFA, Volume
from nofa_jax.progress import Progress
from nofa_jax.train.objective import Objective, View, weighted_sum
from nofa_jax.train.step import Rendering
from nofa_jax.types import Frame, Output


@dataclasses.dataclass(frozen=True)
class Finetuned:
    """The model adapted to one photo, and what it took."""

    variables: PyTree
    steps: int
    seconds: float  # of the loop, compilation included
    losses: dict[str, float]  # at the last step, unweighted


class Finetuner:
    """Compiled once for a model, used for any number of photos.

    weights: loss terms of Eq. 12 and their factors. Adam with a cosine to a tenth of `learning_rate`.
    """

    def __init__(
        self,
        model: NOFA,
        rendering: Rendering,
        objective: Objective,
        weights: Mapping[str, float],
        learning_rate: float,
        seed: int = 0,
    ) -> None:
        self.model, self.objective, self.seed = model, objective, seed
        self.rendering = dataclasses.replace(rendering, window=0, compensate=True)
        self.weights, self.learning_rate = dict(weights), learning_rate
        self._optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.scale_by_adam())
        self._step = jax.jit(self._make_step(), donate_argnums=(0, 1))
        self._canonical = jax.jit(lambda v, image: model.apply(v, image, method="canonical_volume"))

    def _make_step(self):
        terms, weights, rendering = frozenset(self.weights), self.weights, self.rendering

        def step(params, opt_state, frozen, base, source: Frame, rate, key):
            def loss(compensation: PyTree) -> tuple[Array, dict[str, Array]]:
                variables = frozen | {"params": frozen["params"] | {"compensation": compensation}}
                volume, output = self._render(variables, base, source, rendering, key)
                view = View(image=source.image, mask=source.mask, landmarks=source.landmarks)
                losses = self.objective(terms, output, volume, view)
                return weighted_sum(losses, weights), losses

            (_, losses), grads = jax.value_and_grad(loss, has_aux=True)(params)
            updates, opt_state = self._optimizer.update(grads, opt_state)
            return jax.tree.map(lambda p, u: p - rate * u, params, updates), opt_state, losses

        return step

    def _render(
        self, variables: PyTree, base: tuple[Volume, Array], source: Frame, rendering: Rendering, key: Array
    ) -> tuple[Volume, Output]:
        canonical, feature = base
        delta = self.model.apply(variables, feature, source.image, method="compensate")
        volume = canonical.replace(planes=canonical.canonical + delta, compensation=delta)
        output = self.model.apply(
            variables,
            volume.planes,
            volume.ws,
            source.cam2world,
            source.intrinsics,
            source.id_coeff,
            source.exp_coeff,
            resolution=rendering.resolution,
            key=key,
            method="render",
        )
        return volume, output

    def __call__(self, variables: PyTree, source: Frame, steps: int, show_progress: bool = True) -> Finetuned:
        """Adapts C to `source` (leading axis 1); `variables` are not changed. steps=0 returns them as they are."""
        begin = time.perf_counter()
        params = jax.tree.map(jnp.array, variables["params"]["compensation"])
        frozen = dict(variables) | {"params": {k: v for k, v in variables["params"].items() if k != "compensation"}}
        base = self._canonical(variables, source.image)
        opt_state = self._optimizer.init(params)
        key = jax.random.key(self.seed)
        losses: dict[str, Array] = {}
        progress = Progress(steps, "fine-tuning C on the photo") if show_progress else None
        for i in range(steps):
            rate = self.learning_rate * (0.1 + 0.45 * (1 + np.cos(np.pi * i / steps)))
            params, opt_state, losses = self._step(
                params, opt_state, frozen, base, source, jnp.float32(rate), jax.random.fold_in(key, i)
            )
            if progress:
                progress.update(l2=float(losses["l2"])) if "l2" in losses else progress.update()
        if progress:
            progress.close()
        adapted = dict(variables) | {"params": dict(variables["params"]) | {"compensation": params}}
        return Finetuned(
            variables=adapted,
            steps=steps,
            seconds=time.perf_counter() - begin,
            losses={name: float(value) for name, value in losses.items()},
        )
