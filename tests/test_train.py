"""train.py as a user runs it: from nothing to `done`, resumed, stopped, refused."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("cache")


def start(cache: Path, config: str, workdir: Path, *options: str) -> subprocess.Popen:
    command = [sys.executable, "train.py", f"--config={config}", f"--workdir={workdir}", *options]
    environment = os.environ | {"NOFA_CACHE": str(cache), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    environment["JAX_COMPILATION_CACHE_DIR"] = str(cache / "xla")
    environment["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"  # a few steps are run, but whole programs compiled
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def run(cache: Path, config: str, workdir: Path, *options: str) -> tuple[int, str, str]:
    with start(cache, config, workdir, *options) as process:
        try:
            out, err = process.communicate(timeout=900)
        finally:
            process.kill()
    return process.returncode, out, err


def digest(out: str, step: int) -> str:
    last = out.strip().splitlines()[-1]
    found = re.fullmatch(rf"done step={step} params=([0-9a-f]{{64}})", last)
    assert found, last
    return found.group(1)


def test_quickstart_end_to_end_at_a_few_steps(cache, tmp_path):
    options = ["--config.train.steps=4", "--config.warm_start.steps=4", "--config.data.identities=24"]
    options += ["--config.train.checkpoint_every=2", "--config.train.log_every=1"]
    code, out, err = run(cache, "configs/quickstart.py", tmp_path / "run", *options)
    assert code == 0, err
    digest(out, 4)
    assert "stage general" in out
    rows = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert (tmp_path / "run/previews/0000004.png").stat().st_size > 1000
    assert any((tmp_path / "run/tensorboard").iterdir())


def test_a_run_stopped_by_sigterm_saves_and_the_same_command_ends_in_the_same_parameters(cache, tmp_path):
    options = ["--config.train.steps=30", "--config.train.checkpoint_every=1000", "--config.train.preview_every=1000"]
    code, out, err = run(cache, "tests/tiny.py", tmp_path / "straight", *options)
    assert code == 0, err
    assert "stage compensation" in out
    expected = digest(out, 30)
    compiled = sorted((cache / "xla").glob("jit_step-*-cache"))
    assert compiled

    process = start(cache, "tests/tiny.py", tmp_path / "run", *options)
    log = tmp_path / "run/metrics.jsonl"
    deadline = time.monotonic() + 300
    while not (log.exists() and log.read_text().count("\n") > 3):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=120)
    assert process.returncode == 143
    saved = int(re.search(r"SIGTERM: saved step (\d+)", out).group(1))
    assert saved < 30
    assert (tmp_path / f"run/checkpoints/{saved:08d}").is_dir()

    code, out, err = run(cache, "tests/tiny.py", tmp_path / "run", *options)
    assert code == 0, err
    assert f"at step {saved}\n" in out
    assert digest(out, 30) == expected
    assert sorted((cache / "xla").glob("jit_step-*-cache")) == compiled  # no step was compiled again


@pytest.mark.parametrize(
    ("config", "options", "said"),
    [
        ("configs/general.py", [], "configs/quickstart.py"),  # names the command to run instead
        ("configs/genral.py", [], "general.py"),
        ("configs/quickstart.py", ["--config.train.step=3"], "train.steps"),
        ("configs/quickstart.py", ["--config.train.steps=many"], "train.steps takes int"),
        ("configs/quickstart.py", ["--config.model.renderer.samples=0"], "samples"),
    ],
)
def test_mistakes_end_with_one_line_and_exit_code_2(cache, tmp_path, config, options, said):
    code, _, err = run(cache, config, tmp_path / "run", *options)
    assert code == 2, err
    lines = [line for line in err.strip().splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    assert said in lines[0]
    assert "Traceback" not in err
