"""Prints what a data set is and one of its records, with where it came from, and draws both: the record, and below it a
row of frames for each of the first clips.
"""

import argparse
from pathlib import Path
from typing import Any

import numpy as np

from nofa_jax.data.records import PIXEL_FIELDS, Clip, Dataset, open_dataset
from nofa_jax.errors import UserError
from nofa_jax.media.grid import depth_colors, image_grid, write_png
from nofa_jax.progress import log

EXAMPLE = "python -m data_prep show data/heads128 --split=val --record=3 --out=sheet.png"

CELL = 128  # pixels a frame takes on the sheet at least
SHOWN_WEIGHT = 0.05  # expressions weaker than this are not listed


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", help="directory of the data set")
    parser.add_argument("--split", default=None, help="default: the first")
    parser.add_argument("--record", type=int, default=0, help="number of the record to show (default %(default)s)")
    parser.add_argument("--clips", type=int, default=6, help="rows of the sheet (default %(default)s)")
    parser.add_argument("--frames", type=int, default=8, help="columns of the sheet at most (default %(default)s)")
    parser.add_argument("--out", default=None, help="the sheet's file (default: DIR's name + .png, here)")


def run(args: argparse.Namespace) -> int:
    dataset = open_dataset(args.dir, cache_bytes=0)
    split = args.split or dataset.splits[0]
    log(describe_dataset(dataset))
    log(describe_record(dataset, split, args.record))
    if args.clips < 1 or args.frames < 1:
        raise UserError("--clips and --frames must be at least 1")
    out = Path(args.out or f"{Path(args.dir).resolve().name}.png")
    write_png(out, contact_sheet(dataset, split, args.clips, args.frames, args.record))
    log(f"wrote {out}")
    return 0


def describe_dataset(dataset: Dataset) -> str:
    """A few lines: path, the producer's settings, the split's version, counts by split."""
    shown = ("head", "size", "background", "image_coding", "n_id", "n_exp")
    facts = ", ".join(f"{name} {dataset.metadata[name]}" for name in shown if name in dataset.metadata)
    by, rule = dataset.metadata.get("split_by", "identity"), dataset.metadata.get("split_version")
    lines = [f"{dataset.path}: {facts}"]
    lines.append(f"  split {dataset.split_hash}, by {by}{f', rule {rule}' if rule is not None else ''}")
    for split, counts in dataset.metadata["splits"].items():
        people = len(counts["identities"])
        lines.append(f"  {split}: {counts['frames']} frames, {counts['clips']} clips, {people} identities")
    return "\n".join(lines)


def describe_record(dataset: Dataset, split: str, number: int) -> str:
    """One record, field by field, as it is stored; its source with the file's hash where the set has it."""
    stored = dataset.stored(split, number)
    lines = [f"record {number} of {split}:"]
    lines += [f"  {name:<12} {_value(name, value, dataset.metadata)}" for name, value in sorted(stored.items())]
    return "\n".join(lines)


def _value(name: str, value: Any, metadata: dict[str, Any]) -> str:
    if name in PIXEL_FIELDS:
        kind = "PNG" if value.startswith(b"\x89PNG") else "JPEG"
        return f"{len(value):,} bytes of {kind}"
    if name == "source" and value in metadata.get("files_sha256", {}):
        return f"{value!r}, sha256 {metadata['files_sha256'][value]}"
    if name == "exp_coeff" and "exp_names" in metadata:
        pairs = zip(metadata["exp_names"], value, strict=True)
        active = ", ".join(f"{shape} {weight:.2f}" for shape, weight in pairs if weight > SHOWN_WEIGHT)
        return f"float32 {value.shape}: {active or 'neutral'}"
    if name == "gaze":
        eyes = zip(("left", "right"), np.degrees(value), strict=True)
        turns = "; ".join(f"{side} eye {yaw:+.0f} to the left, {pitch:+.0f} up" for side, (yaw, pitch) in eyes)
        return f"float32 {value.shape}: {turns} (degrees)"
    if isinstance(value, np.ndarray):
        numbers = np.array2string(value.reshape(-1)[:16], precision=3, suppress_small=True, max_line_width=1000)
        return f"float32 {value.shape}: {numbers}{' …' if value.size > 16 else ''}"
    return repr(value)


def contact_sheet(dataset: Dataset, split: str, clips: int, frames: int, record: int | None = None) -> np.ndarray:
    """uint8 [h,w,3]: a row for `record`, if one is named, and for each of the first clips a row of frames; landmarks,
    mask and depth are of a row's first frame.
    """
    rows, labels = [], []
    if record is not None:
        one = dataset.record(split, record)
        rows.append([one["image"], *_layers(one)])
        labels.append(f"record {record}")
    for clip in dataset.clips(split)[:clips]:
        rows.append(_row(dataset, split, clip, frames))
        labels.append(str(clip.identity))
    columns = max(map(len, rows))
    rows = [[*row[:-3], *[None] * (columns - len(row)), *row[-3:]] for row in rows]
    names = [*[""] * (columns - 3), "landmarks", "mask", "depth"]
    return image_grid(rows, names, labels, cell=max(CELL, dataset.record(split, 0)["image"].shape[0]))


def _row(dataset: Dataset, split: str, clip: Clip, frames: int) -> list[Any]:
    chosen = clip.records[np.linspace(0, len(clip.records) - 1, min(frames, len(clip.records))).round().astype(int)]
    records = [dataset.record(split, int(i)) for i in chosen]
    return [*(r["image"] for r in records), *_layers(records[0])]


def _layers(record: dict[str, Any]) -> list[np.ndarray]:
    """Landmarks, mask and depth as pictures."""
    mask = np.repeat(record["mask"][..., None], 3, axis=-1)
    return [_with_landmarks(record), mask, depth_colors(record["depth"])]


def _with_landmarks(record: dict[str, Any]) -> np.ndarray:
    """The image, enlarged if small, with a dot on each landmark."""
    image = record["image"]
    factor = max(1, round(2 * CELL / image.shape[0]))
    image = image.repeat(factor, axis=0).repeat(factor, axis=1)
    h, w = image.shape[:2]
    for x, y in record["landmarks"]:
        row, column = int(np.clip(y * h, 1, h - 2)), int(np.clip(x * w, 1, w - 2))
        image[row - 1 : row + 2, column - 1 : column + 2] = (0, 255, 60)
    return image
