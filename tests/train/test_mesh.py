"""The mesh: what is cut, which devices are used, and that eight of them compute what one computes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from nofa_jax.errors import UserError
from nofa_jax.train.mesh import AXES, make_mesh, on_each_device, put_batch, put_state, state_shardings
from tests.fakes import fake_batch, tiny_config

ROOT = Path(__file__).parents[2]


class _FakeMesh:
    """The sizes of a mesh that this machine lacks."""

    def __init__(self) -> None:
        self.shape = {"data": 2, "fsdp": 4}


def test_long_arrays_of_the_state_are_cut_along_their_longest_axis_that_can_be(monkeypatch):
    monkeypatch.setattr("nofa_jax.train.mesh.NamedSharding", lambda mesh, spec: spec)
    kernel, odd, small = jnp.zeros((3, 3, 64, 128)), jnp.zeros((4097, 9)), jnp.zeros((8,))
    state = {"params": {"kernel": kernel, "odd": odd, "small": small}, "constants": {"kernel": kernel}, "step": 0}
    found = state_shardings(_FakeMesh(), state)
    assert found["params"] == {"kernel": P(None, None, None, "fsdp"), "odd": P(), "small": P()}
    assert found["constants"] == {"kernel": P()}
    assert found["step"] == P()


@pytest.mark.parametrize(
    ("devices", "fsdp", "rows", "used"), [(8, 1, 16, (8, 1)), (8, 4, 16, (2, 4)), (8, 1, 6, (6, 1)), (8, 2, 6, (3, 2))]
)
def test_devices_that_cannot_share_the_batch_are_left_out(monkeypatch, devices, fsdp, rows, used):
    monkeypatch.setattr("nofa_jax.train.mesh.Mesh", lambda grid, axes: grid)
    assert make_mesh(fsdp, rows, list(range(devices))).shape == used


@pytest.mark.parametrize(("fsdp", "rows"), [(4, 6), (0, 8), (3, 8)])
def test_impossible_meshes_are_refused(fsdp, rows):
    with pytest.raises(UserError, match=f"mesh.fsdp={fsdp}"):
        make_mesh(fsdp, rows, list(range(8)))


def test_one_device_is_a_mesh_of_one():
    mesh = make_mesh(1, 2, jax.devices()[:1])
    assert isinstance(mesh, Mesh)
    assert mesh.axis_names == AXES
    batch = put_batch(mesh, fake_batch(tiny_config()))
    assert batch.source.image.sharding.mesh == mesh
    state = put_state(mesh, {"params": {"w": np.ones((4, 4))}})
    assert isinstance(state["params"]["w"], jax.Array)
    losses = on_each_device(lambda rows, whole: {"mean": rows.mean() * whole}, mesh)(jnp.arange(4.0), 2.0)
    assert float(losses["mean"]) == 3.0


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["general", "compensation", "teeth"])
def test_eight_devices_compute_what_one_does_and_gather_no_images(stage):
    """Two steps; with fsdp every array of the state that can be is cut in four, whatever its size."""
    if stage == "teeth" and not (ROOT / "configs/teeth.py").exists():
        pytest.skip("no teeth stage")
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=8", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "tests/train/mesh_script.py", stage],
        cwd=ROOT,
        env=environment | {"JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for name in ("eight", "fsdp"):
        for one, other in zip(found["one"]["losses"], found[name]["losses"], strict=True):
            assert one.keys() == other.keys()
            for term in one:
                np.testing.assert_allclose(other[term], one[term], rtol=2e-5, err_msg=f"{name} {term}")
    assert found["eight"]["gathers"] == []
    assert found["eight"]["exchanges"] == found["fsdp"]["exchanges"] == []
    assert max(found["fsdp"]["gathers"]) < 2000, "parameters alone: eight images have 24576 numbers"
    assert found["fsdp"]["bytes"] < 0.4 * found["one"]["bytes"]
