"""Validates a data set: every record's fields, ranges and camera, the index, the content, and that splits are those
that were written and share no identity. Prints statistics and writes report.html: counts, licences, what was left out
and why, histograms of pose and expression, contact sheets. Exit code 2 when something is wrong."""

import argparse
from pathlib import Path

from data_prep.report import describe_licences, read_rejected, write_report
from nofa_jax.data.check import check_dataset
from nofa_jax.errors import UserError
from nofa_jax.progress import log

EXAMPLE = "python -m data_prep check data/heads128"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", help="directory of the data set")
    parser.add_argument("--report", metavar="FOLDER", help="where report.html goes (default: into the data set)")


def run(args: argparse.Namespace) -> int:
    report = check_dataset(args.dir)
    for split, statistics in report.statistics.items():
        sizes = ", ".join(f"{name} {size:,}" for name, size in statistics["bytes_per_frame"].items())
        counts = ", ".join(f"{statistics[name]} {name}" for name in ("frames", "clips", "identities"))
        log(f"{split}: {counts}; bytes a frame: {sizes}")
        log(f"  {describe_licences(statistics)}")
        log(
            "  share of frames that show a shape: " + ", ".join(f"{k} {v:.0%}" for k, v in statistics["active"].items())
        )
    for problem in report.problems:
        log(f"  ! {problem}")
    if report.problems:
        raise UserError(f"{args.dir}: {len(report.problems)} problems, listed above")
    log(f"{args.dir} is sound")
    path = Path(args.dir)
    log(f"wrote {write_report(path, path.resolve().name, read_rejected(path), report, Path(args.report or path))}")
    return 0
