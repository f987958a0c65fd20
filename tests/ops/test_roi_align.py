"""ROI align equals torchvision's definition in value and gradient; the mouth box holds the mouth."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.ops.roi_align import crop_and_resize, mouth_box, roi_align
from tests import tolerances as tol
from tests.shared import shared_path

NAMES = ["hand_ramp_aligned", "hand_ramp_not_aligned", "hand_identity", "hand_outside", "hand_scaled"]
NAMES += ["a7_s2", "a6x8_auto", "a5_half", "n7_s2"]


def close(got, wanted) -> None:
    np.testing.assert_allclose(got, wanted, rtol=tol.OPS_RTOL, atol=tol.OPS_ATOL * np.abs(wanted).max())


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient(name: str) -> None:
    folder = shared_path("golden/crops")
    data = np.load(folder / "roi_align.npz")
    case = next(c for c in json.loads((folder / "roi_align.json").read_text())["cases"] if c["name"] == name)
    prefix = "" if "hand" not in name else f"{name}_"
    rois = data[f"{prefix}rois"]

    @jax.jit
    def crop(x):
        options = case["spatial_scale"], max(case["sampling_ratio"], 0), case["aligned"]
        return roi_align(x[rois[:, 0].astype(int)], jnp.asarray(rois[:, 1:]), tuple(case["output_size"]), *options)

    x = jnp.asarray(data[f"{prefix}x"].transpose(0, 2, 3, 1))
    y, back = jax.vjp(crop, x)
    close(y, data[f"{name}_y"].transpose(0, 2, 3, 1))
    if f"{name}_g" in data.files:
        gradient = back(jnp.asarray(data[f"{name}_g"].transpose(0, 2, 3, 1)))[0]
        close(gradient, data[f"{name}_gx"].transpose(0, 2, 3, 1))


def test_mouth_crop_of_an_image() -> None:
    data = np.load(shared_path("golden/crops/roi_align.npz"))
    image = jnp.asarray(data["mouth_image_u8"], jnp.float32)[None] / 127.5 - 1
    boxes = jnp.asarray(data["mouth_rois"][:, 1:])
    y, back = jax.jit(lambda x: jax.vjp(lambda x: roi_align(x, boxes, (64, 96)), x))(image)
    np.testing.assert_allclose(y[0].transpose(2, 0, 1), data["mouth_y"][0], atol=tol.ROI_MOUTH_ATOL)
    upstream = np.sin(0.37 * np.arange(y.size)).reshape(3, 64, 96).transpose(1, 2, 0)[None]
    gradient = back(jnp.asarray(upstream, y.dtype))[0][0].transpose(2, 0, 1)[:, ::2, ::2]
    np.testing.assert_allclose(gradient, data["mouth_gx"], atol=tol.ROI_MOUTH_GRAD_ATOL)


def test_whole_image_and_fractions() -> None:
    """A box around the whole image at its own size is the image; fractions and pixels agree; boxes get no gradient."""
    x = jax.random.normal(jax.random.key(0), (2, 6, 8, 3))
    whole = jnp.asarray([[0.0, 0.0, 1.0, 1.0]] * 2)
    crop = jax.jit(crop_and_resize, static_argnums=2)
    close(crop(x, whole, (6, 8)), x)
    part = jnp.asarray([[0.25, 0.5, 0.75, 1.0], [0.1, 0.2, 0.6, 0.7]])
    scale = jnp.asarray([[8.0, 6.0, 8.0, 6.0]])
    close(crop(x, part, (4, 4)), roi_align(x, part * scale, (4, 4)))
    gradient = jax.grad(lambda boxes: jnp.sum(jnp.square(crop(x, boxes, (4, 4)))))(part)
    assert not np.any(gradient)


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
