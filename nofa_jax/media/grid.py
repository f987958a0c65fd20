"""Pictures made of pictures: labelled grids, depth in colours, PNG files. Everything here is numpy and uint8."""

import contextlib
import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image, ImageDraw, ImageFont

from nofa_jax.errors import UserError

_GAP = 2  # pixels between cells
_PAPER, _INK = (255, 255, 255), (30, 30, 30)
# viridis (CC0) at ten even places: monotone in brightness, so the depth reads in grey as well.
_COLORS = np.array(
    [
        [68, 1, 84], [72, 40, 120], [62, 74, 137], [49, 104, 142], [38, 130, 142],
        [31, 158, 137], [53, 183, 121], [109, 205, 89], [180, 222, 44], [253, 231, 37],
    ]
)  # fmt: skip


def to_uint8(image: Float[np.ndarray, "*b h w 3"]) -> UInt8[np.ndarray, "*b h w 3"]:
    """[-1, 1] to 0..255, clipped and rounded; not a number becomes 0, so that it shows."""
    image = np.where(np.isnan(image), -1.0, np.clip(image, -1.0, 1.0))
    return np.round((image + 1.0) * 127.5).astype(np.uint8)


def depth_colors(
    depth: Float[np.ndarray, "h w"],
    valid: Bool[np.ndarray, "h w"] | None = None,
    near: float | None = None,
    far: float | None = None,
) -> UInt8[np.ndarray, "h w 3"]:
    """Near is yellow, far is violet, what is not `valid` (default: finite and positive) is black.

    near and far default to the 2nd and 98th percentile of the valid depths.
    """
    depth = np.asarray(depth, np.float32)
    seen = np.isfinite(depth) & (depth > 0 if valid is None else np.asarray(valid))
    if not seen.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    low, high = np.percentile(depth[seen], [2, 98])
    near, far = low if near is None else near, high if far is None else far
    place = np.clip((far - np.where(seen, depth, far)) / max(far - near, 1e-6), 0.0, 1.0) * (len(_COLORS) - 1)
    channels = [np.interp(place, np.arange(len(_COLORS)), _COLORS[:, c]) for c in range(3)]
    return np.where(seen[..., None], np.round(np.stack(channels, -1)), 0).astype(np.uint8)


def image_grid(
    rows: Sequence[Sequence[UInt8[np.ndarray, "_h _w 3"] | None]],
    labels: Sequence[str] = (),
    row_labels: Sequence[str] = (),
    cell: int | tuple[int, int] | None = None,
) -> UInt8[np.ndarray, "gh gw 3"]:
    """Rows of pictures on white, `labels` over the columns and `row_labels` at the left; None leaves a cell empty.

    Every picture is scaled to fit `cell` (size or (height, width); default that of the largest), keeping its shape.
    Raises ValueError when there is no picture or more labels than columns or rows.
    """
    pictures = [picture for row in rows for picture in row if picture is not None]
    columns = max((len(row) for row in rows), default=0)
    if not pictures or len(labels) > columns or len(row_labels) > len(rows):
        raise ValueError(f"grid of {len(rows)} rows, {columns} columns: {len(labels)} and {len(row_labels)} labels")
    if cell is None:
        cell = max(p.shape[0] for p in pictures), max(p.shape[1] for p in pictures)
    height, width = (cell, cell) if isinstance(cell, int) else cell
    font = ImageFont.load_default(size=max(10, min(16, width // 8)))
    top = _text_size(font, labels)[1] + 2 * _GAP if labels else 0
    left = _text_size(font, row_labels)[0] + 2 * _GAP if row_labels else 0
    size = (left + columns * (width + _GAP) - _GAP, top + len(rows) * (height + _GAP) - _GAP)
    canvas = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(canvas)
    for j, label in enumerate(labels):
        draw.text((left + j * (width + _GAP) + width // 2, top // 2), label, fill=_INK, font=font, anchor="mm")
    for i, row in enumerate(rows):
        y = top + i * (height + _GAP)
        if i < len(row_labels):
            draw.text((_GAP, y + height // 2), row_labels[i], fill=_INK, font=font, anchor="lm")
        for j, picture in enumerate(row):
            if picture is not None:
                _paste(canvas, picture, left + j * (width + _GAP), y, height, width)
    return np.asarray(canvas)


def write_png(path: str | Path, image: UInt8[np.ndarray, "h w 3"]) -> Path:
    """Writes under another name and renames, so `path` is never half a picture. Raises UserError when it cannot."""
    path = Path(path)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ascontiguousarray(image)).save(unfinished, format="PNG")
        os.replace(unfinished, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            unfinished.unlink()
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error
    return path


def _paste(canvas: Image.Image, picture: np.ndarray, x: int, y: int, height: int, width: int) -> None:
    """Puts `picture` into the middle of its cell, scaled to fit."""
    scale = min(height / picture.shape[0], width / picture.shape[1])
    h, w = max(1, round(picture.shape[0] * scale)), max(1, round(picture.shape[1] * scale))
    tile = Image.fromarray(np.ascontiguousarray(picture))
    if tile.size != (w, h):
        tile = tile.resize((w, h), Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC)
    canvas.paste(tile, (x + (width - w) // 2, y + (height - h) // 2))


def _text_size(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, texts: Sequence[str]) -> tuple[int, int]:
    boxes = [font.getbbox(text or " ") for text in texts]
    return round(max(box[2] for box in boxes)), round(max(box[3] for box in boxes))
