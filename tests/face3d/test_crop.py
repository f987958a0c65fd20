"""Crops against EG3D's rule written out, known pictures, and their own inverse."""

import numpy as np
import pytest

from nofa_jax.face3d.crop import FOCAL, RADIUS, apply_crop, clip_crops, crop_matrices, photo_crop, to_crop
from nofa_jax.face3d.pose import RIGID_68

RNG = np.random.default_rng(0)


@pytest.fixture(scope="module")
def template() -> np.ndarray:
    """Landmarks spread like a face's, in world units: in front of the origin, the mouth below it."""
    points = RNG.uniform([-0.17, -0.2, 0.0], [0.17, 0.12, 0.2], (68, 3))
    points[list(RIGID_68)] -= points[list(RIGID_68)].mean(axis=0) - [0, 0, 0.1]
    return points


def seen(template: np.ndarray, size: float, centre: tuple[float, float], roll: float = 0.0) -> np.ndarray:
    """Pixels at which a camera 2.7 in front of the origin sees the template, in a crop of that size and centre."""
    local = template @ np.diag([1.0, -1.0, -1.0]) + [0, 0, RADIUS]
    c, s = np.cos(roll), np.sin(roll)
    return FOCAL * size * (local[:, :2] / local[:, 2:]) @ np.array([[c, s], [-s, c]]) + np.array(centre)


@pytest.mark.parametrize("roll_deg", [0.0, 25.0, -100.0])
def test_photo_crop_puts_the_head_before_eg3ds_camera(template: np.ndarray, roll_deg: float) -> None:
    points = seen(template, 300.0, (410.0, 220.0), np.radians(roll_deg))
    upright = seen(template, 1.0, (0.5, 0.5))
    # Perspective makes the affine estimate inexact: within 1.5 % of the crop.
    np.testing.assert_allclose(to_crop(points, photo_crop(points, template)), upright, atol=0.015)
    kept = to_crop(points, photo_crop(points, template, upright=False))
    np.testing.assert_allclose(kept, seen(template, 1.0, (0.5, 0.5), np.radians(roll_deg)), atol=0.015)


def test_scale_is_that_of_eg3d(template: np.ndarray) -> None:
    """EG3D: 300 pixels of 1024 per BFM unit (10 cm, 0.27 world units) at the landmarks' depth, then 700 of the 1024."""
    flat = template * [1, 1, 0]  # so that depth plays no role
    points = flat[:, :2] * [1, -1] * (300 / 0.27)
    matrix = photo_crop(points, flat)
    np.testing.assert_allclose(1 / np.hypot(*matrix[0, :2]), 700, rtol=0.025)


def test_to_crop_and_back() -> None:
    matrices = crop_matrices(RNG.uniform(0, 500, (4, 2)), RNG.uniform(100, 900, 4), RNG.uniform(-3, 3, 4))
    points = RNG.uniform(0, 1000, (4, 9, 2))
    np.testing.assert_allclose(to_crop(to_crop(points, matrices), np.linalg.inv(matrices)), points, atol=1e-9)
    corners = to_crop(
        np.array([[[10.0, 20.0], [110.0, 120.0]]]),
        crop_matrices(np.array([[60.0, 70.0]]), np.array([100.0]), np.zeros(1)),
    )
    np.testing.assert_allclose(corners[0], [[0, 0], [1, 1]], atol=1e-12)


def test_whole_picture_at_its_own_size_is_unchanged() -> None:
    image = RNG.integers(0, 255, (64, 64, 3), dtype=np.uint8)
    matrix = crop_matrices(np.array([[32.0, 32.0]]), np.array([64.0]), np.zeros(1))[0]
    np.testing.assert_array_equal(apply_crop(image, matrix, 64), image)


