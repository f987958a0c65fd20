"""Reading .npz files from strangers: nothing is unpickled, nothing is written, memory is bounded."""

import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nofa_jax.errors import UserError

MAX_BYTES = 1 << 30  # the largest honest file (full ICT FaceKit) unpacks to 30 MB


def read_npz(path: str | Path, required: Iterable[str] = (), what: str = "file") -> dict[str, np.ndarray]:
    """All arrays of an .npz file by name.

    Args:
      path: the file.
      required: names that must be present.
      what: what the file is supposed to be, for the message ("morphable model", "track").

    Raises:
      UserError: missing, empty or damaged file; member names that are paths; object arrays; more than MAX_BYTES
        unpacked; a required array is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such {what} (expected an .npz file)")
    try:
        arrays = _read_members(path, what)
    except (zipfile.BadZipFile, EOFError, MemoryError, OSError, ValueError, SyntaxError, NotImplementedError) as e:
        raise UserError(f"{path}: not a readable {what} (.npz): {e}") from e
    require(path, arrays, required, what)
    return arrays


def require(path: str | Path, arrays: dict[str, np.ndarray], names: Iterable[str], what: str) -> None:
    """UserError when an array is missing, saying which and what is there instead."""
    missing = [name for name in names if name not in arrays]
    if missing:
        raise UserError(f"{path}: {what} lacks {', '.join(missing)}; it holds {', '.join(sorted(arrays)) or 'nothing'}")


def _read_members(path: Path, what: str) -> dict[str, np.ndarray]:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    for member in members:
        if "/" in member.filename or "\\" in member.filename or not member.filename.endswith(".npy"):
            raise UserError(f"{path}: not a {what}: member {member.filename!r} is not a plain array name")
    if sum(member.file_size for member in members) > MAX_BYTES:
        raise UserError(f"{path}: {what} unpacks to more than {MAX_BYTES >> 20} MiB, refused")
    with np.load(path, allow_pickle=False) as file:
        return {name: file[name] for name in file.files}


def check_finite(path: str | Path, name: str, array: np.ndarray) -> None:
    """UserError when a numeric array holds NaN or infinity, saying where the first one is."""
    bad = ~np.isfinite(array)
    if bad.any():
        where = tuple(int(i) for i in np.argwhere(bad)[0])
        raise UserError(f"{path}: {name} holds {int(bad.sum())} non-finite values, the first at {where}")
