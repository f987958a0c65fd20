"""Ported weights on disk: safetensors, one tensor for each `collection/path/of/leaf`, facts of origin in the header."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open

from nofa_jax.errors import UserError

# Facts in the header, each an entry of its own. Those not listed here are text; these are JSON.
JSON_FACTS = ("tensor_count", "source_tensors", "options", "constructor")
NEEDED_FACTS = ("kind", "options", "porter_version")
_DTYPES = {"float32": "F32", "float64": "F64", "int32": "I32", "int64": "I64", "uint8": "U8"}


def is_ported(path: str | Path) -> bool:
    """Whether the file begins as a safetensors file does; no published file that we read begins so."""
    with Path(path).open("rb") as file:
        start = file.read(9)
    return len(start) == 9 and start[8:] == b"{" and int.from_bytes(start[:8], "little") < 1 << 32


def save_ported(
    path: str | Path,
    variables: Mapping[str, Any],
    facts: Mapping[str, Any],
    written: Callable[[int], None] = lambda count: None,
) -> None:
    """Writes the nested variables and the facts under a temporary name, then renames.

    One tensor at a time, so that a gigabyte of weights is not copied again; `written` hears how many bytes each took.

    Raises:
      UserError: the file cannot be written; nothing is left behind.
    """
    path = Path(path)
    flat = dict(sorted(traverse_util.flatten_dict(dict(variables), sep="/").items()))
    texts = {name: json.dumps(fact) if name in JSON_FACTS else str(fact) for name, fact in facts.items()}
    header: dict[str, Any] = {"__metadata__": texts}
    end = 0
    for name, leaf in flat.items():
        start, end = end, end + leaf.nbytes
        header[name] = {"dtype": _DTYPES[leaf.dtype.name], "shape": list(leaf.shape), "data_offsets": [start, end]}
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(len(head).to_bytes(8, "little") + head)
            for leaf in flat.values():
                file.write(np.ascontiguousarray(leaf, leaf.dtype.newbyteorder("<")).reshape(-1).view(np.uint8).data)
                written(leaf.nbytes)
        partial.replace(path)
    except OSError as error:
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    finally:
        if partial.is_file():  # still there: it was not renamed
            partial.unlink()


def load_ported(path: str | Path, kind: str = "") -> tuple[dict[str, Any], dict[str, Any]]:
    """(nested variables as numpy arrays, facts).

    Raises:
      UserError: the file is missing, damaged, not written by `nofa port`, or of another kind than the one named.
    """
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist")
    try:
        with safe_open(path, framework="numpy") as file:
            texts = file.metadata() or {}
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a dict
        facts = {name: json.loads(text) if name in JSON_FACTS else text for name, text in texts.items()}
    except (SafetensorError, OSError, TypeError, ValueError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from error
    if any(name not in facts for name in NEEDED_FACTS) or not isinstance(facts["options"], dict):
        raise UserError(f"{path} was not written by `python -m nofa_jax port`")
    if kind and facts["kind"] != kind:
        raise UserError(f"{path} was ported as {facts['kind']}, not as {kind}")
    return traverse_util.unflatten_dict(flat, sep="/"), facts


def check_variables(variables: Mapping[str, Any], target: Mapping[str, Any], name: str | Path) -> None:
    """UserError unless the variables have the structure, shapes and dtypes of `target` (from `jax.eval_shape`)."""
    have, want = (traverse_util.flatten_dict(dict(tree), sep="/") for tree in (variables, target))
    missing, extra = sorted(want.keys() - have.keys()), sorted(have.keys() - want.keys())
    for names, what in ((missing, "missing"), (extra, "left over")):
        if names:
            raise UserError(f"{name} is not what its header says: {len(names)} tensors {what} ({', '.join(names[:4])})")
    for key, leaf in want.items():
        if tuple(have[key].shape) != tuple(leaf.shape) or have[key].dtype != leaf.dtype:
            found = f"{list(have[key].shape)} {have[key].dtype}"
            raise UserError(f"{name}: {key} is {found}, wanted {list(leaf.shape)} {np.dtype(leaf.dtype)}")
