"""One training step: a pure function of (state, batch, weights), jitted once per stage."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, PyTree

from nofa_jax.models.nofa import NOFA, Volume
from nofa_jax.train.objective import Objective, View, weighted_sum
from nofa_jax.train.state import TrainState, join_params, split_params, update_ema
from nofa_jax.train.window import choose_window, cut, landmarks_in_window
from nofa_jax.types import Batch, Frame, Output


@dataclasses.dataclass(frozen=True)
class Rendering:
    """How a step renders; static under jit."""

    resolution: int  # rays per side
    output_size: int  # pixels per side after super-resolution
    window: int = 0  # rays per side of the traced window; 0 traces the whole image
    focus: float = 0.6  # share of windows put on the mouth or an eye
    compensate: bool = False  # add C's volume
    self_supervised: bool = False  # the source is its own target (compensation stage), else the batch's targets
    jitter: bool = True  # random positions of the samples on a ray


def flatten_targets(frames: Frame) -> Frame:
    """Leading axes b t -> b*t."""
    return jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), frames)


def forward(
    model: NOFA, variables: PyTree, batch: Batch, rendering: Rendering, key: Array | None
) -> tuple[Volume, Output, View]:
    """Renders every target of the batch from its source: (one volume per source, outputs b*t, what they should be)."""
    if rendering.self_supervised:
        targets, per_source = batch.source, 1
    else:
        targets, per_source = flatten_targets(batch.target), batch.target.image.shape[1]
    key_window, key_render = (None, None) if key is None else jax.random.split(key)
    view = View(image=targets.image, mask=targets.mask, landmarks=targets.landmarks)
    corner = None
    if rendering.window:
        if key_window is None:
            raise ValueError("windows are drawn at random: forward needs a key")
        corner = choose_window(key_window, targets.landmarks, rendering.resolution, rendering.window, rendering.focus)
        scale = rendering.output_size // rendering.resolution
        size = rendering.window * scale
        view = View(
            image=cut(targets.image, corner * scale, size),
            mask=cut(targets.mask[..., None], corner * scale, size)[..., 0],
            landmarks=landmarks_in_window(targets.landmarks, corner, rendering.resolution, rendering.window),
        )

    volume = model.apply(variables, batch.source.image, rendering.compensate, method="volume")
    output = model.apply(
        variables,
        jnp.repeat(volume.planes, per_source, axis=0),
        jnp.repeat(volume.ws, per_source, axis=0),
        targets.cam2world,
        targets.intrinsics,
        jnp.repeat(batch.source.id_coeff, per_source, axis=0),
        targets.exp_coeff,
        resolution=rendering.resolution,
        window=corner,
        window_size=rendering.window or None,
        key=key_render if rendering.jitter else None,
        method="render",
    )
    return volume, output, view


def make_train_step(
    model: NOFA,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    rendering: Rendering,
    terms: frozenset[str],
    trainable: Sequence[tuple[str, float]],
    ema_decay: float,
    seed: int,
) -> Callable[[TrainState, Batch, Mapping[str, ArrayLike], PyTree], tuple[TrainState, dict[str, Array]]]:
    """step(state, batch, weights, networks) -> (state, metrics): unweighted terms, `loss`, and `grad_norm` of what is
    trained.

    weights: of the terms, arrays, so that a change does not recompile. networks: `objective.networks`. trainable: the
    stage's schedule of `state.label_params`; what it freezes costs no backward pass and stays as it is, bit by bit.
    The random key is `seed` folded with the step count, so a step depends on its arguments alone and a resumed run
    repeats an uninterrupted one. The state's buffers are donated.
    """

    def step(
        state: TrainState, batch: Batch, weights: Mapping[str, ArrayLike], networks: PyTree
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        trained, frozen = split_params(state.params, trainable)

        def loss(trained: dict[str, Array]) -> tuple[Array, dict[str, Array]]:
            variables = {"params": join_params(trained, frozen), **state.constants}
            volume, output, view = forward(model, variables, batch, rendering, key)
            losses = objective(terms, output, volume, view, networks)
            return weighted_sum(losses, weights), losses

        (total, losses), grads = jax.value_and_grad(loss, has_aux=True)(trained)
        every_grad = join_params(grads, jax.tree.map(jnp.zeros_like, frozen))
        updates, opt_state = optimizer.update(every_grad, state.opt_state, state.params)
        trained, _ = split_params(optax.apply_updates(state.params, updates), trainable)
        ema, frozen_ema = split_params(state.ema, trainable)
        metrics = losses | {"loss": total, "grad_norm": optax.tree.norm(grads)}
        return state.replace(
            step=state.step + 1,
            params=join_params(trained, frozen),
            ema=join_params(update_ema(ema, trained, ema_decay, state.step), frozen_ema),
            opt_state=opt_state,
        ), metrics

    return jax.jit(step, donate_argnums=0)
