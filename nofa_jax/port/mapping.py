"""The engine of every porter: a table of rules turns a PyTorch state dict into Flax variables, or fails.

A porter is a list of `Rule` and `Ignore`. Each source tensor must match exactly one of them and each leaf of the
target (from `jax.eval_shape(model.init, …)`) must be filled exactly once with the right shape and dtype. Nothing is
guessed from ranks or name fragments and nothing is skipped silently: one error names every leftover on both sides.

    RULES = [
        Rule(r"encoder\\.(\\d+)\\.weight", r"params/encoder/layer_\\1/kernel", conv),
        Rule(r"encoder\\.(\\d+)\\.bias", r"params/encoder/layer_\\1/bias"),
        Ignore(r".*\\.num_batches_tracked", "a training counter"),
    ]
    variables = convert(state, RULES, jax.eval_shape(model.init, key, x))
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from nofa_jax.errors import UserError

Transform = Callable[[np.ndarray], np.ndarray]


def keep(x: np.ndarray) -> np.ndarray:
    return x


def conv(x: np.ndarray) -> np.ndarray:
    """Convolution kernel [out, in, h, w] -> [h, w, in, out]."""
    return np.transpose(x, (2, 3, 1, 0))


def linear(x: np.ndarray) -> np.ndarray:
    """Matrix [out, in] -> [in, out]."""
    return np.transpose(x, (1, 0))


def channels_last(x: np.ndarray) -> np.ndarray:
    """Feature map [c, h, w] -> [h, w, c]."""
    return np.transpose(x, (1, 2, 0))


def pointwise(x: np.ndarray) -> np.ndarray:
    """1x1 convolution kernel [out, in, 1, 1] -> matrix [in, out]."""
    return np.transpose(x[:, :, 0, 0], (1, 0))


@dataclass(frozen=True)
class Rule:
    """Source keys that match `source` in full go to the "/"-joined path `target` (`\\1`, `\\g<name>` are expanded)."""

    source: str  # regular expression
    target: str | Callable[[re.Match[str]], str]
    transform: Transform = keep


@dataclass(frozen=True)
class Ignore:
    """Source keys that match `source` in full are not ported, for a reason worth a sentence."""

    source: str
    reason: str


def convert(state: Mapping[str, np.ndarray], rules: Sequence[Rule | Ignore], target: Mapping, name: str = "weights"):
    """Fills `target` from `state`.

    Args:
      state: the source tensors by name.
      rules: the porter's table.
      target: nested dict of arrays or `jax.ShapeDtypeStruct`, collections outermost ("params", "buffers", …).
      name: what the error calls the source, e.g. the file's name.

    Returns:
      A nested dict of numpy arrays with the structure, shapes and dtypes of `target`.

    Raises:
      UserError: one message with the source tensors that no rule (or more than one) takes, the target leaves that
        nothing (or more than one tensor) fills, and the wrong shapes and dtypes.
    """
    wanted = traverse_util.flatten_dict(_plain(target), sep="/")
    filled: dict[str, np.ndarray] = {}
    origin: dict[str, str] = {}
    unused, ambiguous, misfits = [], [], []
    for key, value in state.items():
        matches = [(rule, match) for rule in rules if (match := re.fullmatch(rule.source, key))]
        if len(matches) != 1:
            (ambiguous if matches else unused).append(key)
            continue
        rule, match = matches[0]
        if isinstance(rule, Ignore):
            continue
        path = match.expand(rule.target) if isinstance(rule.target, str) else rule.target(match)
        if path not in wanted:
            unused.append(f"{key} (-> {path}, which the model lacks)")
        elif path in filled:
            misfits.append(f"{path} filled by both {origin[path]} and {key}")
        else:
            origin[path] = key
            filled[path], problem = _fit(value, rule.transform, wanted[path])
            if problem:
                misfits.append(f"{key} -> {path}: {problem}")
    missing = [path for path in wanted if path not in filled]
    problems = [
        _listed("source tensors that no rule takes", unused),
        _listed("source tensors that several rules take", ambiguous),
        _listed("model leaves that nothing fills", missing),
        _listed("misfits", misfits),
    ]
    if any(problems):
        raise UserError(f"{name} does not fit the model: " + "; ".join(p for p in problems if p))
    return traverse_util.unflatten_dict({path: filled[path] for path in wanted}, sep="/")


def _plain(tree: Mapping) -> dict:
    return {k: _plain(v) if isinstance(v, Mapping) else v for k, v in tree.items()}


def _fit(value: np.ndarray, transform: Transform, leaf: jax.ShapeDtypeStruct) -> tuple[np.ndarray, str]:
    """The transformed value in the leaf's dtype, and what is wrong with it ("" when nothing is)."""
    value = np.asarray(value)
    try:
        result = transform(value)
    except (ValueError, IndexError):
        name = getattr(transform, "__name__", transform)
        return value, f"shape {list(value.shape)} does not suit the transform {name}"
    if tuple(result.shape) != tuple(leaf.shape):
        return result, f"shape {list(result.shape)}, wanted {list(leaf.shape)}"
    # Floats of any width are cast (half-precision checkpoints exist); a float for an int or the like is a mistake.
    floats = [jnp.issubdtype(x.dtype, jnp.floating) for x in (result, leaf)]  # numpy calls bfloat16's kind "V"
    if not all(floats) and np.dtype(result.dtype).kind != np.dtype(leaf.dtype).kind:
        return result, f"dtype {result.dtype}, wanted {leaf.dtype}"
    return np.asarray(result, dtype=leaf.dtype, order="C"), ""  # ascontiguousarray would give scalars an axis


def _listed(what: str, names: list[str], most: int = 8) -> str:
    if not names:
        return ""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{len(names)} {what} ({', '.join(names[:most])}{more})"
