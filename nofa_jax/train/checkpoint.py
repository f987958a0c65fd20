"""Checkpoints that survive kills, full disks and flipped bits.

On disk (orbax; arrays in OCDBT): workdir/checkpoints/STEP/ITEM, where the items are the fields of the training state
(params, ema, opt_state, …), so that inference reads the EMA parameters alone, and `meta`, a JSON file with shape, dtype
and sha256 of every leaf, the caller's `extra` and `metrics`, and a sha256 of all that. Orbax writes under a temporary
name and renames at the end, so a kill leaves no half checkpoint under a final name; but it restores flipped bytes
without a word, hence the hashes, which every restore verifies. Older checkpoints are deleted only after a newer one is
complete.
"""

import contextlib
import dataclasses
import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import traverse_util
from jaxtyping import PyTree

from nofa_jax.errors import UserError
from nofa_jax.train.digest import flatten, leaf_digests

FORMAT = 1
_FOLDER = "checkpoints"
_META = "meta"
_CANNOT_WRITE = re.compile(
    r"no space left|resource_exhausted|permission|read-only|file too large|quota|not a directory|input/output error",
    re.IGNORECASE,
)


class DamagedCheckpoint(Exception):
    """A checkpoint that is incomplete or does not match its hashes; callers fall back to an older one."""


@dataclasses.dataclass(frozen=True)
class Restored:
    """What `Checkpointer.restore` and `load` found."""

    step: int
    state: Any  # same structure as the abstract state; from `load` a dict of nested dicts of numpy arrays
    extra: dict[str, Any]
    metrics: dict[str, float]


class Checkpointer:
    """Saves and restores a run's state. One process group per workdir: hold `open_workdir` while using it.

    Keeps the newest `keep` checkpoints, and with `best` the one whose metric of that name is best (`mode` max or min).
    """

    def __init__(self, workdir: str | Path, keep: int = 3, best: str | None = None, mode: str = "max") -> None:
        if keep < 1 or mode not in ("max", "min"):
            raise UserError(f"checkpoints: keep must be at least 1 and mode max or min, got {keep} and {mode!r}")
        self._folder = Path(workdir).absolute() / _FOLDER
        self._keep, self._best, self._mode = keep, best, mode
        self._metrics: dict[int, dict[str, float]] = {}
        with _write_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            if jax.process_index() == 0:
                for unfinished in self._folder.glob("*.orbax-checkpoint-tmp*"):
                    shutil.rmtree(unfinished)
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())

    def steps(self) -> list[int]:
        """Steps with a checkpoint, oldest first, whether good or damaged."""
        return sorted(_list(self._folder))

    def save(
        self,
        step: int,
        state: PyTree,
        extra: Mapping[str, Any] | None = None,
        metrics: Mapping[str, float] | None = None,
        force: bool = False,
    ) -> bool:
        """Writes `state` (a mapping or dataclass of items) in the background; returns whether it did.

        Returns once the values are copied, so the caller may donate them. `extra` is any JSON (the data iterator's
        state, a config hash); `metrics` feed `best`. A step that is already saved is left alone unless `force`. Raises
        UserError when this save or the one before it cannot be written (disk full, not writable).
        """
        self.wait()
        if step in self.steps() and not force:
            return False
        leaves = {path: leaf for path, leaf in flatten(state).items() if np.size(leaf)}  # orbax cannot store size 0
        meta = {
            "format": FORMAT,
            "step": step,
            "extra": dict(extra or {}),
            "metrics": {name: float(value) for name, value in (metrics or {}).items()},
            "leaves": _describe(leaves),
        }
        meta["sha256"] = _json_digest(meta)
        items = {
            name: ocp.args.PyTreeSave({path: _storable(leaves[path]) for path in paths})
            for name, paths in _by_item(leaves).items()
        }
        with _write_errors(self._folder):
            self._orbax.save(
                self._folder / f"{step:08d}", ocp.args.Composite(meta=ocp.args.JsonSave(meta), **items), force=force
            )
        self._metrics[step] = meta["metrics"]
        return True

    def wait(self) -> None:
        """Blocks until the last save is complete, then deletes what need not be kept. Raises UserError as `save`."""
        with _write_errors(self._folder):
            self._orbax.wait_until_finished()
            self._delete_old()

    def restore(self, abstract_state: PyTree) -> Restored | None:
        """The newest good checkpoint, or None when there is none at all.

        `abstract_state` has the structure, shapes and dtypes wanted, as arrays or ShapeDtypeStructs; their shardings,
        if any, place the result. Damaged checkpoints are moved aside (STEP.damaged) with a warning. Raises UserError
        when all are damaged, or when a good one is of another model.
        """
        self.wait()
        found = _newest_good(self._folder, None, lambda path: _read(path, None, abstract_state), self._set_aside)
        if found is not None:
            self._metrics[found.step] = found.metrics
        return found

    def close(self) -> None:
        """Waits for the last save. Raises UserError as `save`."""
        try:
            self.wait()
        finally:
            self._orbax.close()

    def __enter__(self) -> "Checkpointer":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()

    def _delete_old(self) -> None:
        steps = self.steps()
        keep = set(steps[-self._keep :])
        if self._best is not None:
            scores = {step: score for step in steps if (score := self._score(step)) is not None}
            if scores:
                keep.add((max if self._mode == "max" else min)(scores, key=lambda step: (scores[step], step)))
        if jax.process_index() == 0:
            for step in set(steps) - keep:
                shutil.rmtree(_list(self._folder)[step])

    def _score(self, step: int) -> float | None:
        if step not in self._metrics:
            try:
                self._metrics[step] = _read_meta(_list(self._folder)[step])["metrics"]
            except DamagedCheckpoint:
                self._metrics[step] = {}
        score = self._metrics[step].get(self._best or "")
        return None if score is None or np.isnan(score) else score

    def _set_aside(self, path: Path) -> None:
        if jax.process_index() == 0:
            target = path.with_name(path.name + ".damaged")
            shutil.rmtree(target, ignore_errors=True)
            path.rename(target)


