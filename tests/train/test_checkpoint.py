"""Checkpoints: what is saved comes back bit for bit, only the right ones are kept, and mistakes are explained."""

import json
import os
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.train.checkpoint import Checkpointer, load, load_params
from tests.train.toy_state import assert_same_state, toy_state


def test_round_trip_of_every_kind_of_leaf(tmp_path: Path) -> None:
    with Checkpointer(tmp_path) as checkpoints:
        assert checkpoints.restore(toy_state(0)) is None
        extra = {"data": {"next_index": 17}, "tuple": (1, 2), "text": "é"}
        assert checkpoints.save(3, toy_state(3), extra=extra, metrics={"psnr": np.float32(21.5)})
    with Checkpointer(tmp_path) as checkpoints:
        found = checkpoints.restore(toy_state(0))
    assert found is not None
    assert (found.step, found.metrics) == (3, {"psnr": 21.5})
    assert found.extra == {"data": {"next_index": 17}, "tuple": [1, 2], "text": "é"}
    assert_same_state(found.state, toy_state(3))


def test_restores_into_shapes_alone_and_shapes_that_depend_on_the_step(tmp_path: Path) -> None:
    state = {"params": {"a": jnp.arange(6.0).reshape(2, 3), "none": jnp.zeros((0, 3))}, "step": jnp.int32(4)}
    state["key"] = jax.random.key(5, impl="rbg")
    abstract = jax.eval_shape(lambda: state)
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(4, state)
        found = checkpoints.restore(abstract)
        seen: list[int] = []
        by_step = checkpoints.restore(lambda step: (seen.append(step), abstract)[1])
    assert found is not None
    assert by_step is not None
    assert_same_state(found.state, state)
    assert_same_state(by_step.state, state)
    assert seen == [4]


def test_values_are_those_at_the_time_of_saving(tmp_path: Path) -> None:
    """Saving is asynchronous, the step that follows donates the very buffers, and numpy arrays change in place."""
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1.0, tree), donate_argnums=0)
    params = step({f"layer{i}": jnp.full((256, 256), float(i)) for i in range(8)})
    table = np.zeros(1000)
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": params, "table": table})
        table += 5.0
        for _ in range(20):
            params = step(params)
        found = checkpoints.restore({"params": params, "table": table})
    assert found is not None
    for i in range(8):
        np.testing.assert_array_equal(found.state["params"][f"layer{i}"], np.full((256, 256), i + 1.0))
    np.testing.assert_array_equal(found.state["table"], np.zeros(1000))


def test_keeps_the_newest_and_the_best(tmp_path: Path) -> None:
    scores = {1: 1.0, 2: 9.0, 3: float("nan"), 4: 4.0, 5: 2.0}
    with Checkpointer(tmp_path, keep=2, best="psnr") as checkpoints:
        for step in (1, 2, 3):
            checkpoints.save(step, {"x": jnp.float32(step)}, metrics={"psnr": scores[step]})
    with Checkpointer(tmp_path, keep=2, best="psnr") as checkpoints:  # the scores are on disk, too
        for step in (4, 5):
            checkpoints.save(step, {"x": jnp.float32(step)}, metrics={"psnr": scores[step]})
        checkpoints.save(6, {"x": jnp.float32(6)})
        checkpoints.wait()
        assert checkpoints.steps() == [2, 5, 6]
    with Checkpointer(tmp_path, keep=1, best="psnr", mode="min") as checkpoints:
        checkpoints.wait()
        assert checkpoints.steps() == [5, 6]


def test_a_saved_step_is_left_alone_unless_forced(tmp_path: Path) -> None:
    with Checkpointer(tmp_path) as checkpoints:
        assert checkpoints.save(2, {"x": jnp.float32(1)})
        assert not checkpoints.save(2, {"x": jnp.float32(2)})
        kept = checkpoints.restore({"x": jnp.float32(0)})
        assert checkpoints.save(2, {"x": jnp.float32(3)}, force=True)
        forced = checkpoints.restore({"x": jnp.float32(0)})
    assert kept is not None
    assert forced is not None
    assert (float(kept.state["x"]), float(forced.state["x"])) == (1.0, 3.0)


