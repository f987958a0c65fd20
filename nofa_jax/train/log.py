"""Metrics of a run: workdir/metrics.jsonl for programs, TensorBoard events in workdir/tensorboard for people.

A row of metrics.jsonl is `{"step": 200, "time": 1751234567.8, "loss": 0.12, …}`; a value that is not finite is written
as Python and pandas read it (NaN, Infinity). Rows reach the file at once. A resumed run first drops the rows of steps
that it will compute again, and a last line that a kill cut off, so each step appears once; TensorBoard is told to do
the same (its purge step).
"""

import contextlib
import json
import os
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import numpy as np
from jaxtyping import UInt8

from nofa_jax.errors import UserError

METRICS_FILE = "metrics.jsonl"


class MetricWriter:
    """Writes scalars and images of a run that starts, or goes on, after `start_step`.

    On several hosts only the first process writes; on the others every method does nothing.
    """

    def __init__(self, workdir: str | Path, start_step: int = 0, tensorboard: bool = True) -> None:
        self._rows = self._board = None
        if jax.process_index() != 0:
            return
        path = Path(workdir) / METRICS_FILE
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            _keep_rows_until(path, start_step)
            self._rows = open(path, "a", encoding="utf-8")  # noqa: SIM115 closed by close()
        except OSError as error:
            raise UserError(f"cannot write {path}: {error.strerror}") from error
        if tensorboard:
            from tensorboardX import SummaryWriter

            purge = start_step + 1 if start_step else None
            self._board = SummaryWriter(str(path.parent / "tensorboard"), purge_step=purge, flush_secs=10)

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        """One row: names with `/` group plots in TensorBoard; values are numbers or 0-d arrays."""
        if self._rows is None:
            return
        numbers = {name: float(np.asarray(value)) for name, value in values.items()}
        row = {"step": int(step), "time": round(time.time(), 3)} | numbers
        try:
            self._rows.write(json.dumps(row) + "\n")
            self._rows.flush()
        except OSError as error:
            raise UserError(f"cannot write {self._rows.name}: {error.strerror}") from error
        if self._board is not None:
            for name, number in numbers.items():
                self._board.add_scalar(name, number, step)

    def image(self, step: int, name: str, image: UInt8[np.ndarray, "h w 3"]) -> None:
        """One picture for TensorBoard."""
        if self._board is not None:
            self._board.add_image(name, image, step, dataformats="HWC")

    def text(self, step: int, name: str, text: str) -> None:
        """Markdown for TensorBoard: the config, say."""
        if self._board is not None:
            self._board.add_text(name, text, step)

    def flush(self) -> None:
        """Hands TensorBoard's events to the system too; rows already are."""
        if self._board is not None:
            self._board.flush()

    def close(self) -> None:
        """Ends both files; harmless when called twice."""
        if self._rows is not None:
            self._rows.close()
        if self._board is not None:
            self._board.close()
        self._rows = self._board = None

    def __enter__(self) -> "MetricWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_rows(workdir: str | Path) -> list[dict[str, Any]]:
    """The rows of workdir/metrics.jsonl in order; a line cut off by a kill is left out."""
    path = Path(workdir) / METRICS_FILE
    if not path.is_file():
        return []
    return [row for line in path.read_text(encoding="utf-8").splitlines() if (row := _parse(line)) is not None]


def _keep_rows_until(path: Path, step: int) -> None:
    """Rewrites the file without later rows and broken lines, in one step of the file system."""
    if not path.is_file():
        return
    rows = [row for row in read_rows(path.parent) if row["step"] <= step]
    new = path.with_name(path.name + ".new")
    new.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    os.replace(new, path)


def _parse(line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


class StepTimer:
    """Where the time of a step goes: `with timer("data"): …`, `with timer("step"): …`, `with timer("log"): …`.

    jax runs ahead of Python: time spent computing shows in the block that waits for a result, so a loop that wants the
    split to be right calls `jax.block_until_ready` inside its "step" block.
    """

    def __init__(self) -> None:
        self._spent: dict[str, float] = {}
        self._since = time.perf_counter()

    @contextlib.contextmanager
    def __call__(self, part: str) -> Generator[None]:
        begin = time.perf_counter()
        try:
            yield
        finally:
            self._spent[part] = self._spent.get(part, 0.0) + time.perf_counter() - begin

    def split(self, steps: int) -> dict[str, float]:
        """Mean seconds per step since the last call, by part, with what no part covers as `other`; then starts anew."""
        now = time.perf_counter()
        wall = now - self._since
        seconds = {f"seconds/{part}": spent / max(steps, 1) for part, spent in self._spent.items()}
        seconds["seconds/other"] = max(wall - sum(self._spent.values()), 0.0) / max(steps, 1)
        seconds["steps_per_second"] = steps / wall if wall > 0 else 0.0
        self._spent, self._since = {}, now
        return seconds
