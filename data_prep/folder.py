"""A folder of photos and videos as a data set: detect, track, align, pack, check.

Each step of each file is kept under --work, so the same command goes on where it was stopped. A file that cannot be
used is recorded in rejected.jsonl beside the data set (file, step, reason) and the rest go on; --strict stops instead.
"""

import argparse
import collections
import dataclasses
from collections.abc import Sequence
from pathlib import Path

from data_prep import align
from data_prep.beam import run_on_beam
from data_prep.layouts import LAYOUTS
from data_prep.lock import exclusive
from data_prep.pack import pack, set_key, without_doubles
from data_prep.preparation import Preparation
from data_prep.sources import Source, find_sources
from data_prep.takes import Gates, gate_help
from data_prep.tracker import add_tracker_arguments, chosen_tracker
from data_prep.workers import ordered_map
from nofa_jax.data import coding as images
from nofa_jax.data.records import open_dataset
from nofa_jax.errors import UserError
from nofa_jax.face3d.landmarker import Landmarker, find_landmarker
from nofa_jax.progress import log, track

EXAMPLE = "python -m data_prep folder my_videos --out=data/mine --size=256 --landmarker=face_landmarker.task"


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
    sources = _sources(folder, layout, identity_of)
    if beam is not None:
        run_on_beam(preparation, sources, beam)
        workers = 0  # all is done: what follows reads the notes
    workers = workers if len(sources) > 1 else 0
    with ordered_map(preparation, sources, workers) as results:
        done = list(zip(sources, track(results, len(sources), "files"), strict=True))
    rejected = [{"file": s.name, "step": r["step"], "reason": r["reason"]} for s, r in done if "reason" in r]
    rejected += [{"file": s.name, "step": "track", "reason": reason} for s, r in done for reason in r.get("partly", [])]
    good, doubles = without_doubles([(s, r) for s, r in done if "frames" in r], preparation.gates.max_duplicate_bits)
    rejected += doubles
    if not good:
        reasons = "; ".join(f"{row['file']}: {row['reason']}" for row in rejected[:3])
        raise UserError(f"{folder}: no file can be used ({reasons}{' …' if len(rejected) > 3 else ''})")
    key = set_key(good, preparation, layout, split, fractions, identity_of)
    if out.is_dir() and open_dataset(out).metadata.get("key") == key:
        log(f"{out} is there already")
        return out
    pack(out, good, preparation, split, fractions, rejected, key)
    counts = collections.Counter(row["step"] for row in rejected)
    log(
        f"{out}: {sum(r['frames'] for _, r in good)} frames of {len(good)} files; not used: "
        + (", ".join(f"{count} in {step}" for step, count in counts.items()) or "none")
    )
    return out


def _sources(folder: str | Path, layout: str, identity_of: str) -> list[Source]:
    """What of the folder there is to work on; what is not used, or missing, is said."""
    if layout == "folder":
        sources, others = find_sources(folder, identity_of)
        log(f"{folder}: {len(sources)} photos and videos; {len(others)} files of other kinds are left alone")
    else:
        sources, missing = LAYOUTS[layout].find(Path(folder).expanduser())
        listed = f"; missing: {len(missing)}, such as {', '.join(missing[:3])}" if missing else ""
        log(f"{folder}: {len(sources)} of {len(sources) + len(missing)} entries of {layout} are here{listed}")
    return sources


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
    add_tracker_arguments(parser)
    parser.add_argument("--size", type=int, default=256, help="pixels of the crop (default %(default)s)")
    parser.add_argument(
        "--background",
        choices=align.BACKGROUNDS,
        help="behind the head's mask (default white; keep with deep3d, whose model has no skull to find the hair by)",
    )
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
    head, network = chosen_tracker(args)
    out = Path(args.out).expanduser()
    landmarker = find_landmarker(args.landmarker)
    with Landmarker(landmarker):  # complains about missing libraries now, not of every file
        pass
    preparation = Preparation(
        work=Path(args.work).expanduser() if args.work else out.with_name(out.name + ".work"),
        landmarker=str(landmarker),
        head=head,
        size=args.size,
        background=args.background or ("keep" if head.head == "bfm" else "white"),
        image_coding=args.image_coding,
        licence=args.licence,
        every=args.every,
        gates=Gates(**{field.name: getattr(args, field.name) for field in dataclasses.fields(Gates)}),
        strict=args.strict,
        network=network,
    )
    with exclusive(out):
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
