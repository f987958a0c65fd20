"""The command line's choice of tracker: a head fitted to MediaPipe's landmarks, or Deep3DFaceRecon's coefficients."""

import argparse

from data_prep.heads import HeadFile
from nofa_jax.face3d.deep3d import load_deep3d
from nofa_jax.face3d.model import HEADS, TRACKERS, tracker_for
from nofa_jax.weights import find_file


def add_tracker_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--tracker",
        choices=TRACKERS,
        help="landmarks: a morphable model fitted to MediaPipe's landmarks; deep3d: the paper's, Deep3DFaceRecon's "
        "network, which gives the Basel Face Model's coefficients (default landmarks; deep3d with --head=bfm)",
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
    head = args.head or ("bfm" if args.tracker == "deep3d" else "procedural")
    tracker = tracker_for(head, args.tracker or "")
    path = {"ict": args.ict, "bfm": args.bfm}.get(head)
    file = HeadFile(head, str(find_file("bfm", path)) if head == "bfm" else path, tracker)
    file.load()
    if tracker == "landmarks":
        return file, None
    network = str(find_file("deep3d", args.deep3d))
    load_deep3d(network)
    return file, network
