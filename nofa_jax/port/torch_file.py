"""The two layouts of `torch.save`: the zip archive (since 1.6) and the older chain of pickles with raw storages."""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from mmap import mmap
from typing import Any

import numpy as np

from nofa_jax.port.pickle_opcodes import run_pickle
from nofa_jax.port.pickle_values import STORAGE_DTYPES, Storage, checked_count
from nofa_jax.port.pickle_vm import Budget, Global, PickleError, quoted
from nofa_jax.port.stored_zip import members

MAGIC = 0x1950A86A20F9469CFC6C
PROTOCOL = 1001
Resolve = Callable[[str, str], Global]


@dataclass(frozen=True)
class _Request:
    """A persistent id ('storage', type, key, device, count[, view]): what a pickle says about a storage."""

    key: str
    dtype: np.dtype
    count: int
    view: tuple[int, int] | None  # legacy: offset and length of a storage that is part of another

    @classmethod
    def of(cls, pid: Any) -> "_Request":
        if not isinstance(pid, tuple) or len(pid) not in (5, 6) or pid[0] != "storage" or not isinstance(pid[2], str):
            raise PickleError("an external reference that is not a storage")
        kind = pid[1].name if isinstance(pid[1], Global) else ""
        dtype = STORAGE_DTYPES.get(kind.removeprefix("torch.").removesuffix("Storage"))
        if dtype is None:
            raise PickleError(f"a storage of unknown type {quoted(kind)}")
        view = None
        if len(pid) == 6 and pid[5] is not None:
            if not isinstance(pid[5], tuple) or len(pid[5]) != 3:
                raise PickleError("a malformed storage view")
            view = (checked_count(pid[5][1]), checked_count(pid[5][2]))
        return cls(pid[2], dtype, checked_count(pid[4]), view)


class _Storages:
    """Answers persistent ids; `read(key, byte count)` gives the bytes, or None while only the layout is read."""

    def __init__(self, read: Callable[[str, int], bytes | memoryview | None]):
        self.read = read
        self.known: dict[str, Storage] = {}

    def __call__(self, pid: Any) -> Storage:
        request = _Request.of(pid)
        storage = self.known.get(request.key)
        if storage is None:
            content = self.read(request.key, request.count * request.dtype.itemsize)
            storage = self.known[request.key] = Storage(request.dtype, request.count, content)
        if (storage.dtype, storage.count) != (request.dtype, request.count):
            raise PickleError(f"storage {quoted(request.key)} is used with two types or sizes")
        if request.view is None:
            return storage
        offset, count = request.view
        if offset + count > storage.count:
            raise PickleError("a storage view that leaves its storage")
        step = storage.dtype.itemsize
        content = None if storage.data is None else memoryview(storage.data)[offset * step : (offset + count) * step]
        return Storage(storage.dtype, count, content)


def no_storages(pid: Any) -> Any:
    raise PickleError("an external reference, which this kind of file cannot have")


def read_zip(data: bytes | mmap, resolve: Resolve, budget: Budget) -> Any:
    """The tree in a zip checkpoint: `<root>/data.pkl`, and `<root>/data/<key>` for each storage."""
    files = members(data)
    roots = [name.removesuffix("/data.pkl") for name in files if name.count("/") == 1 and name.endswith("/data.pkl")]
    if len(roots) != 1:
        raise PickleError("a zip archive without the data.pkl of a PyTorch checkpoint")
    root = roots[0]
    if f"{root}/byteorder" in files and files[f"{root}/byteorder"].read(data) != b"little":
        raise PickleError("written on a big-endian machine")

    def read(key: str, size: int) -> bytes:
        member = files.get(f"{root}/data/{key}")
        if member is None or member.size != size:
            held = "is missing" if member is None else f"holds {member.size} bytes"
            raise PickleError(f"storage {quoted(key)} {held}, {size} wanted (truncated or damaged)")
        return member.read(data)

    return run_pickle(files[f"{root}/data.pkl"].read(data), 0, resolve, _Storages(read), budget)[0]


def read_legacy(data: bytes | mmap, resolve: Resolve, budget: Budget) -> Any:
    """The tree in a legacy checkpoint: pickles of magic, version, machine, tree, storage keys; then the storages.

    The storages come last, so the tree is read twice: for their types and sizes, and again with their bytes.
    """
    header, position = [], 0
    for _ in range(3):
        value, position = run_pickle(data, position, resolve, no_storages, budget)
        header.append(value)
    machine = header[2]
    if header[:2] != [MAGIC, PROTOCOL] or not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise PickleError("not PyTorch's legacy format, or written on a big-endian machine")
    layout = _Storages(lambda key, size: None)
    _, end = run_pickle(data, position, resolve, layout, budget)
    keys, end = run_pickle(data, end, resolve, no_storages, budget)
    content = _legacy_content(data, end, keys, layout.known)
    return run_pickle(data, position, resolve, _Storages(lambda key, size: content[key]), budget)[0]


def _legacy_content(
    data: bytes | mmap, position: int, keys: Any, known: dict[str, Storage]
) -> dict[str, bytes | memoryview]:
    """The bytes of each storage: a 64-bit element count, then the elements, in the order of `keys`."""
    if not isinstance(keys, list) or not all(isinstance(k, str) for k in keys) or sorted(keys) != sorted(known):
        raise PickleError("the list of storages does not fit the tree")
    content: dict[str, bytes | memoryview] = {}
    # A view of bytes costs nothing. A view of the memory map would keep the file from being closed.
    source = memoryview(data) if isinstance(data, bytes) else data
    for key in keys:
        storage = known[key]
        size = storage.count * storage.dtype.itemsize
        start = position + 8
        if start + size > len(data) or struct.unpack("<Q", data[position:start])[0] != storage.count:
            raise PickleError(f"storage {quoted(key)} is truncated or of another size than announced")
        content[key] = source[start : start + size]
        position = start + size
    return content
