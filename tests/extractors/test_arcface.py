"""Face embeddings: sizes, crop, gradients. Parity is in tests/port/test_arcface.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.extractors.arcface import CROP_COLUMNS, CROP_ROWS, IRESNET_UNITS, IRSE50, IResNet, crop_face
from tests.quick import fast_compile, init
from tests.tolerances import BF16_RELATIVE_L2, OPS_ATOL

TOY = {"units": (1, 1), "widths": (8, 12), "features": 16}


@pytest.fixture(scope="module")
def image() -> jax.Array:
    return jax.random.uniform(jax.random.key(1), (2, 64, 64, 3), minval=-1, maxval=1)


@pytest.fixture(scope="module")
def toy(image):
    model = IRSE50(**TOY, stem_width=8)
    return model, init(model, image), jax.jit(model.apply)


@pytest.mark.parametrize(
    ("model", "size", "parameters"),
    [(IRSE50(), 256, 43_797_696), (IResNet(), 112, 43_590_848), (IResNet(IRESNET_UNITS[100]), 112, 65_156_160)],
)
def test_published_sizes(model, size, parameters):
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), images)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == parameters
    assert jax.eval_shape(model.apply, variables, images).shape == (2, 512)


def test_crop_keeps_only_its_window_at_every_size():
    inside = np.zeros((1, 256, 256, 3), np.float32)
    inside[:, slice(*CROP_ROWS), slice(*CROP_COLUMNS)] = 1.0
    np.testing.assert_allclose(crop_face(jnp.asarray(inside)), 1.0, atol=OPS_ATOL)
    np.testing.assert_array_equal(crop_face(jnp.asarray(1.0 - inside)), 0.0)
    doubled = np.repeat(np.repeat(inside, 2, axis=1), 2, axis=2)
    np.testing.assert_allclose(crop_face(jnp.asarray(doubled)), 1.0, atol=OPS_ATOL)


def test_irse50_has_unit_length_and_finite_gradients(toy, image):
    model, variables, _ = toy

    def similarity(x, v):
        e = model.apply(v, x)
        return jnp.sum(e[0] * e[1]), e

    with fast_compile():
        grad, embedding = jax.jit(jax.grad(similarity, has_aux=True))(image, variables)
    np.testing.assert_allclose(jnp.linalg.norm(embedding, axis=-1), 1.0, atol=OPS_ATOL)
    assert jnp.all(jnp.isfinite(grad))
    assert jnp.any(grad != 0)


def test_faces_of_a_batch_are_independent(toy, image):
    _, variables, apply = toy
    other = jnp.concatenate([image[:1], jnp.zeros_like(image[:1])])
    np.testing.assert_allclose(apply(variables, image)[:1], apply(variables, other)[:1], atol=OPS_ATOL)


def test_bfloat16_is_close(toy, image):
    model, variables, apply = toy
    exact = apply(variables, image)
    low = jax.jit(model.clone(dtype=jnp.bfloat16).apply)(variables, image)
    assert low.dtype == jnp.float32
    assert jnp.linalg.norm(low - exact) < BF16_RELATIVE_L2 * jnp.linalg.norm(exact)


def test_iresnet_is_not_normalised(image):
    model = IResNet(**TOY)
    variables = init(model, image[:, :32, :32])
    embedding = jax.jit(model.apply)(variables, image[:, :32, :32])
    assert embedding.shape == (2, 16)
    assert jnp.all(jnp.abs(jnp.linalg.norm(embedding, axis=-1) - 1) > 1e-3)
