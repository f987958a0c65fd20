"""Windows of training images."""

import jax
import jax.numpy as jnp
import numpy as np

from nofa_jax.train.window import MOUTH, choose_window, cut, landmarks_in_window


def test_windows_lie_inside_and_reach_every_corner():
    landmarks = jnp.full((2000, 68, 2), 0.5)
    corner = np.asarray(choose_window(jax.random.key(0), landmarks, 12, 4, 0.0))
    assert corner.min() == 0
    assert corner.max() == 8


def test_focused_windows_hold_the_mouth_or_an_eye():
    landmarks = jnp.zeros((500, 68, 2)).at[:, MOUTH].set(jnp.array([0.5, 0.8])).at[:, 36:42].set(jnp.array([0.3, 0.3]))
    landmarks = landmarks.at[:, 42:48].set(jnp.array([0.7, 0.3]))
    corner = np.asarray(choose_window(jax.random.key(1), landmarks, 40, 16, 1.0))
    middle = (corner + 8) / 40  # (row, column)
    places = np.array([[0.8, 0.5], [0.3, 0.3], [0.3, 0.7]])
    reach = np.abs(middle[:, None] - places[None]).max(-1).min(1)
    assert reach.max() <= 0.125 + 0.5 / 40 + 1e-6
    mouth = np.abs(middle - places[0]).max(-1) < 0.15
    assert 0.4 < mouth.mean() < 0.6


def test_cut_takes_the_pixels_and_moves_the_landmarks_along():
    image = jnp.arange(2 * 8 * 8 * 1.0).reshape(2, 8, 8, 1)
    corner = jnp.array([[2, 3], [4, 0]])
    part = cut(image, corner, 4)
    np.testing.assert_array_equal(part[0], image[0, 2:6, 3:7])
    np.testing.assert_array_equal(part[1], image[1, 4:8, 0:4])
    landmarks = jnp.full((2, 68, 2), 0.5)  # the middle: pixel edge 4 of 8
    moved = landmarks_in_window(landmarks, corner, 8, 4)
    np.testing.assert_allclose(moved[0, 0], [(4 - 3) / 4, (4 - 2) / 4])
    np.testing.assert_allclose(moved[1, 0], [1.0, 0.0])
