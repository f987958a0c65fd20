"""`show` and `check`: a record with its provenance, and what a sound and an unsound set say and leave behind."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from data_prep.__main__ import run
from data_prep.show import contact_sheet
from nofa_jax.data.records import open_dataset
from nofa_jax.data.writer import write_dataset
from nofa_jax.errors import UserError
from tests.data.fake import N_EXP, N_ID, SIZE, fake_records, write_fake


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake(tmp_path_factory.mktemp("show") / "set")


def test_a_record_is_printed_with_its_provenance_and_drawn(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    assert run(["show", str(path), "--split=val", "--record=5", f"--out={tmp_path / 'a.png'}", "--clips=2"]) == 0
    out = capsys.readouterr().out
    assert f"split {open_dataset(path).split_hash}, by identity" in out
    for line in ("identity     25", "frame        1", "time         0.25", "licence      'CC0-1.0'"):
        assert f"  {line}\n" in out
    assert "source       'päinting.mp4'\n" in out
    with Image.open(tmp_path / "a.png") as sheet:
        drawn = np.asarray(sheet)
    dataset = open_dataset(path)
    np.testing.assert_array_equal(drawn, contact_sheet(dataset, "val", 2, 8, 5))
    assert len(drawn) > len(contact_sheet(dataset, "val", 2, 8))  # a row for the record
    assert (drawn != contact_sheet(dataset, "val", 2, 8, 4)).any()
    with pytest.raises(UserError, match="records 0 to 23, not 24"):
        run(["show", str(path), "--split=val", "--record=24", f"--out={tmp_path / 'b.png'}"])


def test_the_hash_of_a_records_file_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    metadata = {"files_sha256": {"päinting.mp4": "3fa9"}, "split_by": "time", "split_version": 7}
    out = write_dataset(tmp_path / "set", {"train": fake_records(range(1), 2)}, metadata, N_ID, N_EXP, "png")
    run(["show", str(out), f"--out={tmp_path / 'a.png'}"])
    shown = capsys.readouterr().out
    assert "'päinting.mp4', sha256 3fa9" in shown
    assert ", by time, rule 7" in shown


def test_check_writes_a_report(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write_fake(tmp_path / "set")
    row = {"file": "<b>.mp4", "step": "detect", "reason": "no face"}
    (path / "rejected.jsonl").write_text(json.dumps(row) + "\n")
    assert run(["check", str(path)]) == 0
    assert "licences: CC0-1.0 (96 frames)" in capsys.readouterr().out
    page = (path / "report.html").read_text()
    for text in ("<h1>set</h1>", "Not used: 1", "<td>&lt;b&gt;.mp4", "no face", "CC0-1.0 (24 frames)", "yaw, degrees"):
        assert text in page
    before = {file.name for file in path.iterdir()}
    assert {"sheet_train.png", "sheet_val.png"} < before
    assert run(["check", str(path), f"--report={tmp_path / 'elsewhere'}"]) == 0
    assert {file.name for file in (tmp_path / "elsewhere").iterdir()} == {
        "report.html",
        "sheet_train.png",
        "sheet_val.png",
    }
    assert {file.name for file in path.iterdir()} == before
    (path / "rejected.jsonl").write_text("[]\n")
    with pytest.raises(UserError, match=r"rejected.jsonl is damaged"):
        run(["check", str(path)])


def test_check_finds_another_split_than_was_written(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    path = write_fake(tmp_path / "set")
    metadata = json.loads((path / "metadata.json").read_text())
    assert metadata["split_hash"] == open_dataset(path).split_hash
    (path / "metadata.json").write_text(json.dumps(metadata | {"split_hash": "0123456789abcdef"}))
    with pytest.raises(UserError, match="1 problems"):
        run(["check", str(path)])
    assert "but 0123456789abcdef was written" in capsys.readouterr().out
    assert not (path / "report.html").exists()


def test_a_splits_hash_is_of_who_is_where(tmp_path: Path) -> None:
    def made(name: str, clips: range, coding: str = "png", people: tuple[str, ...] = ("a", "b", "c")) -> str:
        splits = {"train": fake_records(clips, 2, coding=coding), "val": fake_records(range(2, 3), 2, coding=coding)}
        metadata = {"size": SIZE, "identity_names": list(people)}
        return open_dataset(write_dataset(tmp_path / name, splits, metadata, N_ID, N_EXP, coding)).split_hash

    first = made("one", range(2))
    assert made("jpeg", range(2), "jpeg95") == first
    assert len({first, made("fewer", range(1)), made("others", range(2), people=("a", "b", "d"))}) == 3
