"""The mouth box holds the mouth."""

import jax
import jax.numpy as jnp
import numpy as np

from nofa_jax.losses.regions import mouth_box


def test_mouth_box() -> None:
    landmarks = np.full((2, 68, 2), 0.05)
    landmarks[:, 48:68] = [0.5, 0.7]
    landmarks[0, 48], landmarks[0, 54], landmarks[0, 57] = (0.4, 0.7), (0.6, 0.72), (0.5, 0.76)
    landmarks[1, 48], landmarks[1, 54] = (0.9, 0.9), (1.1, 0.9)  # a mouth that leaves the image
    landmarks[1, 49:54] = landmarks[1, 55:68] = (1.0, 0.9)
    boxes = jax.jit(mouth_box)(jnp.asarray(landmarks, jnp.float32))
    np.testing.assert_allclose(boxes[0], [0.35, 0.58, 0.65, 0.88], atol=1e-6)
    np.testing.assert_allclose(boxes[1], [0.7, 0.7, 1.0, 1.0], atol=1e-6)
    collapsed = mouth_box(jnp.full((68, 2), 0.5))
    assert collapsed.shape == (4,)
    assert 0 < collapsed[2] - collapsed[0] < 0.01
