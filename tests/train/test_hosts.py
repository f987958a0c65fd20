"""Joining processes: what is refused, and that one alone joins nobody. Real processes: tests/test_processes.py."""

import jax
import pytest

from nofa_jax.errors import UserError
from nofa_jax.train import hosts


def test_alone(monkeypatch):
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS", raising=False)
    hosts.join()
    assert jax.process_count() == 1
    assert hosts.agree(True)
    assert not hosts.agree(False)
    with hosts.first_alone("nothing"):
        pass


@pytest.mark.parametrize("parts", [(None, 2, 0), ("localhost:1", None, 0), ("localhost:1", 2, None)])
def test_half_an_address_is_refused(parts):
    with pytest.raises(UserError, match="--coordinator"):
        hosts.join(*parts)


def test_a_slurm_step_of_several_tasks_joins_by_itself(monkeypatch):
    called = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args: called.append(args))
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "1")
    hosts.join()
    assert called == []
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    hosts.join()
    hosts.join("localhost:1", 2, 1)
    assert called == [(), ("localhost:1", 2, 1)]
