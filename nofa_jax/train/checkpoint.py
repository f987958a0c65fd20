"""Checkpoints that survive kills, full disks and flipped bits: workdir/checkpoints/STEP.

Orbax writes under a temporary name and renames at the end, so a kill leaves no half checkpoint under a final name; but
it restores flipped bytes without a word, hence the hashes of checkpoint_files.py, which every restore verifies. Older
checkpoints are deleted only after a newer one is complete.
"""

import shutil
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, SupportsFloat

import jax
import numpy as np
import orbax.checkpoint as ocp
from jaxtyping import PyTree

from nofa_jax.errors import UserError
from nofa_jax.train.checkpoint_files import (
    DamagedCheckpoint,
    Restored,
    list_steps,
    read_items,
    read_meta,
    read_state,
    save_args,
    write_errors,
)
from nofa_jax.train.digest import params_digest

__all__ = ["Checkpointer", "Restored", "load", "load_params", "params_digest"]

_FOLDER = "checkpoints"


class Checkpointer:
    """Saves and restores a run's state. One run per workdir: hold `open_workdir` while using it.

    Keeps the newest `keep` checkpoints, and with `best` the one whose metric of that name is best (`mode` max or min).
    On several hosts every process makes the same calls.
    """

    def __init__(self, workdir: str | Path, keep: int = 3, best: str | None = None, mode: str = "max") -> None:
        if keep < 1 or mode not in ("max", "min"):
            raise UserError(f"checkpoints: keep must be at least 1 and mode max or min, got {keep} and {mode!r}")
        self._folder = Path(workdir).absolute() / _FOLDER
        self._keep, self._best, self._mode = keep, best, mode
        self._metrics: dict[int, dict[str, float]] = {}  # by step, read or written before
        self._bytes = 0  # size of the last save
        with write_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._delete_unfinished()
        self._orbax = ocp.AsyncCheckpointer(ocp.CompositeCheckpointHandler())

    def steps(self) -> list[int]:
        """Steps with a complete checkpoint, oldest first, whether good or damaged."""
        return sorted(list_steps(self._folder))

    def save(
        self,
        step: int,
        state: PyTree,
        extra: Mapping[str, Any] | None = None,
        metrics: Mapping[str, SupportsFloat] | None = None,
        force: bool = False,
    ) -> bool:
        """Writes `state` (a mapping or dataclass: its fields are the items) in the background; returns whether it did.

        Returns once the values are copied, so the caller may donate them. `extra` is any JSON (the data iterator's
        state, a config hash); `metrics` feed `best`. A step that is already saved is left alone unless `force`. Raises
        UserError when this save, or the one before it, cannot be written (disk full, not writable).
        """
        self.wait()
        if step in self.steps() and not force:
            return False
        args, meta = save_args(step, state, extra or {}, metrics or {})
        self._bytes = meta["bytes"]
        with write_errors(self._folder, self._bytes):
            self._orbax.save(self._folder / f"{step:08d}", args, force=force)
        self._metrics[step] = meta["metrics"]
        return True

    def wait(self) -> None:
        """Blocks until the last save is complete, then deletes what need not be kept. Raises UserError as `save`."""
        with write_errors(self._folder, self._bytes):
            try:
                self._orbax.wait_until_finished()
            except Exception:
                self._delete_unfinished()  # gives the space back
                raise
            self._delete_old()

    def restore(self, abstract_state: PyTree | Callable[[int], PyTree]) -> Restored | None:
        """The newest good checkpoint, or None when there is none at all.

        `abstract_state` has the structure, shapes and dtypes wanted, as arrays or ShapeDtypeStructs; their shardings,
        if any, place the result. A function of the step gives it where the structure depends on the step. Damaged
        checkpoints are renamed to STEP.damaged with a warning. Raises UserError when all are damaged, or when the
        newest good one is of another model.
        """
        self.wait()
        found = _newest_good(
            list_steps(self._folder), lambda path: read_state(path, abstract_state), self._folder, self._set_aside
        )
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
        paths = list_steps(self._folder)
        keep = set(sorted(paths)[-self._keep :])
        if self._best is not None:
            scores = {step: score for step, path in paths.items() if (score := self._score(step, path)) is not None}
            if scores:
                sign = 1.0 if self._mode == "max" else -1.0
                keep.add(max(scores, key=lambda step: (sign * scores[step], step)))
        if jax.process_index() == 0:
            for step in paths.keys() - keep:
                shutil.rmtree(paths[step])

    def _score(self, step: int, path: Path) -> float | None:
        if step not in self._metrics:
            try:
                self._metrics[step] = read_meta(path)["metrics"]
            except DamagedCheckpoint:
                self._metrics[step] = {}
        score = self._metrics[step].get(self._best or "")
        return None if score is None or np.isnan(score) else score

    def _delete_unfinished(self) -> None:
        if jax.process_index() == 0:
            for path in self._folder.glob("*.orbax-checkpoint-tmp*"):
                shutil.rmtree(path, ignore_errors=True)

    def _set_aside(self, path: Path) -> None:
        if jax.process_index() == 0:
            with write_errors(self._folder):
                target = path.with_name(path.name + ".damaged")
                shutil.rmtree(target, ignore_errors=True)
                path.rename(target)


def load(workdir: str | Path, items: Sequence[str], step: int | None = None) -> Restored:
    """Items of the newest good checkpoint (or of `step`'s) as nested dicts of numpy arrays, `state[item]`; verified.

    Reads only; damaged checkpoints are skipped with a warning. Raises UserError when there is no good checkpoint, or
    no such step or item.
    """
    folder = Path(workdir).absolute() / _FOLDER
    paths = list_steps(folder)
    if step is not None:
        if step not in paths:
            raise UserError(f"no checkpoint of step {step} in {folder}; there are {sorted(paths) or 'none'}")
        paths = {step: paths[step]}
    found = _newest_good(paths, lambda path: read_items(path, items), folder)
    if found is None:
        raise UserError(f"no checkpoint in {folder}; train first: python train.py --config=… --workdir={workdir}")
    return found


def load_params(workdir: str | Path, step: int | None = None) -> dict[str, Any]:
    """The averaged (EMA) parameters alone, as `load` returns them."""
    return load(workdir, ("ema",), step).state["ema"]


def _newest_good(
    paths: Mapping[int, Path],
    read: Callable[[Path], Restored],
    folder: Path,
    set_aside: Callable[[Path], None] = lambda path: None,
) -> Restored | None:
    """Tries checkpoints, newest first, until `read` accepts one; warns of each damaged one that it passed."""
    damaged: dict[Path, str] = {}
    found = None
    for step in sorted(paths, reverse=True):
        try:
            found = read(paths[step])
            break
        except DamagedCheckpoint as error:
            damaged[paths[step]] = str(error)
    if damaged and found is None:
        listing = "; ".join(f"{path.name}: {problem}" for path, problem in damaged.items())
        raise UserError(f"every checkpoint in {folder} is damaged ({listing}); choose another --workdir to start anew")
    for path, problem in damaged.items():
        warnings.warn(
            f"checkpoint {path} is damaged ({problem}); falling back to step {found.step if found else None}",
            RuntimeWarning,
            stacklevel=3,
        )
        set_aside(path)
    return found
