"""The streaming reader against files made here, real clips and damaged ones; the writer against the reader."""

import itertools
import json
import os
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.media.video import VideoReader
from nofa_jax.media.video_writer import VideoWriter
from tests.shared import shared_path

RATE = Fraction(30000, 1001)


def moving_square(count: int, height: int = 96, width: int = 128) -> list[np.ndarray]:
    """A bright square in the top left quarter, moving right, on grey."""
    frames = []
    for i in range(count):
        frame = np.full((height, width, 3), 90, np.uint8)
        frame[16:32, 16 + 2 * i : 32 + 2 * i] = (230, 60, 40)
        frames.append(frame)
    return frames


def write(path: Path, frames: list[np.ndarray], rate: Fraction = RATE, times: list[Fraction] | None = None) -> None:
    with VideoWriter(path, rate) as writer:
        for i, frame in enumerate(frames):
            writer.write(frame, None if times is None else times[i])


def packets(path: Path, kind: str) -> list[tuple[Fraction, bytes]]:
    with av.open(str(path)) as container:
        stream = getattr(container.streams, kind)[0]
        return [((p.pts or 0) * p.time_base, bytes(p)) for p in container.demux(stream) if p.size]


def test_round_trip_keeps_count_times_and_colours(tmp_path: Path) -> None:
    frames = moving_square(12)
    write(tmp_path / "a.mp4", frames)
    reader = VideoReader(tmp_path / "a.mp4")
    assert (reader.info.width, reader.info.height, reader.info.rate) == (128, 96, RATE)
    assert (reader.info.codec, reader.info.frames, reader.info.audio) == ("h264", 12, False)
    for _ in range(2):  # every iteration starts from the beginning
        back = list(reader)
        assert [f.time for f in back] == [i / RATE for i in range(12)]
        assert [f.index for f in back] == list(range(12))
        for frame, original in zip(back, frames, strict=True):
            inner = np.s_[18:30, 18 + 2 * frame.index : 30 + 2 * frame.index]  # chroma bleeds at the border
            np.testing.assert_allclose(frame.image[inner].astype(int), original[inner], atol=12)
            np.testing.assert_allclose(frame.image[60:].astype(int), 90, atol=3)
            assert frame.image.flags.c_contiguous
    assert reader.lost == 0
    with av.open(str(tmp_path / "a.mp4")) as container:
        assert container.streams.video[0].pix_fmt == "yuv420p"


def test_variable_times_are_kept_and_made_increasing(tmp_path: Path) -> None:
    times = [Fraction(n, 1000) for n in (0, 40, 41, 200, 200, 190, 700)]
    write(tmp_path / "a.mp4", moving_square(7), Fraction(25), times)
    back = [f.time for f in VideoReader(tmp_path / "a.mp4")]
    tick = VideoReader(tmp_path / "a.mp4").info.time_base
    expected = [*times[:4], times[3] + tick, times[3] + 2 * tick, times[6]]
    assert len(back) == 7
    assert all(abs(a - b) <= tick for a, b in zip(back, expected, strict=True))
    assert all(b > a for a, b in itertools.pairwise(back))


@pytest.mark.parametrize("size", [(95, 128), (96, 127), (33, 35)])
def test_odd_sizes_are_padded_by_repetition(tmp_path: Path, size: tuple[int, int]) -> None:
    frames = [f[: size[0], : size[1]] for f in moving_square(3)]
    write(tmp_path / "a.mp4", frames)
    back = next(iter(VideoReader(tmp_path / "a.mp4"))).image
    assert back.shape == (size[0] + size[0] % 2, size[1] + size[1] % 2, 3)
    np.testing.assert_allclose(back[-1, 20:].astype(int), 90, atol=16)  # not black; the square's colour bleeds a little