def load(workdir: str | Path, items: Sequence[str], step: int | None = None) -> Restored:
    """Items of the newest good checkpoint (or the one of `step`) as nested dicts of numpy arrays; verified.

    Reads only; damaged checkpoints are skipped with a warning. Raises UserError when there is no good checkpoint, or
    no such step or item.
    """
    folder = Path(workdir).absolute() / _FOLDER
    found = _newest_good(folder, step, lambda path: _read(path, items, None), lambda path: None)
    if found is None:
        raise UserError(f"no checkpoint in {folder}; train first: python train.py --config=… --workdir={workdir}")
    return found


def load_params(workdir: str | Path, step: int | None = None) -> dict[str, Any]:
    """The averaged (EMA) parameters alone, as `load` returns them."""
    return load(workdir, ("ema",), step).state["ema"]


def _newest_good(folder: Path, step: int | None, read: Any, set_aside: Any) -> Restored | None:
    """Tries the checkpoints of `folder`, newest first (or that of `step` alone), until `read` accepts one."""
    paths = _list(folder)
    if step is not None:
        if step not in paths:
            raise UserError(f"no checkpoint of step {step} in {folder}; there are steps {sorted(paths) or 'none'}")
        paths = {step: paths[step]}
    damage = []
    for candidate in sorted(paths, reverse=True):
        try:
            found = read(paths[candidate])
        except DamagedCheckpoint as error:
            damage.append(f"{paths[candidate]} is damaged ({error})")
            set_aside(paths[candidate])
            continue
        for message in damage:
            warnings.warn(f"checkpoint {message}; falling back to step {candidate}", RuntimeWarning, stacklevel=3)
        return found
    if damage:
        raise UserError("no good checkpoint: " + "; ".join(damage))
    return None


