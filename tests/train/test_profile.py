"""Traces of chosen steps."""

import jax.numpy as jnp
import pytest

from nofa_jax.errors import UserError
from nofa_jax.train.profile import Profiler


def test_the_chosen_steps_are_traced(tmp_path):
    with Profiler(tmp_path, (2, 3)) as profiler:
        for step in range(5):
            profiler.at(step)
            assert (tmp_path / "profile").exists() == (step > 2)
            jnp.ones(3).sum().block_until_ready()
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_a_run_that_ends_first_keeps_its_trace(tmp_path):
    with Profiler(tmp_path, (0, 100)) as profiler:
        profiler.at(0)
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


def test_none_and_nonsense(tmp_path):
    with Profiler(tmp_path, (0, 0)) as profiler:
        profiler.at(0)
    assert not (tmp_path / "profile").exists()
    with pytest.raises(UserError, match=r"config.profile"):
        Profiler(tmp_path, (5, 2))