@pytest.mark.parametrize("turns", [0, 1, 2, 3])
def test_rotation_flag_is_applied(tmp_path: Path, turns: int) -> None:
    """Frames stored turned clockwise by a quarter each, with the flag to turn them back."""
    upright = moving_square(4)
    stored = [np.ascontiguousarray(np.rot90(f, -turns)) for f in upright]
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.height, stream.width = stored[0].shape[:2]
        stream.pix_fmt = "yuv420p"
        stream.set_display_rotation(90 * turns)
        for frame in stored:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode(None))
    reader = VideoReader(path)
    assert reader.info.rotation == 90 * turns
    assert (reader.info.height, reader.info.width) == (96, 128)
    back = next(iter(reader)).image
    assert back.flags.c_contiguous
    assert np.abs(back.astype(int) - upright[0]).mean() < 3


def test_sound_is_copied_packet_by_packet(tmp_path: Path) -> None:
    driver = VideoReader(shared_path("faces/videos/woman_talk_512x512_25fps.mp4"))
    with VideoWriter(tmp_path / "a.mp4", driver.info.rate, driver.info) as writer:
        for frame in driver:
            writer.write(frame.image[::4, ::4], frame.time)
    assert packets(tmp_path / "a.mp4", "audio") == packets(driver.path, "audio")
    assert [f.time for f in VideoReader(tmp_path / "a.mp4")] == [f.time for f in driver]


def test_sound_ends_with_the_picture(tmp_path: Path) -> None:
    driver = VideoReader(shared_path("faces/videos/woman_talk_512x512_25fps.mp4"))
    with VideoWriter(tmp_path / "a.mp4", driver.info.rate, driver.info) as writer:
        for frame in driver:
            if frame.index == 25:
                break
            writer.write(frame.image[::4, ::4], frame.time)
    sound = packets(tmp_path / "a.mp4", "audio")
    assert sound == packets(driver.path, "audio")[: len(sound)]
    assert 1.0 <= sound[-1][0] < 1.3


def interrupted(path: Path) -> None:
    with VideoWriter(path, RATE) as writer:
        writer.write(moving_square(1)[0])
        assert len(list(path.parent.glob(f".{path.name}.*.part"))) == 1
        raise KeyboardInterrupt


def test_an_error_leaves_nothing_behind(tmp_path: Path) -> None:
    frames = moving_square(3)
    (tmp_path / "kept.mp4").write_bytes(b"an older result")
    for name in ("new.mp4", "kept.mp4"):
        with pytest.raises(KeyboardInterrupt):
            interrupted(tmp_path / name)
    with pytest.raises(ValueError, match="in a video of"):
        write(tmp_path / "new.mp4", [frames[0], frames[0][:40]])
    with VideoWriter(tmp_path / "empty.mp4", RATE):
        pass
    assert [p.name for p in tmp_path.iterdir()] == ["kept.mp4"]
    assert (tmp_path / "kept.mp4").read_bytes() == b"an older result"


def test_bad_targets_are_refused_before_any_work(tmp_path: Path) -> None:
    write(tmp_path / "driver.mp4", moving_square(3))
    driver = VideoReader(tmp_path / "driver.mp4").info
    (tmp_path / "folder.mp4").mkdir()
    for path, reason in [
        (tmp_path / "a.avi", "ending in .mp4"),
        (tmp_path / "missing" / "a.mp4", "does not exist"),
        (tmp_path / "folder.mp4", "is a folder"),
        (tmp_path / "driver.mp4", "overwrite the driving video"),
    ]:
        with pytest.raises(UserError, match=reason):
            VideoWriter(path, RATE, driver)


def test_playlists_are_not_followed(tmp_path: Path) -> None:
    """A text file that names other files must not make the decoder open them."""
    write(tmp_path / "real.mp4", moving_square(3))
    playlist = "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nreal.mp4\n#EXT-X-ENDLIST\n"
    (tmp_path / "list.mp4").write_text(playlist)
    (tmp_path / "concat.mp4").write_text("ffconcat version 1.0\nfile real.mp4\n")
    for name in ("list.mp4", "concat.mp4"):
        with pytest.raises(UserError, match=name):
            VideoReader(tmp_path / name)


