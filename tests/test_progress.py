"""Progress: plain lines where there is no terminal, a bar where there is one, and nothing lost either way."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nofa_jax import progress

_SCRIPT = """
import time
from nofa_jax import progress
for i in progress.track(range(4), description="outer"):
    for _ in progress.track(iter("ab"), total=2, description="inner"):
        time.sleep(0.05)
    progress.log(f"message {i} [red]")
"""


def test_track_yields_everything_and_quick_work_prints_nothing(capfd: pytest.CaptureFixture) -> None:
    assert list(progress.track(iter([3, 1, 2]), description="x")) == [3, 1, 2]
    assert capfd.readouterr() == ("", "")


def test_lines_tell_count_speed_and_time_left(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.Progress(total=1000, description="train", start=900) as bar:
        for i in range(100):
            now[0] += 1.0
            bar.update(loss=0.123456, stage="general")
            if i == 0:
                bar.log("hello")
    out, err = capfd.readouterr()
    assert out == "hello\n"
    lines = err.splitlines()
    assert lines[0] == "train: 905/1000, 1/s, 1:35 left, loss=0.1235 stage=general"  # `start` is not part of the speed
    assert 4 <= len(lines) <= 10  # ten seconds apart and then more
    assert lines[-1] == "train: 1000/1000, in 1:40, loss=0.1235 stage=general"


def test_speed_forgets_a_slow_start(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture) -> None:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    bar = progress.Progress(total=500)
    now[0] = 200.0  # a compile
    bar.update()
    for _ in range(200):
        now[0] += 1.0
        bar.update()
    speeds = [float(m) for m in re.findall(r", ([\d.]+)/s", capfd.readouterr().err)]
    assert speeds[0] < 0.01
    assert speeds[-1] == pytest.approx(1.0, rel=0.05)


def test_unknown_total_and_failing_loops_still_close(capfd: pytest.CaptureFixture) -> None:
    def broken():
        yield 1
        raise RuntimeError("inside")

    with pytest.raises(RuntimeError, match="inside"):
        list(progress.track(broken()))
    bar = progress.Progress()
    bar.update(7)
    assert bar.done == 7
    bar.close()
    bar.close()
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3600, "1:00:00")])
def test_clock(seconds: float, text: str) -> None:
    assert progress.clock(seconds) == text


def _run_on_terminal(stdout_too: bool) -> tuple[str, str]:
    """Terminal output and piped stdout of the script, run with stderr (and stdout) on a pseudo terminal."""
    ours, theirs = pty.openpty()
    environment = dict(os.environ, TERM="xterm", COLUMNS="100", PYTHONPATH=str(Path(progress.__file__).parents[1]))
    process = subprocess.Popen(
        [sys.executable, "-c", _SCRIPT],
        stdout=theirs if stdout_too else subprocess.PIPE,
        stderr=theirs,
        env=environment,
        text=True,
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            chunk = os.read(ours, 65536)
        except OSError:  # Linux: the other end is closed
            break
        if not chunk:
            break
        shown += chunk
    piped, _ = process.communicate(timeout=60)
    os.close(ours)
    assert process.returncode == 0
    return shown.decode(), piped or ""


@pytest.mark.parametrize("stdout_too", [True, False])
def test_bar_on_a_terminal_and_messages_where_they_belong(stdout_too: bool) -> None:
    shown, piped = _run_on_terminal(stdout_too)
    assert "outer" in shown
    assert "inner" in shown
    assert "4/4" in shown
    assert "\x1b[?25h" in shown  # the cursor is back
    messages = [f"message {i} [red]" for i in range(4)]
    if stdout_too:
        assert all(message in shown for message in messages)
    else:
        assert piped.splitlines() == messages
