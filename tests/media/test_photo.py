"""Photos of every orientation, colour mode and state of repair."""

import io
import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nofa_jax.errors import UserError
from nofa_jax.media.photo import MIN_SIDE, load_photo, save_png
from tests.shared import shared_path


@pytest.fixture
def picture() -> Image.Image:
    """Smooth, coloured and without any symmetry."""
    y, x = np.mgrid[0:48, 0:64] / 64.0
    return Image.fromarray(np.uint8(255 * np.stack([x, y, 0.5 + 0.5 * x * y], axis=-1)))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(tmp_path: Path, picture: Image.Image, orientation: int) -> None:
    turned = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = picture.transpose(turned[orientation]) if orientation in turned else picture
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored.save(tmp_path / "a.png", exif=exif)
    loaded = load_photo(tmp_path / "a.png")
    np.testing.assert_array_equal(loaded, np.asarray(picture))
    assert loaded.flags.c_contiguous
    assert loaded.dtype == np.uint8


@pytest.mark.parametrize("value", [0, 9, 42])
def test_invalid_orientation_is_upright(tmp_path: Path, picture: Image.Image, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    picture.save(tmp_path / "a.png", exif=exif)
    np.testing.assert_array_equal(load_photo(tmp_path / "a.png"), np.asarray(picture))


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "RGB", "RGBA", "CMYK", "I;16", "I", "F", "YCbCr", "LAB"])
def test_any_colour_mode(tmp_path: Path, picture: Image.Image, mode: str) -> None:
    if mode == "LAB":
        picture = picture.point(lambda v: 64 + v // 2)  # saturated colours do not survive 8-bit LAB
    grey = np.asarray(picture.convert("L"))
    if mode == "I;16":
        stored, expected = Image.fromarray(np.uint16(grey) * 257), np.repeat(grey[:, :, None], 3, axis=2)
    elif mode in ("I", "F"):
        values = np.int32(grey) * 257 if mode == "I" else np.float32(grey) / 255
        stored, expected = Image.fromarray(values), np.repeat(grey[:, :, None], 3, axis=2)
    else:
        stored = _to_lab(picture) if mode == "LAB" else picture.convert(mode)
        expected = np.asarray(picture if mode == "LAB" else stored.convert("RGB"))
    suffix = "tif" if mode in ("CMYK", "YCbCr", "LAB", "F", "I", "LA") else "png"
    stored.save(tmp_path / f"a.{suffix}")
    loaded = load_photo(tmp_path / f"a.{suffix}")
    # YCbCr and LAB round twice, LAB coarsely.
    np.testing.assert_allclose(loaded.astype(int), expected.astype(int), atol={"YCbCr": 4, "LAB": 10}.get(mode, 1))


def _to_lab(picture: Image.Image) -> Image.Image:
    from PIL import ImageCms

    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    return ImageCms.profileToProfile(picture, srgb, lab, outputMode="LAB") or picture


def test_transparency_shows_the_background(tmp_path: Path, picture: Image.Image) -> None:
    alpha = np.zeros((48, 64), np.uint8)
    alpha[:, 32:] = 255
    alpha[:, 16:32] = 128
    layer = picture.copy()
    layer.putalpha(Image.fromarray(alpha))
    layer.save(tmp_path / "a.png")
    rgb = np.asarray(picture).astype(float)
    for background in [(255, 255, 255), (10, 200, 30)]:
        loaded = load_photo(tmp_path / "a.png", background=background)
        weight = alpha[:, :, None] / 255
        np.testing.assert_allclose(loaded, rgb * weight + np.array(background) * (1 - weight), atol=1)
    palette = picture.convert("P")
    palette.save(tmp_path / "p.png", transparency=int(np.asarray(palette)[0, 0]))
    assert tuple(load_photo(tmp_path / "p.png")[0, 0]) == (255, 255, 255)


def test_embedded_profile_is_converted(tmp_path: Path) -> None:
    """Linear-light values with a linear profile come out gamma coded, and a broken profile is ignored."""
    from PIL import ImageCms

    grey = Image.new("RGB", (40, 40), (128, 128, 128))
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    grey.save(tmp_path / "same.png", icc_profile=srgb)
    grey.save(tmp_path / "broken.png", icc_profile=b"no profile at all" * 20)
    np.testing.assert_allclose(load_photo(tmp_path / "same.png"), 128, atol=1)
    np.testing.assert_array_equal(load_photo(tmp_path / "broken.png"), 128)


@pytest.mark.parametrize("suffix", ["jpg", "webp", "gif", "bmp", "tif", "png"])
def test_truncation_at_any_place_is_an_error_with_the_file_name(
    tmp_path: Path, picture: Image.Image, suffix: str
) -> None:
    buffer = io.BytesIO()
    picture.save(buffer, {"jpg": "JPEG", "tif": "TIFF"}.get(suffix, suffix.upper()))
    data = buffer.getvalue()
    path = tmp_path / f"cut.{suffix}"
    for share in (0.02, 0.3, 0.6, 0.9):
        path.write_bytes(data[: int(share * len(data))])
        with pytest.raises(UserError, match="cut"):
            load_photo(path)


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")  # opening it for reading would block for ever
    for path, reason in [
        (tmp_path / "none.jpg", "no such file"),
        (tmp_path, "folder"),
        (tmp_path / "pipe.jpg", "not a plain file"),
    ]:
        with pytest.raises(UserError, match=reason) as error:
            load_photo(path)
        assert str(path) in str(error.value)


def test_smallest_side(tmp_path: Path) -> None:
    Image.new("RGB", (MIN_SIDE, MIN_SIDE)).save(tmp_path / "a.png")
    assert load_photo(tmp_path / "a.png").shape == (MIN_SIDE, MIN_SIDE, 3)
    Image.new("RGB", (MIN_SIDE - 1, 500)).save(tmp_path / "a.png")
    with pytest.raises(UserError, match="at least"):
        load_photo(tmp_path / "a.png")


def test_save_png_is_exact_and_leaves_nothing_on_failure(tmp_path: Path, picture: Image.Image) -> None:
    save_png(tmp_path / "out.png", np.asarray(picture)[:, ::-1])
    np.testing.assert_array_equal(load_photo(tmp_path / "out.png"), np.asarray(picture)[:, ::-1])
    with pytest.raises(UserError, match="missing"):
        save_png(tmp_path / "missing" / "out.png", np.asarray(picture))
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]
    assert stat.S_ISREG((tmp_path / "out.png").stat().st_mode)


