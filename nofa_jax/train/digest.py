"""Fingerprints of arrays: what tells a good checkpoint from a damaged one, and one run's result from another's."""

import hashlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree


def flatten(tree: PyTree) -> dict[str, Any]:
    """Leaves by path (`params/encoder/kernel`), in jax's order: dict keys sorted, fields as declared."""
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): leaf for path, leaf in leaves}


def to_host(leaf: Any) -> np.ndarray:
    """The whole array in host memory, without a copy where that is possible; gathered if it lives on several hosts."""
    if isinstance(leaf, jax.Array):
        if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if not leaf.is_fully_addressable and not leaf.is_fully_replicated:
            from jax.experimental import multihost_utils

            leaf = multihost_utils.process_allgather(leaf, tiled=True)
        elif not leaf.is_fully_addressable:
            leaf = leaf.addressable_data(0)
    return np.asarray(leaf)


def leaf_digests(leaves: Mapping[str, Any]) -> dict[str, str]:
    """sha256 of each leaf's bytes (row-major, native order). Every process of a multi-host run has to call it."""
    arrays = [to_host(leaf) for leaf in leaves.values()]
    with ThreadPoolExecutor(max_workers=4) as pool:  # hashlib lets go of the interpreter lock
        return dict(zip(leaves, pool.map(_sha256, arrays), strict=True))


def params_digest(params: PyTree) -> str:
    """sha256 over the bytes of all parameters, one after the other in path order.

    Equal for two runs exactly when their parameters are bit-identical (shapes and names being the same).
    """
    total = hashlib.sha256()
    for leaf in flatten(params).values():
        total.update(_bytes(to_host(leaf)))
    return total.hexdigest()


def _bytes(array: np.ndarray) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _sha256(array: np.ndarray) -> str:
    return hashlib.sha256(_bytes(array)).hexdigest()
