"""A portrait and a driver to try the product with."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.__main__ import run
from nofa_jax.errors import UserError
from nofa_jax.media.photo import load_photo
from nofa_jax.media.video import VideoReader


def test_photo_and_video_show_heads(tmp_path: Path) -> None:
    files = tmp_path / "a.png", tmp_path / "a.mp4", tmp_path / "again.png"
    assert run(["portrait", f"--photo={files[0]}", f"--video={files[1]}", "--size=96", "--seconds=0.2"]) == 0
    assert run(["portrait", f"--photo={files[2]}", "--size=96"]) == 0
    photo = load_photo(files[0])
    assert photo.shape == (96, 96, 3)
    np.testing.assert_array_equal(photo, load_photo(files[2]))
    assert np.abs(photo[48, 48].astype(int) - photo[4, 4]).max() > 20  # a face before the background
    frames = [frame.image.astype(int) for frame in VideoReader(files[1])]
    assert len(frames) == 5
    assert np.abs(frames[0] - photo).mean() > 5  # somebody else
    assert np.abs(frames[0] - frames[-1]).mean() > 0.1  # who moves


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "nothing to write"),
        (["--photo=a.png", "--size=8"], "--size"),
        (["--video=a.avi"], "ending in .mp4"),
    ],
)
def test_mistakes_are_named(options: list[str], said: str) -> None:
    with pytest.raises(UserError, match=said):
        run(["portrait", *options])