def test_inference_loads_single_items_as_numpy(tmp_path: Path) -> None:
    with Checkpointer(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, toy_state(step), extra={"data": step})
    ema = load_params(tmp_path)
    assert isinstance(ema["encoder"]["kernel"], np.ndarray)
    assert_same_state(ema, jax.tree.map(np.asarray, toy_state(2).ema))
    found = load(tmp_path, ("constants", "params"), step=1)
    assert (found.step, found.extra, sorted(found.state)) == (1, {"data": 1}, ["constants", "params"])
    np.testing.assert_array_equal(found.state["constants"]["buffers"]["w_avg"], np.arange(4, dtype=np.float32))
    assert found.state["constants"]["count"] == 7


def test_loading_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint in .*train first"):
        load_params(tmp_path / "nowhere")
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": jnp.ones(2)})
    with pytest.raises(UserError, match=r"no checkpoint of step 7 in .*; there are \[1\]"):
        load_params(tmp_path, step=7)
    with pytest.raises(UserError, match=r"has no item \['ema'\]; it has \['params'\]"):
        load_params(tmp_path)
    with pytest.raises(UserError, match="keep must be at least 1"):
        Checkpointer(tmp_path, keep=0)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        ({"params": {"a": jnp.ones((2, 4))}}, r"params/a: checkpoint \(\(2, 3\), 'float32'\), model \(\(2, 4\)"),
        ({"params": {"a": jnp.ones((2, 3), jnp.bfloat16)}}, "'float32'.*bfloat16"),
        ({"params": {"a": jnp.ones((2, 3)), "b": jnp.ones(1)}}, "params/b: checkpoint lacks it"),
        ({"params": {"c": jnp.ones((2, 3))}}, "params/a: .*model lacks it"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused_and_kept(tmp_path: Path, wanted: dict, words: str) -> None:
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, {"params": {"a": jnp.ones((2, 3))}})
        with pytest.raises(UserError, match=f"is of another model or optimizer: .*{words}"):
            checkpoints.restore(wanted)
        assert checkpoints.steps() == [1]


@pytest.fixture
def small_file_limit() -> Iterator[None]:
    """No file may grow beyond 100 kB: what a full disk feels like to the writer, without filling one."""
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    signal.signal(signal.SIGXFSZ, handler)


def test_full_disk_is_explained_and_costs_nothing_older(tmp_path: Path, small_file_limit: None) -> None:
    big = {"x": jax.random.normal(jax.random.key(0), (300, 300))}
    with Checkpointer(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(3)})
        checkpoints.wait()
        with pytest.raises(
            UserError, match=r"cannot write checkpoints to .*: File too large \(0 MB needed, \d+ MB free"
        ):
            checkpoints.save(2, big), checkpoints.wait()
        assert os.listdir(tmp_path / "checkpoints") == ["00000001"]  # nothing half-written takes up space
        found = checkpoints.restore({"x": jnp.zeros(3)})
        assert found is not None
        assert found.step == 1
        assert checkpoints.save(3, {"x": jnp.ones(3)})  # room again


def test_unwritable_directory_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=r"cannot write checkpoints to .*: Not a directory"):
        Checkpointer(tmp_path / "file")


def test_our_own_mistakes_are_not_called_the_users(tmp_path: Path) -> None:
    with Checkpointer(tmp_path) as checkpoints, pytest.raises(TypeError, match="JSON serializable"):
        checkpoints.save(1, {"x": jnp.ones(3)}, extra={"data": json})


def test_leftovers_of_a_kill_are_removed(tmp_path: Path) -> None:
    leftover = tmp_path / "checkpoints" / "00000005.orbax-checkpoint-tmp"
    (leftover / "params").mkdir(parents=True)
    with Checkpointer(tmp_path) as checkpoints:
        assert checkpoints.steps() == []
        assert checkpoints.save(5, {"x": jnp.ones(3)})
    assert os.listdir(tmp_path / "checkpoints") == ["00000005"]
