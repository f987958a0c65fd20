"""Writes files with the layouts of `torch.save`, without PyTorch: the same pickles, storages and archives.

Numpy arrays in a tree become tensors, each with its own storage. `Name` writes a global, `Call` a REDUCE.
"""

import io
import pickle
import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

MAGIC, PROTOCOL = 0x1950A86A20F9469CFC6C, 1001
KINDS = {
    "float32": "Float",
    "float64": "Double",
    "float16": "Half",
    "bfloat16": "BFloat16",
    "int64": "Long",
    "int32": "Int",
    "int16": "Short",
    "int8": "Char",
    "uint8": "Byte",
    "bool": "Bool",
}


class Name:
    """A global "module.name" that need not exist."""

    def __init__(self, module: str, name: str):
        self.module, self.name = module, name

    def __call__(self) -> None:  # pickle wants the function of a REDUCE to be callable
        raise AssertionError("only written, never called")


class Call:
    """`function(*args)` at load time."""

    def __init__(self, function: Name, *args: Any):
        self.function, self.args = function, args

    def __reduce__(self) -> tuple:
        return self.function, self.args


class Stored:
    """A storage, written as a persistent id."""

    def __init__(self, values: np.ndarray, key: str, **changes: Any):
        self.values, self.key = values, key
        self.kind = changes.get("kind", KINDS[values.dtype.name] + "Storage")
        self.count = changes.get("count", values.size)
        self.view = changes.get("view")


class _Pickler(pickle._Pickler):
    """Python's own pickler, that can also write names of modules which are not installed."""

    def __init__(self, file: io.BytesIO, legacy: bool):
        super().__init__(file, protocol=2)
        self.legacy = legacy
        self.storages: dict[str, Stored] = {}

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Name):
            if id(obj) in self.memo:
                self.write(self.get(self.memo[id(obj)][0]))
            else:
                self.write(b"c" + obj.module.encode() + b"\n" + obj.name.encode() + b"\n")
                self.memoize(obj)
        elif type(obj) is np.ndarray:
            super().save(tensor(obj, str(len(self.storages))), save_persistent_id)
        else:
            super().save(obj, save_persistent_id)

    def persistent_id(self, obj: Any) -> tuple | None:
        if not isinstance(obj, Stored):
            return None
        self.storages[obj.key] = obj
        pid = ("storage", Name("torch", obj.kind), obj.key, "cpu", obj.count)
        return (*pid, obj.view) if self.legacy else pid


def tensor(values: np.ndarray, key: str, **changes: Any) -> Call:
    """A C-contiguous array as a tensor; `changes` override offset, shape, strides, or the storage's kind and count."""
    strides = tuple(s // values.itemsize for s in values.strides)
    return Call(
        Name("torch._utils", "_rebuild_tensor_v2"),
        Stored(values, key, **changes),
        changes.get("offset", 0),
        changes.get("shape", values.shape),
        changes.get("strides", strides),
        False,
        Call(Name("collections", "OrderedDict")),
    )


def _pickled(tree: Any, legacy: bool = False) -> tuple[bytes, dict[str, Stored]]:
    file = io.BytesIO()
    pickler = _Pickler(file, legacy)
    pickler.dump(tree)
    return file.getvalue(), pickler.storages


def zip_bytes(tree: Any, root: str = "archive", compression: int = zipfile.ZIP_STORED) -> bytes:
    """The layout since PyTorch 1.6."""
    content, storages = _pickled(tree)
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        archive.writestr(f"{root}/data.pkl", content)
        archive.writestr(f"{root}/byteorder", b"little")
        for key, storage in storages.items():
            archive.writestr(f"{root}/data/{key}", storage.values.tobytes())
        archive.writestr(f"{root}/version", b"3\n")
    return file.getvalue()


def legacy_bytes(tree: Any) -> bytes:
    """The layout before PyTorch 1.6."""
    content, storages = _pickled(tree, legacy=True)
    machine = {"protocol_version": PROTOCOL, "little_endian": True, "type_sizes": {"short": 2, "int": 4, "long": 4}}
    parts = [*(pickle.dumps(value, 2) for value in (MAGIC, PROTOCOL, machine)), content]
    parts.append(pickle.dumps(list(storages), 2))
    for storage in storages.values():
        parts += [struct.pack("<Q", storage.values.size), storage.values.tobytes()]
    return b"".join(parts)


def save_zip(path: Path, tree: Any) -> Path:
    path.write_bytes(zip_bytes(tree))
    return path


def save_legacy(path: Path, tree: Any) -> Path:
    path.write_bytes(legacy_bytes(tree))
    return path
