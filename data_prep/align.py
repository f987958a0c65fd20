"""The pixels of takes: every frame cropped around the head as EG3D does, with the head's mask, encoded and on disk.

A crop is a matrix from the file's pixels to fractions of the crop; it is stored, so results can be pasted back.
"""

import dataclasses
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.detect import frames
from data_prep.sources import Source
from data_prep.takes import Take
from nofa_jax.data.writer import encode_record
from nofa_jax.face3d.crop import apply_crop
from nofa_jax.face3d.matte import HeadCutter
from nofa_jax.face3d.model import MorphableModel
from nofa_jax.face3d.track import Track

BACKGROUNDS = ("white", "keep")


def align(
    source: Source, takes: list[Take], model: MorphableModel, size: int, background: str, coding: str, licence: str
) -> Iterator[dict[str, Any]]:
    """Stored records of the frames that passed, in order, and of each its `crop` [3,3] from the file's pixels.

    `clip` is the take's number, `identity` 0, `frame` counts from the part's beginning. Depth, unknown, is zero; `gaze`
    is there if the track has it.
    """
    wanted = {int(row): (take, i) for take in takes for i, row in enumerate(take.rows) if take.keep[i]}
    cutters: dict[int, HeadCutter] = {}  # of the take that is seen
    for number, (time, picture, corner) in enumerate(frames(source)):
        if number not in wanted:
            continue
        take, i = wanted[number]
        one = _frame(take.track, i)
        if take.number not in cutters:
            cutters = {take.number: HeadCutter(model, size)}
        matte = cutters[take.number](picture, one)
        image = matte.image if background == "white" else apply_crop(picture, one.crop[0], size)
        record = {
            "image": image,
            "mask": np.round(255 * matte.mask).astype(np.uint8),
            "depth": np.zeros((size, size), np.float32),
            "id_coeff": one.id_coeff,
            "exp_coeff": one.exp_coeff[0],
            "cam2world": one.cam2world[0],
            "intrinsics": one.intrinsics[0],
            "landmarks": one.landmarks[0],
            "identity": 0,
            "clip": take.number,
            "frame": number,
            "time": float(time),
            "source": source.name,
            "licence": source.licence or licence,
        }
        if one.gaze is not None:
            record["gaze"] = one.gaze[0]
        into_box = np.array([[1, 0, -corner[0]], [0, 1, -corner[1]], [0, 0, 1.0]])
        yield encode_record(record, coding) | {"crop": one.crop[0] @ into_box}


def write_frames(path: Path, records: Iterator[dict[str, Any]]) -> int:
    """Writes records one by one, so memory does not grow with the clip; returns how many."""
    part, count = path.with_name(path.name + ".part"), 0
    with zipfile.ZipFile(part, "w") as file:
        for record in records:
            arrays = {n: np.frombuffer(v, np.uint8) if isinstance(v, bytes) else v for n, v in record.items()}
            buffer = io.BytesIO()
            np.savez(buffer, **arrays)  # ty: ignore[invalid-argument-type]
            file.writestr(f"{count:07d}.npz", buffer.getvalue())
            count += 1
    part.replace(path)
    return count


def read_frames(path: Path, low: int = 0, high: int | None = None) -> Iterator[dict[str, Any]]:
    """What `write_frames` wrote, from number `low` to before `high`."""
    with zipfile.ZipFile(path) as file:
        for name in sorted(file.namelist())[low:high]:
            with np.load(io.BytesIO(file.read(name)), allow_pickle=False) as arrays:
                record: dict[str, Any] = {key: arrays[key] for key in arrays.files}
            for key in ("image", "mask", "depth"):
                record[key] = record[key].tobytes()
            record |= {key: str(record[key]) for key in ("source", "licence")}
            yield record | {key: np.float32(record[key]) for key in ("time", "depth_scale")}


def _frame(track: Track, i: int) -> Track:
    """One frame of a track, as a track of one."""
    per_frame = ["cam2world", "intrinsics", "exp_coeff", "landmarks", "valid", "crop", "timestamps", "error"]
    if track.gaze is not None:
        per_frame.append("gaze")
    return dataclasses.replace(track, **{name: getattr(track, name)[i : i + 1] for name in per_frame})
