"""Checkpoints under attack: whatever a disk or a kill does to the newest, a restore gives true values or says no."""

import random
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.train.checkpoint import Checkpointer, Restored, load
from tests.train.toy_state import assert_same_state, toy_state

_NEWEST = "checkpoints/00000002"


@pytest.fixture(scope="module")
def two_checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    workdir = tmp_path_factory.mktemp("good")
    with Checkpointer(workdir) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, toy_state(step, width=500), extra={"data": step})
    return workdir


@pytest.fixture
def workdir(two_checkpoints: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(two_checkpoints, tmp_path / "run"))


def _restore(workdir: Path) -> tuple[Restored | None, list[str]]:
    """The restored checkpoint and the messages of the warnings given."""
    with warnings.catch_warnings(record=True) as caught, Checkpointer(workdir) as checkpoints:
        warnings.simplefilter("always")
        found = checkpoints.restore(toy_state(0, width=500))
    return found, [str(w.message) for w in caught if "damaged" in str(w.message)]


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.stat().st_size)


def _damage(path: Path, kind: str, rng: random.Random) -> None:
    content = bytearray(path.read_bytes())
    place = rng.randrange(len(content))
    if kind == "flip":
        content[place] ^= 1 << rng.randrange(8)
    elif kind == "zero":
        content[place : place + 512] = bytes(len(content[place : place + 512]))
    elif kind == "cut":
        del content[place:]
    path.unlink()
    if kind != "delete":
        path.write_bytes(content)


def _check_truth(found: Restored | None, messages: list[str]) -> None:
    """Either the damage did no harm, or the older checkpoint is used and a warning says so."""
    assert found is not None
    assert_same_state(found.state, toy_state(found.step, width=500))
    assert found.extra == {"data": found.step}
    assert len(messages) == (found.step == 1)
    assert all("00000002 is damaged" in message and "falling back to step 1" in message for message in messages)


def test_a_flipped_bit_in_an_array_falls_back_with_a_warning(workdir: Path) -> None:
    """orbax alone restores these values without a word: the middle of the largest file is array data."""
    largest = max(_files(workdir / _NEWEST / "params"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[len(content) // 2] ^= 1
    largest.write_bytes(content)
    found, messages = _restore(workdir)
    _check_truth(found, messages)
    assert found is not None
    assert found.step == 1
    assert (workdir / "checkpoints/00000002.damaged").is_dir()
    with Checkpointer(workdir) as checkpoints:  # the run goes on, and may save that step again
        assert checkpoints.steps() == [1]
        assert checkpoints.save(2, toy_state(2, width=500), extra={"data": 2})
    found, messages = _restore(workdir)
    assert (found and found.step, messages) == (2, [])


@pytest.mark.parametrize("kind", ["flip", "zero", "cut", "delete"])
@pytest.mark.parametrize("seed", [0, 1, pytest.param(range(2, 60), marks=pytest.mark.slow)])
def test_random_damage(two_checkpoints: Path, tmp_path: Path, kind: str, seed: int | range) -> None:
    """Any file, and within it any place; large files are hit as often as small ones."""
    for s in [seed] if isinstance(seed, int) else seed:
        rng = random.Random(s)
        run = Path(shutil.copytree(two_checkpoints, tmp_path / str(s)))
        _damage(rng.choice(_files(run / _NEWEST)), kind, rng)
        _check_truth(*_restore(run))


@pytest.mark.parametrize("gone", ["params", "meta", "opt_state", "."])
def test_partial_directories(workdir: Path, gone: str) -> None:
    """A copy that was cut short: whole items missing, or an empty directory under a final name."""
    shutil.rmtree(workdir / _NEWEST / gone)
    (workdir / _NEWEST).mkdir(exist_ok=True)
    found, messages = _restore(workdir)
    _check_truth(found, messages)
    assert found is not None
    assert found.step == 1


def test_wrong_extra_is_damage_too(workdir: Path) -> None:
    """The data iterator's place is as much a part of a checkpoint as the parameters."""
    meta = workdir / _NEWEST / "meta" / "metadata"
    text = meta.read_text()
    assert text.count('{"data": 2}') == 1
    meta.write_text(text.replace('{"data": 2}', '{"data": 3}'))
    found, messages = _restore(workdir)
    _check_truth(found, messages)
    assert "meta differs from its hash" in messages[0]


def test_all_damaged_is_an_error_and_nothing_is_moved(workdir: Path) -> None:
    for step in (1, 2):
        (workdir / f"checkpoints/{step:08d}/meta/metadata").write_text("{")
    with pytest.raises(UserError, match=r"every checkpoint in .* is damaged .*00000002: meta.*00000001: meta"):
        _restore(workdir)
    assert sorted(path.name for path in (workdir / "checkpoints").iterdir()) == ["00000001", "00000002"]


def test_inference_falls_back_but_touches_nothing(workdir: Path) -> None:
    (workdir / _NEWEST / "meta/metadata").write_text("{")
    with pytest.warns(RuntimeWarning, match=r"00000002 is damaged .* falling back to step 1"):
        assert load(workdir, ("ema",)).step == 1
    assert (workdir / _NEWEST).is_dir()
    with pytest.raises(UserError, match="00000002: meta"):
        load(workdir, ("ema",), step=2)


_SAVER = """
import jax, jax.numpy as jnp
from nofa_jax.train.checkpoint import Checkpointer
step = jax.jit(lambda s: {"params": s["params"] + s["step"], "step": s["step"] + 1}, donate_argnums=0)
with Checkpointer(%r, keep=2) as checkpoints:
    state = {"params": jnp.zeros((400, 1000)), "step": jnp.int32(0)}
    found = checkpoints.restore(state)
    if found:
        state = found.state
    print("ready", int(state["step"]), flush=True)
    while True:
        state = step(state)
        checkpoints.save(int(state["step"]), state, extra={"data": int(state["step"])})
        print("next", flush=True)
"""


@pytest.mark.parametrize("kills", [3, pytest.param(25, marks=pytest.mark.slow)])
def test_kill_9_while_saving(tmp_path: Path, kills: int) -> None:
    """A real process that does nothing but save is killed at random moments, and goes on where it was."""
    rng = random.Random(kills)
    reached = 0
    for _ in range(kills):
        with subprocess.Popen(
            [sys.executable, "-c", _SAVER % str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=Path.cwd()
        ) as process:
            assert process.stdout is not None
            word, begun = process.stdout.readline().split()
            for _ in range(2):  # saving the second means that the first is complete
                assert process.stdout.readline() == "next\n"
            time.sleep(rng.random() * 0.5)
            process.kill()
        assert (word, int(begun)) == ("ready", reached)
        with Checkpointer(tmp_path, keep=2) as checkpoints:
            found = checkpoints.restore({"params": jnp.zeros((400, 1000)), "step": jnp.int32(0)})
        assert found is not None
        assert found.step > reached
        reached = found.step
        assert int(found.state["step"]) == reached
        assert found.extra == {"data": reached}
        expected = np.float32(reached * (reached - 1) / 2)  # 0 + 1 + … + (reached - 1)
        np.testing.assert_array_equal(found.state["params"], np.full((400, 1000), expected))
        assert not list((tmp_path / "checkpoints").glob("*.damaged"))
    assert jax.process_count() == 1
