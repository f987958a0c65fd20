"""`nofa reenact` on real photos and videos, and on every damaged file, in processes of their own; slow."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import av
import numpy as np
import pytest

from tests.shared import shared_path
from tests.tiny_run import render_clip, save_tiny_run

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
TIMEOUT = 600  # seconds, on a loaded machine
MEMORY_MB = 1500  # of a process that refuses a file; JAX and MediaPipe alone take 500
# Reports the peak memory on the way out.
PROGRAM = """
import atexit, resource, sys
atexit.register(lambda: print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, file=sys.stderr))
from nofa_jax.__main__ import main
main(sys.argv[1:])
"""
BAD = [
    *("truncated_index_first.mp4", "truncated_no_index.mp4", "zero_frames.mp4", "audio_only.mp4"),
    *("face_disappears.mp4", "one_frame.mp4", "single_pixel_2x2.mp4", "zero_bytes.mp4", "text_renamed.mp4"),
    *("zero_bytes.jpg", "zero_bytes.png", "text_renamed.jpg", "truncated.jpg", "bad_crc.png"),
    *("bomb_header_60000x60000.png", "bomb_valid_30000x30000.png", "bomb_header_65500x65500.jpg"),
    *("one_pixel.png", "strip_8000x1.png", "exif_orientation_42.jpg"),
    *("track_nan.npz", "track_wrong_shape.npz", "track_missing_key.npz", "track_object_array.npz", "zip_slip.npz"),
    *("mesh_triangle_out_of_range.npz", "mesh_nan_vertex.npz", "mesh_dims_disagree.npz", "landmarker_truncated.task"),
]
ACCEPTED = {"face_disappears.mp4": 90, "one_frame.mp4": 1, "exif_orientation_42.jpg": 1}  # frames of the result
EITHER = {"truncated_index_first.mp4"}


class Result(NamedTuple):
    code: int
    out: str
    errors: list[str]
    traceback: bool
    peak_mb: float


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_run(tmp_path_factory.mktemp("run"))


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


def reenact(cache: Path, run_dir: Path, out: Path, **options: object) -> Result:
    faces = shared_path("faces")
    given = {
        "workdir": run_dir,
        "source": faces / "photos/man_suit_512.png",
        "driving": shared_path("faces_bad") / "one_frame.mp4",
        "landmarker": faces / "models/face_landmarker.task",
        "finetune_steps": 0,
        "out": out,
    } | options
    command = [
        sys.executable,
        "-c",
        PROGRAM,
        "reenact",
        *(f"--{n}={v}" if v is not True else f"--{n}" for n, v in given.items()),
    ]
    environment = os.environ | {"NOFA_CACHE": str(cache), "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(
        command, cwd=out.parent, env=environment, capture_output=True, text=True, timeout=TIMEOUT, check=False
    )
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    peak = int(re.search(r"peak (\d+)", done.stderr).group(1)) / 1024
    return Result(done.returncode, done.stdout, errors, "Traceback" in done.stderr, peak)


def frames(path: Path) -> list[np.ndarray]:
    with av.open(str(path)) as container:
        return [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]


def test_every_bad_file_is_listed() -> None:
    listed = json.loads((shared_path("faces_bad") / "manifest.json").read_text())["files"]
    assert sorted(BAD) == sorted(entry["file"] for entry in listed)


@pytest.mark.parametrize("name", BAD)
def test_bad_files(name: str, run_dir: Path, cache: Path, tmp_path: Path) -> None:
    path = shared_path("faces_bad") / name
    here = tmp_path / "out"
    here.mkdir()
    options: dict[str, object] = {}
    if name.startswith(("track_", "zip_")):
        options = {"track": path, "driving": shared_path("faces") / "videos/man_outdoor_360x270_12fps.mp4"}
    elif name.startswith("mesh_"):
        options = {"workdir": save_tiny_run(tmp_path / "run", ict=str(path))}
    else:
        options = {{".mp4": "driving", ".task": "landmarker"}.get(path.suffix, "source"): path}
    result = reenact(cache, run_dir, here / "avatar.mp4", **options)
    assert not result.traceback
    assert not Path("/tmp/nofa_zip_slip.npy").exists()
    if name in ACCEPTED or (name in EITHER and result.code == 0):
        assert result.code == 0, result.errors
        assert len(frames(here / "avatar.mp4")) == ACCEPTED.get(name, len(frames(here / "avatar.mp4")))
        assert name not in EITHER or "lost" in result.out
        return
    assert result.code == 2
    assert len(result.errors) == 1
    assert name in result.errors[0]
    assert not list(here.iterdir())
    assert result.peak_mb < MEMORY_MB


@pytest.mark.parametrize(
    "name",
    ["man_green_512x512_25fps", "man_studio_480x480_30fps", "woman_talk_512x512_25fps", "man_outdoor_360x270_12fps"],
)
def test_videos_with_the_detector(name: str, run_dir: Path, cache: Path, tmp_path: Path) -> None:
    """The longest, man_phone, is left to the track file below."""
    listed = {e["file"]: e for e in json.loads((shared_path("faces") / "manifest.json").read_text())["files"]}
    facts = listed[f"videos/{name}.mp4"]
    driving = shared_path("faces") / f"videos/{name}.mp4"
    result = reenact(cache, run_dir, tmp_path / "avatar.mp4", driving=driving)
    assert result.code == 0, result.errors
    with av.open(str(tmp_path / "avatar.mp4")) as container:
        assert container.streams.video[0].average_rate == int(facts["fps_exact"])
        assert bool(container.streams.audio) == facts["audio"]
    assert len(frames(tmp_path / "avatar.mp4")) == facts["frames"]
    assert frames(tmp_path / "avatar.mp4")[0].shape == (32, 32, 3)


def test_track_file_in_place_of_the_detector(run_dir: Path, cache: Path, tmp_path: Path) -> None:
    name = "man_phone_720x1280_30fps"
    result = reenact(
        cache,
        run_dir,
        tmp_path / "avatar.mp4",
        driving=shared_path("faces") / f"videos/{name}.mp4",
        track=shared_path("faces") / f"tracks/{name}.npz",
    )
    assert result.code == 0, result.errors
    assert len(frames(tmp_path / "avatar.mp4")) == 352


def test_no_face_in_the_video(run_dir: Path, cache: Path, tmp_path: Path) -> None:
    driving = shared_path("faces") / "videos/woman_fullbody_720x1080_25fps.mp4"
    result = reenact(cache, run_dir, tmp_path / "avatar.mp4", driving=driving)
    assert result.code == 2
    assert re.search(r"woman_fullbody.*no face found in any of 103 frames", result.errors[0])
    assert not list(tmp_path.iterdir())


def test_photos(run_dir: Path, cache: Path, tmp_path: Path) -> None:
    """Every photo with a face becomes an avatar, in whatever encoding; the landscape is refused."""
    listed = json.loads((shared_path("faces") / "manifest.json").read_text())["files"]
    photos = [e for e in listed if e.get("mediapipe_faces") is not None]
    assert len(photos) == 31
    for entry in photos:
        result = reenact(cache, run_dir, tmp_path / "avatar.mp4", source=shared_path("faces") / entry["file"])
        if entry["mediapipe_faces"]:
            assert result.code == 0, (entry["file"], result.errors)
            assert len(frames(tmp_path / "avatar.mp4")) == 1
            (tmp_path / "avatar.mp4").unlink()
        else:
            assert result.code == 2
            assert "no face found" in result.errors[0]
        assert not list(tmp_path.iterdir())


def test_faces_are_counted_from_the_left(run_dir: Path, cache: Path, tmp_path: Path) -> None:
    source = shared_path("faces") / "photos/three_faces_1200x500.jpg"
    shown = []
    for face in (1, 2, 3):
        result = reenact(cache, run_dir, tmp_path / f"{face}.mp4", source=source, face=face, grid=True)
        assert result.code == 0, result.errors
        shown.append(frames(tmp_path / f"{face}.mp4")[0][40:120, 30:100])
    assert np.abs(shown[0].astype(int) - shown[1]).mean() > 10
    assert np.abs(shown[1].astype(int) - shown[2]).mean() > 10
    for face in (0, 4, -1):
        result = reenact(cache, run_dir, tmp_path / "none.mp4", source=source, face=face)
        assert result.code == 2
        assert "3 found" in result.errors[0]


def test_memory_does_not_grow_with_the_length(run_dir: Path, cache: Path, tmp_path: Path) -> None:
    clip = render_clip(8)
    peaks = []
    for repeats in (8, 150):
        long = clip.repeated(repeats)
        long.write_video(tmp_path / "long.mp4")
        long.write_track(tmp_path / "long.npz")
        result = reenact(
            cache, run_dir, tmp_path / "avatar.mp4", driving=tmp_path / "long.mp4", track=tmp_path / "long.npz"
        )
        assert result.code == 0, result.errors
        assert len(frames(tmp_path / "avatar.mp4")) == 8 * repeats
        peaks.append(result.peak_mb)
    assert peaks[1] - peaks[0] < 60  # of 1136 frames more: their landmarks, in the file and unpacked
