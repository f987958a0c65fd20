"""Frame records: exact round trip, random access, clear errors for bad sets, validation."""

import json
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from data_prep.show import describe_record
from nofa_jax.data import coding
from nofa_jax.data.check import check_dataset, record_problems
from nofa_jax.data.records import open_dataset
from nofa_jax.data.writer import encode_record, write_dataset
from nofa_jax.errors import UserError
from tests.data.fake import N_EXP, N_ID, SIZE, fake_record, fake_records, write_fake


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fake(tmp_path_factory.mktemp("records") / "set")


def data_file(path: Path, split: str = "train") -> Path:
    (file,) = path.glob(f"*-{split}.array_record-*")
    return file


def test_round_trip_is_exact(path: Path):
    dataset = open_dataset(path)
    for split, clip, frame in (("train", 0, 0), ("train", 17, 2), ("val", 29, 3)):
        i = int(np.flatnonzero((dataset.index(split, "clip") == clip) & (dataset.index(split, "frame") == frame))[0])
        wanted, got = fake_record(clip, clip, frame), dataset.record(split, i)
        assert got.keys() == wanted.keys()
        for name in ("image", "mask"):
            np.testing.assert_array_equal(got[name], wanted[name])
        for name in ("id_coeff", "exp_coeff", "cam2world", "intrinsics", "landmarks"):
            np.testing.assert_array_equal(got[name], np.float32(wanted[name]))
        for name in ("identity", "clip", "frame", "source", "licence", "time"):
            assert got[name] == wanted[name]
        np.testing.assert_allclose(got["depth"], wanted["depth"], rtol=0, atol=coding.DEPTH_SCALE / 2 + 1e-6)
        assert got["depth"].dtype == np.float32


def test_a_set_may_hold_the_gaze(tmp_path: Path):
    """A set without it, as the other tests' are, has no such field."""
    gaze = np.float32([[0.1, -0.2], [0.3, 0.4]])
    records = [encode_record(fake_record(0, 0, i) | {"gaze": gaze + i / 10}, "png") for i in range(3)]
    write_dataset(tmp_path / "set", {"train": records}, {}, N_ID, N_EXP, "png", optional=("gaze",))
    dataset = open_dataset(tmp_path / "set")
    np.testing.assert_array_equal(dataset.record("train", 2)["gaze"], gaze + np.float32(0.2))
    assert check_dataset(tmp_path / "set").problems == []
    assert dataset.frames("train", [0, 1]).image.shape[0] == 2
    line = "gaze         float32 (2, 2): left eye +6 to the left, -11 up; right eye +17 to the left, +23 up (degrees)"
    assert line in describe_record(dataset, "train", 0)


def test_frame_has_the_ranges_of_the_models(path: Path):
    dataset = open_dataset(path)
    record, frame = dataset.record("val", 5), dataset.frame("val", 5)
    assert frame.image.dtype == np.float32
    assert frame.image.shape == (SIZE, SIZE, 3)
    assert frame.mask.shape == (SIZE, SIZE)
    np.testing.assert_array_equal(np.rint((frame.image + 1) * 127.5), record["image"])
    assert frame.image.min() >= -1
    assert frame.image.max() <= 1
    np.testing.assert_array_equal(frame.mask, record["mask"] / np.float32(255))


@pytest.mark.parametrize("room", [0, 3000, 1 << 20])
def test_memory_cache_changes_nothing(path: Path, room: int):
    cached, plain = open_dataset(path, cache_bytes=room), open_dataset(path, cache_bytes=0)
    order = [3, 0, 3, 9, 0]
    for _ in range(2):
        np.testing.assert_array_equal(cached.frames("train", order).image, plain.frames("train", order).image)
    held = sum(array.nbytes for kept in cached._cache.values() for array in kept.values())
    assert held <= room
    assert (room == 0) == (held == 0)


def test_clips_hold_their_frames_in_order(path: Path):
    dataset = open_dataset(path)
    clips = dataset.clips("train")
    assert [clip.clip for clip in clips] == list(range(24))
    np.testing.assert_array_equal(np.sort(np.concatenate([clip.records for clip in clips])), np.arange(24 * 4))
    for clip in clips:
        np.testing.assert_array_equal(dataset.index("train", "clip")[clip.records], clip.clip)
        np.testing.assert_array_equal(dataset.index("train", "frame")[clip.records], np.arange(4))


