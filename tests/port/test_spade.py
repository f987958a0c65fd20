"""SPADE residual blocks against the official ones (parameter-free norm removed, as in NOFA)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.models.compensation import SpadeResBlock
from nofa_jax.ops.resize import resize_nearest_floor
from nofa_jax.port.mapping import convert
from nofa_jax.port.spade import RULES
from tests import golden


def load(case: str):
    info = golden.manifest("spade", "spade")["cases"][case]
    stored = golden.arrays("spade", "spade")
    data = {k.removeprefix(f"{case}/"): v for k, v in stored.items() if k.startswith(f"{case}/")}
    make = golden.weights_module().make_array
    seed, size = 2601, info["hw"]  # the inputs of every case are drawn with the first case's seed
    state = golden.make_state("spade", info["weights"], fixed={k: v for k, v in data.items() if "weight_" in k})
    x = golden.nhwc(make(f"{case}/x", (2, info["fin"], *size), seed, "normal"))
    upstream = golden.nhwc(make(f"{case}/g", (2, info["fout"], *size), seed, "normal"))
    image = stored["seg_u8"].astype(np.float32) / 127.5 - 1
    block = SpadeResBlock(info["fout"], spectral=case == "spectral")
    target = jax.eval_shape(block.init, jax.random.key(0), jnp.asarray(x), jnp.asarray(image))
    variables = jax.tree.map(jnp.asarray, convert(state, RULES, target, case))
    return block, variables, jnp.asarray(x), jnp.asarray(image), upstream, data


def same_slice(full, stored: np.ndarray):
    """The stored array keeps every k-th pixel and channel of the full one."""
    row, column, channel = (n // m for n, m in zip(full.shape[1:], stored.shape[1:], strict=True))
    return full[:, ::row, ::column, ::channel], stored


@pytest.mark.parametrize("case", ["shortcut", "identity", "upsampled_seg", "spectral"])
def test_block_and_gradients(case: str):
    block, variables, x, image, upstream, data = load(case)

    def total(x, image, variables):  # arguments: XLA would fold constants for seconds
        y, state = block.apply(variables, x, image, capture_intermediates=True, mutable=["intermediates"])
        return jnp.sum(y * upstream), (y, state["intermediates"])

    (_, (y, inner)), (grad_x, grad_image) = jax.jit(jax.value_and_grad(total, (0, 1), has_aux=True))(
        x, image, variables
    )
    results = {name: inner[name]["__call__"][0] for name in ("norm_0", "norm_1", "conv_0")} | {"y": y, "grad_x": grad_x}
    for name, full in results.items():
        golden.assert_parity(*same_slice(full, golden.nhwc(data[name])))
    golden.assert_parity(grad_image[:, ::2, ::2], golden.nhwc(data["grad_seg"]))


@pytest.mark.parametrize("case", ["shortcut", "identity", "upsampled_seg"])
def test_image_is_resized_by_the_floor_rule(case: str):
    _, _, x, image, _, data = load(case)
    small = resize_nearest_floor(image, *x.shape[1:3])
    np.testing.assert_array_equal(small[:, ::4, ::4], golden.nhwc(data["seg_small"]))


def test_spectral_norm_takes_one_power_iteration_in_training():
    block, variables, x, image, _, data = load("spectral")
    y, updates = jax.jit(lambda v: block.apply(v, x, image, train=True, mutable=["batch_stats"]))(variables)
    golden.assert_parity(y, golden.nhwc(data["train_y"]))
    golden.assert_parity(updates["batch_stats"]["conv_0"]["u"], data["train_conv_0_weight_u"])
