"""PSNR and SSIM equal the reference implementations; mouth PSNR looks at the mouth only."""

import json

import numpy as np
import pytest

from nofa_jax.metrics.face import mouth_psnr
from nofa_jax.metrics.image import psnr, region_psnr, ssim
from tests import tolerances as tol
from tests.shared import shared_path


@pytest.mark.parametrize("pair", range(5))
def test_reference_values(pair: int) -> None:
    folder = shared_path("golden/metrics")
    data, wanted = np.load(folder / "metrics.npz"), json.loads((folder / "metrics.json").read_text())["pairs"][pair]
    a, b = data[f"pair{pair}_a"] / 255.0, data[f"pair{pair}_b"] / 255.0
    np.testing.assert_allclose(psnr(a, b), float(wanted["psnr"]), rtol=tol.METRIC_RTOL)
    np.testing.assert_allclose(ssim(a, b), wanted["ssim_skimage_gauss"], rtol=tol.METRIC_RTOL)
    # pytorch_msssim builds its window in float32, so it agrees to the sixth digit only.
    np.testing.assert_allclose(ssim(a, b), wanted["ssim_pytorch_msssim_fp64"], rtol=tol.SSIM_FLOAT32_WINDOW_RTOL)


def test_by_hand() -> None:
    a = np.zeros((16, 16, 3))
    b = np.full((16, 16, 3), 0.1)
    np.testing.assert_allclose(psnr(a, b), 20, rtol=1e-12)
    np.testing.assert_allclose(ssim(a, b), 1e-4 / (0.01 + 1e-4), rtol=1e-9)  # two constants: the luminance term
    assert psnr(a, a) == np.inf
    np.testing.assert_allclose(ssim(b, b), 1, rtol=1e-12)


def test_per_example_and_independent_of_the_batch() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.uniform(size=(2, 3, 24, 20, 3))
    for metric in (psnr, ssim):
        whole = metric(a, b)
        assert whole.shape == (3,)
        np.testing.assert_allclose(whole, [metric(x, y) for x, y in zip(a, b, strict=True)], rtol=1e-12)
        np.testing.assert_allclose(metric(a, b), metric(b, a), rtol=1e-12)


def test_bad_shapes() -> None:
    with pytest.raises(ValueError, match="different shapes"):
        psnr(np.zeros((8, 8, 3)), np.zeros((8, 9, 3)))
    with pytest.raises(ValueError, match="at least 11x11, got 10x20"):
        ssim(np.zeros((10, 20, 3)), np.zeros((10, 20, 3)))


def test_mouth_psnr() -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(size=(2, 40, 40, 3))
    landmarks = np.zeros((2, 68, 2))
    landmarks[:, 48:68] = np.array([0.5, 0.75]) + 0.1 * np.array([[-1, 0], [1, 0]])[np.arange(20) % 2]
    inside, outside = a.copy(), a.copy()
    outside[:, :20] = 0  # above the box
    outside[:, :, :10] = 0  # left of it
    inside[:, 30, 20] += 0.1
    assert np.all(mouth_psnr(a, outside, landmarks) == np.inf)
    # Side .2 (1 + 2 * .25) = .3 of 40 pixels: 12 x 12 pixels, one of which is off by .1.
    np.testing.assert_allclose(mouth_psnr(a, inside, landmarks), 20 + 10 * np.log10(144), rtol=1e-9)


def test_region_of_less_than_a_pixel() -> None:
    a = np.zeros((1, 8, 8, 3))
    b = a.copy()
    b[0, 7, 7] = 0.1
    np.testing.assert_allclose(region_psnr(a, b, np.array([[1.0, 1.0, 1.0, 1.0]])), [20])
