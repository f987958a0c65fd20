"""One training step: a pure function of (state, batch, weights), jitted once per stage."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, ArrayLike, PyTree

from nofa_jax.models.nofa import NOFA, Volume
from nofa_jax.train.mesh import EVERYWHERE, ROWS, by_rows, copied, hold, on_each_device
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
    skip_nonfinite: bool = False,
    accumulate: int = 1,
    mesh: Mesh | None = None,
    shardings: TrainState | None = None,
) -> jax.stages.Wrapped:
    """step(state, batch, weights, networks) -> (state, metrics): unweighted terms, `loss`, and `grad_norm` of what is
    trained.

    weights: of the terms, arrays, so that a change does not recompile. networks: `objective.networks`. trainable: the
    stage's schedule of `state.label_params`; what it freezes costs no backward pass and stays as it is, bit by bit.
    The random key is `seed` folded with the step count, so a step depends on its arguments alone and a resumed run
    repeats an uninterrupted one. The state's buffers are donated.

    skip_nonfinite: a step whose loss or gradient is not finite counts, but changes nothing else.
    accumulate: parts of the batch whose gradients are taken one after the other and averaged, to save memory.
    mesh, shardings: devices and the state's places on them (`mesh.state_shardings`); the batch lies there by rows,
    weights and networks as copies.
    """

    def loss(
        trained: Mapping[str, Array], rest: tuple[PyTree, PyTree, PyTree, PyTree], batch: Batch, key: Array
    ) -> tuple[Array, dict[str, Array]]:
        frozen, constants, weights, networks = rest
        params = hold(join_params(trained, frozen), mesh, EVERYWHERE)  # fetched whole where they are used
        volume, output, view = forward(model, {"params": params, **constants}, batch, rendering, key)
        losses = on_each_device(lambda rows, nets: objective(terms, *rows, nets), mesh)(
            hold((output, volume, view), mesh, ROWS), networks
        )
        return weighted_sum(losses, weights), losses

    gradient = _in_parts(jax.value_and_grad(loss, has_aux=True), accumulate, mesh)

    def step(
        state: TrainState, batch: Batch, weights: Mapping[str, ArrayLike], networks: PyTree
    ) -> tuple[TrainState, dict[str, Array]]:
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        trained, frozen = split_params(state.params, trainable)
        (total, losses), grads = gradient(trained, (frozen, state.constants, weights, networks), batch, key)
        every_grad = join_params(grads, jax.tree.map(jnp.zeros_like, frozen))
        updates, opt_state = optimizer.update(every_grad, state.opt_state, state.params)
        updated, _ = split_params(optax.apply_updates(state.params, updates), trainable)
        ema, frozen_ema = split_params(state.ema, trainable)
        averaged = update_ema(ema, updated, ema_decay, state.step)
        norm = optax.tree.norm(grads)
        if skip_nonfinite:
            finite = jnp.isfinite(total) & jnp.isfinite(norm)
            updated, averaged, opt_state = jax.tree.map(
                lambda new, old: jnp.where(finite, new, old),
                (updated, averaged, opt_state),
                (trained, ema, state.opt_state),
            )
        return state.replace(
            step=state.step + 1,
            params=join_params(updated, frozen),
            ema=join_params(averaged, frozen_ema),
            opt_state=opt_state,
        ), losses | {"loss": total, "grad_norm": norm}

    if mesh is None:
        return jax.jit(step, donate_argnums=0)
    places = (shardings, by_rows(mesh), copied(mesh), copied(mesh))
    return jax.jit(step, donate_argnums=0, in_shardings=places, out_shardings=(shardings, copied(mesh)))


def _in_parts(gradient: Callable, parts: int, mesh: Mesh | None) -> Callable:
    """gradient(trained, rest, batch, key), averaged over `parts` of the batch, each with a key of its own.

    Part i holds the rows i, i + parts, …: every device finds its share of each part among its own rows.
    """
    if parts == 1:
        return gradient

    def averaged(trained: PyTree, rest: PyTree, batch: Batch, key: Array) -> PyTree:
        split = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
        split = hold(split, mesh, PartitionSpec(None, *ROWS))

        def add(total: PyTree, part: tuple[Array, Batch]) -> tuple[PyTree, None]:
            number, rows = part
            return jax.tree.map(jnp.add, total, gradient(trained, rest, rows, jax.random.fold_in(key, number))), None

        shapes = jax.eval_shape(gradient, trained, rest, jax.tree.map(lambda x: x[0], split), key)
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), shapes)
        total, _ = jax.lax.scan(add, zeros, (jnp.arange(parts), split))
        return jax.tree.map(lambda x: x / parts, total)

    return averaged