def test_clips_written_out_of_order_are_sorted(tmp_path: Path):
    records = list(fake_records(range(3), 4))
    shuffled = [records[k] for k in np.random.default_rng(0).permutation(len(records))]
    dataset = open_dataset(write_dataset(tmp_path / "set", {"train": iter(shuffled)}, {}, N_ID, N_EXP, "png"))
    for clip in dataset.clips("train"):
        np.testing.assert_array_equal(dataset.index("train", "frame")[clip.records], np.arange(4))
        assert dataset.record("train", int(clip.records[2]))["image"][0, 0].tolist() == [clip.clip, clip.clip, 2]


def test_fingerprint_is_of_the_content(path: Path, tmp_path: Path):
    same, other = write_fake(tmp_path / "same"), write_fake(tmp_path / "other", frames=5)
    assert open_dataset(same).fingerprint == open_dataset(path).fingerprint
    assert open_dataset(other).fingerprint != open_dataset(path).fingerprint


def test_png_is_exact_and_jpeg_close_and_smaller_on_a_picture_with_noise():
    y, x = np.mgrid[0:128, 0:128]
    smooth = np.stack([127 + 100 * np.sin(x / 20), 127 + 100 * np.cos(y / 30), (x + y) / 2], -1)
    picture = np.clip(smooth + np.random.default_rng(0).normal(0, 2, smooth.shape), 0, 255).astype(np.uint8)
    jpeg, png = (coding.encode_image(picture, name) for name in ("jpeg95", "png"))
    np.testing.assert_array_equal(coding.decode_image(png), picture)
    assert np.abs(coding.decode_image(jpeg).astype(int) - picture).mean() < 2.0
    assert len(jpeg) < len(png)


def test_jpeg_sets_are_readable(tmp_path: Path):
    dataset = open_dataset(write_fake(tmp_path / "set", coding="jpeg95"))
    assert dataset.metadata["image_coding"] == "jpeg95"
    assert dataset.frame("val", 0).image.shape == (SIZE, SIZE, 3)


def test_reading_and_writing_need_no_tensorflow(tmp_path: Path):
    script = (
        "import sys; from pathlib import Path; from tests.data.fake import write_fake;"
        "from nofa_jax.data.records import open_dataset;"
        "from nofa_jax.data.sampler import pair_loader;"
        "d = open_dataset(write_fake(Path(sys.argv[1])));"
        "next(pair_loader(d, 'train', 2, 1, seed=0)); assert 'tensorflow' not in sys.modules; print(d.fingerprint)"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "set")], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [open_dataset(tmp_path / "set").fingerprint]  # and nothing else is printed


def test_a_failed_write_leaves_nothing(tmp_path: Path):
    def broken():
        yield from fake_records(range(2), 2)
        raise RuntimeError("power cut")

    with pytest.raises(RuntimeError, match="power cut"):
        write_dataset(tmp_path / "set", {"train": broken()}, {}, N_ID, N_EXP, "png")
    assert list(tmp_path.iterdir()) == []


def test_writing_refuses_what_it_cannot_do(path: Path, tmp_path: Path):
    with pytest.raises(UserError, match="exists already"):
        write_fake(path)
    with pytest.raises(UserError, match="webp"):
        write_dataset(tmp_path / "set", {"train": iter([])}, {}, N_ID, N_EXP, "webp")
    with pytest.raises(UserError, match="without any record"):
        write_dataset(tmp_path / "set", {"train": iter([])}, {}, N_ID, N_EXP, "png")
    record = fake_record(0, 0, 0)
    del record["licence"]
    with pytest.raises(ValueError, match="licence"):
        encode_record(record, "png")
    with pytest.raises(ValueError, match="depth"):
        encode_record(fake_record(0, 0, 0) | {"depth": np.full((SIZE, SIZE), 9.0)}, "png")


def edit_metadata(path: Path, **changes) -> None:
    metadata = json.loads((path / "metadata.json").read_text())
    (path / "metadata.json").write_text(json.dumps(metadata | changes))


