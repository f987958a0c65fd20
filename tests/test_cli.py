"""Errors as one line, exit codes, and what a script does with its flags and config."""

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import nofa_jax
from nofa_jax import cli
from nofa_jax.errors import UserError

_CONFIG = """
from ml_collections import ConfigDict, config_dict
from nofa_jax.errors import UserError

def get_config(size="toy"):
    if size not in ("toy", "small"):
        raise UserError(f"no size {size!r}: toy or small")
    return ConfigDict({
        "train": {"steps": 10, "rate": 1e-4, "fast": True, "sizes": (1, 2), "clip": config_dict.placeholder(float)},
        "seed": 0, "name": size, "fixed": None,
    })
"""
_SCRIPT = '''
"""Trains a thing."""
import time
from absl import flags
from ml_collections import config_flags
from nofa_jax.cli import run_main
from nofa_jax.errors import UserError

CONFIG = config_flags.DEFINE_config_file("config", None, "config file", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "directory of the run")
flags.mark_flag_as_required("config")

def main():
    if WORKDIR.value == "wait":
        print("waiting", flush=True)
        time.sleep(60)
    if WORKDIR.value == "bad":
        raise UserError("workdir is bad:\\nchoose another")
    if WORKDIR.value == "bug":
        raise ZeroDivisionError("ours")
    if WORKDIR.value == "seven":
        return 7
    t = CONFIG.value.train
    print(CONFIG.value.name, t.steps, t.rate, t.fast, t.sizes, t.clip)

if __name__ == "__main__":
    run_main(main, "python train.py --config=configs/quickstart.py")
'''


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("cli")
    (path / "script.py").write_text(_SCRIPT)
    (path / "toy.py").write_text(_CONFIG)
    (path / "broken.py").write_text("import no_such_module")
    return path


def _command(folder: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(folder / "script.py"), *arguments]


def _environment() -> dict[str, str]:
    return {"PYTHONPATH": str(Path(nofa_jax.__file__).parents[1]), "PATH": "/usr/bin:/bin", "COLUMNS": "100"}


def _run(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        _command(folder, *arguments), cwd=folder, env=_environment(), capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((), ["--config is required"]),
        (("--config=toys.py",), ["'toys.py' does not exist", "did you mean toy.py?", "broken.py"]),
        (("--config=broken.py",), ["broken.py", "ModuleNotFoundError", "no_such_module"]),
        (("--config=toy.py:huge",), ["no size 'huge': toy or small"]),
        (("--config=toy.py", "--config.train.stepz=3"), ["'train.stepz'", "did you mean train.steps?"]),
        (("--config=toy.py", "--config.zzz=3"), ["'zzz'", "its fields are", "train.steps"]),
        (("--config=toy.py", "--config.train=3"), ["--config.train is a group", "train.rate, train.sizes"]),
        (("--config=toy.py", "--config.train.steps=many"), ["--config.train.steps takes int", "10", "'many'"]),
        (("--config=toy.py", "--config.train.fast=maybe"), ["--config.train.fast takes bool", "'maybe'"]),
        (("--config=toy.py", "--config.fixed=1"), ["--config.fixed can only be set in the file"]),
        (("--config.seed=3",), ["--config.seed needs --config=FILE before it"]),
        (("--config.seed=3", "--config=toy.py"), ["--config.seed=3", "before"]),
        (("--confg=toy.py",), ["confg", "Did you mean: config"]),
        (("--config=toy.py", "extra"), ["unexpected argument 'extra'"]),
        (("--config=toy.py", "--workdir=bad"), ["workdir is bad: choose another"]),
    ],
)
def test_mistakes_are_one_line_and_exit_2(folder: Path, arguments: tuple[str, ...], words: list[str]) -> None:
    done = _run(folder, *arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("error: ")
    assert len(done.stderr.splitlines()) == 1, done.stderr
    for word in words:
        assert word in done.stderr


def test_overrides_reach_the_config(folder: Path) -> None:
    done = _run(
        folder,
        "--config=toy.py:small",
        "--config.train.steps=4",
        "--noconfig.train.fast",
        "--config.train.sizes=(5,)",
        "--config.train.clip=0.5",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "small 4 0.0001 False (5,) 0.5\n", "")


def test_exit_codes_of_main(folder: Path) -> None:
    assert _run(folder, "--config=toy.py", "--workdir=seven").returncode == 7
    bug = _run(folder, "--config=toy.py", "--workdir=bug")
    assert bug.returncode == 1
    assert "Traceback" in bug.stderr


def test_help_shows_docstring_flags_example_and_fields(folder: Path) -> None:
    plain, with_config = _run(folder, "--help"), _run(folder, "--config=toy.py", "--help")
    for done in (plain, with_config):
        assert done.returncode == 0
        for words in ("Trains a thing.", "--workdir", "directory of the run", "configs/quickstart.py"):
            assert words in done.stdout
    assert "train.steps = 10" not in plain.stdout
    assert "train.steps = 10" in with_config.stdout


def test_ctrl_c_is_130_without_traceback(folder: Path) -> None:
    command = _command(folder, "--config=toy.py", "--workdir=wait")
    with subprocess.Popen(
        command, cwd=folder, env=_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=20)
    assert process.returncode == 130
    assert err == "interrupted\n"


def test_load_config_is_locked_and_lists_its_fields(folder: Path) -> None:
    config = cli.load_config(f"{folder / 'toy.py'}:small")
    assert cli.config_fields(config) == {
        "train.steps": 10,
        "train.rate": 1e-4,
        "train.fast": True,
        "train.sizes": (1, 2),
        "train.clip": None,
        "seed": 0,
        "name": "small",
        "fixed": None,
    }
    with pytest.raises(AttributeError):
        config.train.stepz = 3
    with pytest.raises(UserError, match="does not exist"):
        cli.load_config(str(folder))
