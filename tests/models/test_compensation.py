"""C: sizes, the zero start, plane order and spectral norm. Parity of its blocks is in tests/port/test_spade.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.models.compensation import Compensation, SpectralConv
from tests.quick import fast_compile, init
from tests.tolerances import BATCH_ATOL, BF16_RELATIVE_L2

TOY = {"channels": (12, 8, 10, 6), "plane_channels": 4, "hidden": 8}


@pytest.fixture(scope="module")
def inputs():
    feature = jax.random.normal(jax.random.key(1), (2, 4, 4, 12))
    return feature, jax.random.uniform(jax.random.key(2), (2, 20, 20, 3), minval=-1, maxval=1)


@pytest.fixture(scope="module")
def toy(inputs):
    return Compensation(**TOY), init(Compensation(**TOY), *inputs)


def trained(variables: dict) -> dict:
    """The same variables with a last convolution that has left zero."""
    kernel = variables["params"]["to_planes"]["kernel"]
    last = {**variables["params"]["to_planes"], "kernel": jax.random.normal(jax.random.key(3), kernel.shape)}
    return {**variables, "params": {**variables["params"], "to_planes": last}}


def test_paper_size_shapes():
    c = Compensation()
    inputs = jax.ShapeDtypeStruct((2, 64, 64, 512), jnp.float32), jax.ShapeDtypeStruct((2, 512, 512, 3), jnp.float32)
    variables = jax.eval_shape(c.init, jax.random.key(0), *inputs)
    assert set(variables) == {"params"}  # no batch norm, no spectral norm: no state
    assert jax.eval_shape(c.apply, variables, *inputs).shape == (2, 3, 256, 256, 32)


def test_an_untrained_network_changes_nothing_and_can_still_learn(toy, inputs):
    c, variables = toy
    delta = c.apply(variables, *inputs)
    assert delta.shape == (2, 3, 16, 16, 4)
    assert not jnp.any(delta)
    with fast_compile():
        grad = jax.jit(jax.grad(lambda p: jnp.sum(c.apply({"params": p}, *inputs))))(variables["params"])
    assert jnp.any(grad["to_planes"]["kernel"] != 0)


def test_gradients_reach_every_parameter_and_both_inputs(toy, inputs):
    c, variables = toy

    def loss(params, feature, image):
        return jnp.sum(jnp.sin(c.apply({"params": params}, feature, image)))

    with fast_compile():
        grads = jax.jit(jax.grad(loss, (0, 1, 2)))(trained(variables)["params"], *inputs)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert jnp.all(jnp.isfinite(grad)), path
        assert jnp.any(grad != 0), path


def test_channels_are_plane_major(toy, inputs):
    """A bias on output channel p c + k shows on plane p, channel k, everywhere and nowhere else."""
    c, variables = toy
    last = variables["params"]["to_planes"]
    last = {**last, "bias": last["bias"].at[1 * 4 + 2].set(5.0)}
    delta = c.apply({"params": {**variables["params"], "to_planes": last}}, *inputs)
    expected = np.zeros(delta.shape)
    expected[:, 1, :, :, 2] = 5.0
    np.testing.assert_array_equal(delta, expected)


def test_rows_of_a_batch_are_independent(toy, inputs):
    c, variables = toy
    apply, variables = jax.jit(c.apply), trained(variables)
    together = apply(variables, *inputs)
    swapped = apply(variables, inputs[0][::-1], inputs[1][::-1])
    mixed = apply(variables, inputs[0], inputs[1][::-1])
    np.testing.assert_allclose(together, swapped[::-1], atol=BATCH_ATOL)
    assert not np.allclose(together, mixed)  # the photo matters


def test_bfloat16_is_close(toy, inputs):
    c, variables = toy
    variables = trained(variables)
    exact = c.apply(variables, *inputs)
    low = jax.jit(Compensation(**TOY, dtype=jnp.bfloat16).apply)(variables, *inputs)
    assert low.dtype == jnp.float32
    assert jnp.linalg.norm(low - exact) < BF16_RELATIVE_L2 * jnp.linalg.norm(exact)


def test_a_feature_of_the_wrong_width_is_refused():
    with pytest.raises(ValueError, match="starts at 12, the feature has 5"):
        jax.eval_shape(Compensation(**TOY).init, jax.random.key(0), jnp.zeros((1, 4, 4, 5)), jnp.zeros((1, 8, 8, 3)))


def test_spectral_norm_converges_to_the_largest_singular_value():
    conv = SpectralConv(5, (3, 3), spectral=True)
    x = jax.random.normal(jax.random.key(0), (1, 6, 6, 4))
    variables = init(conv, x)
    step = jax.jit(lambda v: conv.apply(v, x, train=True, mutable=["batch_stats"])[1])
    for _ in range(100):
        variables = {**variables, **step(variables)}
    kernel = variables["params"]["kernel"]
    sigma = np.linalg.svd(np.asarray(kernel).reshape(-1, 5), compute_uv=False)[0]
    plain = {"params": {**variables["params"], "kernel": kernel / sigma}}
    np.testing.assert_allclose(conv.apply(variables, x), SpectralConv(5, (3, 3)).apply(plain, x), rtol=1e-4, atol=1e-5)


def test_spectral_norm_is_optional_and_stateful(inputs):
    c = Compensation(channels=(12, 6), plane_channels=2, hidden=4, spectral=True)
    variables = init(c, *inputs)
    assert set(variables["batch_stats"]["block_0"]) == {"conv_0", "conv_1", "conv_s"}  # never the SPADE convolutions
    with fast_compile():
        stats = jax.jit(lambda v: c.apply(v, *inputs, train=True, mutable=["batch_stats"])[1])(variables)["batch_stats"]
    for name, before in variables["batch_stats"]["block_0"].items():
        assert jnp.any(stats["block_0"][name]["u"] != before["u"]), name
