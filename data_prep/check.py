"""Validates a data set: every record's fields, ranges and camera, the index, the content, and that splits share no
identity. Prints statistics; exit code 2 when something is wrong."""

import argparse

from nofa_jax.data.check import check_dataset
from nofa_jax.errors import UserError
from nofa_jax.progress import log

EXAMPLE = "python -m data_prep check data/heads128"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("dir", help="directory of the data set")


def run(args: argparse.Namespace) -> int:
    report = check_dataset(args.dir)
    for split, statistics in report.statistics.items():
        sizes = ", ".join(f"{name} {size:,}" for name, size in statistics["bytes_per_frame"].items())
        counts = ", ".join(f"{statistics[name]} {name}" for name in ("frames", "clips", "identities"))
        log(f"{split}: {counts}; bytes a frame: {sizes}")
        log(
            "  share of frames that show a shape: " + ", ".join(f"{k} {v:.0%}" for k, v in statistics["active"].items())
        )
    for problem in report.problems:
        log(f"  ! {problem}")
    if report.problems:
        raise UserError(f"{args.dir}: {len(report.problems)} problems, listed above")
    log(f"{args.dir} is sound")
    return 0
