"""Reads the files in which weights are published, without running what is in them: `.pth`/`.pt` (both layouts of
`torch.save`) and plain pickles of numpy arrays.

Numpy only. The pickle streams go through `pickle_vm`, whose names come from the allow-list in `pickle_values`; any
other name, and anything damaged, ends as one UserError that names the file. Time and memory stay within a small
multiple of the file's size, and the tree returned is shallow and small enough to walk by plain recursion.

    tree = load_checkpoint("model.pth")                 # dicts and lists, numpy arrays for tensors
    state = tensors(tree, "model.pth", "state_dict")    # {name: array} below a key

A porter of another format passes what its own names stand for: `load_checkpoint(path, names={"dnnlib.util.EasyDict":
ordered_dict, "training.triplane.OSGDecoder": opaque("training.triplane.OSGDecoder"), …})`.
"""

import mmap
import stat
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nofa_jax.errors import UserError
from nofa_jax.port.pickle_opcodes import run_pickle
from nofa_jax.port.pickle_values import CALLABLE, MENTIONED, Storage
from nofa_jax.port.pickle_vm import Budget, Global, PickleError, quoted
from nofa_jax.port.torch_file import MAGIC, Resolve, no_storages, read_legacy, read_zip

Names = Mapping[str, Callable[..., Any]]  # "module.name" -> our function, called with the arguments in the file

MAX_DEPTH = 100  # nested containers; EG3D's module tree needs about 30
MAX_COPIES = 4  # how often a file's worth of bytes may pass through calls
MAX_NODES = 2_000_000  # values of the tree, shared ones counted each time they are reached


def load_checkpoint(path: str | Path, names: Names | None = None) -> Any:
    """The tree of values in a PyTorch file or a plain pickle; tensors come as read-only numpy arrays.

    Args:
      path: the file.
      names: further names that it may use, and the functions that stand for them (see `pickle_vm.Opaque`).

    Raises:
      UserError: names the file and the reason: not there, damaged, or using a name that is not allowed.
    """
    path = Path(path)
    try:
        if not stat.S_ISREG(path.stat().st_mode):  # before opening it: opening a pipe would wait for a writer
            raise UserError(f"{path}: not a file")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            tree = _read(data, names or {})
        _check_tree(tree)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, PickleError) as error:  # mmap raises ValueError for an empty file
        raise UserError(f"{path}: refused: {error}") from error
    return tree


def tensors(tree: Any, name: str | Path, *keys: str) -> dict[str, np.ndarray]:
    """The named arrays at `tree[key]…`: a state dict. `name` is what errors call the source.

    Raises:
      UserError: a key is missing (the message lists what there is), or a value there is not an array with a printable
        name.
    """
    for key in keys:
        if not isinstance(tree, dict) or key not in tree:
            raise UserError(f"{name} has no entry {key!r} (it holds: {_contents(tree)})")
        tree = tree[key]
    if not isinstance(tree, dict) or not all(isinstance(k, str) and k.isprintable() for k in tree):
        raise UserError(f"{name} holds no named tensors, but: {_contents(tree)}")
    wrong = {k: v for k, v in tree.items() if not isinstance(v, np.ndarray)}
    if wrong:
        raise UserError(f"{name} holds other things than tensors: {_contents(wrong)}")
    return tree


def _contents(tree: Any) -> str:
    """The first keys, safe to print in one line."""
    if not isinstance(tree, dict):
        return type(tree).__name__
    return ", ".join(ascii(key)[:40].strip("'") for key in list(tree)[:8]) or "nothing"


def _read(data: mmap.mmap, names: Names) -> Any:
    budget = Budget(work=MAX_COPIES * len(data) + 100_000)
    if data[:4] == b"PK\x03\x04":
        return read_zip(data, _resolver(names), budget)

    # NVIDIA's files keep each tensor as a legacy checkpoint in bytes. Such a checkpoint may not contain another one.
    def load_from_bytes(content: Any) -> Storage:
        if not isinstance(content, bytes):
            raise PickleError("a storage that is not bytes")
        return read_legacy(content, _resolver({}), budget)

    resolve = _resolver({"torch.storage._load_from_bytes": load_from_bytes, **names})
    value, _ = run_pickle(data, 0, resolve, no_storages, budget)
    return read_legacy(data, _resolver(names), budget) if type(value) is int and value == MAGIC else value


def _resolver(names: Names) -> Resolve:
    callable_names = {**CALLABLE, **names}

    def resolve(module: str, name: str) -> Global:
        full = f"{module}.{name}"
        if full in callable_names or full in MENTIONED:
            return Global(full, callable_names.get(full))
        raise PickleError(f"it asks for {quoted(full)}, which is not on the list of allowed names")

    return resolve


def _check_tree(tree: Any) -> None:
    """Refuses what would hurt whoever walks the tree: cycles, great depth, exponentially shared containers."""
    pending, nodes = [(tree, 0)], 0
    while pending:
        value, depth = pending.pop()
        if isinstance(value, dict):
            children = value.values()
        elif isinstance(value, list | tuple | set | frozenset):
            children = value
        elif hasattr(value, "children"):
            children = value.children()
        else:
            continue
        nodes += len(children)
        if depth >= MAX_DEPTH or nodes > MAX_NODES:
            raise PickleError("its values are nested too deeply or contain themselves")
        pending.extend((child, depth + 1) for child in children)
