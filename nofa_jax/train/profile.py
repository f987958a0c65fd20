"""A trace of some steps of a run for TensorBoard or Perfetto: workdir/profile."""

from pathlib import Path
from types import TracebackType

import jax

from nofa_jax.errors import UserError
from nofa_jax.progress import log


class Profiler:
    """`with Profiler(workdir, (start, stop)) as profiler:` and `profiler.at(step)` before each step; (0, 0): never.

    Steps start <= step < stop are traced, counted from 0 and over the whole run. Choose them after the first ones,
    which compile.
    """

    def __init__(self, workdir: str | Path, steps: tuple[int, int]) -> None:
        if len(steps) != 2 or not (0 <= steps[0] < steps[1] or tuple(steps) == (0, 0)):
            raise UserError(f"config.profile is (start, stop) with start < stop, or (0, 0) for none; not {steps}")
        self._folder, self._steps, self._running = Path(workdir) / "profile", steps, False

    def at(self, step: int) -> None:
        """Starts or ends the trace if that is due."""
        inside = self._steps[0] <= step < self._steps[1]
        if inside and not self._running:
            jax.profiler.start_trace(self._folder)
            self._running = True
        elif self._running and not inside:
            self._end()

    def _end(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
            log(f"profile: tensorboard --logdir {self._folder}")

    def __enter__(self) -> "Profiler":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
