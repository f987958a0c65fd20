"""What a run records of itself, and what it accepts when it goes on."""

import json
import sys
from pathlib import Path

import pytest
from ml_collections import ConfigDict, config_dict

from nofa_jax.errors import UserError
from nofa_jax.train import provenance
from nofa_jax.train.provenance import read_config, record_run


def _config() -> ConfigDict:
    return ConfigDict(
        {
            "seed": 0,
            "train": {"steps": 100, "rate": 1e-4, "log_every": 10, "schedule": (("encoder/.*", 1.0), (".*", 0.0))},
            "init_from": None,
            "clip": config_dict.placeholder(float),
        }
    )


def test_the_config_comes_back_as_it_was(tmp_path: Path) -> None:
    record_run(tmp_path / "new", _config(), resuming=False)
    found = read_config(tmp_path / "new")
    assert found.to_dict() == _config().to_dict()
    assert found.train.schedule == (("encoder/.*", 1.0), (".*", 0.0))
    with pytest.raises(AttributeError):
        found.train.stepz = 1


def test_provenance_has_a_row_for_every_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["train.py", "--config=x.py"])
    record_run(tmp_path, _config(), resuming=False)
    record_run(tmp_path, _config(), resuming=True)
    rows = [json.loads(line) for line in (tmp_path / "provenance.jsonl").read_text().splitlines()]
    assert [row["resuming"] for row in rows] == [False, True]
    assert rows[0]["command"] == ["train.py", "--config=x.py"]
    assert rows[0]["versions"]["jax"] == __import__("jax").__version__
    assert rows[0]["versions"]["python"] == sys.version.split()[0]
    assert "cpu" in rows[0]["devices"]
    assert rows[0]["git"] is None or len(rows[0]["git"].removesuffix("+changes")) == 40


def test_a_changed_config_is_refused_with_the_difference(tmp_path: Path) -> None:
    record_run(tmp_path, _config(), resuming=False)
    changed = _config()
    changed.train.rate = 3e-4
    changed.train.schedule = ((".*", 1.0),)
    changed.train.steps = 200
    with pytest.raises(UserError) as refused:
        record_run(tmp_path, changed, resuming=True)
    message = str(refused.value)
    assert "train.rate: 0.0001 -> 0.0003" in message
    assert 'train.schedule: [["encoder/.*", 1.0], [".*", 0.0]] -> [[".*", 1.0]]' in message
    assert "train.steps" not in message  # free to change
    assert "--accept_config_changes" in message
    assert read_config(tmp_path).train.rate == 1e-4
    assert len((tmp_path / "provenance.jsonl").read_text().splitlines()) == 1


def test_accepted_and_free_changes_are_logged_and_recorded(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    record_run(tmp_path, _config(), resuming=False)
    changed = _config()
    changed.train.steps, changed.train.log_every = 200, 5
    record_run(tmp_path, changed, resuming=True)
    assert read_config(tmp_path).train.steps == 200
    changed.seed = 1
    record_run(tmp_path, changed, resuming=True, accept_changes=True)
    assert read_config(tmp_path).seed == 1
    assert capfd.readouterr().out.splitlines() == [
        "config changed on resume: train.log_every: 10 -> 5",
        "config changed on resume: train.steps: 100 -> 200",
        "config changed on resume: seed: 0 -> 1",
    ]


def test_without_a_checkpoint_the_config_is_simply_replaced(tmp_path: Path) -> None:
    record_run(tmp_path, _config(), resuming=False)
    changed = _config()
    changed.seed = 5
    record_run(tmp_path, changed, resuming=False)
    assert read_config(tmp_path).seed == 5


def test_added_and_removed_fields_are_differences() -> None:
    changes = provenance.config_changes({"a": {"x": 1, "y": 2}, "b": 1}, {"a": {"x": 1.0, "z": None}, "b": {"c": 1}})
    assert changes == {"a.y": "a.y: 2 -> absent", "a.z": "a.z: absent -> null", "b": 'b: 1 -> {"c": 1}'}


def test_what_is_not_a_run_is_explained(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is not a training run"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text('{"a": ')
    with pytest.raises(UserError, match="cannot be read"):
        read_config(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        record_run(tmp_path / "file", _config(), resuming=False)


def test_git_hash_is_none_outside_a_checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(provenance.nofa_jax, "__file__", str(tmp_path / "__init__.py"))
    assert provenance.git_hash() is None
    monkeypatch.setenv("PATH", "")
    assert provenance.git_hash() is None
