"""Photos as people have them: any orientation, colour mode and state of repair, read with bounded memory.

Everything that can be wrong with a file ends in one UserError that names the file and the reason. The size is judged
by the header alone, before a pixel is decoded.
"""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageCms, ImageOps, UnidentifiedImageError

from nofa_jax.errors import UserError

MAX_PIXELS = 52_000_000  # a 50-megapixel phone photo passes; decoding takes at most about 600 MB
MAX_BYTES = 512 * 2**20  # of the file
MIN_SIDE = 32  # pixels; no detector finds a face in less
FORMATS = ("JPEG", "PNG", "WEBP", "AVIF", "TIFF", "BMP", "GIF", "PPM")
WHITE = (255, 255, 255)


def load_photo(path: str | Path, background: Sequence[int] = WHITE) -> UInt8[np.ndarray, "h w 3"]:
    """Reads a photo upright, as contiguous sRGB.

    EXIF orientation is applied (an invalid one counts as upright) and an embedded colour profile is converted to
    sRGB. 16-bit grey is scaled by its full range; floating point grey is taken as [0,1] if it fits in there, else as
    [0,255]. Transparent pixels are blended onto `background` (white). Of an animation the first picture is taken.

    Raises:
        UserError: no such file, not a picture of a known format, damaged or cut off, larger than MAX_PIXELS or
            smaller than MIN_SIDE.
    """
    path = Path(path)
    _check_file(path)
    image = _decode(path)
    try:
        return _to_rgb(_upright(image), background)
    except ValueError as e:
        raise UserError(f"{path}: the picture cannot be converted to RGB ({e})") from e


def save_png(path: str | Path, image: UInt8[np.ndarray, "h w 3"]) -> None:
    """Writes a PNG through a temporary name, so that a half-written file never carries the final one."""
    path = Path(path)
    part = path.with_name(f".{path.name}.part")
    try:
        Image.fromarray(np.ascontiguousarray(image)).save(part, format="PNG")
        part.replace(path)
    except OSError as e:
        raise UserError(f"{path}: cannot be written ({e.strerror or e})") from e
    finally:
        part.unlink(missing_ok=True)


def _decode(path: Path) -> Image.Image:
    """The decoded first picture of the file, in its own colour mode and orientation."""
    Image.init()  # registers the rarer formats
    formats = [name for name in FORMATS if name in Image.OPEN]  # AVIF depends on how Pillow was built
    try:
        with warnings.catch_warnings():
            # Pillow's own warning about large pictures (its limit is not ours) and about odd metadata.
            warnings.simplefilter("ignore")
            with Image.open(path, formats=formats) as image:
                _check_size(path, *image.size)
                if image.format == "PNG":
                    _check_png(path)
                image.load()
                return image.copy()
    except UserError:
        raise
    except Image.DecompressionBombError as e:
        raise UserError(f"{path}: the picture is too large (limit {MAX_PIXELS / 1e6:.0f} megapixels)") from e
    except UnidentifiedImageError as e:
        raise UserError(f"{path}: not a picture in a known format ({', '.join(formats)})") from e
    except MemoryError as e:
        raise UserError(f"{path}: not enough memory to decode this picture") from e
    except Exception as e:  # decoders raise every kind of error on damaged data, down to SyntaxError
        raise UserError(f"{path}: the picture is damaged or cut off ({e})") from e


def _check_file(path: Path) -> None:
    """Only plain files are opened: a pipe or a device would block or never end."""
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not a picture")
    if not path.exists():
        raise UserError(f"{path}: no such file")
    if not path.is_file():
        raise UserError(f"{path}: not a plain file")
    size = path.stat().st_size
    if size == 0:
        raise UserError(f"{path}: the file is empty")
    if size > MAX_BYTES:
        raise UserError(f"{path}: the file has {size / 2**20:.0f} MB (limit {MAX_BYTES // 2**20} MB)")


def _check_size(path: Path, width: int, height: int) -> None:
    if width * height > MAX_PIXELS:
        raise UserError(
            f"{path}: the picture claims {width}x{height} pixels ({width * height / 1e6:.0f} megapixels; "
            f"limit {MAX_PIXELS / 1e6:.0f}); shrink it first"
        )
    if min(width, height) < MIN_SIDE:
        raise UserError(f"{path}: the picture is {width}x{height} pixels; a face needs at least {MIN_SIDE} a side")


def _check_png(path: Path) -> None:
    """Checks every chunk's checksum, which Pillow's decoder does not do for pixel data."""
    with Image.open(path, formats=("PNG",)) as image:
        image.verify()


def _upright(image: Image.Image) -> Image.Image:
    try:
        return ImageOps.exif_transpose(image)
    except Exception:  # the EXIF parser raises anything on malformed blocks, and the pixels are fine
        return image


def _to_rgb(image: Image.Image, background: Sequence[int]) -> UInt8[np.ndarray, "h w 3"]:
    if image.mode.startswith("I") or image.mode == "F":
        grey = _grey_to_uint8(np.asarray(image))
        return np.ascontiguousarray(np.repeat(grey[:, :, None], 3, axis=2))
    if image.has_transparency_data:
        layer = image if image.mode == "RGBA" else image.convert("RGBA")
        canvas = Image.new("RGBA", layer.size, (*(int(v) for v in background), 255))
        return np.ascontiguousarray(np.asarray(Image.alpha_composite(canvas, layer))[:, :, :3])
    return np.array(_to_srgb(image).convert("RGB"), dtype=np.uint8, order="C")


def _to_srgb(image: Image.Image) -> Image.Image:
    """Applies an embedded profile (wide-gamut phone photos, print CMYK); without a usable one, Pillow's conversion."""
    profile = image.info.get("icc_profile")
    if image.mode != "LAB" and (not profile or image.mode not in ("RGB", "CMYK", "L")):
        return image
    try:
        lab = image.mode == "LAB"
        source = ImageCms.createProfile("LAB") if lab else ImageCms.ImageCmsProfile(io.BytesIO(profile or b""))
        return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB") or image
    except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
        return image


def _grey_to_uint8(grey: np.ndarray) -> UInt8[np.ndarray, "h w"]:
    """16-bit and 32-bit integers and floats to 8 bits, see load_photo."""
    if not np.isfinite(grey).all():
        raise ValueError("pixels that are not numbers")
    values = grey.astype(np.float32)
    top = values.max(initial=0)
    if np.issubdtype(grey.dtype, np.floating):
        values = values * (255 if top <= 1 else 1)
    elif top > 255:
        values = values / 257  # 65535 -> 255
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)
