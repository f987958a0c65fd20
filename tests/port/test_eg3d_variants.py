"""EG3D networks of every super-resolution class and other arguments load from their files and run."""

from pathlib import Path

import numpy as np
import pytest

from nofa_jax.port.kinds import port_source
from nofa_jax.port.run import run
from nofa_jax.port.source import read_source
from tests.eg3d_golden import golden
from tests.port.eg3d_files import save_network
from tests.port.eg3d_inventory import SUPERRES, inventory, random_state
from tests.quick import fast_compile

VARIANTS = {  # changes to the rendering arguments, to the constructor's
    "2X": ({"depth_resolution_importance": 0, "box_warp": 1.6}, {"z_dim": 48, "mapping_kwargs": {"num_layers": 3}}),
    "4X": ({"white_back": True, "c_gen_conditioning_zero": True}, {"conv_clamp": 256}),
    "8X": ({"ray_start": "auto", "ray_end": "auto", "c_scale": 0.5}, {"channel_max": 12, "sr_num_fp16_res": 0}),
    "8XDC": ({"disparity_space_sampling": True, "superresolution_noise_mode": "const"}, {"channel_base": 2048}),
    "Deepfp32": ({"depth_resolution": 7, "decoder_lr_mul": 0.5, "sr_antialias": False}, {}),
}


def arguments(name: str) -> dict:
    base = golden("tiny").meta["config"]["init_kwargs"]
    rendering, own = VARIANTS[name]
    module = f"training.superresolution.SuperresolutionHybrid{name}"
    return {
        **base,
        **own,
        "rendering_kwargs": {**base["rendering_kwargs"], **rendering, "superresolution_module": module},
    }


def test_our_inventory_is_the_officials() -> None:
    for part in ("tiny", "full"):
        config = golden(part).meta["config"]["init_kwargs"]
        listed = {name: tuple(entry["shape"]) for name, entry in golden(part).inventory()["tensors"].items()}
        listed.pop("superresolution.resample_filter", None)  # a buffer of some classes only, like all filters unused
        assert inventory(config) == listed


@pytest.mark.parametrize("name", VARIANTS)
def test_fields(name: str, tmp_path: Path) -> None:
    kwargs = arguments(name)
    path = save_network(tmp_path / "x.pkl", random_state(inventory(kwargs)), kwargs, 24)
    options = port_source("eg3d", read_source(path)).options
    size, output, channels, _ = SUPERRES[name]
    assert options["superres"]["input_resolution"] == size
    assert options["superres"]["output_resolution"] == output
    assert options["superres"]["channels"] == channels
    assert options["generator"]["z_dim"] == kwargs["z_dim"]
    assert options["generator"]["num_mapping_layers"] == kwargs["mapping_kwargs"]["num_layers"]
    assert options["generator"]["clamp"] == kwargs["conv_clamp"]
    assert options["generator"]["zero_conditioning"] == kwargs["rendering_kwargs"]["c_gen_conditioning_zero"]
    assert options["renderer"]["samples"] == kwargs["rendering_kwargs"]["depth_resolution"]
    assert options["rendering_resolution"] == 24


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_images(name: str, tmp_path: Path) -> None:
    kwargs = arguments(name)
    path = save_network(tmp_path / "x.pkl", random_state(inventory(kwargs)), kwargs, 24)
    rng = np.random.default_rng(1)
    camera = np.repeat(golden("tiny").input("c/cam_a"), 2, axis=0)
    np.savez(
        tmp_path / "in.npz", z=rng.normal(size=(2, kwargs["z_dim"])), camera=camera, truncation_psi=np.float32(0.5)
    )
    with fast_compile():
        results = run("eg3d", path, tmp_path / "in.npz", tmp_path / "out.npz")
    output = SUPERRES[name][1]
    assert results["image"].shape == (2, output, output, 3)
    assert results["image_raw"].shape == (2, 24, 24, 3)
    assert results["feature64"].shape[1:3] == (64, 64)
    assert all(np.isfinite(value).all() for value in results.values())
    assert not np.array_equal(results["image"][0], results["image"][1])
