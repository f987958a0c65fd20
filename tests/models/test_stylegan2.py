"""StyleGAN2 layers against EG3D's numbers."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.models.stylegan2 import Linear, SynthesisBlock, SynthesisLayer, bias_act, normalize_2nd_moment
from tests import tolerances
from tests.eg3d_golden import assert_matches, golden, nchw, nhwc
from tests.models.random_init import random_variables


def test_normalisation_and_activation_match_eg3d():
    g = golden("ops")
    assert_matches(g, "normalize_2nd_moment", normalize_2nd_moment(jnp.asarray(g.input("vec"))))
    x, bias = jnp.asarray(nhwc(g.input("x_nchw"))), jnp.asarray(g.input("bias5"))
    assert_matches(g, "bias_act/lrelu", nchw(bias_act(x, bias)))
    assert_matches(g, "bias_act/lrelu_gain_clamp", nchw(bias_act(x, bias, clamp=1.25, gain=2.5)))


@pytest.mark.parametrize(
    ("name", "activation", "multiplier"), [("linear_lr1", False, 1.0), ("lrelu_lr0.01", True, 0.01)]
)
def test_linear_matches_eg3d(name, activation, multiplier):
    g = golden("ops")
    variables = {"params": {"kernel": g.input(f"fc_w_{name}").T, "bias": g.input(f"fc_b_{name}")}}
    out = Linear(9, activation, multiplier).apply(variables, jnp.asarray(g.input("vec")))
    assert_matches(g, f"fc/{name}", out)


def test_noise_modes():
    layer = SynthesisLayer(3, resolution=4)
    x, w = jax.random.normal(jax.random.key(0), (2, 4, 4, 2)), jnp.ones((2, 5))
    variables = random_variables(layer, x, w)
    variables["params"]["noise_strength"] = jnp.float32(0.5)
    run = jax.jit(layer.apply, static_argnums=3)
    none, const = run(variables, x, w, "none"), run(variables, x, w, "const")
    random = [run(variables, x, w, "random", jax.random.key(k)) for k in (0, 0, 1)]
    assert jnp.abs(const - none).max() > 0.01
    np.testing.assert_array_equal(random[0], random[1])
    assert jnp.abs(random[0] - random[2]).max() > 0.01
    with pytest.raises(ValueError, match="'fixed' is not one of"):
        layer.apply(variables, x, w, "fixed")


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
def test_gradients_are_finite_and_parameters_float32(dtype):
    block = SynthesisBlock(6, 3, resolution=8, clamp=256.0, dtype=dtype)
    x, image, ws = jnp.ones((2, 4, 4, 5)), jnp.zeros((2, 4, 4, 3)), jnp.ones((2, 3, 7))
    variables = random_variables(block, x, image, ws)

    def loss(params):
        features, rgb = block.apply(variables | {"params": params}, x, image, ws)
        return jnp.square(features.astype(jnp.float32)).mean() + jnp.square(rgb).mean()

    gradients = jax.jit(jax.grad(loss))(variables["params"])
    for leaf in jax.tree.leaves(gradients):
        assert leaf.dtype == jnp.float32
        assert np.isfinite(leaf).all()
    assert jnp.abs(gradients["conv0"]["kernel"]).max() > 0


def test_bfloat16_is_close_to_float32():
    x = jax.random.normal(jax.random.key(0), (2, 4, 4, 16))
    image, ws = jnp.zeros((2, 4, 4, 3)), jax.random.normal(jax.random.key(1), (2, 3, 8))
    blocks = [SynthesisBlock(16, 3, resolution=8, dtype=dtype) for dtype in (jnp.float32, jnp.bfloat16)]
    variables = random_variables(blocks[0], x, image, ws)
    exact, rough = (jax.jit(block.apply)(variables, x, image, ws)[1] for block in blocks)
    assert jnp.abs(exact - rough).max() < tolerances.BFLOAT16_REL * jnp.abs(exact).max()
