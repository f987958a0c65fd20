"""The pipeline as a whole: sizes at the paper's scale, and what switching parts off means."""

from collections.abc import Generator

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax import build
from nofa_jax.cli import load_config
from tests.fakes import fake_batch, tiny_config
from tests.quick import fast_compile


@pytest.fixture(scope="module", autouse=True)
def cheap_programs() -> Generator[None]:
    """Operations run one by one here, and the time goes into compiling them."""
    with fast_compile():
        yield


def _count(tree) -> int:
    return sum(int(np.prod(leaf.shape)) for leaf in jax.tree.leaves(tree))


def test_paper_size_builds_and_traces_without_computing():
    config = load_config("configs/general.py")
    model = build.build_model(config)
    i, e = build.coefficient_counts(config)
    variables = jax.eval_shape(lambda: build.init_variables(config, model, (i, e), jax.random.key(0)))
    params = variables["params"]
    generator = params["generator"], params["renderer"], params["superres"]
    assert _count(generator) == 30_662_136  # EG3D's published G
    args = (
        jnp.zeros((1, 512, 512, 3)),
        jnp.zeros((1, 4, 4)),
        jnp.zeros((1, 3, 3)),
        jnp.zeros((1, i)),
        jnp.zeros((1, e)),
    )
    output = jax.eval_shape(lambda v: model.apply(v, *args, resolution=128), variables)
    assert output.image.shape == (1, 512, 512, 3)
    assert output.image_raw.shape == (1, 128, 128, 3)
    volume = jax.eval_shape(lambda v: model.apply(v, args[0], method="volume"), variables)
    assert volume.planes.shape == (1, 3, 256, 256, 32)
    assert volume.ws.shape == (1, 14, 512)


@pytest.fixture(scope="module")
def tiny():
    config = tiny_config()
    model = build.build_model(config)
    return config, model, build.init_variables(config, model, (5, 6), jax.random.key(0)), fake_batch(config).source


def test_untrained_compensation_changes_nothing_and_untrained_deformation_little(tiny):
    _, model, variables, source = tiny
    with_c = model.apply(variables, source.image, True, method="volume")
    without = model.apply(variables, source.image, False, method="volume")
    np.testing.assert_array_equal(with_c.planes, without.planes)
    args = (with_c.planes, with_c.ws, source.cam2world, source.intrinsics, source.id_coeff, source.exp_coeff)
    on, off = (model.apply(variables, *args, resolution=16, deform=d, method="render") for d in (True, False))
    assert np.abs(on.image_raw - off.image_raw).max() < 0.1


def test_ws_is_the_offset_plus_the_average(tiny):
    _, model, variables, source = tiny
    variables = jax.tree.map(lambda x: x, variables)
    volume = model.apply(variables, source.image, method="volume")
    average = variables["buffers"]["generator"]["mapping"]["w_avg"]
    np.testing.assert_allclose(volume.ws, volume.offsets + average[None, None], rtol=1e-6)


def test_no_key_is_deterministic_and_a_key_jitters(tiny):
    _, model, variables, source = tiny
    args = (source.image, source.cam2world, source.intrinsics, source.id_coeff, source.exp_coeff)
    render = jax.jit(lambda key: model.apply(variables, *args, resolution=16, key=key).image_raw)
    np.testing.assert_array_equal(render(None), render(None))
    assert np.abs(render(jax.random.key(1)) - render(jax.random.key(2))).max() > 1e-5


def test_a_larger_photo_is_shrunk_for_the_encoder(tiny):
    _, model, variables, source = tiny
    big = jnp.repeat(jnp.repeat(source.image, 2, axis=1), 2, axis=2)
    offsets = model.apply(variables, big, method="volume").offsets
    assert offsets.shape == model.apply(variables, source.image, method="volume").offsets.shape


def test_a_halo_changes_the_border_after_super_resolution_and_nothing_before_it(tiny):
    _, model, variables, source = tiny
    assert model.halo == 1
    args = (source.image, source.cam2world, source.intrinsics, source.id_coeff, source.exp_coeff)
    with_halo = model.apply(variables, *args, resolution=16)
    without = model.clone(halo=0).apply(variables, *args, resolution=16)
    np.testing.assert_allclose(with_halo.image_raw, without.image_raw, atol=1e-5)
    assert with_halo.image.shape == without.image.shape == (2, 32, 32, 3)
    difference = np.abs(with_halo.image - without.image).max(axis=(0, 3))
    assert difference[[0, -1]].max() > 1e-3
    np.testing.assert_allclose(difference[14:18, 14:18], 0.0, atol=1e-5)
