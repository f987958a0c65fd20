"""Images of a record as bytes: colour as PNG or JPEG, mask as 8-bit PNG, depth as 16-bit PNG with a scale.

Measured trade-offs and the reason for the default are in data_prep/README.md.
"""

import cv2
import numpy as np

from nofa_jax.errors import UserError

DEPTH_SCALE = 1e-4  # world units per level: 65535 levels reach 6.55, well behind a head at 2.7, steps of 1/40 mm

# What `metadata.json` may name; WebP is left out because tensorflow-datasets' Image feature cannot store it.
CODINGS = ("png", "jpeg95")


def check_coding(coding: str) -> None:
    """Raises UserError unless `coding` is one of CODINGS."""
    if coding not in CODINGS:
        raise UserError(f"unknown image coding {coding!r}: choose one of {', '.join(CODINGS)}")


def encode_image(image: np.ndarray, coding: str) -> bytes:
    """uint8 [h,w,3] RGB → file bytes. `png` is lossless; `jpeg95` is quality 95 without chroma subsampling."""
    check_coding(coding)
    if coding == "png":
        return _encode(".png", image[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])
    sampling = [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444]
    return _encode(".jpg", image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95, *sampling])


def decode_image(data: bytes) -> np.ndarray:
    """File bytes → uint8 [h,w,3] RGB. Raises ValueError when they are no image."""
    return _decode(data, cv2.IMREAD_COLOR_RGB)


def encode_mask(mask: np.ndarray) -> bytes:
    """uint8 [h,w], 255 on the head → PNG bytes. Unfiltered: OpenCV's filter makes large areas slower to decode."""
    return _encode(".png", mask, [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE, cv2.IMWRITE_PNG_COMPRESSION, 9])


def decode_mask(data: bytes) -> np.ndarray:
    """PNG bytes → uint8 [h,w]. Raises ValueError when they are no image."""
    return _decode(data, cv2.IMREAD_GRAYSCALE)


def encode_depth(depth: np.ndarray) -> bytes:
    """float [h,w] world units, 0 = background → 16-bit PNG of depth / DEPTH_SCALE. Raises ValueError out of range."""
    levels = np.rint(np.asarray(depth, np.float64) / DEPTH_SCALE)
    if not np.isfinite(levels).all() or levels.min() < 0 or levels.max() > 65535:
        raise ValueError(f"depth outside [0, {65535 * DEPTH_SCALE:.3f}] world units or not finite")
    return _encode(".png", levels.astype(np.uint16), [cv2.IMWRITE_PNG_COMPRESSION, 3])


def decode_depth(data: bytes, scale: float) -> np.ndarray:
    """16-bit PNG bytes → float32 [h,w] world units, exact to half a level. Raises ValueError when they are no image."""
    levels = _decode(data, cv2.IMREAD_UNCHANGED)
    if levels.dtype != np.uint16 or levels.ndim != 2:
        raise ValueError(f"depth is stored as {levels.dtype} with {levels.ndim} axes, not as one 16-bit channel")
    return levels.astype(np.float32) * np.float32(scale)


def _encode(suffix: str, array: np.ndarray, options: list[int] | None = None) -> bytes:
    done, data = cv2.imencode(suffix, np.ascontiguousarray(array), options or [])
    if not done:
        raise ValueError(f"could not encode an array of shape {array.shape} and type {array.dtype} as {suffix}")
    return data.tobytes()


def _decode(data: bytes, flags: int) -> np.ndarray:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), flags) if data else None
    if image is None:
        raise ValueError(f"{len(data)} bytes that are no image")
    return image
