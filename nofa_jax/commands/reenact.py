"""One photo and one driving video in, one avatar video out.

Finds the face in the photo, fits the morphable model, fine-tunes the compensation network on it, tracks the driving
video and renders every frame. The result has the driver's frame rate and sound.
"""

import argparse

EXAMPLE = "nofa reenact --workdir=runs/quickstart --source=photo.jpg --driving=clip.mp4 --out=avatar.mp4 --grid"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    parser.add_argument("--driving", required=True, metavar="VIDEO", help="video whose head drives the avatar")
    parser.add_argument("--track", metavar="NPZ", help="precomputed landmark track of the video, instead of detecting")
    parser.add_argument("--out", required=True, metavar="MP4", help="video to write")
    parser.add_argument("--grid", action="store_true", help="show source | driver | avatar side by side")


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """What both reenact and render need to make an avatar."""
    parser.add_argument("--workdir", required=True, help="directory of a training run")
    parser.add_argument("--source", required=True, metavar="PHOTO", help="photo of the person")
    parser.add_argument("--face", type=int, metavar="K", help="which face, from the left; default the largest")
    parser.add_argument(
        "--landmarker", metavar="TASK", help="face_landmarker.task; default $NOFA_LANDMARKER or the cache"
    )
    parser.add_argument("--finetune_steps", type=int, metavar="N", help="of C on the photo; 0 skips; default the run's")
    parser.add_argument("--keep_background", action="store_true", help="do not cut the head out of its background")


def make_avatar(args: argparse.Namespace):
    """The avatar that the common arguments describe."""
    from nofa_jax import compile_cache
    from nofa_jax.avatar import Avatar
    from nofa_jax.errors import UserError

    if args.finetune_steps is not None and args.finetune_steps < 0:
        raise UserError(f"--finetune_steps={args.finetune_steps}: must not be negative")
    compile_cache.enable()
    return Avatar.from_image(
        args.source,
        args.workdir,
        landmarker=args.landmarker,
        face=args.face,
        finetune_steps=args.finetune_steps,
        keep_background=args.keep_background,
    )


def run(args: argparse.Namespace) -> None:
    from nofa_jax.media.video import VideoReader
    from nofa_jax.progress import log

    VideoReader(args.driving)  # a bad video is reported before minutes of fine-tuning
    avatar = make_avatar(args)
    frames = avatar.reenact(args.driving, args.out, landmarker=args.landmarker, track_file=args.track, grid=args.grid)
    log(f"{args.out}: {frames} frames")