def _read(path: Path, items: Sequence[str] | None, abstract_state: PyTree | None) -> Restored:
    """Restores and verifies one checkpoint: all of `abstract_state`, or the named items as numpy arrays."""
    meta = _read_meta(path)
    stored: dict[str, dict[str, Any]] = meta["leaves"]
    if abstract_state is not None:
        wanted = flatten(abstract_state)
        _check_same_model(path, stored, wanted)
        targets = {key: _target(wanted[key]) for key in stored}
    else:
        assert items is not None
        have = _by_item(stored)
        if missing := [item for item in items if item not in have]:
            raise UserError(f"checkpoint {path} has no {missing}; it has {sorted(have)}")
        targets = {key: ocp.RestoreArgs(restore_type=np.ndarray) for item in items for key in have[item]}
    restored = _restore_leaves(path, targets)
    digests = leaf_digests(restored)
    if wrong := [key for key in targets if digests[key] != stored[key]["sha256"]]:
        raise DamagedCheckpoint(f"{len(wrong)} of {len(targets)} arrays differ from their hashes, first {wrong[0]}")
    if abstract_state is None:
        state: Any = traverse_util.unflatten_dict(restored, sep="/")
    else:
        state = jax.tree.unflatten(
            jax.tree.structure(abstract_state),
            [_as_wanted(restored.get(key), leaf) for key, leaf in wanted.items()],
        )
    return Restored(meta["step"], state, meta["extra"], meta["metrics"])


def _restore_leaves(path: Path, targets: Mapping[str, ocp.RestoreArgs]) -> dict[str, Any]:
    """Reads the leaves that `targets` names, each as its RestoreArgs say."""
    args = {
        name: ocp.args.PyTreeRestore(item=dict.fromkeys(keys, 0), restore_args={key: targets[key] for key in keys})
        for name, keys in _by_item(targets).items()
    }
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as orbax:
            found = orbax.restore(path, ocp.args.Composite(**args))
    except Exception as error:  # orbax and tensorstore raise anything at all on damaged files
        raise DamagedCheckpoint(_first_line(error)) from error
    return {key: leaf for name in args for key, leaf in found[name].items()}


def _read_meta(path: Path) -> dict[str, Any]:
    try:
        with ocp.Checkpointer(ocp.CompositeCheckpointHandler()) as orbax:
            meta = dict(orbax.restore(path, ocp.args.Composite(meta=ocp.args.JsonRestore()))[_META])
        claimed = meta.pop("sha256")
    except Exception as error:  # as above
        raise DamagedCheckpoint(f"meta: {_first_line(error)}") from error
    if claimed != _json_digest(meta):
        raise DamagedCheckpoint("meta differs from its hash")
    if meta["format"] != FORMAT:
        raise UserError(f"checkpoint {path} has format {meta['format']}, this version reads {FORMAT}")
    return meta


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


def _list(folder: Path) -> dict[int, Path]:
    if not folder.is_dir():
        return {}
    return {int(path.name): path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()}


def _by_item(keys: Mapping[str, Any]) -> dict[str, list[str]]:
    """Groups leaf paths by their first part."""
    groups: dict[str, list[str]] = {}
    for key in keys:
        groups.setdefault(key.partition("/")[0], []).append(key)
    return groups


def _describe(leaves: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    digests = leaf_digests(dict(leaves))
    return {
        key: {"shape": list(np.shape(leaf)), "dtype": _dtype(leaf), "sha256": digests[key]}
        for key, leaf in leaves.items()
    }


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


def _as_wanted(restored: Any, wanted: Any) -> Any:
    """Gives back the leaves that were not stored as they are: empty arrays, random keys, Python numbers."""
    if restored is None:
        return jnp.zeros(wanted.shape, wanted.dtype) if isinstance(wanted, jax.Array) else np.empty_like(wanted)
    if _is_key(wanted):
        return jax.random.wrap_key_data(restored, impl=jax.random.key_impl(wanted))
    return restored.item() if isinstance(wanted, int | float) else restored


def _json_digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {(str(error).strip() or 'no message').splitlines()[0][:200]}"


@contextlib.contextmanager
def _write_errors(folder: Path) -> Any:
    """Turns failures to write into UserError; anything else passes."""
    try:
        yield
    except Exception as error:
        if not isinstance(error, OSError) and not _CANNOT_WRITE.search(str(error)):
            raise
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free / 1e6
        raise UserError(f"cannot write checkpoints to {folder}: {_first_line(error)} ({free:.0f} MB free)") from error
