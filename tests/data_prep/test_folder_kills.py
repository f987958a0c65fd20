"""`data_prep folder` as a real process, killed at random moments: the next run goes on and ends in the same records."""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from data_prep.__main__ import run
from nofa_jax.data.check import check_dataset
from nofa_jax.data.records import open_dataset
from tests.shared import shared_path

ROOT = Path(__file__).parents[2]


def start(media: Path, out: Path, cache: Path) -> subprocess.Popen:
    landmarker = shared_path("faces") / "models/face_landmarker.task"
    options = (f"--out={out}", f"--landmarker={landmarker}", "--size=64", "--split=time", "--min_frames=4")
    environment = os.environ | {"NOFA_CACHE": str(cache), "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "data_prep", "folder", str(media), *options],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_killed_runs_end_in_the_same_records(tmp_path: Path) -> None:
    media = tmp_path / "in"
    media.mkdir()
    for seed in range(3):
        run(["portrait", f"--video={media}/{seed}.mp4", "--size=192", "--seconds=0.4", f"--seed={seed}"])
        run(["portrait", f"--photo={media}/{seed}.png", "--size=192", f"--seed={10 + seed}"])
    straight = start(media, tmp_path / "straight", tmp_path / "cache")
    begin = time.monotonic()
    _, errors = straight.communicate(timeout=900)
    assert straight.returncode == 0, errors[-2000:]
    duration = time.monotonic() - begin

    rng, out, kills = random.Random(0), tmp_path / "killed", 0
    for _ in range(8):
        process = start(media, out, tmp_path / "cache")
        time.sleep(duration * rng.uniform(0.05, 0.35))  # what is left takes less and less
        kills += process.poll() is None
        process.kill()
        process.communicate()
        assert not out.exists() or check_dataset(out).problems == []  # whole, or not there under that name
    assert kills > 1
    last = start(media, out, tmp_path / "cache")
    _, errors = last.communicate(timeout=900)
    assert last.returncode == 0, errors[-2000:]
    assert open_dataset(out).metadata["splits"] == open_dataset(tmp_path / "straight").metadata["splits"]
    assert not list(tmp_path.glob(".killed*.partial"))
