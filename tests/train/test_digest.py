"""Fingerprints of arrays against hashes taken by hand."""

import hashlib

import jax
import jax.numpy as jnp
import numpy as np

from nofa_jax.train.digest import flatten, leaf_digests, params_digest


def test_params_digest_is_sha256_of_all_bytes_in_path_order() -> None:
    a, b, c = np.arange(6, dtype=np.float32), np.ones((2, 2), np.float16), np.float32(7)
    params = {"z": {"k": jnp.asarray(c)}, "a": {"y": jnp.asarray(b), "x": a}}
    expected = hashlib.sha256(a.tobytes() + b.tobytes() + c.tobytes()).hexdigest()
    assert params_digest(params) == expected
    assert params_digest({"a": {"x": a, "y": b}, "z": {"k": c}}) == expected


def test_params_digest_sees_one_bit_and_the_sign_of_zero() -> None:
    base = np.zeros(1000, np.float32)
    changed, negative = base.copy(), base.copy()
    changed.view(np.uint8)[1234] = 1
    negative[3] = -0.0
    assert len({params_digest({"a": x}) for x in (base, changed, negative)}) == 3


def test_leaf_digests_of_layouts_dtypes_and_keys() -> None:
    array = np.arange(12, dtype=np.float32).reshape(3, 4)
    key = jax.random.key(3)
    found = leaf_digests(
        {
            "plain": array,
            "strided": np.asfortranarray(array),
            "device": jnp.asarray(array),
            "half": jnp.ones(3, jnp.bfloat16),
            "key": key,
            "number": 5,
        }
    )
    assert found["plain"] == found["strided"] == found["device"] == hashlib.sha256(array.tobytes()).hexdigest()
    assert found["half"] == hashlib.sha256(b"\x80\x3f" * 3).hexdigest()
    assert found["key"] == hashlib.sha256(np.asarray(jax.random.key_data(key)).tobytes()).hexdigest()
    assert found["number"] == hashlib.sha256(np.int64(5).tobytes()).hexdigest()


def test_flatten_names_leaves_by_path() -> None:
    assert list(flatten({"b": [1, {"x": 2}], "a": (3,)})) == ["a/0", "b/0", "b/1/x"]
