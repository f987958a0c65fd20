"""Imports the parity data's weight rule and builds the state dicts it describes."""

import importlib.util
import json
from types import ModuleType
from typing import Any

import numpy as np

from tests.shared import shared_path


def weight_rule() -> ModuleType:
    """The module `golden/weights.py` of the parity data."""
    spec = importlib.util.spec_from_file_location("golden_weights_rule", shared_path("golden/weights.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def golden_state(folder: str, weights: dict[str, Any]) -> dict[str, np.ndarray]:
    """The tensors that a `weights` record of a golden's .json describes; its digest is checked."""
    rule = weight_rule()
    inventory = json.loads((shared_path(f"golden/{folder}") / weights["inventory"]).read_text())
    kinds = [tuple(kind) for kind in weights["kinds"]]
    state = rule.make_state(inventory["tensors"], weights["seed"], weights["family"], kinds)
    assert rule.state_digest(state) == weights["digest"]
    return state
