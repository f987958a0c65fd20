"""GFPGAN against the official PyTorch code on rule-made weights, with the stored noises."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.extractors.gfpgan import GFPGAN
from nofa_jax.port.files import save_ported
from nofa_jax.port.gfpgan import port_gfpgan
from nofa_jax.train.frozen import restoring_network
from tests import golden
from tests.quick import init

TOY = {"unet_channels": (4, 6, 8), "decoder_channels": (12, 12, 8), "code_dim": 16}


@pytest.mark.slow
def test_restored_image_and_layers():
    stored = golden.arrays("gfpgan", "gfpgan")
    state = golden.make_state("gfpgan", golden.manifest("gfpgan", "gfpgan")["weights"])
    model, variables = port_gfpgan({"params_ema": state})
    image = jnp.asarray(stored["image_u8"][None], jnp.float32) / 127.5 - 1
    out, inner = jax.jit(lambda v, x: model.apply(v, x, capture_intermediates=True))(variables, image)
    inner = inner["intermediates"]
    golden.assert_parity(out[:, ::4, ::4], golden.nhwc(stored["image"]))
    golden.assert_parity(out[:, 200:264, 224:288], golden.nhwc(stored["image_crop"]))
    golden.assert_parity(out[:, :6, :64], golden.nhwc(stored["image_border"]))
    golden.assert_parity(inner["to_codes"]["__call__"][0], stored["style_code"])
    unet = {"down6": ("down_6", 8, 1), "up0": ("up_0", 8, 1), "scale0": ("scale_0", 8, 1), "shift6": ("shift_6", 8, 32)}
    for name, (layer, channels, pixels) in unet.items():
        golden.assert_parity(inner[layer]["__call__"][0][:, ::pixels, ::pixels, ::channels], golden.nhwc(stored[name]))
    decoder = {"style_conv1": ("conv_0", 8, 1), "style_convs0": ("conv_1", 8, 1), "style_convs7": ("conv_8", 16, 4)}
    for name, (layer, channels, pixels) in decoder.items():
        full = inner["decoder"][layer]["__call__"][0]
        golden.assert_parity(full[:, ::pixels, ::pixels, ::channels], golden.nhwc(stored[name]))


def test_published_layout_is_covered():
    tensors = golden.manifest("gfpgan", "inventory")["tensors"]
    state = {name: np.broadcast_to(np.zeros((), e["dtype"]), e["shape"]) for name, e in tensors.items()}
    model, variables = port_gfpgan({"params_ema": state})
    image = jax.ShapeDtypeStruct((1, 512, 512, 3), jnp.float32)
    assert jax.eval_shape(model.apply, variables, image).shape == image.shape
    assert variables["buffers"]["decoder"]["conv_14"]["noise"].shape == (512, 512)


def test_a_ported_file_of_any_size_restores_pictures_of_any_size(tmp_path):
    """The teeth stage's way to GFPGAN: a file, its options, its own resolution."""
    model = GFPGAN(**TOY)
    variables = init(model, jnp.zeros((1, 16, 16, 3)))
    options = {name: list(value) if isinstance(value, tuple) else value for name, value in TOY.items()}
    path = tmp_path / "toy.safetensors"
    as_numpy = jax.tree.map(np.asarray, dict(variables))
    save_ported(path, as_numpy, {"kind": "gfpgan", "options": options, "porter_version": "0"})
    network = restoring_network(str(path), 32)
    assert jax.tree.all(jax.tree.map(np.array_equal, network.variables, as_numpy))
    image = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
    assert jax.eval_shape(network.apply, network.variables, image).shape == (1, 16, 16, 3)
    with pytest.raises(ValueError, match="built for 16² images"):
        jax.eval_shape(model.apply, variables, jax.ShapeDtypeStruct((1, 8, 16, 3), jnp.float32))
    save_ported(path, as_numpy, {"kind": "gfpgan", "options": options | {"code_dim": 8}, "porter_version": "0"})
    with pytest.raises(UserError, match="wanted"):
        restoring_network(str(path), 32)
