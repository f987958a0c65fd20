"""A folder of photos and videos as a data set: detect, track, align, pack, check.

Each step of each file is kept under --work, so the same command goes on where it was stopped. A file that cannot be
used is recorded in rejected.jsonl beside the data set (file, step, reason) and the rest go on; --strict stops instead.
"""

import argparse
import collections
import dataclasses
import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import align, detect
from data_prep.beam import run_on_beam
from data_prep.heads import HeadFile
from data_prep.layouts import LAYOUTS
from data_prep.report import write_report
from data_prep.sources import SPLIT_VERSION, SPLITS, Source, find_sources, split_of
from data_prep.steps import Rejected, Steps, content_hash, drop_others
from data_prep.takes import Gates, Take, fit_takes, gate_help
from data_prep.workers import ordered_map
from nofa_jax import compile_cache
from nofa_jax.data import coding as images
from nofa_jax.data.check import check_dataset
from nofa_jax.data.records import open_dataset
from nofa_jax.data.writer import write_dataset
from nofa_jax.errors import UserError
from nofa_jax.face3d.landmarker import find_landmarker
from nofa_jax.face3d.model import HEADS
from nofa_jax.progress import log, track

EXAMPLE = "python -m data_prep folder my_videos --out=data/mine --size=256 --landmarker=face_landmarker.task"

VERSION = 1  # of the steps; raised when the same settings give other results
HELD_OUT_TIME = 0.2  # with --split=time: the end of each take, half val, half test


@dataclass(frozen=True)
class Preparation:
    """How one file is worked on; picklable, for processes of their own."""

    work: Path
    landmarker: str
    head: HeadFile
    size: int
    background: str
    image_coding: str
    licence: str
    every: int
    gates: Gates
    strict: bool

    def __call__(self, source: Source) -> dict[str, Any]:
        """{"frames": n} and "partly", reasons why some takes were left out; or {"step", "reason"} of a rejection."""
        compile_cache.enable()
        step = "read"
        try:
            content = content_hash(source.path)
            steps = Steps(self.work / source.key, content, self.strict)
            step = "detect"
            steps(step, {"version": VERSION, "part": source.part()}, lambda: self._detect(source))
            step = "track"
            gates = dataclasses.asdict(self.gates)
            model = [self.head.head, *(content_hash(path) for path in self.head.files())]
            fitted = steps(step, {"gates": gates, "model": model}, lambda: self._track(source)[1])
            step = "align"
            pixels = [self.size, self.background, self.image_coding, source.licence or self.licence, self.every]
            done = steps(step, pixels, lambda: self._align(source))
        except Rejected as error:
            return {"step": step, "reason": str(error)}
        except UserError as error:
            if self.strict:
                raise
            return {"step": step, "reason": str(error)}
        return {"frames": done["frames"], "hash": done["hash"], "content": content, "partly": fitted["reasons"]}

    def _detect(self, source: Source) -> dict[str, Any]:
        found = detect.detect(source, self.landmarker)
        detect.save(self.work / source.key, found)
        return {"faces": found.faces, "frames": len(found.landmarks), "seen": int(found.landmarks.valid.sum())}

    def _track(self, source: Source) -> tuple[list[Take], dict[str, Any]]:
        """The fit is deterministic and takes less time than reading its result would save."""
        found = detect.load(self.work / source.key)
        takes, reasons = fit_takes(found, self.head.load(), self.gates, source.video)
        if not takes:
            raise UserError(f"{source.path}: {'; '.join(reasons)}")
        return takes, {"reasons": reasons, "takes": len(takes)}

    def _align(self, source: Source) -> dict[str, Any]:
        takes = [take.thinned(self.every) for take in self._track(source)[0]]
        settings = (self.size, self.background, self.image_coding, self.licence)
        path = self.work / source.key / "frames.zip"
        count = align.write_frames(path, align.align(source, takes, self.head.load(), *settings))
        first = next(align.read_frames(path))
        return {"frames": count, "hash": picture_hash(images.decode_image(first["image"]))}


