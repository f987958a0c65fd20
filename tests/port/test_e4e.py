"""The e4e encoder against the official PyTorch code on rule-made weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.models.encoder import Encoder
from nofa_jax.models.irse import IRSETrunk
from nofa_jax.port.e4e import port_encoder, port_trunk
from nofa_jax.port.layers import irse_trunk
from nofa_jax.port.mapping import convert
from tests import golden


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    return golden.arrays("encoder", "encoder")


def images(stored: dict) -> jax.Array:
    return jnp.asarray(stored["image_u8"].astype(np.float32) / 127.5 - 1)


def test_stem_and_its_running_statistics(stored):
    weights = golden.manifest("encoder", "encoder")["weights"]
    state = golden.make_state("encoder", weights, only=r"^encoder\.input_layer")
    trunk = IRSETrunk(units=(), widths=())
    target = jax.eval_shape(trunk.init, jax.random.key(0), images(stored))
    variables = convert(state, irse_trunk(r"encoder\."), target)
    features = jax.jit(trunk.apply)(variables, images(stored))
    golden.assert_parity(features.stem[:, ::16, ::16, ::8], golden.nhwc(stored["x0"]))

    step = jax.jit(lambda v, x: trunk.apply(v, x, train=True, mutable=["batch_stats"])[1])
    stats = step(variables, images(stored))["batch_stats"]["stem_norm"]
    golden.assert_parity(stats["mean"], stored["train_input_layer_running_mean"])
    golden.assert_parity(stats["var"], stored["train_input_layer_running_var"])


@pytest.mark.slow
def test_full_encoder(stored):
    state = golden.make_state("encoder", golden.manifest("encoder", "encoder")["weights"])
    encoder, variables, latent_avg = port_encoder({"state_dict": state, "latent_avg": stored["latent_avg"]})
    del state
    assert encoder == Encoder()  # the paper's 14 codes
    np.testing.assert_array_equal(latent_avg, stored["latent_avg"])
    x = images(stored)
    features = jax.jit(lambda v, x: encoder.apply(v, x, method=Encoder.features))(variables, x)
    golden.assert_parity(features.c1[:, ::4, ::4, ::8], golden.nhwc(stored["c1"]))
    golden.assert_parity(features.c2[:, ::2, ::2, ::8], golden.nhwc(stored["c2"]))
    golden.assert_parity(features.c3[:, ::2, ::2, ::8], golden.nhwc(stored["c3"]))
    codes = jax.jit(lambda v, f: encoder.apply(v, f, method=Encoder.codes))(variables, features)
    golden.assert_parity(codes, stored["codes"])
    golden.assert_parity(codes[:, 3] - codes[:, 0], stored["delta3"])
    golden.assert_parity(codes[:, 7] - codes[:, 0], stored["delta7"])
    for stage in (0, 3, 9):
        expected = np.where(np.arange(14)[None, :, None] <= stage, codes, codes[:, :1])
        golden.assert_parity(expected, stored[f"codes_stage{stage}"])


@pytest.mark.slow
def test_full_encoder_with_batch_statistics(stored):
    state = golden.make_state("encoder", golden.manifest("encoder", "encoder")["weights"])
    encoder, variables, _ = port_encoder({"state_dict": state})
    step = jax.jit(lambda v, x: encoder.apply(v, x, train=True, mutable=["batch_stats"]))
    codes, updates = step(variables, images(stored))
    golden.assert_parity(codes, stored["train_codes"])
    last = updates["batch_stats"]["trunk"]["unit_23"]["norm2"]
    golden.assert_parity(last["mean"], stored["train_body23_last_running_mean"])
    golden.assert_parity(last["var"], stored["train_body23_last_running_var"])


def test_published_layout_is_covered():
    """All 792 tensors of the FFHQ checkpoint: 18 codes, and a decoder that is left out for a stated reason."""
    tensors = golden.manifest("encoder", "inventory_e4e_ffhq_1024")["tensors"]
    state = {name: np.broadcast_to(np.zeros((), e["dtype"]), e["shape"]) for name, e in tensors.items()}
    encoder, _, latent_avg = port_encoder({"state_dict": state, "opts": {}})
    assert encoder.num_ws == 18
    assert latent_avg is None


def test_trunk_alone_comes_from_irse50():
    """model_ir_se50.pth starts the encoder's trunk; its embedding head is dropped for a stated reason."""
    tensors = golden.manifest("arcface", "inventory_ir_se50")["tensors"]
    state = {name: np.ones(e["shape"], e["dtype"]) for name, e in tensors.items() if "output_layer.3" not in name}
    state["output_layer.3.bias"] = np.ones(512, np.float32)
    variables = port_trunk(state)
    wanted = jax.eval_shape(Encoder().init, jax.random.key(0), jnp.zeros((1, 256, 256, 3)))
    same = jax.tree.map(lambda a, b: a.shape == b.shape, variables["params"], wanted["params"]["trunk"])
    assert all(jax.tree.leaves(same))


def test_a_file_of_another_kind_is_refused():
    with pytest.raises(UserError, match=r"faces\.pt is not an e4e checkpoint"):
        port_encoder({"state_dict": {"conv1.weight": np.zeros(3)}}, "faces.pt")
