"""Parity data: rule-made weights, and the comparison of whole arrays with the stored float64 results."""

import importlib.util
import json
import re
from types import ModuleType

import numpy as np

from tests.shared import shared_path
from tests.tolerances import NET_TIGHT_ATOL, NET_TIGHT_RTOL


def weights_module() -> ModuleType:
    """golden/weights.py, the rule that makes every weight and input from its name."""
    spec = importlib.util.spec_from_file_location("golden_weights", shared_path("golden/weights.py"))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def manifest(folder: str, name: str) -> dict:
    return json.loads(shared_path(f"golden/{folder}/{name}.json").read_text())


def arrays(folder: str, name: str) -> dict[str, np.ndarray]:
    with np.load(shared_path(f"golden/{folder}/{name}.npz")) as file:
        return dict(file)


def make_state(folder: str, weights: dict, only: str = "", fixed: dict | None = None) -> dict[str, np.ndarray]:
    """The tensors that a manifest's `weights` entry describes, or those whose names match `only`; digest checked."""
    module = weights_module()
    tensors = manifest(folder, weights["inventory"].removesuffix(".json"))["tensors"]
    tensors = {name: entry for name, entry in tensors.items() if re.search(only, name)}
    state = module.make_state(tensors, weights["seed"], weights["family"], weights["kinds"], fixed)
    assert only or module.state_digest(state) == weights["digest"]
    return state


def assert_parity(actual: object, desired: np.ndarray, rtol: float = NET_TIGHT_RTOL, atol: float = NET_TIGHT_ATOL):
    """Every element within rtol of itself or atol of the array's largest magnitude."""
    np.testing.assert_allclose(np.asarray(actual), desired, rtol=rtol, atol=atol * np.abs(desired).max())


def nhwc(x: np.ndarray) -> np.ndarray:
    return np.moveaxis(x, 1, -1)