def picture_hash(image: np.ndarray) -> str:
    """64 bits as hex: whether each of 8 × 8 areas is brighter than its right neighbour (dHash)."""
    import cv2

    grey = cv2.resize(image, (9, 8), interpolation=cv2.INTER_AREA).astype(np.float32).mean(axis=-1)
    return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes().hex()


def prepare(
    folder: str | Path,
    out: str | Path,
    preparation: Preparation,
    layout: str = "folder",
    split: str = "identity",
    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05),
    identity_of: str = "file",
    workers: int = 2,
    beam: Sequence[str] | None = None,
) -> Path:
    """Makes the data set at `out`, with rejected.jsonl and report.html in it; see the command's help.

    Args:
      layout: whose folders these are: "folder", anybody's, or a name in `layouts.LAYOUTS`.
      beam: options of an Apache Beam pipeline that does the steps of the files; None: processes of this machine.

    Raises:
      UserError: `out` exists, nothing in `folder` can be used, or with `strict` the first file that cannot.
    """
    out = Path(out).expanduser()
    if layout == "folder":
        sources, others = find_sources(folder, identity_of)
        log(f"{folder}: {len(sources)} photos and videos; {len(others)} files of other kinds are left alone")
    else:
        sources, missing = LAYOUTS[layout].find(Path(folder).expanduser())
        listed = f"; missing: {len(missing)}, such as {', '.join(missing[:3])}" if missing else ""
        log(f"{folder}: {len(sources)} of {len(sources) + len(missing)} entries of {layout} are here{listed}")
    drop_others(preparation.work, {source.key for source in sources})
    if beam is not None:
        run_on_beam(preparation, sources, beam)
        workers = 0  # all is done: what follows reads the notes
    workers = workers if len(sources) > 1 else 0
    with ordered_map(preparation, sources, workers) as results:
        done = list(zip(sources, track(results, len(sources), "files"), strict=True))
    rejected = [{"file": s.name, "step": r["step"], "reason": r["reason"]} for s, r in done if "reason" in r]
    rejected += [{"file": s.name, "step": "track", "reason": reason} for s, r in done for reason in r.get("partly", [])]
    good, doubles = _unique([(s, r) for s, r in done if "frames" in r], preparation.gates.max_duplicate_bits)
    rejected += doubles
    if not good:
        reasons = "; ".join(f"{row['file']}: {row['reason']}" for row in rejected[:3])
        raise UserError(f"{folder}: no file can be used ({reasons}{' …' if len(rejected) > 3 else ''})")
    key = _key(good, preparation, layout, split, fractions, identity_of)
    if out.is_dir() and open_dataset(out).metadata.get("key") == key:
        log(f"{out} is there already")
        return out
    _pack(out, good, preparation, split, fractions, rejected, key)
    counts = collections.Counter(row["step"] for row in rejected)
    log(
        f"{out}: {sum(r['frames'] for _, r in good)} frames of {len(good)} files; not used: "
        + (", ".join(f"{count} in {step}" for step, count in counts.items()) or "none")
    )
    return out


def _key(good: list, preparation: Preparation, *settings: Any) -> str:
    """Hash of everything that the packed records depend on."""
    p = preparation
    files = [(source.name, source.part(), source.licence, result["content"]) for source, result in good]
    head = [content_hash(path) for path in p.head.files()]
    made = [
        p.head.head,
        head,
        p.size,
        p.background,
        p.image_coding,
        p.licence,
        p.every,
        dataclasses.asdict(p.gates),
        VERSION,
    ]
    return hashlib.sha256(json.dumps([files, made, settings]).encode(errors="surrogateescape")).hexdigest()


def _unique(done: list, bits: int) -> tuple[list, list[dict[str, str]]]:
    """Files that show what an earlier one shows are left out: equal bytes, or first faces that are nearly equal."""
    kept, doubles = [], []
    for source, result in done:
        code = int(result["hash"], 16)
        twin = next(
            (
                s
                for s, r in kept
                if r["content"] == result["content"] or (int(r["hash"], 16) ^ code).bit_count() <= bits
            ),
            None,
        )
        if twin is None:
            kept.append((source, result))
        else:
            doubles.append({"file": source.name, "step": "pack", "reason": f"shows the same as {twin.name}"})
    return kept, doubles


