"""One checkpoint on disk: writing its items, reading them back, and telling a good one from a damaged one.

STEP/ITEM/… are orbax's (arrays in OCDBT), ITEM being a field of the training state; STEP/meta is JSON with shape, dtype
and sha256 of every leaf, the caller's `extra` and `metrics`, and a sha256 of all that.
"""

import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsFloat

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from jaxtyping import PyTree

from nofa_jax.errors import UserError
from nofa_jax.train.digest import flatten, leaf_digests

FORMAT = 1
_CANNOT_WRITE = re.compile(
    "no space left on device|disk quota exceeded|file too large|permission denied|read-only file system"
    "|not a directory|input/output error",
    re.IGNORECASE,
)
# orbax logs the traceback of every failure that it also raises; we say it once, in one line.
logging.getLogger("absl").addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname)


class DamagedCheckpoint(Exception):
    """A checkpoint that is incomplete or does not match its hashes; callers fall back to an older one."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """A verified checkpoint."""

    step: int
    state: Any  # structured like the abstract state; without one a dict of nested dicts of numpy arrays
    extra: dict[str, Any]
    metrics: dict[str, float]


def list_steps(folder: Path) -> dict[int, Path]:
    """The checkpoints in `folder` by step, good or damaged, without those still being written."""
    if not folder.is_dir():
        return {}
    return {int(path.name): path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()}


def save_args(
    step: int, state: PyTree, extra: Mapping[str, Any], metrics: Mapping[str, SupportsFloat]
) -> tuple[ocp.args.Composite, dict[str, Any]]:
    """What orbax is to write, and the meta among it."""
    leaves = {path: leaf for path, leaf in flatten(state).items() if np.size(leaf)}  # orbax cannot store size 0
    digests = leaf_digests(leaves)
    meta = {
        "format": FORMAT,
        "step": step,
        "extra": json.loads(json.dumps(dict(extra))),  # as it will be read: keys as strings, tuples as lists
        "metrics": {name: float(value) for name, value in metrics.items()},
        "bytes": sum(getattr(leaf, "nbytes", 8) for leaf in leaves.values()),
        "leaves": {
            path: {"shape": list(np.shape(leaf)), "dtype": _dtype(leaf), "sha256": digests[path]}
            | ({"impl": str(jax.random.key_impl(leaf))} if _is_key(leaf) else {})
            for path, leaf in leaves.items()
        },
    }
    meta["sha256"] = _json_digest(meta)
    items = {
        name: ocp.args.PyTreeSave({path: _storable(leaves[path]) for path in paths})
        for name, paths in _by_item(leaves).items()
    }
    return ocp.args.Composite(meta=ocp.args.JsonSave(meta), **items), meta


def read_state(path: Path, abstract_state: PyTree | Callable[[int], PyTree]) -> Restored:
    """All of `abstract_state`. Raises DamagedCheckpoint; UserError when the checkpoint is of another model."""
    meta = read_meta(path)
    abstract_state = abstract_state(meta["step"]) if callable(abstract_state) else abstract_state
    wanted = flatten(abstract_state)
    _check_same_model(path, meta["leaves"], wanted)
    found = _read_leaves(path, meta, {key: _target(wanted[key]) for key in meta["leaves"]})
    leaves = [_as_wanted(found.get(key), leaf, meta["leaves"].get(key, {})) for key, leaf in wanted.items()]
    state = jax.tree.unflatten(jax.tree.structure(abstract_state), leaves)
    return Restored(meta["step"], state, meta["extra"], meta["metrics"])


def read_items(path: Path, items: Sequence[str]) -> Restored:
    """The named items as nested dicts of numpy arrays. Raises as `read_state`; an unknown item is a UserError."""
    meta = read_meta(path)
    have = _by_item(meta["leaves"])
    if missing := [item for item in items if item not in have]:
        raise UserError(f"checkpoint {path} has no item {missing}; it has {sorted(have)}")
    wanted = [key for item in items for key in have[item]]
    found = _read_leaves(path, meta, {key: ocp.RestoreArgs(restore_type=np.ndarray) for key in wanted})
    return Restored(meta["step"], traverse_util.unflatten_dict(found, sep="/"), meta["extra"], meta["metrics"])


def read_meta(path: Path) -> dict[str, Any]:
    """The meta of a checkpoint, checked against its own hash. Raises DamagedCheckpoint."""
    with _damage("meta"), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as orbax:
        meta = dict(orbax.restore(path, ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"])
        if meta.pop("sha256") != _json_digest(meta):
            raise DamagedCheckpoint("meta differs from its hash")
    if meta["format"] != FORMAT:
        raise UserError(f"checkpoint {path} has format {meta['format']}, this version reads {FORMAT}")
    return meta


@contextlib.contextmanager
def write_errors(folder: Path, needed: int = 0) -> Generator[None]:
    """Turns a failure to write (disk full, not writable) into UserError; `needed`: bytes to be written, if known."""
    try:
        yield
    except Exception as error:
        known = _CANNOT_WRITE.search(str(error))
        if not isinstance(error, OSError) and known is None:
            raise
        reason = known.group(0) if known else getattr(error, "strerror", None) or _first_line(error)
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free / 1e6
        need = f"{needed / 1e6:.0f} MB needed, " if needed else ""
        raise UserError(f"cannot write checkpoints to {folder}: {reason} ({need}{free:.0f} MB free)") from error


def _read_leaves(path: Path, meta: Mapping[str, Any], targets: Mapping[str, ocp.RestoreArgs]) -> dict[str, Any]:
    """Reads the leaves that `targets` names, each as its RestoreArgs say, and verifies their hashes."""
    args = {
        name: ocp.args.PyTreeRestore(item=dict.fromkeys(keys, 0), restore_args={key: targets[key] for key in keys})
        for name, keys in _by_item(targets).items()
    }
    with _damage("arrays"), ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as orbax:
        found = orbax.restore(path, ocp.args.Composite(**args))
        leaves = {key: leaf for name in args for key, leaf in found[name].items()}
    digests = leaf_digests(leaves)
    if wrong := [key for key in targets if digests.get(key) != meta["leaves"][key]["sha256"]]:
        raise DamagedCheckpoint(f"{len(wrong)} of {len(targets)} arrays differ from their hashes, first {wrong[0]}")
    return leaves


@contextlib.contextmanager
def _damage(what: str) -> Generator[None]:
    """Any failure to read becomes DamagedCheckpoint, on every process of a multi-host run if on one.

    orbax and tensorstore raise anything at all on damaged files, so this cannot name the exceptions.
    """
    problem: Exception | None = None
    try:
        yield
    except Exception as error:
        problem = error
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        anywhere = multihost_utils.process_allgather(np.array(problem is not None)).any()
        if anywhere and problem is None:
            problem = DamagedCheckpoint(f"{what}: another process cannot read them")
    if isinstance(problem, DamagedCheckpoint):
        raise problem
    if problem is not None:
        raise DamagedCheckpoint(f"{what}: {_first_line(problem)}") from problem


def _check_same_model(path: Path, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raises UserError, naming the first differences, unless the leaves agree in name, shape and dtype."""
    want = {key: (tuple(np.shape(leaf)), _dtype(leaf)) for key, leaf in wanted.items() if np.size(leaf)}
    have = {key: (tuple(leaf["shape"]), leaf["dtype"]) for key, leaf in stored.items()}
    differences = [
        f"{key}: checkpoint {have.get(key, 'lacks it')}, model {want.get(key, 'lacks it')}"
        for key in sorted(want.keys() | have.keys())
        if want.get(key) != have.get(key)
    ]
    if differences:
        shown = "; ".join(differences[:3]) + (f"; and {len(differences) - 3} more" if len(differences) > 3 else "")
        raise UserError(f"checkpoint {path} is of another model or optimizer: {shown}")


