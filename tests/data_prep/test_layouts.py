"""Public data sets in their official layouts, as small fixtures."""

import json
from pathlib import Path

import pytest

from data_prep.layouts import LAYOUTS
from nofa_jax.errors import UserError

# As in the README of CelebV-HQ.
CLIPS = {
    "M2Ohb0FAaJU_1": {
        "ytb_id": "M2Ohb0FAaJU",
        "duration": {"start_sec": 81.62, "end_sec": 86.17},
        "bbox": {"top": 0.0, "bottom": 0.8, "left": 0.2, "right": 0.6},
        "attributes": {"appearance": [0, 0, 1], "action": [0, 0, 0]},
        "version": "v0.1",
    },
    "_0tf2n3rlJU_0": {
        "ytb_id": "_0tf2n3rlJU",
        "duration": {"start_sec": 52.72, "end_sec": 56.1},
        "bbox": {"top": 0.0, "bottom": 0.8407, "left": 0.5271, "right": 1.0},
        "version": "v0.1",
    },
    "gone_0": {
        "ytb_id": "gone",
        "duration": {"start_sec": 1, "end_sec": 2},
        "bbox": {"top": 0, "bottom": 1, "left": 0, "right": 1},
    },
}


def touch(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")


def test_celebvhq_takes_cut_clips_and_parts_of_whole_videos(tmp_path: Path) -> None:
    (tmp_path / "celebvhq_info.json").write_text(json.dumps({"meta_info": {}, "clips": CLIPS}))
    touch(tmp_path / "raw/M2Ohb0FAaJU.mp4")
    touch(tmp_path / "35666/_0tf2n3rlJU_0.mp4")
    (part, cut), missing = LAYOUTS["celebvhq"].find(tmp_path)
    assert missing == ["gone_0"]
    assert (part.name, part.identity, part.start, part.end) == ("M2Ohb0FAaJU_1", "M2Ohb0FAaJU", 81.62, 86.17)
    assert part.box == pytest.approx((0.1, 0.0, 0.7, 1.0))  # a quarter wider on every side, inside the picture
    assert (cut.path.name, cut.identity, cut.box) == ("_0tf2n3rlJU_0.mp4", "_0tf2n3rlJU", None)


def test_hdtf_counts_the_spans_of_a_video(tmp_path: Path) -> None:
    lines = "AdamKinzinger2.mp4 00:40-01:20 02:00-02:40 \nBobCorker.mp4 00:05-01:00:50\n\nRadio11.mp4 00:30-01:00\n"
    (tmp_path / "WRA_annotion_time.txt").write_text(lines)
    touch(tmp_path / "videos/AdamKinzinger2.mp4")
    touch(tmp_path / "videos/BobCorker_0.mp4")
    sources, missing = LAYOUTS["hdtf"].find(tmp_path)
    assert [(s.name, s.identity, s.start, s.end) for s in sources] == [
        ("AdamKinzinger2_0", "AdamKinzinger", 40, 80),
        ("AdamKinzinger2_1", "AdamKinzinger", 120, 160),
        ("BobCorker_0", "BobCorker", 0, float("inf")),
    ]
    assert missing == ["Radio11_0"]
    (tmp_path / "WRA_annotion_time.txt").write_text("A.mp4 0:10-xx\n")
    with pytest.raises(UserError, match=r"line 1: '0:10-xx' is no span"):
        LAYOUTS["hdtf"].find(tmp_path)


def test_ffhq_keeps_each_images_licence(tmp_path: Path) -> None:
    entry = {
        "category": "training",
        "metadata": {"author": "Jeremy Frumkin", "license": "Attribution-NonCommercial License"},
        "image": {"file_path": "images1024x1024/00000/00000.png", "pixel_size": [1024, 1024]},
    }
    other = entry | {"image": {"file_path": "images1024x1024/00000/00001.png"}}
    (tmp_path / "ffhq-dataset-v2.json").write_text(json.dumps({"0": entry, "1": other}))
    touch(tmp_path / "images1024x1024/00000/00000.png")
    (source,), missing = LAYOUTS["ffhq"].find(tmp_path)
    assert source.licence == "Attribution-NonCommercial License (Jeremy Frumkin)"
    assert missing == ["images1024x1024/00000/00001.png"]
    (tmp_path / "ffhq-dataset-v2.json").write_text(json.dumps({"0": entry | {"image": {"file_path": "../x.png"}}}))
    with pytest.raises(UserError, match="outside the folder"):
        LAYOUTS["ffhq"].find(tmp_path)


def test_celebahq_is_its_first_thousand(tmp_path: Path) -> None:
    for index in (0, 7, 1000):
        touch(tmp_path / f"CelebA-HQ-img/{index}.jpg")
    sources, missing = LAYOUTS["celebahq"].find(tmp_path)
    assert [s.path.name for s in sources] == ["0.jpg", "7.jpg"]
    assert len(missing) == 998


def test_vfhq_test_is_folders_of_frames(tmp_path: Path) -> None:
    root = tmp_path / "GT/Interval1_512x512_LANCZOS4"
    for number in (10, 9):
        touch(root / f"Clip+-1Jouc19Ixo+P0+C1+F4196-4320/{number:08d}.png")
    (root / "Clip+a+b+P1+C0+F0-9").mkdir()
    (source,), missing = LAYOUTS["vfhq_test"].find(tmp_path)
    assert (source.identity, source.video, source.sequence) == ("-1Jouc19Ixo+P0", True, True)
    assert [path.stem for path in source.pictures()] == ["00000009", "00000010"]
    assert missing == ["Clip+a+b+P1+C0+F0-9"]
    (root / "Clip+odd").mkdir()
    with pytest.raises(UserError, match="not named as published"):
        LAYOUTS["vfhq_test"].find(tmp_path)


def test_nerface_is_a_sequence_for_each_table(tmp_path: Path) -> None:
    table = {
        "camera_angle_x": 0.3,
        "frames": [{"file_path": f"./train/f_{i:04d}", "expression": [0.0]} for i in (0, 1)],
    }
    touch(tmp_path / "person_1/train/f_0000.png")
    (tmp_path / "person_1/transforms_train.json").write_text(json.dumps(table))
    (source,), missing = LAYOUTS["nerface"].find(tmp_path)
    assert (source.name, source.identity, source.sequence) == ("person_1/train", "person_1", True)
    assert missing == ["person_1/train/f_0001.png"]


@pytest.mark.parametrize(
    ("layout", "file", "content", "said"),
    [
        ("celebvhq", "celebvhq_info.json", None, "get celebvhq_info.json from github"),
        ("celebvhq", "celebvhq_info.json", "{", "cannot be read as JSON"),
        ("celebvhq", "celebvhq_info.json", '{"clips": []}', "no table of clips"),
        ("celebvhq", "celebvhq_info.json", '{"clips": {"a": {"ytb_id": "b"}}}', "clip a is not as published"),
        ("ffhq", "ffhq-dataset-v2.json", '{"0": {}}', "entry 0 is not as published"),
        ("hdtf", "notes.txt", "", "annotion_time"),
        ("vfhq_test", "notes.txt", "", "no folder Clip"),
        ("nerface", "notes.txt", "", "transforms_train.json"),
    ],
)
def test_metadata_that_is_not_the_official_one(
    layout: str, file: str, content: str | None, said: str, tmp_path: Path
) -> None:
    if content is not None:
        (tmp_path / file).write_text(content)
    with pytest.raises(UserError, match=said):
        LAYOUTS[layout].find(tmp_path)
