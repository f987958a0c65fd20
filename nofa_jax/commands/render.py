"""An avatar from one photo, in a pose and expression of your choice: a PNG, or an MP4 that turns the head.

The expression is given as shapes of the morphable model with weights in [0, 1]; `jawOpen=0.8 mouthSmile=0.5`. A name
without a side means both sides. Without --expression the photo's own expression stays.
"""

import argparse
from pathlib import Path

from nofa_jax.commands.reenact import add_source_arguments, make_avatar
from nofa_jax.errors import UserError

EXAMPLE = (
    "nofa render --workdir=runs/quickstart --source=photo.jpg --yaw=20 --expression jawOpen=0.8 mouthSmile=0.4 "
    "--out=turned.png"
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add_source_arguments(parser)
    parser.add_argument("--yaw", type=float, default=0.0, help="degrees, towards the picture's right")
    parser.add_argument("--pitch", type=float, default=0.0, help="degrees, up")
    parser.add_argument("--roll", type=float, default=0.0, help="degrees, clockwise")
    parser.add_argument(
        "--expression", nargs="*", action="extend", default=[], metavar="NAME=WEIGHT", help="shapes and weights"
    )
    parser.add_argument("--turntable", metavar="MP4", help="also write a video that swings the head left and right")
    parser.add_argument("--out", required=True, metavar="PNG", help="picture to write")


def run(args: argparse.Namespace) -> None:
    from nofa_jax.avatar import camera_for_pose
    from nofa_jax.media.grid import write_png
    from nofa_jax.media.video_writer import check_target
    from nofa_jax.progress import log

    # Mistakes show before the fine-tuning, which takes the time.
    expression = parse_expression(args.expression)
    camera_for_pose(args.yaw, args.pitch, args.roll)
    if not args.out.lower().endswith(".png"):
        raise UserError(f"--out={args.out}: the picture is a PNG file, give it a name ending in .png")
    if args.turntable:
        check_target(Path(args.turntable))
    avatar = make_avatar(args)
    avatar.beta(expression)
    avatar = avatar.finetuned(args.finetune_steps)
    picture = avatar.render(expression=expression, yaw=args.yaw, pitch=args.pitch, roll=args.roll)
    log(f"wrote {write_png(args.out, picture)}")
    if args.turntable:
        avatar.turntable(args.turntable, expression)
        log(f"wrote {args.turntable}")


def parse_expression(items: list[str]) -> dict[str, float]:
    """["jawOpen=0.8", …] -> {"jawOpen": 0.8}. Raises UserError for anything else."""
    parsed = {}
    for item in items:
        name, separator, weight = item.partition("=")
        try:
            parsed[name] = float(weight)
        except ValueError:
            separator = ""
        if not separator or not name:
            raise UserError(f"--expression takes NAME=WEIGHT, for example jawOpen=0.8, not {item!r}")
    return parsed
