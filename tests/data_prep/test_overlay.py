"""The fitted head over a video."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.__main__ import run
from nofa_jax.errors import UserError
from nofa_jax.media.video import VideoReader
from tests.tiny_run import render_clip


def test_the_drawn_face_covers_the_face_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nofa_jax.compile_cache.enable", lambda: None)
    clip = render_clip(6)
    video, track = clip.write_video(tmp_path / "a.mp4"), tmp_path / "a.npz"
    clip.write_track(track, lost=(4,))
    assert run(["overlay", str(video), f"--track={track}", f"--out={tmp_path / 'b.mp4'}"]) == 0
    before, after = ([f.image.astype(int) for f in VideoReader(tmp_path / name)] for name in ("a.mp4", "b.mp4"))
    assert len(after) == len(before)
    for i in range(6):
        changed = np.abs(after[i] - before[i]).max(axis=-1) > 30
        head = clip.masks[i] > 0.5
        if i == 4:  # no face was seen there
            assert changed.mean() < 0.01
            continue
        assert changed[head].mean() > 0.3
        assert changed[~head].mean() < 0.03
    with pytest.raises(UserError, match="is the video itself"):
        run(["overlay", str(video), f"--track={track}", f"--out={video}"])
