"""The tables for LPIPS cover every published naming, and refuse leftovers."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.extractors.lpips import build_lpips
from nofa_jax.port.lpips import port_lpips
from nofa_jax.port.unpickle import load_checkpoint, tensors
from tests.port.torch_files import save_zip
from tests.shared import shared_path

NETS = pytest.mark.parametrize("net", ["alex", "vgg"])


def inventory(net: str) -> dict:
    return json.loads(shared_path(f"golden/lpips/inventory_{net}.json").read_text())


def filled(entries: dict) -> dict[str, np.ndarray]:
    """Values that need no memory: each tensor holds one number, which tells it from the others."""
    return {k: np.broadcast_to(np.float32(i), tuple(e["shape"])) for i, (k, e) in enumerate(entries.items())}


@NETS
@pytest.mark.parametrize("naming", ["torchvision", "lpips", "e4e"])
def test_every_published_naming(net: str, naming: str) -> None:
    listed = inventory(net)
    state = filled(listed["tensors"] | listed["unused"] | listed["heads"])
    if naming == "lpips":  # as lpips.LPIPS().state_dict() has them
        heads = {k.replace("lin", "lins."): v for k, v in state.items() if k.startswith("lin")}
        state = {k.replace("features", "net.slice1"): v for k, v in state.items() if not k.startswith("class")}
        state |= heads | {"scaling_layer.shift": np.zeros((1, 3, 1, 1)), "scaling_layer.scale": np.ones((1, 3, 1, 1))}
    elif naming == "e4e":
        state = {k.replace("lin", "").replace("model.", ""): v for k, v in state.items()}
    params = port_lpips(net, state, naming)["params"]
    assert len(jax.tree.leaves(params)) == len(listed["tensors"]) + 5
    values = [float(np.ravel(leaf)[0]) for leaf in jax.tree.leaves(params)]
    assert len(set(values)) == len(values)
    assert params["head1"].shape == (64,)


@NETS
def test_leftovers_are_named(net: str) -> None:
    listed = inventory(net)
    state = filled(listed["tensors"] | listed["heads"])
    del state["lin3.model.1.weight"]
    state["features.99.weight"] = np.zeros((3, 3, 3, 3), np.float32)
    with pytest.raises(UserError, match=r"trunk.pth does not fit.*features.99.weight.*params/head4"):
        port_lpips(net, state, "trunk.pth")


def test_from_files(tmp_path: Path) -> None:
    """Trunk and heads as two files, the way they are published."""
    rng = np.random.default_rng(0)
    listed = inventory("alex")
    made = {k: rng.normal(size=e["shape"]).astype(np.float32) for k, e in (listed["tensors"] | listed["heads"]).items()}
    parts = [("alexnet.pth", listed["tensors"]), ("alex.pth", listed["heads"])]
    paths = [save_zip(tmp_path / name, {k: made[k] for k in keys}) for name, keys in parts]
    state = {k: v for path in paths for k, v in tensors(load_checkpoint(path), path).items()}
    params = port_lpips("alex", state, "alexnet.pth")["params"]
    np.testing.assert_array_equal(params["trunk"]["conv2"]["kernel"], made["features.3.weight"].transpose(2, 3, 1, 0))
    np.testing.assert_array_equal(params["trunk"]["conv5"]["bias"], made["features.10.bias"])
    np.testing.assert_array_equal(params["head3"], made["lin2.model.1.weight"].ravel())
    build_lpips("alex").bind({"params": params})
