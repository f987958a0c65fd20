"""EG3D's porter: the published inventory, the configuration, refusals."""

import jax
import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.port.eg3d import abstract_variables, generator_config_from, model_from, port
from tests.eg3d_golden import golden, state


def _fields(part: str, **changes):
    init = golden(part).meta["config"]["init_kwargs"]
    rendering = init["rendering_kwargs"] | changes
    tensors = {
        name: np.broadcast_to(0.0, entry["shape"]) for name, entry in golden(part).inventory()["tensors"].items()
    }
    return generator_config_from(init, rendering, tensors, 128)


def test_the_published_inventory_is_covered_and_counted():
    """All 176 tensors find their place at paper size; no numbers are made."""
    inventory = golden("full").inventory()["tensors"]
    model = model_from(_fields("full"))
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64
    tensors = {
        name: taps if name.endswith("resample_filter") else np.broadcast_to(np.float32(0), entry["shape"])
        for name, entry in inventory.items()
    }
    variables = port(tensors | {"dataset_label_std": np.ones(25)}, model)
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == 30_662_136
    assert model.generator.num_ws == 14


def test_fields_follow_the_files_own_arguments():
    fields = _fields(
        "mini", c_gen_conditioning_zero=True, white_back=True, box_warp=2, ray_start="auto", ray_end="auto"
    )
    assert fields["generator"]["zero_conditioning"]
    assert fields["generator"]["plane_resolution"] == 64
    assert fields["renderer"]["near"] == "auto"
    assert fields["renderer"]["box_warp"] == 2.0
    assert fields["renderer"]["white_back"]
    assert fields["superres"]["channels"] == (24, 16)
    assert fields["superres"]["input_resolution"] == 32
    assert fields["superres"]["clamp"] == 256.0
    tiny = _fields("tiny", superresolution_module="training.superresolution.SuperresolutionHybridDeepfp32")
    assert tiny["superres"]["resize"] == "enlarge"
    assert tiny["superres"]["input_resolution"] == 64
    for values in abstract_variables(model_from(fields)).values():
        assert jax.tree.leaves(values)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"superresolution_module": "x.SuperresolutionHybrid16X"}, "known are 2X, 4X"),
        ({"clamp_mode": "relu"}, "clamp_mode 'relu'"),
        ({"density_noise": 0.5}, "density_noise"),
    ],
)
def test_what_cannot_be_reproduced_is_refused(change, message):
    with pytest.raises(UserError, match=message):
        _fields("mini", **change)


def test_missing_parts_are_named():
    init = golden("mini").meta["config"]["init_kwargs"]
    with pytest.raises(UserError, match=r"backbone\.synthesis\.b4\.torgb\.bias"):
        generator_config_from(init, init["rendering_kwargs"], {})
    rendering = {k: v for k, v in init["rendering_kwargs"].items() if k != "ray_start"}
    with pytest.raises(UserError, match="ray_start"):
        generator_config_from(init, rendering, state("mini"))


def test_another_filter_is_refused():
    tensors = state("mini") | {"backbone.synthesis.b8.resample_filter": np.full((4, 4), 1 / 16, np.float32)}
    with pytest.raises(UserError, match=r"b8\.resample_filter is not"):
        port(tensors, model_from(_fields("mini")))
