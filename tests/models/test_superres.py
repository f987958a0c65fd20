"""Super-resolution: EG3D's classes, toy sizes, windows."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.models.stylegan2 import SynthesisBlock
from nofa_jax.models.superres import EG3D_SUPERRES, SuperResolution
from nofa_jax.port.eg3d import RULES
from nofa_jax.port.mapping import convert
from tests import tolerances
from tests.eg3d_golden import assert_matches, golden, nchw, nhwc
from tests.golden import weights_module
from tests.models.eg3d_nets import network
from tests.models.random_init import random_variables


def _toy(**fields) -> SuperResolution:
    return SuperResolution(**{"input_resolution": 16, "output_resolution": 32, "channels": (8, 6)} | fields)


@functools.cache
def _initialized():
    """A toy network with inputs, compiled."""
    module = _toy()
    rng = np.random.default_rng(0)
    features, ws = (jnp.asarray(rng.normal(size=shape), jnp.float32) for shape in ((2, 16, 16, 5), (2, 4, 7)))
    return jax.jit(module.apply), random_variables(module, features, ws), features, ws


@pytest.mark.parametrize("noise_mode", ["none", "const"])
def test_mini_matches_eg3d(noise_mode):
    g = golden("mini")
    model, variables = network("mini")
    mine = {k: v["superres"] for k, v in variables.items()}
    run = jax.jit(model.superres.apply, static_argnames="noise_mode")
    image = run(mine, jnp.asarray(nhwc(g.input("sr_x"))), jnp.asarray(g["ws_plus"]), noise_mode=noise_mode)
    assert_matches(g, f"sr/image_{noise_mode}", nchw(image))


def test_clamp_matches_eg3d():
    """Inputs so large that the convolutions hit +-256; here colour and features are scaled apart."""
    g = golden("mini")
    model, variables = network("mini")
    codes = jnp.tile(jnp.asarray(12 * g["ws_plus"])[:, -1:], (1, 3, 1))
    x = jnp.asarray(nhwc(g.input("sr_x")))
    x, image = 1600 * x, 40 * x[..., :3]
    for i, (channels, size) in enumerate(zip(model.superres.channels, (64, 128), strict=True)):
        mine = {k: v["superres"][f"block{i}"] for k, v in variables.items()}
        block = SynthesisBlock(channels, 3, size, clamp=256.0)
        x, image = jax.jit(block.apply, static_argnums=4)(mine, x, image, codes, "none")
    assert_matches(g, "sr/image_clamped", nchw(image))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "size"), [("2X", 32), ("4X", 64)])
def test_classes_match_eg3d(kind, size):
    g = golden("ops")
    module = SuperResolution(**EG3D_SUPERRES[kind])
    sizes = {"block0": module.input_resolution, "block1": module.output_resolution}
    tensors = {}
    for key, entry in golden("tiny").inventory()["tensors"].items():  # the same layers, other noise sizes
        name = key.removeprefix("superresolution.")
        if name != key:
            side = sizes.get(name.split(".")[0])
            tensors[name] = {"shape": [side, side]} if name.endswith("noise_const") else entry
    state = weights_module().make_state(tensors, g.meta["seed"])
    x, ws = jnp.asarray(nhwc(g.input(f"sr_x_{size}"))), jnp.asarray(g.input("sr_ws"))
    target = {k: {"superres": v} for k, v in jax.eval_shape(module.init, jax.random.key(0), x, ws).items()}
    variables = convert({f"superresolution.{k}": v for k, v in state.items()}, RULES, target)
    image = module.apply({k: v["superres"] for k, v in variables.items()}, x, ws, noise_mode="const")
    assert_matches(g, f"sr/SuperresolutionHybrid{kind}_{size}", nchw(image))


@pytest.mark.parametrize("kind", list(EG3D_SUPERRES))
def test_published_sizes(kind):
    module = SuperResolution(**EG3D_SUPERRES[kind])
    features, ws = jnp.zeros((1, 64, 64, 32)), jnp.zeros((1, 14, 512))
    out, _ = jax.eval_shape(module.init_with_output, jax.random.key(0), features, ws)
    assert out.shape == (1, module.output_resolution, module.output_resolution, 3)


def test_a_window_equals_the_whole_away_from_its_edges():
    run, variables, features, ws = _initialized()
    whole = run(variables, features, ws)
    part = run(variables, features[:, 2:14, 3:15], ws)
    assert part.shape == (2, 24, 24, 3)
    margin = 8
    np.testing.assert_allclose(
        part[:, margin:-margin, margin:-margin],
        whole[:, 4 + margin : 28 - margin, 6 + margin : 30 - margin],
        atol=tolerances.OPS_ATOL,
    )


def test_only_the_last_code_counts_and_sizes_are_checked():
    run, variables, features, ws = _initialized()
    other = ws.at[:, :-1].add(1.0)
    np.testing.assert_array_equal(run(variables, features, ws), run(variables, features, other))
    with pytest.raises(ValueError, match="not 1, 2 or 4 times"):
        jax.eval_shape(_toy(output_resolution=48).init, jax.random.key(0), features, ws)
    with pytest.raises(ValueError, match="'sometimes'"):
        jax.eval_shape(_toy(resize="sometimes").init, jax.random.key(0), features, ws)


def test_resizing_rules():
    for rule, size, expected in [("always", 20, 32), ("enlarge", 20, 40), ("enlarge", 8, 32), ("never", 8, 16)]:
        module = _toy(resize=rule)
        out, _ = jax.eval_shape(
            module.init_with_output, jax.random.key(0), jnp.zeros((1, size, size, 5)), jnp.zeros((1, 2, 7))
        )
        assert out.shape[1] == expected
