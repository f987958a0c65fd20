"""ROI align equals torchvision's definition in value and gradient."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.ops.roi_align import roi_align
from tests import tolerances as tol
from tests.shared import shared_path

NAMES = ["hand_ramp_aligned", "hand_ramp_not_aligned", "hand_identity", "hand_outside", "hand_scaled"]
NAMES += ["a7_s2", "a6x8_auto", "a5_half", "n7_s2"]


def close(got, wanted) -> None:
    np.testing.assert_allclose(got, wanted, rtol=tol.OPS_RTOL, atol=tol.OPS_ATOL * np.abs(wanted).max())


def fractions(boxes: np.ndarray, image: jax.Array) -> jax.Array:
    height, width = image.shape[1:3]
    return jnp.asarray(boxes / np.array([width, height, width, height]), jnp.float32)


@pytest.mark.parametrize("name", NAMES)
def test_value_and_gradient(name: str) -> None:
    folder = shared_path("golden/crops")
    data = np.load(folder / "roi_align.npz")
    case = next(c for c in json.loads((folder / "roi_align.json").read_text())["cases"] if c["name"] == name)
    prefix = "" if "hand" not in name else f"{name}_"
    x = jnp.asarray(data[f"{prefix}x"].transpose(0, 2, 3, 1))
    rois = data[f"{prefix}rois"]
    boxes = fractions(rois[:, 1:] * case["spatial_scale"], x)

    @jax.jit
    def crop(x):
        options = tuple(case["output_size"]), max(case["sampling_ratio"], 0), case["aligned"]
        return roi_align(x[rois[:, 0].astype(int)], boxes, *options)

    y, back = jax.vjp(crop, x)
    close(y, data[f"{name}_y"].transpose(0, 2, 3, 1))
    if f"{name}_g" in data.files:
        gradient = back(jnp.asarray(data[f"{name}_g"].transpose(0, 2, 3, 1)))[0]
        close(gradient, data[f"{name}_gx"].transpose(0, 2, 3, 1))


def test_mouth_crop_of_an_image() -> None:
    data = np.load(shared_path("golden/crops/roi_align.npz"))
    image = jnp.asarray(data["mouth_image_u8"], jnp.float32)[None] / 127.5 - 1
    boxes = fractions(data["mouth_rois"][:, 1:], image)
    y, back = jax.jit(lambda x: jax.vjp(lambda x: roi_align(x, boxes, (64, 96)), x))(image)
    np.testing.assert_allclose(y[0].transpose(2, 0, 1), data["mouth_y"][0], atol=tol.ROI_MOUTH_ATOL)
    upstream = np.sin(0.37 * np.arange(y.size)).reshape(3, 64, 96).transpose(1, 2, 0)[None]
    gradient = back(jnp.asarray(upstream, y.dtype))[0][0].transpose(2, 0, 1)[:, ::2, ::2]
    np.testing.assert_allclose(gradient, data["mouth_gx"], atol=tol.ROI_MOUTH_GRAD_ATOL)


def test_whole_image_and_gradient_to_the_boxes() -> None:
    """A box around the whole image at its own size is the image; boxes get no gradient."""
    x = jax.random.normal(jax.random.key(0), (2, 8, 8, 3))
    whole = jnp.asarray([[0.0, 0.0, 1.0, 1.0]] * 2)
    crop = jax.jit(roi_align, static_argnums=2)
    close(crop(x, whole, 8), x)
    close(crop(x, whole, (4, 4)), x.reshape(2, 4, 2, 4, 2, 3).mean((2, 4)))
    assert not np.any(jax.grad(lambda boxes: jnp.sum(jnp.square(crop(x, boxes, 8))))(whole))