@pytest.mark.parametrize("roll", [0.0, 0.4, np.pi / 2])
@pytest.mark.parametrize("size", [48, 200])
def test_a_linear_picture_is_resampled_where_it_should_be(roll: float, size: int) -> None:
    """On a linear ramp every filter is exact, so each pixel tells where it was taken."""
    y, x = np.mgrid[0:240, 0:320] + 0.5
    image = np.stack([x / 320, y / 240, 0 * x], axis=-1)
    matrix = crop_matrices(np.array([[150.3, 121.7]]), np.array([100.0]), np.array([roll]))[0]
    out = apply_crop(np.round(image * 255).astype(np.uint8), matrix, size).astype(float)
    v, u = (np.mgrid[0:size, 0:size] + 0.5) / size
    where = to_crop(np.stack([u, v], axis=-1).reshape(-1, 2), np.linalg.inv(matrix)).reshape(size, size, 2)
    # Rounded to 8 bits twice, and Pillow's affine transform truncates where it should round.
    np.testing.assert_allclose(out[..., :2], where / [320, 240] * 255, atol=2.2 if roll == 0.4 else 1.6)


def test_shrinking_does_not_alias() -> None:
    y, x = np.mgrid[0:600, 0:600]
    stripes = np.uint8(255 * ((x + y) % 2))[..., None].repeat(3, axis=2)
    for roll in (0.0, 0.3):
        matrix = crop_matrices(np.array([[300.0, 300.0]]), np.array([400.0]), np.array([roll]))[0]
        out = apply_crop(stripes, matrix, 50)
        np.testing.assert_allclose(out.astype(float), 127.5, atol=3)


def test_outside_is_the_edge_or_a_colour() -> None:
    image = np.full((40, 60, 3), 200, np.uint8)
    image[:, :30] = 50
    matrix = crop_matrices(np.array([[0.0, 20.0]]), np.array([80.0]), np.zeros(1))[0]
    edge, coloured = apply_crop(image, matrix, 80), apply_crop(image, matrix, 80, colour=(0, 255, 0))
    np.testing.assert_allclose(edge[:, :35].astype(int), 50, atol=1)
    np.testing.assert_array_equal(coloured[:, :35], np.broadcast_to(np.uint8([0, 255, 0]), (80, 35, 3)))
    np.testing.assert_array_equal(edge[25:55, 45:], coloured[25:55, 45:])


def test_large_pictures_need_little_memory() -> None:
    """A crop of a 24-megapixel photo touches a reduced copy, not a float copy of the whole."""
    import tracemalloc

    image = np.zeros((4000, 6000, 3), np.uint8)
    matrix = crop_matrices(np.array([[3000.0, 2000.0]]), np.array([9000.0]), np.zeros(1))[0]
    tracemalloc.start()
    assert apply_crop(image, matrix, 128).shape == (128, 128, 3)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100e6


def test_fixed_crop_lets_the_head_move(template: np.ndarray) -> None:
    times = np.arange(40) / 25
    centres = np.stack([400 + 20 * np.sin(3 * times), np.full(40, 300.0)], axis=1)
    points = np.stack([seen(template, 250.0, tuple(c)) for c in centres])
    crops = clip_crops(points, np.ones(40, bool), times, template)
    assert np.ptp(crops, axis=0).max() == 0
    moved = to_crop(points, crops).mean(axis=1)[:, 0]
    np.testing.assert_allclose(np.ptp(moved), np.ptp(centres[:, 0]) / 250, rtol=0.02)


def test_following_crop_keeps_a_wandering_head_and_its_quick_motion(template: np.ndarray) -> None:
    times = np.arange(150) / 25
    quick = 8 * np.sin(2 * np.pi * 3 * times)  # 3 Hz, far above what a crop may follow
    centres = np.stack([200 + 120 * times + quick, np.full(150, 300.0)], axis=1)
    points = np.stack([seen(template, 250.0, tuple(c)) for c in centres])
    valid = np.ones(150, bool)
    valid[60:75] = False
    points[~valid] = np.nan
    crops = clip_crops(points, valid, times, template)
    assert np.ptp(crops[:, 0, 2]) > 1
    inside = to_crop(points, crops).mean(axis=1)[valid, 0]
    assert np.abs(inside - np.median(inside)).max() < 0.3
    middle = valid & (np.abs(times - 1.5) < 0.7)
    motion = to_crop(points, crops).mean(axis=1)[middle, 0]
    assert np.ptp(motion) > 0.8 * 16 / 250
    steps = np.abs(np.diff(crops[:, 0, 2]))
    assert steps.max() < 3 * np.median(steps)  # smooth, over the gap too
