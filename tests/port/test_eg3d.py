"""EG3D's porter: the published inventory, the configuration, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.models.generator import Generator
from nofa_jax.port.eg3d import abstract_variables, generator_config_from, model_from, port
from tests.eg3d_golden import golden, state
from tests.tolerances import OPS_ATOL, OPS_RTOL


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


def test_mapping_of_other_widths_and_learning_rate():
    """Against the formula in numpy: z 5, label 4 -> 6, layers of 7 before the last, 3 layers."""
    kwargs = {"num_layers": 3, "lr_multiplier": 0.1, "embed_features": 6, "layer_features": 7}
    init = {**golden("mini").meta["config"]["init_kwargs"], "z_dim": 5, "c_dim": 4, "mapping_kwargs": kwargs}
    fields = generator_config_from(init, init["rendering_kwargs"], state("mini"))["generator"]
    generator = Generator(**fields)
    variables = jax.eval_shape(generator.init, jax.random.key(0), jnp.zeros((1, generator.num_ws, fields["w_dim"])))
    rng = np.random.default_rng(0)
    mapping = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(np.float32), variables["params"]["mapping"])
    assert {k: v["kernel"].shape for k, v in mapping.items()} == {
        **{"embed": (4, 6), "fc0": (11, 7), "fc1": (7, 7)},
        "fc2": (7, fields["w_dim"]),
    }
    z, label = rng.normal(size=(2, 5)).astype(np.float32), rng.normal(size=(2, 4)).astype(np.float32)
    average = rng.normal(size=fields["w_dim"]).astype(np.float32)
    tree = {"params": {"mapping": mapping}, "buffers": {"mapping": {"w_avg": average}}}
    found = generator.apply(tree, z, label, 0.5, method="mapping")

    def unit(x):
        return x / np.sqrt(np.mean(x**2, -1, keepdims=True))

    embedded = label * fields["c_scale"] @ mapping["embed"]["kernel"] / 2 + mapping["embed"]["bias"]
    x = np.concatenate([unit(z), unit(embedded)], -1)
    for i in range(3):
        layer = mapping[f"fc{i}"]
        y = 0.1 * (x @ layer["kernel"] / np.sqrt(x.shape[-1]) + layer["bias"])
        x = np.sqrt(2) * np.where(y > 0, y, 0.2 * y)
    np.testing.assert_allclose(found[:, 3], average + 0.5 * (x - average), rtol=OPS_RTOL, atol=OPS_ATOL)


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
