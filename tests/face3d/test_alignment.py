"""The five-point alignment and EG3D's camera labels against the official code."""

import numpy as np
import pytest
from PIL import Image

from nofa_jax.face3d.alignment import DEEP3D, EG3D, STANDARD_FACE, align, arcface_matrix, eg3d_picture, five_of_68
from nofa_jax.face3d.camera_label import camera_label, mirrored
from tests import golden
from tests.tolerances import OPS_ATOL, OPS_RTOL


@pytest.fixture(scope="module")
def stored() -> dict[str, np.ndarray]:
    return golden.arrays("face3d", "align")


@pytest.mark.parametrize("target", [DEEP3D, EG3D])
def test_the_published_examples(stored: dict[str, np.ndarray], target: dict) -> None:
    """Scales, offsets and points to rounding; sizes and boxes, which are truncated, exactly."""
    size = target["size"]
    for i, (width, height) in enumerate(stored["size"].tolist()):
        found = align(stored["lm_in"][i], width, height, stored["lm3d_std"], **target)
        expected = stored[f"tp{size}"][i]
        np.testing.assert_allclose([found.scale, *found.offset], expected[2:], rtol=OPS_RTOL)
        np.testing.assert_allclose(found.points, stored[f"lm{size}"][i], rtol=OPS_RTOL)
        assert found.resized == tuple(stored[f"resize{size}"][i])
        assert found.box == tuple(stored[f"crop{size}"][i])


@pytest.mark.parametrize("picture", ["p0", "p1", "p2"])
def test_pixels(stored: dict[str, np.ndarray], picture: str) -> None:
    """Every byte of the network's input, and every fourth of EG3D's picture, borders beyond the photo included."""
    image = Image.fromarray(stored[f"{picture}_image_u8"])
    points, template = stored[f"{picture}_lm_in"], stored["lm3d_std"]
    cut = align(points, image.width, image.height, template, **DEEP3D).apply(image)
    np.testing.assert_array_equal(cut, stored[f"{picture}_crop224_u8"])
    cut = align(points, image.width, image.height, template, **EG3D).apply(image)
    np.testing.assert_array_equal(np.asarray(eg3d_picture(cut))[::4, ::4], stored[f"{picture}_eg3d512_u8_sub"])


def test_a_small_face_in_a_large_picture(stored: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """Resizing only what the cut shows gives the same picture to two grey levels, beyond the borders too."""
    monkeypatch.setattr("nofa_jax.face3d.alignment.LARGE", 0)
    for picture in ("p0", "p1", "p2"):
        image = Image.fromarray(stored[f"{picture}_image_u8"])
        cut = align(stored[f"{picture}_lm_in"], image.width, image.height, STANDARD_FACE, **DEEP3D).apply(image)
        off = np.abs(np.asarray(cut).astype(int) - stored[f"{picture}_crop224_u8"])
        assert off.max() <= 2
        assert off.mean() < 0.2


def test_the_template_is_the_releases(stored: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(STANDARD_FACE, stored["lm3d_std"], rtol=1e-6)


def test_reductions_of_68_points(stored: dict[str, np.ndarray]) -> None:
    np.testing.assert_allclose(five_of_68(stored["lm68"]), stored["lm68_to_5"], rtol=OPS_RTOL)
    matrix = arcface_matrix(stored["lm68"], 224)
    np.testing.assert_allclose(matrix, stored["arcface_norm_matrix_H224"], rtol=OPS_RTOL, atol=OPS_ATOL)


@pytest.mark.parametrize("name", ["orig", "cor"])
def test_camera_labels(name: str) -> None:
    stored = golden.arrays("face3d", "camera_labels")
    label = camera_label(stored["angle"], stored["trans"], recentred=name == "cor")
    np.testing.assert_allclose(label, stored[f"label_{name}"], rtol=OPS_RTOL, atol=1e-6)
    np.testing.assert_allclose(mirrored(label), stored[f"label_{name}_mirror"], rtol=OPS_RTOL, atol=1e-6)
    np.testing.assert_array_equal(mirrored(mirrored(label)), label)