def drop_index_rows(path: Path) -> None:
    with np.load(path / "index.npz") as index:
        short = {name: index[name][:-1] for name in index.files}
    np.savez(path / "index.npz", **short)


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda p: (p / "metadata.json").unlink(), "half-written"),
        (lambda p: (p / "metadata.json").write_text("{"), "metadata.json is damaged"),
        (lambda p: (p / "metadata.json").write_text("[]"), "metadata.json is damaged"),
        (lambda p: edit_metadata(p, format="parquet"), "format parquet version 1, this program reads nofa-frames"),
        (lambda p: edit_metadata(p, format_version=99), "version 99, this program reads nofa-frames version 1"),
        (lambda p: edit_metadata(p, splits={"test": {"frames": 1}}), "damaged"),
        (lambda p: (p / "features.json").unlink(), "damaged"),
        (lambda p: (p / "dataset_info.json").write_text("no json"), "damaged"),
        (lambda p: (p / "index.npz").unlink(), "index.npz is missing"),
        (lambda p: (p / "index.npz").write_bytes(b"no zip"), "damaged"),
        (drop_index_rows, "holds 96 records, but index.npz says 95"),
        (lambda p: data_file(p).unlink(), "is missing"),
        (lambda p: cut(data_file(p)), "bytes instead of"),
    ],
)
def test_bad_sets_are_refused_with_a_reason(tmp_path: Path, spoil, message: str):
    path = write_fake(tmp_path / "set")
    spoil(path)
    with pytest.raises(UserError, match=message) as error:
        open_dataset(path)
    assert str(path) in str(error.value)
    assert "data_prep" in str(error.value), "says what to do next"


def test_missing_set_and_wrong_requests(path: Path, tmp_path: Path):
    with pytest.raises(UserError, match="no data set at"):
        open_dataset(tmp_path / "nowhere")
    dataset = open_dataset(path)
    with pytest.raises(UserError, match="no split 'test'; it has train, val"):
        dataset.clips("test")
    with pytest.raises(UserError, match="records 0 to 23, not 24"):
        dataset.frame("val", 24)


def test_a_flipped_byte_is_noticed(tmp_path: Path):
    path = write_fake(tmp_path / "set")
    file = data_file(path)
    data = bytearray(file.read_bytes())
    at = data.index(b"cam2world", len(data) // 4)
    data[at] ^= 0xFF
    file.write_bytes(data)
    dataset = open_dataset(path)
    with pytest.raises(UserError, match="cannot be read"):
        dataset.frames("train", range(dataset.num_frames("train")))
    assert any("cannot be read" in problem for problem in check_dataset(path).problems)


def test_check_accepts_a_good_set(path: Path):
    report = check_dataset(path)
    assert report.problems == []
    assert report.statistics["train"]["frames"] == 96
    assert report.statistics["val"]["identities"] == 6
    assert set(report.statistics["val"]["active"]) == {"a", "b", "c"}


def test_check_reports_shared_identities_and_wrong_records(tmp_path: Path):
    def bad():
        record = fake_record(0, 50, 0)
        record["cam2world"][:3, :3] *= 1.1
        yield encode_record(record, "png")

    splits = {"train": fake_records(range(2), 2), "val": bad()}
    problems = check_dataset(write_dataset(tmp_path / "set", splits, {"size": SIZE}, N_ID, N_EXP, "png")).problems
    assert any("identity 0 is in train and in val" in p for p in problems)
    assert any(p.startswith("val record 0: cam2world is no rotation") for p in problems)
    assert len(problems) == 2


def turned_away(record: dict) -> dict:
    record["cam2world"][:3, :3] = record["cam2world"][:3, :3] @ np.diag([-1.0, 1.0, -1.0])
    return record


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda r: r | {"exp_coeff": np.array([0.1, np.nan, 0.2])}, "exp_coeff is not finite"),
        (lambda r: r | {"mask": np.zeros((SIZE, SIZE), np.uint8)}, "mask is empty"),
        (lambda r: r | {"mask": np.zeros((8, 8), np.uint8)}, "mask is 8×8"),
        (lambda r: r | {"landmarks": r["landmarks"] * SIZE}, "landmarks are not fractions"),
        (lambda r: r | {"intrinsics": np.diag([512.0, 512.0, 1.0])}, "intrinsics are not normalised"),
        (lambda r: r | {"depth": r["depth"] / 4}, "depth reaches from"),
        (lambda r: r | {"source": ""}, "source is not named"),
        (lambda r: r | {"licence": " "}, "licence is not named"),
        (lambda r: r | {"gaze": np.full((2, 2), 1.7)}, "turned by more than a right angle"),
        (lambda r: r | {"gaze": np.full((2, 2), np.nan)}, "gaze is not finite"),
        (turned_away, "looks away"),
    ],
)
def test_each_kind_of_wrong_record_is_named(change, problem: str):
    good = fake_record(0, 0, 0)
    assert record_problems(good, SIZE) == []
    found = record_problems(change(good), SIZE)
    assert len(found) == 1
    assert problem in found[0]


@pytest.mark.parametrize("data", [b"", b"no image", cv2.imencode(".png", np.zeros((4, 4), np.uint8))[1].tobytes()[:30]])
def test_bytes_that_are_no_image_are_refused(data: bytes):
    with pytest.raises(ValueError, match="no image"):
        coding.decode_image(data)
