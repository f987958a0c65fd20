"""The frames of all files as one data set: doubles left out, people shared out among the splits, checked, reported."""

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import align
from data_prep.preparation import VERSION, Preparation, head_key, network_key
from data_prep.report import write_report
from data_prep.sources import SPLIT_VERSION, SPLITS, Source, split_of
from nofa_jax.data.check import check_dataset
from nofa_jax.data.records import OPTIONAL_FIELDS
from nofa_jax.data.writer import write_dataset
from nofa_jax.errors import UserError
from nofa_jax.progress import log

HELD_OUT_TIME = 0.2  # with --split=time: the end of each video, half val, half test
HASH_BITS = 64


def set_key(good: list, preparation: Preparation, *settings: Any) -> str:
    """Hash of everything that the packed records depend on."""
    p = preparation
    files = [(source.name, source.part(), source.licence, result["content"]) for source, result in good]
    made = [
        head_key(p.head) if p.network is None else [*head_key(p.head), network_key(p.network)],
        p.size,
        p.background,
        p.image_coding,
        p.licence,
        p.every,
        dataclasses.asdict(p.gates),
        VERSION,
    ]
    return hashlib.sha256(json.dumps([files, made, settings]).encode(errors="surrogateescape")).hexdigest()


def without_doubles(done: list, bits: int) -> tuple[list, list[dict[str, str]]]:
    """Files that show what an earlier one shows are left out: equal bytes, or hashes of the first faces that differ in
    at most `bits`.

    Cut into bits + 1 pieces, two such hashes have a piece in common: only files that share one are compared.
    """
    kept, doubles = [], []
    cuts = [HASH_BITS * i // (bits + 1) for i in range(bits + 2)] if bits >= 0 else []
    alike: dict[object, list] = {}  # by content, and by each piece of the hash
    for source, result in done:
        code = int(result["hash"], 16)
        pieces = [(i, code >> low & (1 << high - low) - 1) for i, (low, high) in enumerate(itertools.pairwise(cuts))]
        twin = next(iter(alike.get(result["content"], [])), None)
        for other, its in (entry for piece in pieces for entry in alike.get(piece, [])):
            if twin is None and (its ^ code).bit_count() <= bits:
                twin = other, its
        if twin is not None:
            doubles.append({"file": source.name, "step": "pack", "reason": f"shows the same as {twin[0].name}"})
            continue
        kept.append((source, result))
        for key in (result["content"], *pieces):
            alike.setdefault(key, []).append((source, code))
    return kept, doubles


def pack(
    out: Path,
    good: list,
    preparation: Preparation,
    split: str,
    fractions: tuple[float, float, float],
    rejected: list[dict[str, str]],
    key: str,
) -> None:
    """The records of all files, renumbered and shared out among the splits."""
    names = sorted({source.identity for source, _ in good})
    number = {name: i for i, name in enumerate(names)}
    plan: dict[str, list[tuple[Source, int, int]]] = {name: [] for name in SPLITS}  # source, first frame, last + 1
    for source, result in good:
        n = result["frames"]
        if split == "identity":
            plan[split_of(source.identity, fractions)].append((source, 0, n))
            continue
        held = round(HELD_OUT_TIME * n / 2) if source.video else 0
        bounds = [0, n - 2 * held, n - held, n]
        for name, low, high in zip(SPLITS, bounds[:-1], bounds[1:], strict=True):
            if high > low:
                plan[name].append((source, low, high))
    empty = [name for name, parts in plan.items() if not parts]
    if "train" in empty:
        raise UserError(f"{out}: no file falls into the split train; use --split=time, or more files")
    if empty:
        log(f"no file falls into {' and '.join(empty)}: with so few people use --split=time")
    model = preparation.head.load()
    crops: dict[str, list[np.ndarray]] = {name: [] for name in SPLITS}
    clips: dict[tuple[str, str, int], int] = {}

    def records(name: str) -> Iterator[dict[str, Any]]:
        for source, low, high in plan[name]:
            for record in align.read_frames(preparation.work / source.key / "frames.zip", low, high):
                crops[name].append(record.pop("crop"))
                clip = clips.setdefault((name, source.name, int(record["clip"])), len(clips))
                yield record | {"identity": number[source.identity], "clip": clip, "frame": int(record["frame"])}

    metadata = {
        "size": preparation.size,
        "head": preparation.head.head,
        "tracker": model.tracker,
        "exp_names": list(model.exp_names),
        "background": preparation.background,
        "depth": "unknown",
        "split_by": split,
        "split_version": SPLIT_VERSION,
        "split_fractions": fractions,
        "identity_names": names,
        "gates": dataclasses.asdict(preparation.gates),
        "key": key,
        "files_sha256": {source.name: result["content"] for source, result in good},
    }
    splits = {name: records(name) for name, parts in plan.items() if parts}

    def extras(folder: Path) -> None:
        arrays: dict[str, Any] = {f"{name}/crop": np.stack(crops[name]) for name in splits}
        np.savez_compressed(folder / "crops.npz", **arrays)
        (folder / "rejected.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rejected))
        report = check_dataset(folder)
        if report.problems:
            raise UserError(f"{out}: {len(report.problems)} problems, nothing written: {report.problems[0]}")
        write_report(folder, out.name, rejected, report)

    first = next(align.read_frames(preparation.work / good[0][0].key / "frames.zip", 0, 1))
    optional = [name for name in OPTIONAL_FIELDS if name in first]
    write_dataset(out, splits, metadata, model.num_id, model.num_exp, preparation.image_coding, extras, optional)
