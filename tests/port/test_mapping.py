"""The porting engine: nothing unused, nothing unfilled, nothing guessed."""

import jax
import ml_dtypes
import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.port.mapping import Ignore, Rule, channels_last, conv, convert, linear, pointwise

RULES = [
    Rule(r"net\.(\d+)\.weight", r"params/layer_\1/kernel", linear),
    Rule(r"net\.(?P<i>\d+)\.bias", r"params/layer_\g<i>/bias"),
    Rule(r"avg", lambda match: "buffers/w_avg"),
    Rule(r"strength", r"params/layer_0/strength"),
    Ignore(r".*\.num_batches_tracked", "a counter"),
]


def _leaf(*shape, dtype=np.float32):
    return jax.ShapeDtypeStruct(shape, dtype)


def _state():
    return {
        "net.0.weight": np.arange(6, dtype=np.float16).reshape(2, 3),
        "net.0.bias": np.zeros(2, np.float32),
        "strength": np.array(0.5, np.float32),
        "avg": np.ones(4, np.float64),
        "bn.num_batches_tracked": np.array(1),
    }


TARGET = {
    "params": {"layer_0": {"kernel": _leaf(3, 2), "bias": _leaf(2), "strength": _leaf()}},
    "buffers": {"w_avg": _leaf(4)},
}


def test_every_leaf_gets_its_tensor_in_the_models_dtype():
    out = convert(_state(), RULES, TARGET)
    np.testing.assert_array_equal(out["params"]["layer_0"]["kernel"], [[0, 3], [1, 4], [2, 5]])
    assert out["params"]["layer_0"]["strength"].shape == ()
    assert {leaf.dtype for leaf in jax.tree.leaves(out)} == {np.dtype("float32")}


def test_one_error_lists_both_leftovers():
    state = _state() | {"extra.weight": np.zeros(1), "net.1.bias": np.zeros(2)}
    del state["avg"]
    with pytest.raises(UserError, match=r"file\.pt.*extra\.weight.*params/layer_1/bias.*buffers/w_avg"):
        convert(state, RULES, TARGET, name="file.pt")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"net.0.bias": np.zeros(3, np.float32)}, r"net\.0\.bias.*shape \[3\], wanted \[2\]"),
        ({"net.0.bias": np.zeros(2, np.int64)}, r"dtype int64, wanted float32"),
        ({"net.0.weight": np.zeros((2, 3, 1))}, r"does not suit the transform linear"),
    ],
)
def test_misfits_are_named(change, message):
    with pytest.raises(UserError, match=message):
        convert(_state() | change, RULES, TARGET)


@pytest.mark.parametrize("dtype", [np.float16, np.float64, ml_dtypes.bfloat16])
def test_floats_of_any_width_are_cast(dtype):
    bias = np.array([0.5, -3], dtype)
    converted = convert(_state() | {"net.0.bias": bias}, RULES, TARGET)
    found = next(x for x in jax.tree.leaves(converted) if x.shape == (2,))
    np.testing.assert_array_equal(found, np.float32([0.5, -3]))
    assert found.dtype == np.float32


def test_a_leaf_or_a_tensor_taken_twice_is_an_error():
    with pytest.raises(UserError, match=r"filled by both avg and mean"):
        convert(_state() | {"mean": np.ones(4)}, [*RULES, Rule("mean", "buffers/w_avg")], TARGET)
    with pytest.raises(UserError, match=r"several rules take \(avg\)"):
        convert(_state(), [*RULES, Ignore("a.*", "never")], TARGET)


def test_named_transforms():
    x = np.arange(2 * 3 * 4 * 5).reshape(2, 3, 4, 5)
    assert conv(x)[1, 2, 0, 1] == x[1, 0, 1, 2]
    assert channels_last(x[0])[1, 2, 0] == x[0, 0, 1, 2]
    assert pointwise(x[:, :, :1, :1])[2, 1] == x[1, 2, 0, 0]
