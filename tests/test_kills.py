"""kill -9 at random moments of a real run: what comes out is what an undisturbed run gives, bit by bit.

By hand: `NOFA_KILLS=50 python -m pytest --slow tests/test_kills.py -s`; results are in docs/reliability.md.
"""

import os
import random
import time
from pathlib import Path

import pytest

from tests.processes import digest, finish, start

OPTIONS = ("--config.train.checkpoint_every=1", "--config.train.preview_every=1000", "--config.train.keep=2")


def saved(workdir: Path) -> int:
    steps = [int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal()]
    return max(steps, default=0)


def being_written(workdir: Path) -> bool:
    return any((workdir / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


@pytest.mark.slow
def test_killed_at_random_moments_the_run_ends_in_the_same_parameters(tmp_path):
    kills = int(os.environ.get("NOFA_KILLS", "10"))
    options = (*OPTIONS, f"--config.train.steps={4 * kills + 8}")
    expected = digest(finish(start(tmp_path, tmp_path / "straight", *options)))
    rng, run, during_write = random.Random(kills), tmp_path / "run", 0
    for i in range(kills):
        before = saved(run)
        process = start(tmp_path, run, *options)
        deadline = time.monotonic() + 1800
        while saved(run) < before + (i % 3 > 0) and time.monotonic() < deadline:  # every third has saved nothing new
            assert process.poll() is None, process.communicate()[1][-3000:]
            time.sleep(0.02)
        moment = time.monotonic() + rng.random() * (0.5 if i % 3 else 8.0)
        while time.monotonic() < moment and not (i % 3 == 1 and being_written(run)):
            time.sleep(0.001)
        during_write += being_written(run)
        process.kill()
        process.communicate()
        print(
            f"kill {i + 1}: after step {saved(run)}, {'in' if being_written(run) else 'not in'} a checkpoint's writing"
        )
    out = finish(start(tmp_path, run, *options))
    assert digest(out) == expected
    assert "damaged" not in out
    assert during_write > 0
