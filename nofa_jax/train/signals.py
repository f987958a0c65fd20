"""SIGTERM and Ctrl-C as a request to save and leave, heard at the next step boundary.

Exit codes are the shell's: 128 + signal number, that is 143 after SIGTERM (a preempted or time-limited job; start the
same command again to go on) and 130 after Ctrl-C. A second signal does not wait for the step to end: it leaves at once
with the same code and saves nothing, so the run goes on from its last checkpoint.
"""

import os
import signal
import sys
from types import FrameType, TracebackType

_SHOW_CURSOR = b"\x1b[?25h"  # the progress bar hides it


class StopSignal:
    """`with StopSignal() as stop:` … `if stop: save, return stop.exit_code`. Main thread only.

    On several hosts each process hears its own signal; agree on the step (a max over processes of `bool(stop)`)
    before saving.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._previous: dict[signal.Signals, object] = {}

    def __bool__(self) -> bool:
        """Whether to stop at this step boundary."""
        return self._received is not None

    @property
    def exit_code(self) -> int:
        """143 after SIGTERM, 130 after Ctrl-C, 0 when no signal came."""
        return 0 if self._received is None else 128 + self._received

    @property
    def name(self) -> str:
        """`SIGTERM`, `SIGINT`, or an empty string."""
        return "" if self._received is None else self._received.name

    def __enter__(self) -> "StopSignal":
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)  # ty: ignore[invalid-argument-type]
        self._previous.clear()

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._received is not None:
            os.write(2, (_SHOW_CURSOR if sys.stderr.isatty() else b"") + b"second signal: leaving without saving\n")
            os._exit(128 + number)  # threads of the checkpoint writer must not hold the process
        self._received = signal.Signals(number)
        os.write(2, f"{self._received.name}: saving after this step; once more to leave at once\n".encode())
