"""FID's Inception against the official conversion on rule-made weights."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.extractors.inception import FIDInception
from nofa_jax.ops.resize import resize_bilinear_tf1
from nofa_jax.port.inception import port_inception
from tests import golden
from tests.tolerances import NET_TIGHT_RTOL, TF1_RESIZE_ATOL

SIZES = ["small", "large"]  # 96² and 320²


@pytest.mark.parametrize("size", SIZES)
def test_resize_of_tensorflow_1(size: str):
    stored = golden.arrays("inception", "inception")
    out = resize_bilinear_tf1(jnp.asarray(stored[f"{size}_u8"], jnp.float32), 299, 299)
    np.testing.assert_allclose(out[:, ::13, ::13], golden.nhwc(stored[f"{size}_resized"]), atol=TF1_RESIZE_ATOL)
    np.testing.assert_allclose(out[:, -4:, -4:], golden.nhwc(stored[f"{size}_resized_end"]), atol=TF1_RESIZE_ATOL)


@pytest.mark.slow
def test_features_and_blocks():
    stored = golden.arrays("inception", "inception")
    state = golden.make_state("inception", golden.manifest("inception", "inception")["weights"])
    model, variables = port_inception(state)
    apply = jax.jit(lambda v, x: model.apply(v, x, capture_intermediates=True))
    for size in SIZES:
        features, inner = apply(variables, jnp.asarray(stored[f"{size}_u8"]))
        blocks = {name: value["__call__"][0] for name, value in inner["intermediates"].items() if name != "__call__"}
        golden.assert_parity(features, stored[f"{size}_2048"])
        golden.assert_parity(blocks["Mixed_6e"].mean((1, 2)), stored[f"{size}_768"])
        for name, pixels, channels in (("5b", 4, 16), ("6a", 2, 48), ("7b", 1, 64), ("7c", 1, 64)):
            full = blocks[f"Mixed_{name}"][:, ::pixels, ::pixels, ::channels]
            golden.assert_parity(full, golden.nhwc(stored[f"{size}_Mixed_{name}"]))
        fc = state["fc.weight"].T.astype(np.float64)
        np.testing.assert_allclose(
            np.asarray(features, np.float64) @ fc,
            stored[f"{size}_logits_unbiased"],
            rtol=NET_TIGHT_RTOL,
            atol=NET_TIGHT_RTOL,
        )


def test_published_layout_is_covered():
    tensors = golden.manifest("inception", "inventory")["tensors"]
    state = {name: np.zeros(e["shape"], e["dtype"]) for name, e in tensors.items()}
    model, variables = port_inception(state)
    assert model == FIDInception()
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == 21_785_568
