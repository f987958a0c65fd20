"""Progress with an estimate of the time left: a bar on a terminal, occasional plain lines anywhere else.

Progress goes to stderr and `log` to stdout, so `train.py > run.log` keeps the bar on the screen and the messages in the
file. On a terminal the messages appear above the bar. There is one terminal per process, hence one display: bars opened
while another is active are stacked below it.
"""

import collections
import os
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TextIO, TypeVar

T = TypeVar("T")

FIRST_LINE_AFTER = 5.0  # seconds before the first plain line: quick work prints nothing
LINE_INTERVAL = (10.0, 60.0)  # seconds between plain lines, from early in the work to late
SPEED_WINDOW = 30.0  # seconds of history the speed is measured over, so that a compile at the start is forgotten


def track(iterable: Iterable[T], total: int | None = None, description: str = "") -> Iterator[T]:
    """Yields from `iterable` and shows how far it is; `total` is its length when `len()` does not know it."""
    if total is None and isinstance(iterable, Sized):
        total = len(iterable)
    with Progress(total, description) as progress:
        for item in iterable:
            yield item
            progress.update()


class Progress:
    """Progress of a loop that is not a plain `for`: call `update` as work gets done.

    `start` is what was done before this process began (a resumed run); it does not count towards the speed.
    Use as a context manager, or call `close` at the end.
    """

    def __init__(self, total: int | None = None, description: str = "", start: int = 0) -> None:
        self.total = total
        self.description = description
        self.done = start
        self._info = ""
        self._display: _Bar | _Lines = _Bar(self) if _is_terminal(sys.stderr) else _Lines(self)

    def update(self, n: int = 1, **info: Any) -> None:
        """Counts `n` more items as done and shows `info` (floats to four digits) beside the count."""
        self.done += n
        if info:
            self._info = " ".join(f"{key}={_short(value)}" for key, value in info.items())
        self._display.show(self._info)

    def log(self, message: str) -> None:
        """Same as the module's `log`."""
        log(message)

    def close(self) -> None:
        """Takes the bar away, or writes the last line; harmless when called twice."""
        self._display.close(self._info)

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *unused: object) -> None:
        self.close()


def log(message: str) -> None:
    """Writes one message to stdout, above the bar if there is one."""
    if _shared_bars and _is_terminal(sys.stdout):
        _shared_bars[0].console.print(message, markup=False, highlight=False, soft_wrap=True)
    else:
        print(message, file=sys.stdout, flush=True)


def _is_terminal(stream: TextIO) -> bool:
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) or hasattr(value, "dtype") else str(value)


def clock(seconds: float) -> str:
    """Seconds as `m:ss` or `h:mm:ss`."""
    minutes, s = divmod(round(seconds), 60)
    hours, m = divmod(minutes, 60)
    return f"{hours}:{m:02d}:{s:02d}" if hours else f"{m}:{s:02d}"


class _Lines:
    """Plain lines on stderr: the first after a few seconds, then ever fewer."""

    def __init__(self, owner: Progress) -> None:
        self._owner = owner
        self._begin = time.monotonic()
        self._next = self._begin + FIRST_LINE_AFTER
        self._history: collections.deque[tuple[float, int]] = collections.deque([(self._begin, owner.done)])
        self._wrote = self._closed = False

    def show(self, info: str) -> None:
        now = time.monotonic()
        if now - self._history[-1][0] >= 1.0:
            self._history.append((now, self._owner.done))
        while len(self._history) > 2 and now - self._history[1][0] > SPEED_WINDOW:
            self._history.popleft()
        if now < self._next:
            return
        shortest, longest = LINE_INTERVAL
        self._next = now + min(longest, max(shortest, 0.2 * (now - self._begin)))
        self._write(now, info, final=False)

    def close(self, info: str) -> None:
        if self._wrote and not self._closed:
            self._write(time.monotonic(), info, final=True)
        self._closed = True

    def _write(self, now: float, info: str, final: bool) -> None:
        owner, since = self._owner, self._history[0]
        total = "" if owner.total is None else f"/{owner.total}"
        parts = [f"{owner.done}{total}"]
        speed = (owner.done - since[1]) / max(now - since[0], 1e-9)
        if final:
            parts.append(f"in {clock(now - self._begin)}")
        else:
            parts.append(f"{speed:.3g}/s")
            if owner.total is not None and speed > 0:
                parts.append(f"{clock(max(owner.total - owner.done, 0) / speed)} left")
        if info:
            parts.append(info)
        prefix = f"{owner.description}: " if owner.description else ""
        print(prefix + ", ".join(parts), file=sys.stderr, flush=True)
        self._wrote = True


_shared_bars: list[Any] = []  # the rich display while any bar is open (at most one)
_open_bars: list["_Bar"] = []


class _Bar:
    """One row of the rich display on stderr; the display lives from the first bar's start to the last one's end."""

    def __init__(self, owner: Progress) -> None:
        if not _shared_bars:
            _shared_bars.append(_start_display())
        _open_bars.append(self)
        self._owner = owner
        self._task = _shared_bars[0].add_task(
            owner.description, total=owner.total, completed=owner.done, info="", refresh=True
        )

    def show(self, info: str) -> None:
        if self in _open_bars:
            _shared_bars[0].update(self._task, completed=self._owner.done, info=info)

    def close(self, info: str) -> None:
        if self not in _open_bars:
            return
        self.show(info)
        _open_bars.remove(self)
        if not _open_bars:
            _shared_bars.pop().stop()
        else:
            _shared_bars[0].update(self._task, visible=False)


def _start_display() -> Any:
    """A running `rich.progress.Progress` on stderr."""
    from rich import progress as rp  # imported late: 60 ms that `--help` need not pay
    from rich.console import Console

    display = rp.Progress(
        rp.TextColumn("{task.description}", markup=False),
        rp.BarColumn(),
        rp.MofNCompleteColumn(),
        rp.TimeElapsedColumn(),
        rp.TextColumn("left"),
        rp.TimeRemainingColumn(),
        rp.TextColumn("{task.fields[info]}", markup=False),
        console=Console(stderr=True),
        redirect_stdout=_is_terminal(sys.stdout),
        speed_estimate_period=SPEED_WINDOW,
    )
    display.start()
    return display
