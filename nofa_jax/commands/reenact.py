"""One photo and one driving video in, one avatar video out.

Finds the face in the photo, fits the morphable model, fine-tunes the compensation network on it, tracks the driving
video and renders every frame. The result has the driver's frame rate and sound.
"""

import argparse
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from nofa_jax.errors import UserError
from nofa_jax.face3d.crop import FRAMINGS

if TYPE_CHECKING:
    from nofa_jax.avatar import Avatar
    from nofa_jax.media.video import VideoReader

EXAMPLE = "nofa reenact --workdir=runs/quickstart --source=photo.jpg --driving=clip.mp4 --out=avatar.mp4 --grid"

SHEET_FRAMES = 5


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    parser.add_argument("--driving", required=True, metavar="VIDEO", help="video whose head drives the avatar")
    parser.add_argument(
        "--driving_face",
        type=int,
        metavar="K",
        help="which person of the video drives, from the left in the first frame that shows one; default the largest",
    )
    parser.add_argument("--track", metavar="NPZ", help="precomputed landmark track of the video, instead of detecting")
    parser.add_argument(
        "--framing",
        default="auto",
        choices=FRAMINGS,
        help="what moves the avatar's head in its picture: the driver's place in a fixed square, in one that follows, "
        "fixed while that serves (auto, default), or against the source's place in the photo; docs/conventions.md",
    )
    parser.add_argument("--out", required=True, metavar="MP4", help="video to write")
    parser.add_argument("--grid", action="store_true", help="show source | driver | avatar side by side")
    parser.add_argument("--sheet", metavar="PNG", help="also write a picture of some frames of the video")


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """What both reenact and render need to make an avatar."""
    parser.add_argument("--workdir", required=True, help="directory of a training run")
    parser.add_argument("--source", required=True, metavar="PHOTO", help="photo of the person")
    parser.add_argument("--face", type=int, metavar="K", help="which face, from the left; default the largest")
    parser.add_argument(
        "--landmarker", metavar="TASK", help="face_landmarker.task; default $NOFA_LANDMARKER or the cache"
    )
    parser.add_argument(
        "--finetune_steps", type=_steps, metavar="N", help="of C on the photo; 0 skips; default the run's"
    )
    parser.add_argument("--keep_background", action="store_true", help="do not cut the head out of its background")


def _steps(text: str) -> int:
    if not text.isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of steps")
    return int(text)


def make_avatar(args: argparse.Namespace) -> "Avatar":
    """The avatar that the common arguments describe, not yet fine-tuned."""
    from nofa_jax import compile_cache
    from nofa_jax.avatar import Avatar

    compile_cache.enable()
    return Avatar.from_image(
        args.source,
        args.workdir,
        landmarker=args.landmarker,
        face=args.face,
        finetune_steps=0,
        keep_background=args.keep_background,
    )


def run(args: argparse.Namespace) -> None:
    from nofa_jax.face3d.track import track_clip
    from nofa_jax.media.grid import write_png
    from nofa_jax.media.video import VideoReader
    from nofa_jax.media.video_writer import VideoWriter
    from nofa_jax.progress import log

    # Whatever may be wrong with the files shows before the fine-tuning, which takes the time.
    reader = VideoReader(args.driving)
    writer = VideoWriter(args.out, reader.info.rate, reader.info)
    if args.sheet and not args.sheet.lower().endswith(".png"):
        raise UserError(f"--sheet={args.sheet}: the picture is a PNG file, give it a name ending in .png")
    avatar = make_avatar(args)
    framing = avatar.framing(args.framing, reader)
    tracked = track_clip(reader, avatar.head, args.landmarker, args.track, framing, face=args.driving_face)
    frames = avatar.finetuned(args.finetune_steps).drive(reader, tracked, writer, args.grid)
    log(f"wrote {args.out}: {frames} frames")
    if args.sheet:
        log(f"wrote {write_png(args.sheet, sheet(VideoReader(args.out), frames))}")


def sheet(reader: "VideoReader", frames: int) -> UInt8[np.ndarray, "h w 3"]:
    """SHEET_FRAMES of a video's frames, evenly spread, below each other."""
    chosen = set(np.linspace(0, frames - 1, SHEET_FRAMES).round().astype(int))
    return np.concatenate([frame.image for frame in reader if frame.index in chosen])
