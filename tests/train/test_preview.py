"""The training preview: five labelled columns, each showing its own picture."""

import numpy as np

from nofa_jax.train.preview import LABELS, preview_grid


def test_columns_are_where_their_labels_say() -> None:
    shades = {"source": -1.0, "target": -0.5, "output": 0.0, "canonical": 0.5}
    images = {name: np.full((2, 32 if name == "output" else 16, 32 if name == "output" else 16, 3), shade, np.float32)
              for name, shade in shades.items()}  # fmt: skip
    depth = np.full((2, 16, 16, 1), 2.7, np.float32)
    depth[:, :8] = 2.5
    opacity = np.ones((2, 16, 16, 1), np.float32)
    opacity[:, 12:] = 0.1
    grid = preview_grid(**images, depth=depth, opacity=opacity)
    assert grid.dtype == np.uint8
    assert grid.shape[1] == 5 * 32 + 4 * 2  # cells of the output's size with gaps
    for row in range(2):
        y = grid.shape[0] - (2 - row) * 34 + 2 + 16
        for column, name in enumerate(LABELS[:4]):
            np.testing.assert_array_equal(grid[y, column * 34 + 16], round((shades[name] + 1) * 127.5))
    near, far, empty = (grid[grid.shape[0] - 32 + y, 4 * 34 + 16].astype(int) for y in (4, 20, 30))
    assert near.sum() > far.sum() > empty.sum() == 0