def _pack(
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
            for i, record in enumerate(align.read_frames(preparation.work / source.key / "frames.zip")):
                if not low <= i < high:
                    continue
                crops[name].append(record.pop("crop"))
                clip = clips.setdefault((name, source.name, int(record["clip"])), len(clips))
                yield record | {"identity": names.index(source.identity), "clip": clip, "frame": int(record["frame"])}

    metadata = {
        "size": preparation.size,
        "head": preparation.head.head,
        "exp_names": list(model.exp_names),
        "background": preparation.background,
        "depth": "unknown",
        "split_by": split,
        "split_version": SPLIT_VERSION,
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

    write_dataset(out, splits, metadata, model.num_id, model.num_exp, preparation.image_coding, extras)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", help="photos and videos, in folders of any depth")
    parser.add_argument("--out", required=True, help="directory of the new data set")
    parser.add_argument(
        "--layout",
        default="folder",
        choices=("folder", *LAYOUTS),
        help="a public data set as its authors lay it out (default: folder, anything; see data_prep/README.md)",
    )
    parser.add_argument("--work", help="where steps keep their results (default: OUT.work)")
    parser.add_argument("--head", default="procedural", choices=HEADS, help="morphable model (default %(default)s)")
    parser.add_argument("--ict", metavar="PATH", help="ICT FaceKit file or its folder, for --head=ict")
    parser.add_argument("--size", type=int, default=256, help="pixels of the crop (default %(default)s)")
    parser.add_argument("--background", default="white", choices=align.BACKGROUNDS, help="behind the head's mask")
    parser.add_argument("--image_coding", default="jpeg95", choices=images.CODINGS)
    parser.add_argument("--every", type=int, default=1, help="pack every n-th frame; all are tracked (default: all)")
    parser.add_argument("--licence", default="not stated", help="of the media, kept in every record")
    parser.add_argument("--landmarker", help="MediaPipe's face_landmarker.task (default $NOFA_LANDMARKER, the cache)")
    parser.add_argument(
        "--identity",
        default="file",
        choices=("file", "folder"),
        help="who is in a file: a person of its own, or that of the folder (default %(default)s)",
    )
    parser.add_argument(
        "--split",
        default="identity",
        choices=("identity", "time"),
        help="what is held out: people, or the last fifth of every video (default %(default)s)",
    )
    parser.add_argument("--workers", type=int, default=2, help="processes (default %(default)s; 0: this one)")
    parser.add_argument(
        "--beam",
        metavar="OPTIONS",
        help="do the steps on Apache Beam (pip install apache-beam) with these options of its runner, e.g. "
        "'--runner=DirectRunner --direct_num_workers=2 --direct_running_mode=multi_processing'; "
        "the folder and --work must be seen by all workers under the same names",
    )
    parser.add_argument("--strict", action="store_true", help="stop at the first file that cannot be used")
    gates = parser.add_argument_group("gates", "frames and takes that fail are left out, with the reason")
    for name, default, text in gate_help():
        gates.add_argument(f"--{name}", type=type(default), default=default, help=f"{text} (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    if not 16 <= args.size <= 2048:
        raise UserError(f"--size must be between 16 and 2048, not {args.size}")
    if args.every < 1:
        raise UserError(f"--every must be at least 1, not {args.every}")
    head = HeadFile(args.head, args.ict if args.head == "ict" else None)
    head.load()  # complains about a bad file now rather than in a worker
    out = Path(args.out).expanduser()
    preparation = Preparation(
        work=Path(args.work).expanduser() if args.work else out.with_name(out.name + ".work"),
        landmarker=str(find_landmarker(args.landmarker)),
        head=head,
        size=args.size,
        background=args.background,
        image_coding=args.image_coding,
        licence=args.licence,
        every=args.every,
        gates=Gates(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Gates)}),
        strict=args.strict,
    )
    prepare(
        args.folder,
        out,
        preparation,
        args.layout,
        args.split,
        identity_of=args.identity,
        workers=args.workers,
        beam=None if args.beam is None else args.beam.split(),
    )
    return 0
