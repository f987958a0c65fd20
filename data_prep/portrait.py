"""A portrait and a driving video of embedded heads: something to try `nofa reenact` with that shows nobody."""

import argparse
from fractions import Fraction
from pathlib import Path

import numpy as np

from data_prep.contact_sheet import orbit
from data_prep.motion import ExpressionSampler, camera_path, intrinsics
from nofa_jax.errors import UserError
from nofa_jax.face3d.appearance import sample_appearance
from nofa_jax.face3d.model import DRAWN_HEADS, load_morphable_model
from nofa_jax.face3d.raster import paint_head, render_painted
from nofa_jax.media.grid import write_png
from nofa_jax.media.video_writer import VideoWriter, check_target
from nofa_jax.progress import log, track

EXAMPLE = "python -m data_prep portrait --photo=portrait.png --video=driver.mp4"

RATE = Fraction(25)  # frames per second
BACKGROUND = (0.55, 0.62, 0.68)  # sRGB


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--head", choices=DRAWN_HEADS, default="procedural", help="default %(default)s")
    parser.add_argument("--ict", default=None, help="ICT FaceKit's file or folder, for --head=ict")
    parser.add_argument("--photo", metavar="PNG", default=None, help="portrait to write")
    parser.add_argument("--video", metavar="MP4", default=None, help="driving video to write, of another person")
    parser.add_argument("--size", type=int, default=384, help="pixels of both (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=4.0, help="of the video (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="other people and another motion (default %(default)s)")


def run(args: argparse.Namespace) -> int:
    if not args.photo and not args.video:
        raise UserError("nothing to write: give --photo=FILE.png, --video=FILE.mp4 or both")
    if not 64 <= args.size <= 2048 or not 0 < args.seconds <= 600:
        raise UserError("--size is between 64 and 2048 pixels, --seconds between 0 and 600")
    model = load_morphable_model(args.head, args.ict)
    if args.video:
        check_target(Path(args.video))
    if args.photo:
        rng = np.random.default_rng([args.seed, 0])
        painted, alpha = paint_head(model, sample_appearance(rng)), model.sample_id(rng)
        beta = model.expression(mouthSmile=0.2)
        picture = render_painted(painted, alpha, beta, orbit(0.15, 0.0), args.size, background=BACKGROUND)
        log(f"wrote {write_png(args.photo, picture['image'])}")
    if args.video:
        rng = np.random.default_rng([args.seed, 1])
        painted, alpha = paint_head(model, sample_appearance(rng)), model.sample_id(rng)
        times = np.arange(max(1, round(RATE * args.seconds))) / float(RATE)
        betas = ExpressionSampler(model.exp_names).path(args.seconds, rng)(times).astype(np.float32)
        cameras = camera_path(args.seconds, rng)(times).astype(np.float32)
        with VideoWriter(args.video, RATE) as writer:
            for beta, cam2world in track(zip(betas, cameras, strict=True), len(times), "rendering the driver"):
                camera = cam2world, intrinsics()
                writer.write(render_painted(painted, alpha, beta, camera, args.size, background=BACKGROUND)["image"])
        log(f"wrote {args.video}: {len(times)} frames")
    return 0
