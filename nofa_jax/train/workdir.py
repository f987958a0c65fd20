"""The directory of one run, held by one process at a time."""

import contextlib
import fcntl
import os
import socket
from collections.abc import Generator
from pathlib import Path

from nofa_jax.errors import UserError

_LOCK = "lock"


@contextlib.contextmanager
def open_workdir(workdir: str | Path, lock: bool = True) -> Generator[Path]:
    """Makes the directory, checks that it can be written, and holds its lock until the end of the `with` block.

    The lock belongs to the process and ends with it, kill -9 included; a forked worker that lives on does not keep it.
    Of the several processes of one run only the first takes the lock: the others say `lock=False`. Raises UserError
    when another process holds the lock or nothing can be written.
    """
    path = Path(workdir).absolute()
    if not lock:
        yield path
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        file = open(path / _LOCK, "a+")  # noqa: SIM115 closed below, in the order that matters
    except OSError as error:
        raise UserError(f"cannot write to workdir {path}: {error.strerror}; choose another --workdir") from error
    with file:
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            file.seek(0)
            holder = file.read().strip() or "another process"
            raise UserError(
                f"workdir {path} is in use by {holder}; wait for it, stop it, or choose another --workdir"
            ) from error
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}")
        file.flush()
        yield path
