"""Grids, depth colours and PNG files."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nofa_jax.errors import UserError
from nofa_jax.media.grid import depth_colors, image_grid, to_uint8, write_png


def _flat(height: int, width: int, value: int) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def test_to_uint8_rounds_clips_and_shows_what_is_not_finite() -> None:
    values = np.array([-2.0, -1.0, 0.0, 1.0, 3.0, np.nan, np.inf, -np.inf], np.float32)
    image = np.broadcast_to(values[:, None], (8, 3))[None]
    assert to_uint8(image)[0, :, 0].tolist() == [0, 0, 128, 255, 255, 0, 255, 0]
    every = np.arange(256)
    back = np.broadcast_to((every / 127.5 - 1).astype(np.float32)[:, None], (256, 3))[None]
    assert to_uint8(back)[0, :, 1].tolist() == every.tolist()


def test_depth_colors_get_darker_with_distance() -> None:
    depth = np.linspace(2.25, 3.3, 64, dtype=np.float32).reshape(8, 8)
    brightness = depth_colors(depth).astype(int) @ np.array([299, 587, 114])
    assert (np.diff(brightness.reshape(-1)) <= 0).all()
    assert brightness[0, 0] > 3 * brightness[-1, -1] > 0


def test_depth_colors_of_invalid_and_constant_depth() -> None:
    depth = np.array([[np.nan, 0.0], [2.0, 2.0]], np.float32)
    colors = depth_colors(depth)
    assert (colors[0] == 0).all()
    assert (colors[1].sum(-1) > 0).all()
    assert (depth_colors(depth, valid=np.zeros((2, 2), bool)) == 0).all()
    fixed = depth_colors(np.array([[1.0, 2.0, 3.0]], np.float32), near=2.0, far=3.0)
    np.testing.assert_array_equal(fixed[0, 0], fixed[0, 1])  # nearer than near is near


def test_grid_places_scales_and_leaves_cells_empty() -> None:
    grid = image_grid([[_flat(20, 20, 10), _flat(10, 10, 60)], [None, _flat(20, 10, 90)]])
    assert grid.shape == (42, 42, 3)
    assert grid[10, 10, 0] == 10
    assert (grid[2:18, 24:40] == 60).all()  # scaled up to its cell
    assert (grid[22:, :20] == 255).all()  # empty
    assert (grid[24:40, 30:34] == 90).all()  # keeps its shape, in the middle
    assert (grid[24:40, 22:26] == 255).all()
    assert image_grid([[_flat(20, 20, 10)]], cell=(8, 16)).shape == (8, 16, 3)


def test_labels_take_room_of_their_own() -> None:
    row = [_flat(40, 40, 0), _flat(40, 40, 0)]
    plain, labelled = image_grid([row]), image_grid([row], ["source", "output"], ["jawOpen"])
    top, left = labelled.shape[0] - plain.shape[0], labelled.shape[1] - plain.shape[1]
    assert top > 8
    assert left > 20
    np.testing.assert_array_equal(labelled[top:, left:], plain)
    assert (labelled[:top, left : left + 40] < 128).any()
    assert (labelled[:top, left + 42 :] < 128).any()
    assert (labelled[top:, :left] < 128).any()


@pytest.mark.parametrize(("rows", "labels"), [([], []), ([[None]], []), ([[_flat(2, 2, 0)]], ["a", "b"])])
def test_impossible_grids(rows: list, labels: list[str]) -> None:
    with pytest.raises(ValueError, match="grid of"):
        image_grid(rows, labels)


def test_png_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), np.uint8)
    path = write_png(tmp_path / "new" / "a.png", picture)
    np.testing.assert_array_equal(np.asarray(Image.open(path)), picture)
    assert [p.name for p in path.parent.iterdir()] == ["a.png"]
    with pytest.raises(UserError, match="cannot write"):
        write_png(path / "b.png", picture)
