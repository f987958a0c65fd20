"""SIGTERM and Ctrl-C: heard at the step boundary, with the documented exit codes."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nofa_jax.train.signals import StopSignal

_LOOP = """
import hashlib, sys, time
from nofa_jax.train.signals import StopSignal
with StopSignal() as stop:
    print("ready", flush=True)
    for step in range(400):
        if sys.argv[1] == "long":  # one call that Python cannot interrupt, as a compile is
            hashlib.pbkdf2_hmac("sha256", b"a", b"b", 500_000_000)
        time.sleep(0.05)
        if stop:
            print("saved", stop.name, flush=True)
            sys.exit(stop.exit_code)
"""


def _start(step: str) -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", _LOOP, step],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_one_signal_saves_and_leaves_with_its_code(number: signal.Signals, code: int) -> None:
    process = _start("short")
    process.send_signal(number)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (code, f"saved {number.name}\n")
    assert f"{number.name}: saving after this step" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(("second", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_second_signal_leaves_at_once(second: signal.Signals, code: int) -> None:
    process = _start("long")
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    assert process.stderr is not None
    assert "SIGINT: saving after this step" in process.stderr.readline()
    process.send_signal(second)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (code, "")
    assert "leaving without saving" in err


def test_handlers_are_given_back() -> None:
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopSignal() as stop:
        assert not stop
        assert (stop.exit_code, stop.name) == (0, "")
        os.kill(os.getpid(), signal.SIGTERM)
        assert stop
        assert (stop.exit_code, stop.name) == (143, "SIGTERM")
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
