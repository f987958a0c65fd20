"""E: sizes, batch norm's two modes, and a from-scratch toy encoder's behaviour. Parity is in tests/port/test_e4e.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.models.encoder import Encoder
from nofa_jax.models.irse import IRSETrunk
from nofa_jax.models.layers import BatchNorm
from tests.quick import fast_compile, init
from tests.tolerances import BATCH_ATOL, BF16_RELATIVE_L2, OPS_ATOL, OPS_RTOL

TOY = {
    "input_resolution": 32,
    "units": (1, 1, 1, 1),
    "widths": (8, 12, 16, 24),
    "stem_width": 8,
    "num_ws": 3,
    "w_dim": 32,
    "coarse_ws": 1,
    "middle_ws": 2,
}


@pytest.fixture(scope="module")
def image() -> jax.Array:
    return jax.random.uniform(jax.random.key(1), (3, 32, 32, 3), minval=-1, maxval=1)


@pytest.fixture(scope="module")
def toy(image):
    encoder = Encoder(**TOY)
    return encoder, init(encoder, image), jax.jit(encoder.apply)


def test_paper_size_shapes():
    encoder = Encoder()
    image = jax.ShapeDtypeStruct((2, 256, 256, 3), jnp.float32)
    variables = jax.eval_shape(encoder.init, jax.random.key(0), image)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == 209_450_688
    assert jax.eval_shape(encoder.apply, variables, image).shape == (2, 14, 512)
    features = jax.eval_shape(lambda v, x: encoder.apply(v, x, method=Encoder.features), variables, image)
    assert features.c1.shape == (2, 64, 64, 128)
    assert features.c2.shape == (2, 32, 32, 256)
    assert features.c3.shape == (2, 16, 16, 512)


def test_offsets_start_near_zero_yet_differ_between_photos(toy, image):
    _, variables, apply = toy
    offsets = apply(variables, image)
    assert offsets.shape == (3, 3, 32)
    assert offsets.dtype == jnp.float32
    assert 1e-4 < jnp.sqrt(jnp.mean(offsets**2)) < 0.1
    assert jnp.all(jnp.std(offsets, axis=0).mean(-1) > 1e-4)


def test_rows_of_a_batch_are_independent(toy, image):
    _, variables, apply = toy
    together = apply(variables, image)
    padded = apply(variables, jnp.concatenate([image[1:2], jnp.zeros_like(image[:2])]))
    np.testing.assert_allclose(together[1:2], padded[:1], atol=BATCH_ATOL)


def test_stage_holds_back_the_finer_codes(toy, image):
    encoder, variables, apply = toy
    full = apply(variables, image)
    coarse = jax.jit(lambda v, x: encoder.apply(v, x, stage=1))(variables, image)
    np.testing.assert_allclose(coarse[:, :2], full[:, :2], atol=OPS_ATOL)
    np.testing.assert_array_equal(coarse[:, 2], coarse[:, 0])


def test_gradients_reach_every_parameter(toy, image):
    encoder, variables, _ = toy

    def loss(params):
        return jnp.mean((encoder.apply({**variables, "params": params}, image) - 1.0) ** 2)

    with fast_compile():
        grads = jax.jit(jax.grad(loss))(variables["params"])
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        assert jnp.all(jnp.isfinite(grad)), path
        assert jnp.any(grad != 0), path


def test_gradient_agrees_with_finite_differences(toy, image):
    _, variables, apply = toy
    direction = jax.random.normal(jax.random.key(2), image.shape)

    def along(t):
        return jnp.sum(jnp.sin(40 * apply(variables, image + t * direction)))

    step = 1e-2
    numeric = (along(step) - along(-step)) / (2 * step)
    _, analytic = jax.jvp(along, (0.0,), (1.0,))
    np.testing.assert_allclose(analytic, numeric, rtol=3e-2)


def test_bfloat16_is_close(toy, image):
    _, variables, apply = toy
    exact = apply(variables, image)
    low = jax.jit(Encoder(**TOY, dtype=jnp.bfloat16).apply)(variables, image)
    assert low.dtype == jnp.float32
    assert jnp.linalg.norm(low - exact) < BF16_RELATIVE_L2 * jnp.linalg.norm(exact)


def test_larger_photos_are_averaged_down(toy, image):
    _, variables, apply = toy
    doubled = jnp.repeat(jnp.repeat(image, 2, axis=1), 2, axis=2)
    np.testing.assert_allclose(apply(variables, doubled), apply(variables, image), atol=OPS_ATOL)


@pytest.mark.parametrize("shape", [(1, 16, 16, 3), (1, 32, 40, 3)])
def test_wrong_image_sizes_are_refused(toy, shape):
    encoder, variables, _ = toy
    with pytest.raises(ValueError, match="square images of at least 32 pixels"):
        encoder.apply(variables, jnp.zeros(shape))


@pytest.mark.parametrize("field", [{"input_resolution": 48}, {"units": (1, 1, 1)}])
def test_wrong_fields_are_refused(field):
    with pytest.raises(ValueError, match="Encoder needs four groups"):
        jax.eval_shape(Encoder(**(TOY | field)).init, jax.random.key(0), jnp.zeros((1, 48, 48, 3)))


def test_batch_norm_follows_pytorchs_rule():
    """Normalises with the biased variance, stores the unbiased one, momentum 0.1 for the new batch."""
    x = np.random.default_rng(0).normal(2.0, 3.0, (2, 3, 4, 5)).astype(np.float32)
    norm = BatchNorm()
    variables = norm.init(jax.random.key(0), jnp.asarray(x))
    y, updates = norm.apply(variables, jnp.asarray(x), train=True, mutable=["batch_stats"])
    flat = x.astype(np.float64).reshape(-1, 5)
    expected = (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(y, expected, rtol=OPS_RTOL, atol=OPS_ATOL)
    np.testing.assert_allclose(updates["batch_stats"]["mean"], 0.1 * flat.mean(0), rtol=OPS_RTOL)
    np.testing.assert_allclose(updates["batch_stats"]["var"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=OPS_RTOL)


def test_training_mode_differs_and_moves_every_statistic(toy, image):
    encoder, variables, apply = toy
    step = jax.jit(lambda v, x: encoder.apply(v, x, train=True, mutable=["batch_stats"]))
    codes, updates = step(variables, image)
    assert not np.allclose(codes, apply(variables, image))
    moved = jax.tree.map(lambda a, b: bool(jnp.all(a != b)), updates["batch_stats"], variables["batch_stats"])
    assert all(jax.tree.leaves(moved))


@pytest.mark.slow
def test_stored_statistics_are_the_identity_at_initialisation():
    """So an untrained trunk's activations stay near the image's scale through all 24 units."""
    trunk = IRSETrunk()
    image = jax.random.uniform(jax.random.key(1), (1, 32, 32, 3), minval=-1, maxval=1)
    features = jax.jit(trunk.apply)(init(trunk, image), image)
    for group in features.groups:
        assert 0.1 < jnp.sqrt(jnp.mean(group**2)) < 10.0
