"""SIGTERM and Ctrl-C as a request to save and leave, heard at the next step boundary.

Exit codes are the shell's: 128 + signal number, that is 143 after SIGTERM (a preempted or time-limited job; start the
same command again to go on) and 130 after Ctrl-C. A second signal does not wait for the step to end: it leaves at once
with its own code and saves nothing, so the run goes on from its last checkpoint.
"""

import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

STOPPED = 128 + signal.SIGTERM  # exit code of a run that saved and stopped, whichever process was told to
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_SHOW_CURSOR = b"\x1b[?25h"  # the progress bar hides it


class StopSignal:
    """`with StopSignal() as stop:` … `if stop: save, return stop.exit_code`. Main thread only.

    Python runs signal handlers between two bytecodes, hence not while XLA compiles or a step computes; a thread that is
    woken by the system itself hears a second signal at any time. On several hosts each process hears its own signal:
    train.py agrees on the step with `hosts.agree`.
    """

    def __init__(self) -> None:
        self._received: signal.Signals | None = None
        self._previous: dict[signal.Signals, Any] = {}
        self._pipe: tuple[int, int] = (-1, -1)
        self._listener: threading.Thread | None = None

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
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        self._previous_wakeup = signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        for number in _SIGNALS:
            self._previous[number] = signal.signal(number, self._note)
        self._listener = threading.Thread(target=self._listen, name="stop-signal", daemon=True)
        self._listener.start()
        return self

    def __exit__(self, *unused: object) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._previous_wakeup)
        os.close(self._pipe[1])  # ends the listener
        if self._listener is not None:
            self._listener.join()
        os.close(self._pipe[0])

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self._received is None:
            self._received = signal.Signals(number)

    def _listen(self) -> None:
        """Reads one byte, its number, for each signal that the process gets."""
        heard = 0
        while number := os.read(self._pipe[0], 1):
            if number[0] not in _SIGNALS:
                continue
            heard += 1
            self._note(number[0], None)
            if heard > 1:
                os.write(2, (_SHOW_CURSOR if sys.stderr.isatty() else b"") + b"second signal: leaving without saving\n")
                os._exit(128 + number[0])  # no clean-up: a checkpoint being written must not hold the process
            os.write(2, f"{self.name}: saving after this step; once more to leave at once\n".encode())
