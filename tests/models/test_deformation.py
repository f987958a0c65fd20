"""The deformation field D."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.models.deformation import Deformation, positional_encoding

SMALL = {"depth": 5, "width": 16, "skip": 3, "weight_depth": 2, "weight_width": 8, "octaves": 4}


def _inputs(batch=2, n=7, i=5, e=6):
    keys = jax.random.split(jax.random.key(0), 3)
    return (
        jax.random.uniform(keys[0], (batch, n, 3), minval=-0.5, maxval=0.5),
        jax.random.normal(keys[1], (batch, i)),
        jax.random.uniform(keys[2], (batch, e)),
    )


def test_untrained_field_is_nearly_the_identity():
    points, alpha, beta = _inputs()
    module = Deformation(**SMALL)
    warp = module.apply(module.init(jax.random.key(1), points, alpha, beta), points, alpha, beta)
    assert np.abs(warp.x_canonical - points).max() < 0.01
    assert ((warp.weight > 0) & (warp.weight < 1)).all()
    np.testing.assert_allclose(warp.x_canonical, points + warp.weight * warp.offset, atol=1e-7)


def test_condition_by_parts_equals_a_dense_layer_of_the_concatenation():
    points, alpha, beta = _inputs()
    module = Deformation(**SMALL, output_scale=1.0, use_weight_net=False)
    params = module.init(jax.random.key(1), points, alpha, beta)["params"]
    warp = module.apply({"params": params}, points, alpha, beta)

    net = params["d_net"]
    encoded = positional_encoding(points * 2.0, 4)
    condition = jnp.concatenate([module.id_gain * alpha, module.exp_gain * beta], -1)
    condition = jnp.repeat(condition[:, None], points.shape[1], axis=1)
    x = encoded
    for layer in range(SMALL["depth"]):
        kernel, inputs = net[f"layer_{layer}"]["kernel"], x
        if layer in (0, SMALL["skip"]):
            inputs = jnp.concatenate([x, encoded] if layer else [x], -1)
            kernel = jnp.concatenate([kernel, net[f"condition_{layer}"]["kernel"]], 0)
            inputs = jnp.concatenate([inputs, condition], -1)
        x = jax.nn.relu(inputs @ kernel + net[f"layer_{layer}"]["bias"][None, None])
    offset = x @ net["out"]["kernel"] + net["out"]["bias"][None, None]
    np.testing.assert_allclose(warp.offset, offset, rtol=1e-4, atol=1e-5)


def test_ablation_switches_remove_what_they_name():
    points, alpha, beta = _inputs()
    module = Deformation(**SMALL, output_scale=1.0, use_identity=False)
    variables = module.init(jax.random.key(1), points, alpha, beta)
    base = module.apply(variables, points, alpha, beta)
    other = module.apply(variables, points, -alpha, beta)
    np.testing.assert_array_equal(base.x_canonical, other.x_canonical)
    no_weight = Deformation(**SMALL, use_weight_net=False)
    params = no_weight.init(jax.random.key(1), points, alpha, beta)["params"]
    assert set(params) == {"d_net"}


def test_both_conditions_change_the_offset():
    points, alpha, beta = _inputs()
    module = Deformation(**SMALL, output_scale=1.0)
    variables = module.init(jax.random.key(1), points, alpha, beta)
    base = module.apply(variables, points, alpha, beta).x_canonical
    assert np.abs(base - module.apply(variables, points, -alpha, beta).x_canonical).max() > 1e-3
    assert np.abs(base - module.apply(variables, points, alpha, 1 - beta).x_canonical).max() > 1e-3


def test_modulation_multiplies_the_condition_with_functions_of_place():
    """With the modulation and beta = 0, alpha = 0 the last hidden layer is as without it."""
    points, alpha, beta = _inputs()
    module = Deformation(**SMALL, output_scale=1.0, modulate=True)
    variables = module.init(jax.random.key(1), points, alpha, beta)
    plain = Deformation(**SMALL, output_scale=1.0)
    params = {net: {k: v for k, v in p.items() if k != "modulation"} for net, p in variables["params"].items()}
    zero = jnp.zeros_like(alpha), jnp.zeros_like(beta)
    ours, without = module.apply(variables, points, *zero), plain.apply({"params": params}, points, *zero)
    np.testing.assert_array_equal(ours.offset, without.offset)
    assert (
        np.abs(
            module.apply(variables, points, alpha, beta).offset
            - plain.apply({"params": params}, points, alpha, beta).offset
        ).max()
        > 1e-3
    )


@pytest.mark.parametrize("progress", [0.0, 0.4, 1.0])
def test_annealing_fades_octaves_in_from_coarse_to_fine(progress):
    x = jnp.full((1, 3), 0.3)
    encoded = positional_encoding(x, 5, progress)
    full = positional_encoding(x, 5)
    waves, all_waves = encoded[0, 3:].reshape(10, 3), full[0, 3:].reshape(10, 3)
    open_octaves = int(progress * 5)
    np.testing.assert_allclose(waves[:open_octaves], all_waves[:open_octaves], atol=1e-6)
    np.testing.assert_allclose(waves[open_octaves + 1 : 5], 0.0, atol=1e-6)


def test_bfloat16_keeps_coordinates_in_float32():
    points, alpha, beta = _inputs()
    module = Deformation(**SMALL, dtype=jnp.bfloat16)
    variables = module.init(jax.random.key(1), points, alpha, beta)
    warp = module.apply(variables, points, alpha, beta)
    assert warp.x_canonical.dtype == jnp.float32
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(variables))
    assert np.abs(warp.x_canonical - points).max() < 0.01
