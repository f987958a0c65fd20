"""Several processes as one run: joining them, and what they must do in turn or agree on."""

import contextlib
import os
from collections.abc import Generator

import jax
import numpy as np

from nofa_jax.errors import UserError

_HOURS = 3_600_000  # milliseconds


def join(coordinator: str | None = None, processes: int | None = None, index: int | None = None) -> None:
    """Connects this process with the others of its run; does nothing where it is alone.

    To be called before any other use of jax.

    Args:
      coordinator: HOST:PORT that process 0 listens on, with `processes` and `index`; "auto": jax finds all three (TPU
        pods, SLURM, Open MPI, Kubernetes). None: "auto" inside a SLURM step (`srun`) of several tasks, else alone.

    Raises:
      UserError: a part of the address is missing, or the processes did not find each other.
    """
    if coordinator is None and int(os.environ.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        coordinator = "auto"
    if coordinator is None:
        if processes is not None or index is not None:
            raise UserError("--num_processes and --process_id need --coordinator=HOST:PORT")
        return
    if coordinator != "auto" and (processes is None or index is None):
        raise UserError("--coordinator=HOST:PORT needs --num_processes and --process_id")
    jax.config.update("jax_cpu_collectives_implementation", "gloo")  # CPUs: the only one that comes with jaxlib
    try:
        if coordinator == "auto":
            jax.distributed.initialize()
        else:
            jax.distributed.initialize(coordinator, processes, index)
    except (RuntimeError, ValueError) as error:
        raise UserError(f"the processes of the run did not find each other: {str(error).splitlines()[0]}") from error


def agree(flag: bool) -> bool:
    """Whether `flag` is set on any process; every process has to call it."""
    if jax.process_count() == 1:
        return flag
    from jax.experimental import multihost_utils

    return bool(multihost_utils.process_allgather(np.array(flag)).any())


@contextlib.contextmanager
def first_alone(name: str) -> Generator[None]:
    """The first process runs the block before the others do: it makes what they then find. `name` is used once."""
    from orbax.checkpoint import multihost

    wait = multihost.get_barrier_sync_fn()
    if jax.process_index() > 0:
        wait(key=name, timeout_ms=10 * _HOURS)
    yield
    if jax.process_index() == 0:
        wait(key=name, timeout_ms=10 * _HOURS)
