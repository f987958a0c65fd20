"""Resizing and sampling against PyTorch's numbers and brute force."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.ops.resample import read_bilinear, resize, upsample2d
from tests import tolerances
from tests.eg3d_golden import assert_matches, golden, nchw, nhwc


def _hat(image, uv):
    """Brute force: every texel times its tent function."""
    h, w, _ = image.shape
    x, y = (uv[:, 0] + 1) * w / 2 - 0.5, (uv[:, 1] + 1) * h / 2 - 0.5
    tent_x = jnp.maximum(1 - jnp.abs(x[:, None] - jnp.arange(w)[None]), 0)
    tent_y = jnp.maximum(1 - jnp.abs(y[:, None] - jnp.arange(h)[None]), 0)
    return jnp.einsum("ny,nx,yxc->nc", tent_y, tent_x, image)


@pytest.mark.parametrize(
    ("name", "size", "antialias"),
    [
        ("up_aa", 24, True),
        ("up2_aa", 32, True),
        ("up2", 32, False),
        ("down2_aa", 8, True),
        ("down2", 8, False),
        ("down_odd_aa", 11, True),
        ("down_odd", 11, False),
    ],
)
def test_resize_matches_pytorch(name, size, antialias):
    g = golden("ops")
    assert_matches(g, f"interpolate/{name}", nchw(resize(nhwc(g.input("interp_x")), (size, size), antialias)))


def test_upsample2d_matches_eg3d():
    g = golden("ops")
    assert_matches(g, "upfirdn/upsample2d", nchw(upsample2d(jnp.asarray(nhwc(g.input("x_nchw"))))))


@pytest.mark.parametrize("name", ["grid", "grid_edges"])
def test_read_bilinear_matches_grid_sample(name):
    g = golden("ops")
    image = jnp.asarray(nhwc(g.input("interp_x"))[0])
    values = read_bilinear(image, jnp.asarray(g.input(name)[0, 0]))
    assert_matches(
        g, {"grid": "grid_sample", "grid_edges": "grid_sample_edges"}[name], np.asarray(values).T[None, :, None]
    )


def test_read_bilinear_and_its_gradients_against_brute_force():
    key = jax.random.split(jax.random.key(0), 3)
    image = jax.random.normal(key[0], (5, 7, 3))
    uv = jax.random.uniform(key[1], (400, 2), minval=-1.4, maxval=1.4)
    g = jax.random.normal(key[2], (400, 3))
    np.testing.assert_allclose(read_bilinear(image, uv), _hat(image, uv), atol=tolerances.OPS_ATOL)
    mine = jax.jit(jax.grad(lambda p, u: (read_bilinear(p, u) * g).sum(), (0, 1)))(image, uv)
    brute = jax.jit(jax.grad(lambda p, u: (_hat(p, u) * g).sum(), (0, 1)))(image, uv)
    for a, b in zip(mine, brute, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerances.OPS_RTOL, atol=10 * tolerances.OPS_ATOL)


def test_read_bilinear_is_finite_far_outside():
    image = jnp.ones((4, 4, 2))
    uv = jnp.array([[1e30, 0.0], [-1e30, 1e30], [jnp.inf, 0.0], [1.25, 0.0]])
    value, gradients = jax.value_and_grad(lambda p, u: read_bilinear(p, u).sum(), (0, 1))(image, uv)
    assert value == 0
    assert all(np.isfinite(x).all() for x in gradients)
    assert read_bilinear(image, jnp.full((1, 2), jnp.nan)).shape == (1, 2)  # and no read out of bounds