def test_names_that_look_like_protocols(tmp_path: Path) -> None:
    write(tmp_path / "real.mp4", moving_square(3))
    os.rename(tmp_path / "real.mp4", tmp_path / "concat:a|b.mp4")
    assert len(list(VideoReader(tmp_path / "concat:a|b.mp4"))) == 3


def test_damaged_tail_is_counted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (40, 64, 64, 3), dtype=np.uint8)
    write(tmp_path / "a.mp4", list(noise))
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(data[: int(0.6 * len(data))])
    reader = VideoReader(tmp_path / "b.mp4")
    decoded = len(list(reader))
    assert 10 < decoded < 35
    assert reader.lost == 40 - decoded
    line = capsys.readouterr().out
    assert str(tmp_path / "b.mp4") in line
    assert f"{reader.lost} lost" in line


def test_unknown_coding(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", moving_square(3))
    data = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "b.mp4").write_bytes(data.replace(b"avc1", b"xxxx"))
    with pytest.raises(UserError, match=r"b\.mp4"):
        VideoReader(tmp_path / "b.mp4")


@pytest.mark.parametrize("seed", range(4))
def test_damaged_bytes_never_escape_as_other_errors(tmp_path: Path, seed: int) -> None:
    """Reads to an end, with or without losses, or says what is wrong; no other exception, no endless clip."""
    write(tmp_path / "a.mp4", moving_square(20))
    data = (tmp_path / "a.mp4").read_bytes()
    rng = np.random.default_rng(seed)
    for _ in range(15):
        spoilt = bytearray(data)
        for place in rng.integers(0, len(data), rng.integers(1, 30)):
            spoilt[place] = rng.integers(256)
        path = tmp_path / "b.mp4"
        path.write_bytes(spoilt)
        try:
            assert len(list(VideoReader(path))) <= 21
        except UserError as error:
            assert str(path) in str(error)  # noqa: PT017  most, but not all, are refused


def test_every_shared_video() -> None:
    folder = shared_path("faces")
    for entry in json.loads((folder / "manifest.json").read_text())["files"]:
        if not entry["file"].endswith(".mp4"):
            continue
        reader = VideoReader(folder / entry["file"])
        info = reader.info
        assert (info.width, info.height, info.frames) == (entry["width"], entry["height"], entry["frames"])
        assert info.rate == Fraction(entry["fps_exact"])
        assert info.audio == entry["audio"]
        if entry["frames"] > 130:
            continue  # the long ones are decoded by the slow tracker tests
        times = [frame.time for frame in reader]
        assert times == [i / info.rate for i in range(entry["frames"])]
        assert reader.lost == 0


def test_every_bad_video(capsys: pytest.CaptureFixture[str]) -> None:
    folder = shared_path("faces_bad")
    works = {"face_disappears.mp4": (90, 0), "one_frame.mp4": (1, 0), "truncated_index_first.mp4": (39, 51)}
    for path in sorted(folder.glob("*.mp4")):
        if path.name in works:
            reader = VideoReader(path)
            assert (len(list(reader)), reader.lost) == works[path.name]
            continue
        with pytest.raises(UserError) as error:
            VideoReader(path)
        assert str(path) in str(error.value)
    assert "truncated_index_first.mp4" in capsys.readouterr().out


def test_a_part_is_read_from_the_key_frame_before_it(tmp_path: Path) -> None:
    write(tmp_path / "a.mp4", moving_square(300), Fraction(25))
    whole = list(VideoReader(tmp_path / "a.mp4"))
    reader = VideoReader(tmp_path / "a.mp4", 10.0, 10.4)
    part = list(reader)
    assert [frame.index for frame in part] == list(range(10))
    assert [frame.time for frame in part] == [frame.time for frame in whole[250:260]]
    np.testing.assert_array_equal(part[3].image, whole[253].image)
    assert reader.lost == 0
    assert list(VideoReader(tmp_path / "a.mp4", 100.0, 101.0)) == []
    assert len(list(VideoReader(tmp_path / "a.mp4", end=0.2))) == 5
