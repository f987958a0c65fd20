"""Ported weights on disk: safetensors, one tensor for each `collection/path/of/leaf`, facts of origin in the header."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nofa_jax.errors import UserError


def save_ported(path: str | Path, variables: dict[str, Any], facts: dict[str, Any]) -> None:
    """Writes the nested variables and `facts` (any JSON), under a temporary name first."""
    path = Path(path)
    flat = {name: np.ascontiguousarray(leaf) for name, leaf in traverse_util.flatten_dict(variables, sep="/").items()}
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(flat, partial, metadata={"nofa": json.dumps(facts)})
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror}") from error


def load_ported(path: str | Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """(nested variables as numpy arrays, facts). Raises UserError when the file is missing, damaged or not ours."""
    if not Path(path).is_file():
        raise UserError(f"{path} does not exist")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            flat = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 not a dict
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path} is damaged or not a safetensors file: {error}") from error
    if "nofa" not in header:
        raise UserError(f"{path} was not written by `python -m nofa_jax port`")
    return traverse_util.unflatten_dict(flat, sep="/"), json.loads(header["nofa"])
