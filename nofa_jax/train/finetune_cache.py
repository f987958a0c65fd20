"""Fine-tuned compensation networks by photo, model and settings, so that an avatar is made once.

A file of $NOFA_CACHE/avatars each; deleting any of them costs the fine-tuning again and nothing else.
"""

import hashlib
import json
import os
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import PyTree
from ml_collections import ConfigDict

import nofa_jax
from nofa_jax.compile_cache import cache_dir
from nofa_jax.progress import log
from nofa_jax.train.digest import flatten, leaf_digests
from nofa_jax.train.provenance import plain
from nofa_jax.types import Frame


def settings(config: ConfigDict) -> dict[str, Any]:
    """What decides the result beside photo and parameters: model, losses, limits, version."""
    parts = plain(config)
    train = {name: parts["train"][name] for name in ("perceptual", "identity", "stand_ins", "mouth_size")}
    chosen = {name: parts[name] for name in ("model", "finetune", "seed")}
    return chosen | {"train": train, "version": nofa_jax.__version__}


def cache_key(photo: Frame, variables: PyTree, settings: Mapping[str, Any]) -> str:
    """sha256 of the photo's pixels and fit, all of the model's variables, and the settings."""
    leaves = {f"photo/{name}": np.asarray(value) for name, value in vars(photo).items()}
    digests = leaf_digests(leaves | flatten(variables))
    text = json.dumps({"digests": digests, "settings": settings}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def load_compensation(key: str, like: PyTree) -> PyTree | None:
    """C's parameters, or None where they are not there, damaged or not in the structure and shapes of `like`."""
    path = _path(key)
    if not path.is_file():
        return None
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            found = {name: file[name] for name in file.files}
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        log(f"{path} is damaged ({error}); the photo is fine-tuned again")
        return None
    wanted = traverse_util.flatten_dict(like, sep="/")
    if {k: (v.shape, v.dtype) for k, v in found.items()} != {k: (v.shape, v.dtype) for k, v in wanted.items()}:
        log(f"{path} does not fit the model; the photo is fine-tuned again")
        return None
    return traverse_util.unflatten_dict({k: jnp.asarray(v) for k, v in found.items()}, sep="/")


def save_compensation(key: str, params: PyTree) -> None:
    """Under a temporary name, then renamed. Where the cache cannot be written, the log says so and that is all."""
    path = _path(key)
    partial = path.with_name(f"{path.stem}.{os.getpid()}.partial.npz")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        leaves = traverse_util.flatten_dict(jax.device_get(params), sep="/")
        arrays: dict[str, Any] = {name: np.asarray(leaf) for name, leaf in leaves.items()}
        np.savez(partial, **arrays)
        partial.replace(path)
    except OSError as error:
        log(f"the fine-tuned photo is not kept: cannot write {path} ({error.strerror or error})")
        partial.unlink(missing_ok=True)


def _path(key: str) -> Path:
    return cache_dir("avatars") / f"{key[:32]}.npz"
