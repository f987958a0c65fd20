"""Steps whose loss or gradient is not finite: named, their batch kept, skipped as often as allowed, then the end.

Where steps may be skipped, the step itself (train/step.py) leaves parameters, averages and moments as they were.
"""

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np
from flax import traverse_util

from nofa_jax.errors import UserError
from nofa_jax.progress import log
from nofa_jax.train.digest import flatten
from nofa_jax.types import Batch, Frame

FOLDER = "nonfinite"


class NonFinite:
    """Called after every step with its metrics; `allowed`: such steps that this start of the run may skip."""

    def __init__(self, workdir: str | Path, allowed: int = 0) -> None:
        self._folder, self._allowed, self._skipped = Path(workdir) / FOLDER, allowed, 0

    def __call__(self, step: int, values: Mapping[str, float], batch: Batch) -> None:
        """Raises UserError, naming the terms and the batch's file, when the step counted `step` may not be skipped."""
        bad = [name for name, value in values.items() if not np.isfinite(value)]
        if not bad:
            return
        what = f"step {step}: not finite: {', '.join(bad)}; {self._save(step, batch)}"
        self._skipped += 1
        if self._skipped > self._allowed:
            raise UserError(
                f"{what}. The same command comes to this step again from the last checkpoint; lower "
                "train.learning_rate, or set train.skip_nonfinite to the number of such steps to leave out"
            )
        log(f"{what}; left out ({self._skipped} of {self._allowed})")

    def _save(self, step: int, batch: Batch) -> str:
        process = f"-process{jax.process_index()}" if jax.process_count() > 1 else ""
        path = self._folder / f"{step:07d}{process}.npz"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            np.savez(path, allow_pickle=False, **{name: np.asarray(leaf) for name, leaf in flatten(batch).items()})
        except OSError as error:
            return f"its batch is lost, {path} cannot be written: {error.strerror}"
        return f"its batch is in {path}"


def load_batch(path: str | Path) -> Batch:
    """The batch that a step failed on, as it was."""
    with np.load(path) as file:
        fields = traverse_util.unflatten_dict(dict(file), sep="/")
    return Batch(source=Frame(**fields["source"]), target=Frame(**fields["target"]), clip=fields["clip"])
