"""Checkpoints of several processes: sharded arrays, damage seen by all of them, and a change of mesh."""

import socket
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.train.checkpoint import Checkpointer
from nofa_jax.train.digest import params_digest

_PROCESS = """
import sys, warnings
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
address, index, workdir, wanted = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
jax.config.update("jax_cpu_collectives_implementation", "gloo")
jax.distributed.initialize(address, num_processes=2, process_id=index)
from nofa_jax.train.checkpoint import Checkpointer, params_digest

mesh = jax.make_mesh((2,), ("fsdp",), axis_types=(AxisType.Auto,))
def place(array, spec):
    return jax.make_array_from_callback(array.shape, NamedSharding(mesh, spec), lambda i: array[i])
def state(step):
    kernel = np.arange(64 * 40, dtype=np.float32).reshape(64, 40) + step
    return {"params": {"kernel": place(kernel, P("fsdp")), "bias": place(kernel[0], P())}, "step": np.int32(step)}

with Checkpointer(workdir, keep=2) as checkpoints, warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = checkpoints.restore(state(0))
    assert (found.step if found else 0) == wanted, found
    if found:
        assert found.state["params"]["kernel"].sharding == state(0)["params"]["kernel"].sharding
        print(found.step, params_digest(found.state["params"]), sum("damaged" in str(w.message) for w in caught))
    for step in (1, 2, 3):
        if step > wanted:
            checkpoints.save(step, state(step))
"""


def _run_both(workdir: Path, wanted: int) -> list[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _PROCESS, address, str(index), str(workdir), str(wanted)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parents[2],
        )
        for index in range(2)
    ]
    try:
        results = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    for process, (_, err) in zip(processes, results, strict=True):
        assert process.returncode == 0, err[-3000:]
    return [" ".join(line for line in out.splitlines() if not line.startswith("[Gloo]")) for out, _ in results]


@pytest.mark.slow
def test_two_processes_then_one(tmp_path: Path) -> None:
    assert _run_both(tmp_path, 0) == ["", ""]
    folder = tmp_path / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["00000002", "00000003"]

    kernel = np.arange(64 * 40, dtype=np.float32).reshape(64, 40)
    digest = {step: params_digest({"bias": kernel[0] + step, "kernel": kernel + step}) for step in (2, 3)}
    assert _run_both(tmp_path, 3) == [f"3 {digest[3]} 0"] * 2

    for path in (folder / "00000003/params").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    assert _run_both(tmp_path, 2) == [f"2 {digest[2]} 1"] * 2

    with Checkpointer(tmp_path) as checkpoints:  # one process reads what two wrote
        found = checkpoints.restore(
            {"params": {"kernel": jnp.zeros((64, 40)), "bias": jnp.zeros(40)}, "step": np.int32(0)}
        )
    assert found is not None
    assert found.step == 3
    np.testing.assert_array_equal(found.state["params"]["kernel"], kernel + 3)
    assert isinstance(found.state["params"]["kernel"], jax.Array)
