"""PSNR and SSIM in float64, one value per picture. Images in [0, 1], RGB; quantised to 8 bits beforehand by the caller.

Conventions, because papers seldom say: PSNR over all pixels and channels of one picture, averaged over pictures
afterwards. SSIM as defined by Wang et al. 2004: Gaussian window 11x11 with sigma 1.5, K1 .01, K2 .03, data range 1,
weighted (not sample) covariance, each RGB channel by itself, mean over channels and over the window positions that lie
inside the picture (5 pixels cut at each side). scikit-image: `structural_similarity(gaussian_weights=True, sigma=1.5,
use_sample_covariance=False, data_range=1, channel_axis=-1)`; its default (uniform 7x7) differs by up to .07.
"""

import numpy as np
from jaxtyping import Float

WINDOW = 11
SIGMA = 1.5
K1, K2 = 0.01, 0.03
EDGE = 1e-3  # pixels by which a box may miss a pixel border without taking in the next pixel: rounding of float32 boxes
SSIM_CONVENTION = "gaussian 11x11 sigma 1.5, K1 .01, K2 .03, data range 1, mean of RGB, inside only"


def psnr(a: Float[np.ndarray, "*b h w c"], b: Float[np.ndarray, "..."]) -> Float[np.ndarray, "*b"]:
    """10 log10(1 / MSE) in dB; infinite for equal pictures.

    Raises:
      ValueError: the shapes differ.
    """
    a, b = _same_shape(a, b)
    mse = np.mean(np.square(a - b), axis=(-3, -2, -1))
    with np.errstate(divide="ignore"):
        return np.asarray(-10 * np.log10(mse))


def ssim(a: Float[np.ndarray, "*b h w c"], b: Float[np.ndarray, "..."]) -> Float[np.ndarray, "*b"]:
    """Structural similarity, 1 for equal pictures.

    Raises:
      ValueError: the shapes differ, or a side is shorter than the window.
    """
    a, b = _same_shape(a, b)
    if min(a.shape[-3:-1]) < WINDOW:
        raise ValueError(f"SSIM needs images of at least {WINDOW}x{WINDOW}, got {a.shape[-3]}x{a.shape[-2]}")
    mean_a, mean_b = _blur(a), _blur(b)
    var_a, var_b = _blur(a * a) - mean_a**2, _blur(b * b) - mean_b**2
    covariance = _blur(a * b) - mean_a * mean_b
    luminance = (2 * mean_a * mean_b + K1**2) / (mean_a**2 + mean_b**2 + K1**2)
    structure = (2 * covariance + K2**2) / (var_a + var_b + K2**2)
    return np.asarray(np.mean(luminance * structure, axis=(-3, -2, -1)))


def region_psnr(
    a: Float[np.ndarray, "b h w c"], b: Float[np.ndarray, "b h w c"], boxes: Float[np.ndarray, "b 4"]
) -> Float[np.ndarray, " b"]:
    """PSNR inside one box of each picture: x1, y1, x2, y2 as fractions, rounded outwards to whole pixels."""
    a, b = _same_shape(a, b)
    size = np.array([a.shape[-2], a.shape[-3]])
    low = np.clip(np.floor(boxes[:, :2] * size + EDGE), 0, size - 1).astype(int)
    high = np.clip(np.ceil(boxes[:, 2:] * size - EDGE), low + 1, size).astype(int)
    parts = zip(a, b, low, high, strict=True)
    return np.array([psnr(x[y0:y1, x0:x1], y[y0:y1, x0:x1]) for x, y, (x0, y0), (x1, y1) in parts])


def _same_shape(a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if a.shape != b.shape:
        raise ValueError(f"images of different shapes: {a.shape} and {b.shape}")
    return np.asarray(a, np.float64), np.asarray(b, np.float64)


def _blur(x: Float[np.ndarray, "*b h w c"]) -> Float[np.ndarray, "*b h2 w2 c"]:
    """Gaussian-weighted mean of every window inside the picture, one axis after the other."""
    offsets = np.arange(WINDOW) - WINDOW // 2
    weights = np.exp(-(offsets**2) / (2 * SIGMA**2))
    weights /= weights.sum()
    for axis in (-3, -2):
        length = x.shape[axis] - WINDOW + 1
        x = sum(w * np.take(x, range(i, i + length), axis) for i, w in enumerate(weights))
    return x
