"""Deep3DFaceRecon's network against the official PyTorch code on rule-made weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.extractors.deep3d import GROUPS
from nofa_jax.port.deep3d import port_deep3d
from tests import golden


@pytest.mark.slow
def test_coefficients_and_groups():
    stored = golden.arrays("face3d", "recon")
    state = golden.make_state("face3d", golden.manifest("face3d", "recon")["weights"])
    model, variables = port_deep3d({"net_recon": state, "opt_00": {}, "sched_00": {}})
    image = jnp.asarray(stored["image_u8"], jnp.float32) / 255
    coeffs, inner = jax.jit(lambda v, x: model.apply(v, x, capture_intermediates=True))(variables, image)
    blocks = {name: value["__call__"][0] for name, value in inner["intermediates"].items() if name != "__call__"}
    golden.assert_parity(coeffs, stored["coeff"])
    for name, pixels, channels in (("layer1_2", 8, 16), ("layer2_3", 4, 32), ("layer4_2", 1, 64)):
        full = blocks[name][:, ::pixels, ::pixels, ::channels]
        golden.assert_parity(full, golden.nhwc(stored[name[:6]]))
    golden.assert_parity(blocks["layer4_2"].mean((1, 2)), stored["avgpool"])


def test_published_layout_is_covered_and_heads_keep_their_order():
    tensors = golden.manifest("face3d", "inventory_recon")["tensors"]
    state = {name: np.zeros(e["shape"], e["dtype"]) for name, e in tensors.items()}
    for i in range(7):
        state[f"final_layers.{i}.bias"] += i
    model, variables = port_deep3d(state)
    image = jax.ShapeDtypeStruct((2, 224, 224, 3), jnp.float32)
    assert jax.eval_shape(model.apply, variables, image).shape == (2, 257)
    for i, (name, size) in enumerate(GROUPS.items()):
        np.testing.assert_array_equal(variables["params"][f"head_{name}"]["bias"], np.full(size, i))


def test_a_missing_tensor_is_named():
    with pytest.raises(UserError, match=r"recon\.pth does not fit the model: 278 model leaves that nothing fills"):
        port_deep3d({"net_recon": {"final_layers.0.bias": np.zeros(80, np.float32)}}, "recon.pth")
