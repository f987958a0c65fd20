"""What a training run carries from step to step, and how parameters are chosen for training."""

import re
import typing
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import optax
from flax import struct, traverse_util
from jaxtyping import Array, Int, PyTree

from nofa_jax.errors import UserError
from nofa_jax.train.muon import is_matrix, scale_by_muon

FROZEN = "frozen"


@typing.no_type_check
class TrainState(struct.PyTreeNode):
    """All of it is saved in a checkpoint; `step` counts finished steps of the whole run."""

    step: Int[Array, ""]
    params: PyTree
    ema: PyTree  # exponential moving average of params, what evaluation and the product use
    opt_state: PyTree
    constants: PyTree  # the other variable collections: buffers, batch_stats


def label_params(params: PyTree, schedule: Sequence[tuple[str, float]]) -> PyTree:
    """Names the group of every parameter: the first (regex, factor) whose regex matches its whole path decides.

    factor scales the learning rate; 0 freezes. Paths read `encoder/input_layer/kernel`. Raises UserError when a regex
    matches no parameter (a typo would silently train or freeze the wrong part) or a parameter is matched by none.
    """
    flat = traverse_util.flatten_dict(params, sep="/")
    used = [False] * len(schedule)
    labels, uncovered = {}, []
    for path in flat:
        for i, (pattern, factor) in enumerate(schedule):
            if re.fullmatch(pattern, path):
                used[i] = True
                labels[path] = FROZEN if factor == 0 else f"x{factor:g}"
                break
        else:
            uncovered.append(path)
    unused = [pattern for (pattern, _), hit in zip(schedule, used, strict=True) if not hit]
    if unused or uncovered:
        raise UserError(
            f"trainable: patterns that match no parameter (or only ones matched before): {unused}; parameters that no "
            f"pattern matches: {uncovered[:5]}{'…' if len(uncovered) > 5 else ''}. Top-level parts: {sorted(params)}"
        )
    return traverse_util.unflatten_dict(labels, sep="/")


def label_methods(params: PyTree, muon: str) -> PyTree:
    """ "muon" for the matrices whose path matches, "adam" for everything else; UserError if there is no such matrix."""
    flat = traverse_util.flatten_dict(params, sep="/")
    labels = {path: "muon" if is_matrix(x) and re.fullmatch(muon, path) else "adam" for path, x in flat.items()}
    if muon and "muon" not in labels.values():
        raise UserError(f"train.muon: {muon!r} matches no matrix; top-level parts: {sorted(params)}")
    return traverse_util.unflatten_dict(labels, sep="/")


def split_params(params: PyTree, schedule: Sequence[tuple[str, float]]) -> tuple[dict[str, Array], dict[str, Array]]:
    """(trained, frozen) leaves by path, as `label_params` tells them; `join_params` puts them together again.

    A gradient taken for the trained ones alone costs no backward pass through what is frozen.
    """
    labels = traverse_util.flatten_dict(label_params(params, schedule), sep="/")
    flat = traverse_util.flatten_dict(params, sep="/")
    trained = {path: leaf for path, leaf in flat.items() if labels[path] != FROZEN}
    return trained, {path: leaf for path, leaf in flat.items() if labels[path] == FROZEN}


def join_params(trained: Mapping[str, Array], frozen: Mapping[str, Array]) -> PyTree:
    """Leaves by path as the tree they came from."""
    return traverse_util.unflatten_dict({**trained, **frozen}, sep="/")


def trained_factors(params: PyTree, schedule: Sequence[tuple[str, float]]) -> dict[str, float]:
    """Factor of the learning rate of every trained leaf, by path."""
    labels = traverse_util.flatten_dict(label_params(params, schedule), sep="/")
    return {path: float(label[1:]) for path, label in labels.items() if label != FROZEN}


def make_optimizer(
    params: PyTree,
    schedule: Sequence[tuple[str, float]],
    learning_rate: optax.Schedule | float,
    b2: float = 0.999,
    clip: float | None = None,
    muon: str = "",
) -> optax.GradientTransformation:
    """Adam (b1 0.9) with a learning-rate factor for each group; frozen parameters hold no moments and never move.

    clip bounds the global norm of the gradient of the trained parameters alone. muon: regex of whole parameter paths;
    those of them that are matrices are moved by Muon (muon.py) instead of Adam.
    """
    labels = label_params(params, schedule)
    groups = sorted(set(jax.tree.leaves(labels)) - {FROZEN})  # in one order: a program traced again is found compiled
    if not groups:
        raise UserError("trainable: every parameter is frozen; give at least one pattern a factor above 0")
    methods = label_methods(params, muon)
    scalers = {g: optax.scale(float(g[1:])) for g in groups}
    train = optax.chain(
        optax.clip_by_global_norm(clip) if clip else optax.identity(),
        optax.multi_transform({"adam": optax.scale_by_adam(b1=0.9, b2=b2), "muon": scale_by_muon()}, methods),
        optax.multi_transform(scalers | {FROZEN: optax.set_to_zero()}, labels),
        optax.scale_by_learning_rate(learning_rate),
    )
    trained = jax.tree.map(lambda label: label != FROZEN, labels)
    frozen = jax.tree.map(lambda label: label == FROZEN, labels)
    return optax.chain(optax.masked(optax.set_to_zero(), frozen), optax.masked(train, trained))


def learning_rate_schedule(peak: float, steps: int, warmup: int, final: float) -> optax.Schedule:
    """Linear warm-up over `warmup` steps, then cosine from `peak` to `final * peak`; final=1 keeps it constant."""
    if final == 1.0 and warmup == 0:
        return optax.constant_schedule(peak)
    return optax.warmup_cosine_decay_schedule(
        init_value=0.0 if warmup else peak,
        peak_value=peak,
        warmup_steps=warmup,
        decay_steps=max(steps, warmup + 1),
        end_value=peak * final,
    )


def update_ema(ema: PyTree, params: PyTree, decay: float, step: Int[Array, ""]) -> PyTree:
    """ema <- d ema + (1 - d) params with d = min(decay, (1 + step) / (10 + step)), so early averages are not stale."""
    d = jnp.minimum(decay, (1.0 + step) / (10.0 + step))
    return jax.tree.map(lambda e, p: e + (1.0 - d) * (p - e), ema, params)