def test_every_shared_photo() -> None:
    folder = shared_path("faces")
    for entry in json.loads((folder / "manifest.json").read_text())["files"]:
        if entry["file"].endswith((".jpg", ".png")):
            loaded = load_photo(folder / entry["file"])
            size = (entry["height"], entry["width"])
            assert loaded.shape[:2] in (size, size[::-1]), entry["file"]
            assert loaded.std() > 5, entry["file"]
    as_taken, upright = (load_photo(folder / "photos" / n) for n in ("exif_orientation6.jpg", "man_glasses_720.jpg"))
    assert np.abs(as_taken.astype(int) - upright).mean() < 3  # same photo, compressed twice


def test_every_bad_photo() -> None:
    folder = shared_path("faces_bad")
    for entry in json.loads((folder / "manifest.json").read_text())["files"]:
        path = folder / entry["file"]
        if path.suffix not in (".jpg", ".png"):
            continue
        if entry["expect"].startswith("treated as upright"):
            assert load_photo(path).shape[2] == 3
            continue
        with pytest.raises(UserError) as error:
            load_photo(path)
        assert str(path) in str(error.value)
        assert len(str(error.value)) > len(str(path)) + 10


def test_bombs_take_little_memory() -> None:
    """Peak memory of a fresh process that is handed all three bombs."""
    if not Path("/proc/self/status").exists():
        pytest.skip("needs Linux's /proc to measure")
    folder = shared_path("faces_bad")
    script = (
        "import re, sys\n"
        "from nofa_jax.media.photo import load_photo\n"
        "from nofa_jax.errors import UserError\n"
        "for path in sys.argv[1:]:\n"
        "    try:\n"
        "        load_photo(path)\n"
        "        sys.exit(1)\n"
        "    except UserError:\n"
        "        pass\n"
        "print(re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])\n"
    )
    bombs = sorted(str(p) for p in folder.glob("bomb_*"))
    assert len(bombs) == 3
    done = subprocess.run([sys.executable, "-c", script, *bombs], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 200 * 2**10  # kB
