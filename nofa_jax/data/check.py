"""Validates a data set record by record and gathers its statistics."""

import collections
import hashlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nofa_jax.data.records import (
    FRAME_FIELDS,
    INDEX_FIELDS,
    OPTIONAL_FIELDS,
    PIXEL_FIELDS,
    Dataset,
    decode,
    open_dataset,
)
from nofa_jax.data.writer import update_content_hash
from nofa_jax.errors import UserError
from nofa_jax.progress import track

ROTATION_TOLERANCE = 1e-4  # of R Rᵀ - 1: float32 rounding of a product of rotations stays below 1e-6
LANDMARK_RANGE = (-0.5, 1.5)  # fractions of the image: a turned jaw may leave it, a wrong unit is far outside
MAX_GAZE = np.pi / 2  # radians that an eye may be turned
MAX_COEFF = 10.0  # of standardised coefficients and weights of shapes
NEAR, FAR = 1.0, 6.0  # world units between which a head's depth must lie


@dataclass
class Report:
    """What `check_dataset` found: at most a few dozen problems, one line each, and statistics by split."""

    problems: list[str] = field(default_factory=list)
    statistics: dict[str, dict[str, Any]] = field(default_factory=dict)


def check_dataset(path: str | Path, max_problems: int = 20) -> Report:
    """Reads every record; checks fields, ranges, cameras, index, content hash, that splits share no identity and are
    those that were written.

    Raises UserError when the data set cannot even be opened.
    """
    dataset = open_dataset(path, cache_bytes=0)
    report = Report()
    _check_identities(dataset, report)
    for split in dataset.splits:
        _check_split(dataset, split, report, max_problems)
    return report


def record_problems(record: dict[str, Any], size: int | None = None) -> list[str]:
    """What is wrong with a decoded record (see `Dataset.record`); empty when it is fine. `size`: expected pixels."""
    problems = []
    for name in (*FRAME_FIELDS, *(name for name in OPTIONAL_FIELDS if name in record)):
        if not np.isfinite(record[name]).all():
            problems.append(f"{name} is not finite")
    for name in PIXEL_FIELDS:
        h, w = record[name].shape[:2]
        if (h, w) != record["image"].shape[:2] or (size is not None and (h, w) != (size, size)):
            problems.append(f"{name} is {h}×{w} pixels")
    return problems or [*_camera_problems(record), *_content_problems(record)]


def _camera_problems(record: dict[str, Any]) -> list[str]:
    problems = []
    pose, intrinsics = record["cam2world"].astype(np.float64), record["intrinsics"]
    turn, centre = pose[:3, :3], pose[:3, 3]
    if np.abs(turn @ turn.T - np.eye(3)).max() > ROTATION_TOLERANCE or np.linalg.det(turn) < 0:
        problems.append("cam2world is no rotation (rows of unequal length, skewed or mirrored)")
    if np.abs(pose[3] - [0, 0, 0, 1]).max() > 1e-6:
        problems.append("cam2world's last row is not 0 0 0 1")
    if -centre @ turn[:, 2] <= 0:
        problems.append("the camera looks away from the head (the origin is behind it)")
    if not (0.5 < intrinsics[0, 0] < 50 and 0.5 < intrinsics[1, 1] < 50 and np.all(intrinsics[2] == [0, 0, 1])):
        problems.append("intrinsics are not normalised by the image size")
    return problems


def _content_problems(record: dict[str, Any]) -> list[str]:
    problems = []
    for name in ("exp_coeff", "id_coeff"):
        if np.abs(record[name]).max(initial=0) > MAX_COEFF:
            problems.append(f"{name} is out of range")
    for name in ("source", "licence"):
        if not record[name].strip():
            problems.append(f"its {name} is not named")
    low, high = LANDMARK_RANGE
    if record["landmarks"].min() < low or record["landmarks"].max() > high:
        problems.append("landmarks are not fractions of the image size")
    if "gaze" in record and np.abs(record["gaze"]).max() > MAX_GAZE:
        problems.append("an eye is turned by more than a right angle")
    depth, mask = record["depth"], record["mask"]
    if not (mask > 127).any():
        problems.append("the mask is empty")
    seen = depth[depth > 0]
    if seen.size and (seen.min() < NEAR or seen.max() > FAR):
        problems.append(f"depth reaches from {seen.min():.2f} to {seen.max():.2f} world units")
    return problems


def _check_identities(dataset: Dataset, report: Report) -> None:
    """Splits are as written and share nobody; where time was split (metadata's `split_by`), no take."""
    recorded = dataset.metadata.get("split_hash", dataset.split_hash)  # sets of before have none
    if recorded != dataset.split_hash:
        report.problems.append(f"the split is {dataset.split_hash}, but {recorded} was written")
    splits, field = dataset.splits, "clip" if dataset.metadata.get("split_by") == "time" else "identity"
    for k, one in enumerate(splits):
        for other in splits[k + 1 :]:
            both = np.intersect1d(dataset.index(one, field), dataset.index(other, field))
            if len(both):
                report.problems.append(f"{field} {both[0]} is in {one} and in {other} ({len(both)} such)")


def _check_split(dataset: Dataset, split: str, report: Report, max_problems: int) -> None:
    digest, size = hashlib.sha256(), dataset.metadata.get("size")
    coefficients, bytes_of, licences = [], dict.fromkeys(PIXEL_FIELDS, 0), collections.Counter()
    for i in track(range(dataset.num_frames(split)), description=f"checking {split}"):
        try:
            stored = dataset.stored(split, i)
            found = record_problems(decode(stored), size)
        except (UserError, ValueError) as error:
            found, stored = [str(error)], None
        if stored is not None:
            update_content_hash(digest, stored)
            found += _index_problems(dataset, split, i, stored)
            coefficients.append(stored["exp_coeff"])
            licences[stored["licence"]] += 1
            for name in PIXEL_FIELDS:
                bytes_of[name] += len(stored[name])
        report.problems += [f"{split} record {i}: {problem}" for problem in found]
        if len(report.problems) >= max_problems:
            report.problems.append("… and perhaps more: stopped here")
            return
    if digest.hexdigest() != dataset.metadata["splits"][split]["content_sha256"]:
        report.problems.append(f"{split}: the records are not those that were written (content hash differs)")
    statistics = _statistics(dataset, split, np.stack(coefficients), bytes_of)
    report.statistics[split] = statistics | {"licences": dict(licences.most_common())}


def _index_problems(dataset: Dataset, split: str, i: int, record: dict[str, Any]) -> list[str]:
    return [
        f"{name} is {record[name]}, index.npz says {dataset.index(split, name)[i]}"
        for name in INDEX_FIELDS
        if record[name] != dataset.index(split, name)[i]
    ]


def _statistics(dataset: Dataset, split: str, exp_coeff: np.ndarray, bytes_of: dict[str, int]) -> dict[str, Any]:
    """Counts, bytes per frame, and how often each shape of the expression is visible (> 0.2)."""
    names = dataset.metadata.get("exp_names") or [str(k) for k in range(exp_coeff.shape[1])]
    active = (exp_coeff > 0.2).mean(axis=0)
    return {
        "frames": dataset.num_frames(split),
        "clips": len(dataset.clips(split)),
        "identities": len(np.unique(dataset.index(split, "identity"))),
        "bytes_per_frame": {name: round(total / len(exp_coeff)) for name, total in bytes_of.items()},
        "active": {name: round(float(a), 3) for name, a in zip(names, active, strict=True)},
    }
