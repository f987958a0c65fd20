"""Steps that are not finite: the state survives, the batch is kept, the run says which term."""

import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.train.nonfinite import NonFinite, load_batch
from tests.fakes import fake_batch, tiny_config

GOOD, BAD = {"l2": 0.1, "loss": 0.2, "grad_norm": 1.0}, {"l2": 0.1, "id": np.nan, "loss": np.nan, "grad_norm": np.inf}


def test_the_term_is_named_and_the_batch_can_be_read_again(tmp_path):
    batch, check = fake_batch(tiny_config()), NonFinite(tmp_path)
    check(1, GOOD, batch)
    assert not (tmp_path / "nonfinite").exists()
    with pytest.raises(UserError, match=r"step 7: not finite: id, loss, grad_norm; its batch is in .*0000007\.npz"):
        check(7, BAD, batch)
    found = load_batch(tmp_path / "nonfinite/0000007.npz")
    np.testing.assert_array_equal(found.target.landmarks, batch.target.landmarks)
    np.testing.assert_array_equal(found.clip, batch.clip)


def test_as_many_as_allowed_are_left_out(tmp_path, capsys):
    batch, check = fake_batch(tiny_config()), NonFinite(tmp_path, allowed=2)
    check(1, BAD, batch)
    check(2, GOOD, batch)
    check(3, BAD, batch)
    assert "left out (2 of 2)" in capsys.readouterr().out
    with pytest.raises(UserError, match="step 4"):
        check(4, BAD, batch)
    assert len(list((tmp_path / "nonfinite").iterdir())) == 3


def test_a_batch_that_cannot_be_kept_is_said_to_be_lost(tmp_path):
    (tmp_path / "nonfinite").write_text("a file in the folder's place")
    with pytest.raises(UserError, match=r"its batch is lost, .*0000004\.npz cannot be written"):
        NonFinite(tmp_path)(4, {"l2": float("nan")}, fake_batch(tiny_config()))
