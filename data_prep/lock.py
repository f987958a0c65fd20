"""One maker of a data set at a time, and nothing left of a killed one."""

import contextlib
import fcntl
import shutil
from collections.abc import Generator
from pathlib import Path

from nofa_jax.errors import UserError


@contextlib.contextmanager
def exclusive(path: Path) -> Generator[None]:
    """Makes processes that want the same set wait for the one that makes it; then drops what a killed one left."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path.parent / f".{path.name}.lock", "a")  # noqa: SIM115 closed by the with below
    except OSError as error:
        raise UserError(f"cannot write to {path.parent}: {error.strerror}") from error
    with lock:
        fcntl.lockf(lock, fcntl.LOCK_EX)
        for left in path.parent.glob(f".{path.name}.*.partial"):
            shutil.rmtree(left, ignore_errors=True)
        yield
