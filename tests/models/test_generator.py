"""The tri-plane generator: EG3D's numbers at reduced size, the paper's sizes by shape alone."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.models.generator import Generator
from nofa_jax.models.stylegan2 import SynthesisBlock
from tests.eg3d_golden import assert_matches, golden, nchw
from tests.models.eg3d_nets import network


def _count(tree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def test_paper_size():
    generator = Generator()
    assert generator.num_ws == 14
    variables = jax.eval_shape(generator.init, jax.random.key(0), jnp.zeros((1, 14, 512)))
    out = jax.eval_shape(generator.apply, variables, jnp.zeros((2, 14, 512)))
    assert out.planes.shape == (2, 3, 256, 256, 32)
    assert out.feature.shape == (2, 64, 64, 512)
    assert (generator.feature_resolution, generator.feature_channels) == (64, 512)
    assert variables["buffers"]["mapping"]["w_avg"].shape == (512,)


@pytest.mark.parametrize("part", ["mini", pytest.param("tiny", marks=pytest.mark.slow)])
def test_mapping_matches_eg3d(part):
    g = golden(part)
    model, variables = network(part)
    z, label = jnp.asarray(g.input("z")), jnp.concatenate([g["c/cond"], g["c/cam_a"]])
    cutoff = g.meta["truncation_cutoff"]
    cases = {
        "mapping/ws_psi1": {},
        "mapping/ws_psi0.7": {"truncation_psi": 0.7},
        f"mapping/ws_psi0.7_cut{cutoff}": {"truncation_psi": 0.7, "truncation_cutoff": cutoff},
    }
    for name, options in cases.items():
        run = jax.jit(functools.partial(model.apply, method="mapping", **options))
        assert_matches(g, name, run(variables, z, label))


@pytest.mark.parametrize("part", ["mini", pytest.param("tiny", marks=pytest.mark.slow)])
def test_blocks_and_planes_match_eg3d(part):
    g = golden(part)
    model, variables = network(part)
    mine = {k: v["generator"] for k, v in variables.items()}

    def run(noise_mode):
        out, seen = model.generator.apply(
            mine,
            jnp.asarray(g["ws_plus"]),
            noise_mode,
            capture_intermediates=lambda module, _: isinstance(module, SynthesisBlock),
            mutable="intermediates",
        )
        return out, {name: block["__call__"][0] for name, block in seen["intermediates"].items()}

    out, blocks = jax.jit(run, static_argnums=0)("const")
    for name, (x, image) in blocks.items():
        for item, value in ((f"backbone/{name}.x", x), (f"backbone/{name}.img", image)):
            if item in g.items:
                assert_matches(g, item, nchw(value))
    assert_matches(g, "backbone/planes", _channels_first(out.planes))
    assert_matches(g, "backbone/planes_nonoise", _channels_first(jax.jit(run, static_argnums=0)("none")[0].planes))


def _channels_first(planes) -> np.ndarray:
    b, p, h, w, c = planes.shape
    return np.asarray(planes).transpose(0, 1, 4, 2, 3).reshape(b, p * c, h, w)


def test_conditioning_can_be_switched_off_and_w_avg_read():
    generator = Generator(8, 25, 8, plane_resolution=16, plane_channels=2, channel_base=64, channel_max=4)
    blind = generator.clone(zero_conditioning=True)
    variables = jax.jit(generator.init)(jax.random.key(0), jnp.zeros((1, generator.num_ws, 8)))
    z, labels = jnp.ones((2, 8)), jnp.arange(50.0).reshape(2, 25)
    seeing, unseeing = (m.apply(variables, z, labels, method="mapping") for m in (generator, blind))
    assert jnp.abs(seeing[0] - seeing[1]).max() > 1e-3
    np.testing.assert_array_equal(unseeing[0], unseeing[1])
    variables["buffers"]["mapping"]["w_avg"] = jnp.arange(8.0)
    np.testing.assert_array_equal(generator.apply(variables, method=lambda m: m.w_avg), np.arange(8))
