"""Access to the EG3D parity data: inputs, weights and outputs of the original network in float32 and float64."""

import functools
import importlib.util
import sys

import numpy as np

from tests import tolerances
from tests.shared import shared_path


@functools.cache
def _loader(path: str):
    spec = importlib.util.spec_from_file_location("eg3d_load_golden", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def golden(part: str):
    """Part "ops", "cameras", "mini", "tiny" or "full"; skips the test when the parity data is not here."""
    path = shared_path("golden/eg3d/load_golden.py")
    return _cached(str(path), part)


@functools.cache
def _cached(path: str, part: str):
    return _loader(path).Golden(part)


@functools.cache
def state(part: str) -> dict[str, np.ndarray]:
    """The rule-made weights of a network, by their PyTorch names."""
    return golden(part).state()


def nchw(x) -> np.ndarray:
    return np.moveaxis(np.asarray(x), -1, 1)


def nhwc(x) -> np.ndarray:
    return np.moveaxis(np.asarray(x), 1, -1)


def assert_matches(g, name: str, mine, factor: float = 1.0) -> None:
    """Asserts the whole array against the float64 reference, in the data's own layout (PyTorch's).

    The bound is a multiple of the original's own float32 error on this very array (see tolerances).
    """
    item = g.items[name]
    own = (item.get("f32_vs_f64") or {}).get("max_rel", 0.0)
    bound = factor * max(tolerances.GOLDEN_FLOOR, tolerances.GOLDEN_FACTOR * own)
    result = g.compare(name, np.asarray(mine), tol=bound)
    assert result["ok"], f"{name}: {result}, bound {bound:.1e}"