def _by_item(keys: Mapping[str, Any]) -> dict[str, list[str]]:
    """Groups leaf paths by their first part."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(key.partition("/")[0], []).append(key)
    return groups


def _is_key(leaf: Any) -> bool:
    return hasattr(leaf, "dtype") and jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _dtype(leaf: Any) -> str:
    return str(leaf.dtype if hasattr(leaf, "dtype") else np.asarray(leaf).dtype)


def _storable(leaf: Any) -> Any:
    """What orbax is given: jax arrays as they are, random keys as their data, the rest as numpy copies."""
    if _is_key(leaf):
        return jax.random.key_data(leaf)
    return leaf if isinstance(leaf, jax.Array) else np.array(leaf)


def _target(leaf: Any) -> ocp.RestoreArgs:
    """How to restore a leaf: placed as `leaf` is, on the first device when it does not say, numpy for numpy."""
    if _is_key(leaf) or not isinstance(leaf, jax.Array | jax.ShapeDtypeStruct):
        return ocp.RestoreArgs(restore_type=np.ndarray)
    sharding = leaf.sharding or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return ocp.ArrayRestoreArgs(sharding=sharding, global_shape=leaf.shape, dtype=leaf.dtype)


def _as_wanted(restored: Any, wanted: Any, stored: Mapping[str, Any]) -> Any:
    """Gives back the leaves that were not stored as they are: empty arrays, random keys, Python numbers."""
    if restored is None:
        module = jnp if isinstance(wanted, jax.Array | jax.ShapeDtypeStruct) else np
        return module.zeros(wanted.shape, wanted.dtype)
    if _is_key(wanted):
        return jax.random.wrap_key_data(restored, impl=stored["impl"])
    return restored.item() if isinstance(wanted, int | float) else restored


def _json_digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"
