"""ArcFace networks against the official PyTorch code on rule-made weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.extractors.arcface import crop_face
from nofa_jax.models.irse import IRSETrunk
from nofa_jax.port.arcface import port_iresnet, port_irse50
from nofa_jax.port.layers import irse_trunk
from nofa_jax.port.mapping import convert
from tests import golden
from tests.tolerances import COSINE_ATOL, GRADIENT_RELATIVE_L2


def image(name: str, stored: dict) -> jax.Array:
    return jnp.asarray(stored[f"{name}_u8"][None].astype(np.float32) / 127.5 - 1)


def test_crop_and_pooling_of_the_identity_loss():
    stored = golden.arrays("arcface", "ir_se50")
    face = crop_face(image("y_hat", stored))
    golden.assert_parity(face[:, ::4, ::4], golden.nhwc(stored["pooled_y_hat"]))
    golden.assert_parity(face[:, :9, :9], golden.nhwc(stored["pooled_y_hat_corner"]))


def test_first_group_of_irse50():
    """The trunk's stem and first three units: strided and plain shortcuts, squeeze-excite, batch norms."""
    stored = golden.arrays("arcface", "ir_se50")
    weights = golden.manifest("arcface", "ir_se50")["weights"]
    state = golden.make_state("arcface", weights, only=r"^(input_layer|body\.[0-2]\.)")
    trunk = IRSETrunk(units=(3,), widths=(64,))
    face = crop_face(image("y_hat", stored))
    variables = convert(state, irse_trunk(), jax.eval_shape(trunk.init, jax.random.key(0), face))
    features = jax.jit(trunk.apply)(variables, face)
    golden.assert_parity(features.stem[:, ::8, ::8, ::8], golden.nhwc(stored["x0"]))
    golden.assert_parity(features.groups[0][:, ::4, ::4, ::8], golden.nhwc(stored["body2"]))


@pytest.mark.slow
def test_irse50_embeddings_loss_and_gradient():
    stored = golden.arrays("arcface", "ir_se50")
    state = golden.make_state("arcface", golden.manifest("arcface", "ir_se50")["weights"])
    model, variables = port_irse50(state)
    embed = jax.jit(model.apply)
    target = embed(variables, image("y", stored))
    golden.assert_parity(target, stored["emb_y"])
    golden.assert_parity(embed(variables, image("x", stored)), stored["emb_x"])

    def loss(y_hat, variables):  # an argument: XLA would fold constants for seconds
        e = model.apply(variables, y_hat)
        return jnp.mean(1 - jnp.sum(e * target, axis=-1)), e

    (value, embedding), grad = jax.jit(jax.value_and_grad(loss, has_aux=True))(image("y_hat", stored), variables)
    golden.assert_parity(embedding, stored["emb_y_hat"])
    np.testing.assert_allclose(value, stored["loss"], atol=COSINE_ATOL)
    expected = golden.nhwc(stored["grad_y_hat"])
    error = np.linalg.norm(grad[:, 32:224:6, 32:224:6] - expected) / np.linalg.norm(expected)
    assert error < GRADIENT_RELATIVE_L2
    np.testing.assert_allclose(np.linalg.norm(grad), stored["grad_y_hat_norm"], rtol=GRADIENT_RELATIVE_L2)
    assert np.abs(grad[:, :35]).max() == np.abs(grad[:, :, 220:]).max() == 0.0  # nothing outside the crop


@pytest.mark.slow
@pytest.mark.parametrize("depth", [50, 100])
def test_iresnet_embeddings(depth: int):
    stored = golden.arrays("arcface", f"iresnet{depth}")
    state = golden.make_state("arcface", golden.manifest("arcface", f"iresnet{depth}")["weights"])
    model, variables = port_iresnet(state, depth)
    faces = jnp.asarray(stored["image_u8"].astype(np.float32) / 127.5 - 1)
    embedding, inner = jax.jit(lambda v, x: model.apply(v, x, capture_intermediates=True))(variables, faces)
    inner = inner["intermediates"]
    last = {1: 2, 2: model.units[1] - 1, 4: model.units[3] - 1}
    for group, step in ((1, 4), (2, 4), (4, 1)):
        features = inner[f"layer{group}_{last[group]}"]["__call__"][0]
        golden.assert_parity(features[:, ::step, ::step, ::8], golden.nhwc(stored[f"layer{group}"]))
    golden.assert_parity(inner["head"]["linear"]["__call__"][0], stored["fc"])
    golden.assert_parity(embedding, stored["emb"])
    a, b = np.asarray(embedding, np.float64)
    cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
    np.testing.assert_allclose(cosine, stored["cosine"], atol=COSINE_ATOL)


def test_a_file_of_the_other_family_is_refused():
    weights = golden.manifest("arcface", "iresnet50")["weights"]
    state = golden.make_state("arcface", weights, only=r"^(conv1|bn1|prelu)")
    with pytest.raises(UserError, match="no rule takes"):
        port_irse50(state, "backbone.pth")
