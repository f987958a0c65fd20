"""Embedded clips as a data set: exact labels, disjoint splits, caching, atomicity, reproducibility."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from data_prep import heads, motion, synthesize
from data_prep.__main__ import run
from data_prep.synthesize import Settings, make_dataset
from nofa_jax.data.check import check_dataset
from nofa_jax.data.records import Dataset, open_dataset
from nofa_jax.data.sampler import pair_loader
from nofa_jax.errors import UserError
from nofa_jax.face3d.model import load_morphable_model
from nofa_jax.rendering.camera import project
from tests.shared import shared_path

SMALL = {"identities": 4, "frames": 4, "size": 32, "fractions": (0.5, 0.25, 0.25)}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def dataset(root: Path) -> Dataset:
    return open_dataset(make_dataset(root, **SMALL))


def content(dataset: Dataset) -> dict[str, str]:
    return {name: split["content_sha256"] for name, split in dataset.metadata["splits"].items()}


@pytest.fixture
def no_rendering(monkeypatch: pytest.MonkeyPatch):
    def refuse(self, task):
        raise AssertionError("a clip was rendered")

    monkeypatch.setattr(heads.ClipRenderer, "__call__", refuse)


def test_the_set_is_sound_and_described(dataset: Dataset):
    report = check_dataset(dataset.path)
    assert report.problems == []
    assert {k: v["frames"] for k, v in report.statistics.items()} == {"train": 8, "val": 4, "test": 4}
    model = load_morphable_model("procedural")
    assert dataset.metadata["exp_names"] == list(model.exp_names)
    assert (dataset.metadata["n_id"], dataset.metadata["n_exp"]) == (model.num_id, model.num_exp)
    assert dataset.metadata["settings"]["identities"] == 4
    assert dataset.metadata["background"] == "white"


def test_labels_are_those_of_the_picture(dataset: Dataset):
    model = load_morphable_model("procedural")
    for i in range(dataset.num_frames("train")):
        record = dataset.record("train", i)
        points = model.landmarks(record["id_coeff"], record["exp_coeff"])
        uv, _ = project(points[None], record["cam2world"][None], record["intrinsics"][None])
        np.testing.assert_allclose(record["landmarks"], np.asarray(uv)[0], atol=1e-5)
        np.testing.assert_array_equal(record["mask"] > 0, record["depth"] > 0)
        background = record["image"][record["mask"] == 0]
        assert (background == 255).mean() > 0.8, "white but for the antialiased outline"
        assert record["image"][record["mask"] > 0].std() > 20, "a face, not a silhouette"


def test_depth_lies_on_the_head(dataset: Dataset):
    record = dataset.record("train", 0)
    model = load_morphable_model("procedural")
    vertices = model.vertices(record["id_coeff"], record["exp_coeff"])
    size = record["depth"].shape[0]
    rows, columns = np.nonzero(record["mask"][8:24, 8:24])
    rows, columns = rows + 8, columns + 8  # the middle of the picture: skin, no hair over it
    in_camera = np.stack([(columns + 0.5) / size - 0.5, (rows + 0.5) / size - 0.5, np.full(len(rows), motion.FOCAL)], 1)
    in_camera /= np.linalg.norm(in_camera, axis=1, keepdims=True)
    pose = record["cam2world"]
    points = pose[:3, 3] + record["depth"][rows, columns][:, None] * (in_camera @ pose[:3, :3].T)
    nearest = np.sqrt(((points[:, None] - vertices[None]) ** 2).sum(-1).min(1))
    assert np.quantile(nearest, 0.9) < 0.02, "within a triangle's size of a vertex (0.02: 7 mm)"


def test_clips_move_smoothly_and_one_person_stays_one(root: Path):
    dataset = open_dataset(make_dataset(root, **SMALL | {"frames": 10, "seconds": 0.8, "clips_per_identity": 2}))
    fastest = 2 * motion.STEEPEST / motion.EXPRESSION_GAPS[0]
    people, turned = {}, 0.0
    for clip in dataset.clips("train"):
        records = [dataset.record("train", int(i)) for i in clip.records]
        times = np.array([r["time"] for r in records])
        np.testing.assert_allclose(times, np.linspace(0, 0.8, 10), atol=1e-6)
        beta = np.stack([r["exp_coeff"] for r in records])
        assert np.abs(np.diff(beta, axis=0)).max() <= fastest * 0.8 / 9 + 1e-6
        forward = np.stack([r["cam2world"][:3, 2] for r in records])
        turn = np.degrees(np.arccos(np.clip((forward[1:] * forward[:-1]).sum(1), -1, 1)))
        assert turn.max() < 12, "degrees from one frame to the next"
        turned += turn.sum()
        people.setdefault(clip.identity, []).append(records)
    assert turned > 2, "the camera moves, though it may rest for a whole short clip"
    for clips in people.values():
        assert len(clips) == 2
        alphas = np.stack([r["id_coeff"] for records in clips for r in records])
        assert (alphas == alphas[0]).all()
        assert not np.array_equal(clips[0][0]["exp_coeff"], clips[1][0]["exp_coeff"])
    first, second = (clips[0][0] for clips in people.values())
    assert not np.array_equal(first["id_coeff"], second["id_coeff"])


def test_splits_are_disjoint_and_fixed(dataset: Dataset):
    identities = {split: set(dataset.index(split, "identity")) for split in dataset.splits}
    assert identities == {"train": {0, 1}, "val": {2}, "test": {3}}
    many = Settings(identities=600).split_identities()
    assert {name: len(ids) for name, ids in many.items()} == {"train": 540, "val": 30, "test": 30}
    assert sorted(i for ids in many.values() for i in ids) == list(range(600))


def test_a_second_call_does_no_work(root: Path, dataset: Dataset, no_rendering):
    begin = time.perf_counter()
    assert make_dataset(root, **SMALL) == dataset.path
    assert time.perf_counter() - begin < 1.0
    with pytest.raises(AssertionError, match="a clip was rendered"):
        make_dataset(root, **SMALL | {"seed": 1})


def test_same_settings_same_records_on_any_number_of_workers(
    tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(synthesize, "MIN_CLIPS_FOR_WORKERS", 0)
    again = open_dataset(make_dataset(tmp_path, workers=2, **SMALL))
    assert content(again) == content(dataset)
    assert again.fingerprint == dataset.fingerprint
    assert again.path.name == dataset.path.name
    assert "OMP_NUM_THREADS" not in os.environ


def test_seed_and_background_change_the_set(tmp_path: Path, dataset: Dataset):
    other = open_dataset(make_dataset(tmp_path, **SMALL | {"seed": 1, "background": "random"}))
    assert other.path.name != dataset.path.name
    assert not set(content(other).values()) & set(content(dataset).values())
    corners = [other.record("train", i)["image"][0, 0] for i in (0, 3, 4)]
    np.testing.assert_array_equal(corners[0], corners[1])
    assert not np.array_equal(corners[0], corners[2]), "one colour per clip"


def test_a_damaged_set_is_made_again(tmp_path: Path, dataset: Dataset, capsys: pytest.CaptureFixture):
    path = make_dataset(tmp_path, **SMALL)
    (path / "metadata.json").write_text("{}")
    assert make_dataset(tmp_path, **SMALL) == path
    assert "making it again" in capsys.readouterr().out
    assert content(open_dataset(path)) == content(dataset)


def test_an_interrupted_run_leaves_nothing_and_is_redone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    render = heads.ClipRenderer.__call__

    def interrupted(self, task):
        if task.clip == 2:
            raise KeyboardInterrupt
        return render(self, task)

    with monkeypatch.context() as patch:
        patch.setattr(heads.ClipRenderer, "__call__", interrupted)
        with pytest.raises(KeyboardInterrupt):
            make_dataset(tmp_path, **SMALL)
    assert [p.suffix for p in tmp_path.iterdir()] == [".lock"]
    path = make_dataset(tmp_path, **SMALL)
    assert {p.name for p in tmp_path.iterdir()} == {path.name, f".{path.name}.lock"}


@pytest.mark.slow
def test_a_killed_run_is_redone_and_leaves_no_process(tmp_path: Path):
    out = tmp_path / "set"
    options = ["--identities=60", "--frames=20", "--size=64", f"--out={out}"]
    run = subprocess.Popen([sys.executable, "-m", "data_prep.synthesize", *options])
    children: list[int] = []
    for _ in range(1800):
        time.sleep(0.1)
        children = children_of(run.pid)
        if list(tmp_path.glob(".set.*.partial")) and len(children) >= 2:
            break
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not out.exists()
    assert list(tmp_path.glob(".set.*.partial")), "killed in the middle"
    for _ in range(900):  # a worker that is still importing notices at its end
        time.sleep(0.1)
        if not any(is_running(pid) for pid in children):
            break
    assert [pid for pid in children if is_running(pid)] == []
    synthesize.synthesize(out, identities=3, frames=1, size=16, workers=0)
    assert {p.name for p in tmp_path.iterdir()} == {"set", ".set.lock"}


def children_of(pid: int) -> list[int]:
    found = subprocess.run(["ps", "-o", "pid=", "--ppid", str(pid)], capture_output=True, text=True, check=False)
    return [int(word) for word in found.stdout.split()]


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"identities": 2}, "identities must be between 3"),
        ({"size": 4}, "size must be between 16"),
        ({"frames": 0}, "frames must be between 1"),
        ({"seconds": 0.0}, "seconds must be between"),
        ({"seed": -1}, "seed must not be negative"),
        ({"background": "plaid"}, "background 'plaid': choose one of white"),
        ({"head": "bfm"}, "head 'bfm': choose one of procedural"),
        ({"image_coding": "webp"}, "webp"),
        ({"fractions": (0.9, 0.2, 0.1)}, "sum to 1"),
        ({"head": "ict"}, "--ict=PATH"),
    ],
)
def test_senseless_settings_are_refused(tmp_path: Path, change: dict, message: str):
    with pytest.raises(UserError, match=message):
        make_dataset(tmp_path, **SMALL | change)
    assert [p for p in tmp_path.iterdir() if p.suffix != ".lock"] == []


def test_out_directory_is_kept_or_refused(tmp_path: Path, no_rendering, dataset: Dataset):
    out = tmp_path / "set"
    out.symlink_to(dataset.path)
    assert synthesize.synthesize(out, **SMALL) == out
    with pytest.raises(UserError, match="made with other settings"):
        synthesize.synthesize(out, **SMALL | {"seed": 5})
    (tmp_path / "file").write_text("mine")
    with pytest.raises(UserError, match="remove it or choose another"):
        synthesize.synthesize(tmp_path / "file", **SMALL)
    assert (tmp_path / "file").read_text() == "mine"


def test_default_place_is_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("NOFA_CACHE", str(tmp_path))
    path = make_dataset(**SMALL | {"frames": 1, "identities": 3})
    assert path.parent == tmp_path / "data"
    assert path.name.startswith("procedural-32-")


def test_the_sampler_reads_it(dataset: Dataset):
    batch = next(pair_loader(dataset, "train", 2, 3, seed=0))
    assert batch.target.image.shape == (2, 3, 32, 32, 3)
    np.testing.assert_array_equal(batch.target.id_coeff[:, 0], batch.source.id_coeff)


def test_ict_heads(tmp_path: Path):
    path = make_dataset(tmp_path, ict_path=shared_path("ict_facekit"), **SMALL | {"head": "ict", "frames": 2})
    dataset = open_dataset(path)
    assert check_dataset(path).problems == []
    assert dataset.metadata["n_id"] == 100
    assert "mouthSmile_L" in dataset.metadata["exp_names"]
    assert "MIT" in dataset.record("train", 0)["licence"]


def test_commands(dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture):
    sheet = tmp_path / "sheet.png"
    assert run(["show", str(dataset.path), "--split=val", "--record=1", f"--out={sheet}"]) == 0
    shown = capsys.readouterr().out
    assert "val: 4 frames, 1 clips, 1 identities" in shown
    assert "cam2world" in shown
    assert sheet.stat().st_size > 1000
    assert run(["check", str(dataset.path)]) == 0
    assert "is sound" in capsys.readouterr().out
    with pytest.raises(UserError, match="did you mean synthesize"):
        run(["synthesise"])
    with pytest.raises(UserError, match="0 to 3, not 9"):
        run(["show", str(dataset.path), "--split=val", "--record=9"])
    assert run(["--help"]) == 0
    assert "contact sheet" in capsys.readouterr().out


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture):
    out = tmp_path / "set"
    command = ["synthesize", "--identities=3", "--frames=1", "--size=16", f"--out={out}"]
    for _ in range(2):
        assert run(command) == 0
        assert f"{out}: train 1 frames of 1 clips" in capsys.readouterr().out
    assert json.loads((out / "metadata.json").read_text())["settings"]["frames"] == 1
    with pytest.raises(SystemExit) as left:
        run(["synthesize", "--help"])
    assert left.value.code == 0
    assert synthesize.EXAMPLE in capsys.readouterr().out


def test_the_module_is_a_command_too():
    bad = subprocess.run(
        [sys.executable, "-m", "data_prep.synthesize", "--seed=-3"], capture_output=True, text=True, check=False
    )
    assert bad.returncode == 2
    assert bad.stderr.strip() == "error: seed must not be negative, is -3"
