"""Cutting out heads: rendered ones with their true masks, and pictures that give GrabCut nothing to go by."""

import dataclasses

import numpy as np
import pytest

from nofa_jax.face3d import matte as matte_module
from nofa_jax.face3d.crop import apply_crop
from nofa_jax.face3d.matte import HeadCutter, cut_out
from nofa_jax.face3d.track import Track, fit_photo
from tests.tiny_run import SIZE, Clip, render_clip


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render_clip(1)


def behind(clip: Clip, background: np.ndarray) -> np.ndarray:
    mask = clip.masks[0][..., None]
    return np.round(clip.images[0] * mask + background * (1 - mask)).astype(np.uint8)


def overlap(found: np.ndarray, true: np.ndarray) -> float:
    """Intersection over union."""
    found, true = found > 0.5, true > 0.5
    return (found & true).sum() / (found | true).sum()


def true_mask(clip: Clip, track: Track, size: int) -> np.ndarray:
    grey = np.repeat((255 * clip.masks[0]).astype(np.uint8)[..., None], 3, axis=-1)
    return apply_crop(grey, track.crop[0], size)[..., 0] / 255


@pytest.mark.parametrize("kind", ["stripes", "noise", "gradient"])
def test_a_rendered_head_before_any_background(clip: Clip, kind: str) -> None:
    y, x = np.mgrid[0:SIZE, 0:SIZE][..., None]
    background = {
        "stripes": np.where((x + y) // 8 % 2 == 0, np.array([40, 90, 160]), np.array([70, 160, 90])),
        "noise": np.random.default_rng(0).integers(0, 256, (SIZE, SIZE, 3)),
        "gradient": x + np.array([20, 60, 90]),
    }[kind]
    track = fit_photo(clip.head, clip.points[0])
    matte = cut_out(behind(clip, background), track, clip.head, 96)
    assert matte.plausible
    assert overlap(matte.mask, true_mask(clip, track, 96)) > 0.93
    np.testing.assert_array_equal(matte.image[matte.mask == 0], 255)
    inside = matte.mask > 0.99
    crop = apply_crop(behind(clip, background), track.crop[0], 96)
    assert np.abs(matte.image.astype(int) - crop)[inside].max() <= 3


@pytest.mark.parametrize("found", [False, True])
def test_nothing_or_everything_found_gives_the_fitted_head(
    clip: Clip, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(matte_module, "_grab_cut", lambda window, *_: np.full(window.pixels.shape[:2], found))
    track = fit_photo(clip.head, clip.points[0])
    matte = cut_out(clip.images[0], track, clip.head, 64, background=0)
    assert not matte.plausible
    assert overlap(matte.mask, true_mask(clip, track, 64)) > 0.65  # bald, and without what is below the neck
    assert matte.image[0, 0].max() == 0


def test_one_colour_everywhere(clip: Clip) -> None:
    track = fit_photo(clip.head, clip.points[0])
    matte = cut_out(np.full((SIZE, SIZE, 3), 128, np.uint8), track, clip.head, 64)
    assert overlap(matte.mask, true_mask(clip, track, 64)) > 0.65


def test_beyond_the_photo_only_the_head_goes_on(clip: Clip) -> None:
    """A photo cut below the nose: the chin continues in the border's colours, what is beside it is white."""
    keep = int(clip.points[0, 33, 1])
    track = fit_photo(clip.head, clip.points[0])
    matte = cut_out(clip.images[0][:keep], track, clip.head, 64)
    chin = np.clip(np.round(64 * (track.landmarks[0, 8] - [0, 0.02])).astype(int), 0, 63)
    assert matte.mask[chin[1], chin[0]] > 0.9
    assert matte.mask[chin[1], 1] < 0.1
    assert matte.mask[chin[1], 62] < 0.1


@pytest.mark.parametrize("size", [(40, 3), (3, 40), (1, 1)])
def test_a_head_mostly_outside_the_picture_is_no_crash(clip: Clip, size: tuple[int, int]) -> None:
    track = fit_photo(clip.head, clip.points[0])
    track = dataclasses.replace(track, crop=track.crop @ np.array([[1, 0, 100.0], [0, 1, 100.0], [0, 0, 1]]))
    matte = cut_out(np.zeros((*size, 3), np.uint8), track, clip.head, 32)
    assert matte.image.shape == (32, 32, 3)
    assert np.isfinite(matte.mask).all()


def cut_both_ways(clip: Clip, pictures: list[np.ndarray], points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Masks [f,96,96] of a clip at 25 frames a second: as one take, and of each frame by itself."""
    cutter = HeadCutter(clip.head, 96)
    tracks = [fit_photo(clip.head, p) for p in points]
    tracks = [dataclasses.replace(track, timestamps=np.array([i / 25])) for i, track in enumerate(tracks)]
    frames = list(zip(pictures, tracks, strict=True))
    take = [cutter(*frame).mask for frame in frames]
    return np.stack(take), np.stack([cut_out(*frame, clip.head, 96).mask for frame in frames])


def test_in_a_take_the_outline_follows_the_head() -> None:
    clip = render_clip(6)  # turns by 8 degrees a frame
    y, x = np.mgrid[0:SIZE, 0:SIZE][..., None]
    stripes = np.where((x + y) // 8 % 2 == 0, np.array([40, 90, 160]), np.array([70, 160, 90]))
    masks = [mask[..., None] for mask in clip.masks]
    pictures = [
        np.round(image * m + stripes * (1 - m)).astype(np.uint8) for image, m in zip(clip.images, masks, strict=True)
    ]
    take, alone = cut_both_ways(clip, pictures, clip.points)
    np.testing.assert_array_equal(take[0], alone[0])
    for i in range(6):
        one = dataclasses.replace(clip, masks=clip.masks[i : i + 1])
        assert overlap(take[i], true_mask(one, fit_photo(clip.head, clip.points[i]), 96)) > 0.95


def test_in_a_take_the_outline_keeps_steady(clip: Clip) -> None:
    """The same head before the same background, with a camera's noise."""
    x = np.linspace(0, 1, SIZE)[None, :, None]
    picture = behind(clip, x * [210, 160, 140] + (1 - x) * [60, 45, 40]).astype(int)
    rng = np.random.default_rng(0)
    pictures = [np.clip(picture + rng.normal(0, 10, picture.shape), 0, 255).astype(np.uint8) for _ in range(8)]
    take, alone = cut_both_ways(clip, pictures, np.repeat(clip.points, 8, axis=0))
    flicker, flicker_alone = (np.abs(np.diff(masks, axis=0)).mean() for masks in (take, alone))
    assert flicker < 0.7 * flicker_alone
    assert overlap(take[-1], true_mask(clip, fit_photo(clip.head, clip.points[0]), 96)) > 0.92
