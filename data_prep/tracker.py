"""The command line's choice of tracker: a head fitted to MediaPipe's landmarks, or Deep3DFaceRecon's coefficients."""

import argparse

from data_prep.heads import HeadFile
from nofa_jax.errors import UserError
from nofa_jax.face3d.deep3d import load_deep3d
from nofa_jax.face3d.model import DRAWN_HEADS, HEADS
from nofa_jax.face3d.track import TRACKERS
from nofa_jax.weights import find_file


def add_tracker_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tracker",
        choices=TRACKERS,
        help="landmarks: a morphable model fitted to MediaPipe's landmarks; deep3d: the paper's, Deep3DFaceRecon's "
        "network and the Basel Face Model (default landmarks; deep3d with --head=bfm)",
    )
    parser.add_argument("--head", choices=HEADS, help="morphable model (default procedural; bfm with --tracker=deep3d)")
    parser.add_argument("--ict", metavar="PATH", help="ICT FaceKit file or its folder, for --head=ict")
    for name, what in (("deep3d", "Deep3DFaceRecon's network"), ("bfm", "the Basel Face Model")):
        parser.add_argument(
            f"--{name}", metavar="PATH", help=f"{what}, published or ported (default: where `nofa weights` looks)"
        )


def chosen_tracker(args: argparse.Namespace) -> tuple[HeadFile, str | None]:
    """(head, the network's file or None for the tracker landmarks); both were read once, so that errors show now.

    Raises:
      UserError: a head that the tracker cannot do, or files that are missing or bad.
    """
    tracker = args.tracker or ("deep3d" if args.head == "bfm" else "landmarks")
    head = args.head or ("bfm" if tracker == "deep3d" else "procedural")
    if (tracker == "deep3d") != (head == "bfm"):
        fits = "bfm" if tracker == "deep3d" else " or ".join(DRAWN_HEADS)
        raise UserError(f"--tracker={tracker} does not give --head={head}'s coefficients; it takes --head={fits}")
    if tracker == "landmarks":
        file = HeadFile(head, args.ict if head == "ict" else None)
        file.load()
        return file, None
    file, network = HeadFile(head, str(find_file("bfm", args.bfm))), str(find_file("deep3d", args.deep3d))
    file.load()
    load_deep3d(network)
    return file, network
