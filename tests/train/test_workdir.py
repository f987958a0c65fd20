"""One workdir, one process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nofa_jax.errors import UserError
from nofa_jax.train.workdir import open_workdir

_HOLDER = """
import os, sys, time
from nofa_jax.train.workdir import open_workdir
with open_workdir(sys.argv[1]):
    if sys.argv[2] == "orphan" and os.fork() == 0:
        time.sleep(30)  # a data worker that outlives its parent
        os._exit(0)
    print("held", flush=True)
    time.sleep(60)
"""


def _hold(workdir: Path, mode: str = "alone") -> subprocess.Popen:
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(workdir), mode],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
        start_new_session=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_refused_and_told_who_holds_it(tmp_path: Path) -> None:
    process = _hold(tmp_path / "run")
    try:
        with (
            pytest.raises(UserError, match=rf"in use by process {process.pid} on .*; wait for it"),
            open_workdir(tmp_path / "run"),
        ):
            pass
    finally:
        process.kill()
        process.communicate()
    with open_workdir(tmp_path / "run") as path:  # kill -9 gave it back
        assert path == tmp_path / "run"


def test_an_orphaned_worker_does_not_keep_the_lock(tmp_path: Path) -> None:
    process = _hold(tmp_path, "orphan")
    process.kill()
    process.wait()
    try:
        with open_workdir(tmp_path):
            pass
    finally:
        os.killpg(process.pid, 9)  # the orphan, in the session that we started
        process.communicate()


def test_it_can_be_opened_again_after_the_end(tmp_path: Path) -> None:
    for _ in range(2):
        with open_workdir(tmp_path / "a" / "b") as path:
            assert path.is_dir()
    with pytest.raises(RuntimeError, match="inside"), open_workdir(tmp_path):
        raise RuntimeError("inside")


def test_an_unwritable_place_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write to workdir .*: Not a directory; choose another --workdir"):
        open_workdir(tmp_path / "file" / "run").__enter__()
