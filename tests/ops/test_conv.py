"""Modulated and upsampling convolutions against EG3D's numbers and the general definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.ops import winograd
from nofa_jax.ops.conv import FIR, conv, modulated_conv, pointwise, upfirdn2d
from nofa_jax.ops.resample import upsample2d
from nofa_jax.port import mapping
from tests import tolerances
from tests.eg3d_golden import assert_matches, golden, nchw, nhwc

TAPS = jnp.outer(jnp.array(FIR), jnp.array(FIR))


def _inputs():
    g = golden("ops")
    return (
        g,
        jnp.asarray(nhwc(g.input("conv_x"))),
        jnp.asarray(mapping.conv(g.input("conv_w3"))),
        jnp.asarray(g.input("conv_styles")),
    )


def test_upfirdn_matches_eg3d():
    g = golden("ops")
    x = jnp.asarray(nhwc(g.input("x_nchw")))
    assert_matches(g, "upfirdn/downsample2d", nchw(upfirdn2d(x, TAPS, down=(2, 2), padding=((1, 1), (1, 1)))))
    assert_matches(g, "upfirdn/filter2d", nchw(upfirdn2d(x, TAPS, padding=((2, 1), (2, 1)))))
    taps = jnp.asarray(g.input("asym_filter"))
    options = {"up": (3, 2), "down": (2, 3), "padding": ((-1, 4), (2, 1)), "gain": 1.5}
    assert_matches(g, "upfirdn/general", nchw(upfirdn2d(x, taps, **options)))
    assert_matches(g, "upfirdn/general_flip", nchw(upfirdn2d(x, taps[::-1, ::-1], **options)))


def test_plain_and_upsampling_convolution_match_eg3d():
    g, x, kernel, _ = _inputs()
    assert_matches(g, "conv2d_resample/k3", nchw(conv(x, kernel)))
    assert_matches(g, "conv2d_resample/k3_up2", nchw(conv(x, kernel, up=2)))


@pytest.mark.parametrize("single", [False, True])
def test_modulated_convolution_matches_eg3d(single):
    """A batch scales its activations, one large image its kernel: the same numbers."""
    g, x, kernel, styles = _inputs()

    def run(**options):
        if not single:
            return modulated_conv(x, kernel, styles, **options)
        return jnp.concatenate([modulated_conv(x[i : i + 1], kernel, styles[i : i + 1], **options) for i in range(2)])

    noise = jnp.asarray(g.input("conv_noise"))[None, :, :, None]
    for form in ("fused", "split"):
        assert_matches(g, f"modconv/demod_{form}", nchw(run()))
        assert_matches(g, f"modconv/nodemod_{form}", nchw(run(demodulate=False)))
        assert_matches(g, f"modconv/demod_up2_noise_{form}", nchw(run(up=2) + noise))


def test_pointwise_matches_eg3d():
    g, x, _, styles = _inputs()
    assert_matches(
        g, "modconv/torgb_k1", nchw(pointwise(x, jnp.asarray(mapping.pointwise(g.input("conv_w1"))), styles))
    )


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (2, 3, 5, 2), (1, 4, 4, 1)])
def test_phase_forms_equal_the_general_definition(shape):
    key = jax.random.split(jax.random.key(0), 2)
    x = jax.random.normal(key[0], shape)
    doubled = upfirdn2d(x, TAPS, up=(2, 2), padding=((2, 1), (2, 1)), gain=4.0)
    np.testing.assert_allclose(upsample2d(x), doubled, atol=tolerances.OPS_ATOL)
    kernel = jax.random.normal(key[1], (3, 3, shape[-1], 4))
    stuffed = jnp.zeros((shape[0], 2 * shape[1] - 1, 2 * shape[2] - 1, shape[3])).at[:, ::2, ::2].set(x)
    transposed = jax.lax.conv_general_dilated(
        stuffed, kernel[::-1, ::-1], (1, 1), [(2, 2), (2, 2)], dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    expected = upfirdn2d(transposed, TAPS, padding=((1, 1), (1, 1)), gain=4.0)
    np.testing.assert_allclose(conv(x, kernel, up=2), expected, atol=tolerances.OPS_ATOL)


@pytest.mark.parametrize("shape", [(1, 4, 4), (2, 8, 12)])
def test_winograd_is_the_plain_convolution(shape):
    keys = jax.random.split(jax.random.key(0), 3)
    x, kernel = jax.random.normal(keys[0], (*shape, 24)), jax.random.normal(keys[1], (3, 3, 24, 5))
    plain, back = jax.vjp(winograd.correlate_plainly, x, kernel)
    found, back_found = jax.vjp(winograd.correlate, x, kernel)
    scale = jnp.abs(plain).max()
    np.testing.assert_allclose(found / scale, plain / scale, atol=3e-6)
    g = jax.random.normal(keys[2], plain.shape)
    for ours, theirs in zip(back_found(g), back(g), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_winograd_serves_large_float32_convolutions_on_a_cpu(monkeypatch):
    monkeypatch.setattr(winograd, "MIN_PIXELS", 64)
    monkeypatch.setattr(winograd, "MIN_CHANNELS", 4)
    x, kernel = jnp.ones((1, 8, 8, 4)), jnp.ones((3, 3, 4, 4))
    assert winograd.pays(x, kernel)
    assert "convolution" not in jax.jit(conv).lower(x, kernel).as_text()
    np.testing.assert_allclose(conv(x, kernel), winograd.correlate_plainly(x, kernel), rtol=1e-5)
    many = jax.random.normal(jax.random.key(0), (3, *x.shape))
    expected = jax.vmap(winograd.correlate_plainly, (0, None))(many, kernel)
    np.testing.assert_allclose(jax.vmap(jax.checkpoint(conv), (0, None))(many, kernel), expected, atol=1e-4)
    gradient = jax.vmap(jax.grad(lambda x: jnp.sum(conv(x, kernel))))(many)
    assert gradient.shape == many.shape
    assert jnp.isfinite(gradient).all()
    for other in (x[:, :6], x.astype(jnp.bfloat16), x[..., :3]):
        assert not winograd.pays(other, kernel[:, :, : other.shape[-1]].astype(other.dtype))
    assert not winograd.pays(x, kernel[:1, :1])


def test_other_upsampling_kernels_are_refused():
    with pytest.raises(ValueError, match="1x1 kernel"):
        conv(jnp.zeros((1, 4, 4, 2)), jnp.zeros((1, 1, 2, 2)), up=2)


def test_gradient_is_finite_for_a_zero_style():
    x, kernel = jnp.ones((1, 4, 4, 2)), jnp.ones((3, 3, 2, 3))
    gradient = jax.grad(lambda s: modulated_conv(x, kernel, s).sum())(jnp.zeros((1, 2)))
    assert np.isfinite(gradient).all()
