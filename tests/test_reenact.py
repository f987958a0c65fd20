"""`nofa reenact` and `nofa render` with a random model and rendered media; real ones: test_real_media.py."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

from nofa_jax import avatar as avatar_module
from nofa_jax import compile_cache
from nofa_jax.__main__ import main
from nofa_jax.commands.render import parse_expression
from nofa_jax.errors import UserError
from nofa_jax.face3d.track import fit_photo
from nofa_jax.media.grid import write_png
from nofa_jax.media.photo import load_photo
from nofa_jax.media.video import VideoReader
from tests.quick import fast_compile
from tests.tiny_run import Clip, render_clip, save_tiny_run

FRAMES = 11
RATE = Fraction(30000, 1001)


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render_clip(FRAMES)


@pytest.fixture(scope="module")
def media(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """photo.png, clip.mp4 with sound, its track.npz, and a run."""
    folder = tmp_path_factory.mktemp("media")
    save_tiny_run(folder / "run")
    write_png(folder / "photo.png", clip.images[5])
    clip.write_video(folder / "silent.mp4", RATE)
    clip.write_track(folder / "track.npz", RATE, lost=(4, 5))
    add_sound(folder / "silent.mp4", folder / "clip.mp4")
    return folder


@pytest.fixture
def without_detector(clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    """The photo's known landmarks take the detector's place."""
    monkeypatch.setattr(compile_cache, "enable", lambda: None)
    monkeypatch.setattr(avatar_module, "find_landmarker", lambda path: path)
    monkeypatch.setattr(avatar_module, "track_photo", lambda pixels, head, *a, **k: fit_photo(head, clip.points[5]))


def add_sound(source: Path, target: Path) -> None:
    """A copy with a 440 Hz tone as long as the picture."""
    with av.open(str(source)) as reader, av.open(str(target), "w") as writer:
        picture = writer.add_stream_from_template(reader.streams.video[0])
        sound = writer.add_stream("aac", rate=16000, layout="mono")
        for packet in reader.demux(reader.streams.video[0]):
            if packet.dts is not None:
                packet.stream = picture
                writer.mux(packet)
        tone = np.sin(2 * np.pi * 440 / 16000 * np.arange(16000 * FRAMES // 30)).astype(np.float32)
        frame = av.AudioFrame.from_ndarray(tone[None], format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, 0
        for packet in [*sound.encode(frame), *sound.encode(None)]:
            writer.mux(packet)


def sound_packets(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(p) for p in container.demux(container.streams.audio[0]) if p.size]


def nofa(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    """(exit code, output, error lines) of a command run in this process."""
    with fast_compile(), pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    out, err = capsys.readouterr()
    return int(left.value.code or 0), out, err


def reenact(capsys: pytest.CaptureFixture[str], media: Path, out: Path, *more: object) -> tuple[int, str, str]:
    given = {a.partition("=")[0] for a in map(str, more)}
    default = {"--driving": media / "clip.mp4", "--track": media / "track.npz", "--finetune_steps": 0}
    options = [f"{name}={value}" for name, value in default.items() if name not in given]
    source = f"--source={media / 'photo.png'}"
    return nofa(capsys, "reenact", f"--workdir={media / 'run'}", source, f"--out={out}", *options, *more)


@pytest.mark.usefixtures("without_detector")
def test_frames_times_and_sound_are_the_drivers(media: Path, tmp_path: Path, capsys) -> None:
    code, out, err = reenact(capsys, media, tmp_path / "avatar.mp4", "--finetune_steps=2")
    assert code == 0, err
    assert f"{FRAMES} frames" in out
    assert "driver not seen in 2 of 11 frames" in out
    assert "fine-tuned C on the photo: 2 steps" in out
    reader = VideoReader(tmp_path / "avatar.mp4")
    assert (reader.info.width, reader.info.height, reader.info.rate) == (32, 32, RATE)
    assert [f.time for f in reader] == [f.time for f in VideoReader(media / "clip.mp4")]
    assert sound_packets(tmp_path / "avatar.mp4") == sound_packets(media / "clip.mp4")
    with av.open(str(tmp_path / "avatar.mp4")) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.name, stream.pix_fmt) == ("h264", "yuv420p")
    assert [p.name for p in tmp_path.iterdir()] == ["avatar.mp4"]


@pytest.mark.usefixtures("without_detector")
def test_grid_shows_source_driver_and_avatar(media: Path, tmp_path: Path, capsys) -> None:
    code, _, err = reenact(capsys, media, tmp_path / "grid.mp4", "--grid", f"--sheet={tmp_path / 'sheet.png'}")
    assert code == 0, err
    frames = [frame.image.astype(int) for frame in VideoReader(tmp_path / "grid.mp4")]
    assert len(frames) == FRAMES
    assert frames[0].shape[1] >= 3 * 128
    sheet = load_photo(tmp_path / "sheet.png")
    np.testing.assert_array_equal(sheet, np.concatenate([frames[i] for i in (0, 2, 5, 8, 10)]))
    changed = np.abs(frames[-1] - frames[0]).mean(axis=(0, 2))
    third = len(changed) // 3
    assert changed[: third - 8].mean() < 1  # the source stands still, the driver moves
    assert changed[third + 8 : 2 * third - 8].mean() > 3


@pytest.mark.usefixtures("without_detector")
def test_a_failure_on_the_way_leaves_nothing_behind(media: Path, tmp_path: Path, capsys, monkeypatch) -> None:
    calls = []

    def fails(self, *_):
        calls.append(1)
        if len(calls) > 1:
            raise UserError("the disk is full")
        return np.zeros((8, 32, 32, 3), np.uint8)

    monkeypatch.setattr(avatar_module.Avatar, "render_frames", fails)
    (tmp_path / "avatar.mp4").write_text("an earlier result")
    code, _, err = reenact(capsys, media, tmp_path / "avatar.mp4")
    assert (code, "the disk is full" in err) == (2, True)
    assert [p.name for p in tmp_path.iterdir()] == ["avatar.mp4"]
    assert (tmp_path / "avatar.mp4").read_text() == "an earlier result"


@pytest.mark.usefixtures("without_detector")
@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--driving=missing.mp4"], "missing.mp4: no such file"),
        (["--source=missing.png"], "missing.png: no such file"),
        (["--track=missing.npz"], "missing.npz"),
        (["--out=avatar.avi"], "ending in .mp4"),
        (["--sheet=avatar.jpg"], "ending in .png"),
        (["--out=/nowhere/avatar.mp4"], "/nowhere does not exist"),
        (["--workdir=."], "not a training run"),
        (["--finetune_steps=-1"], "finetune_steps"),
        (["--finetune_steps=few"], "finetune_steps"),
    ],
)
def test_mistakes_end_with_one_line(options: list[str], said: str, media: Path, tmp_path: Path, capsys) -> None:
    code, _, err = reenact(capsys, media, tmp_path / "avatar.mp4", *options)
    errors = [line for line in err.splitlines() if line.startswith("error: ")]
    assert code == 2
    assert len(errors) == 1
    assert said in errors[0]
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("without_detector")
def test_render_writes_the_picture_asked_for(media: Path, tmp_path: Path, capsys) -> None:
    run = [f"--workdir={media / 'run'}", f"--source={media / 'photo.png'}", "--finetune_steps=0"]
    code, out, err = nofa(
        capsys, "render", *run, "--yaw=20", "--expression", "jawOpen=0.8", f"--out={tmp_path / 'a.png'}"
    )
    assert code == 0, err
    assert "wrote" in out
    assert load_photo(tmp_path / "a.png").shape == (32, 32, 3)
    for wrong, said in [
        (["--yaw=100"], "yaw=100"),
        (["--expression", "jawOpne=0.5"], "did you mean jawOpen"),
        (["--expression", "jawOpen"], "NAME=WEIGHT"),
        ([f"--out={tmp_path / 'a.jpg'}"], "ending in .png"),
        ([f"--turntable={tmp_path / 'a.avi'}"], "ending in .mp4"),
    ]:
        code, _, err = nofa(capsys, "render", *run, f"--out={tmp_path / 'b.png'}", *wrong)
        assert code == 2
        assert said in err
    assert [p.name for p in tmp_path.iterdir()] == ["a.png"]


def test_expressions_are_parsed() -> None:
    assert parse_expression(["jawOpen=0.8", "mouthSmile=1"]) == {"jawOpen": 0.8, "mouthSmile": 1.0}
    for wrong in ("jawOpen", "=1", "jawOpen=wide", ""):
        with pytest.raises(UserError, match="NAME=WEIGHT"):
            parse_expression([wrong])
