"""What each stage gained: the photo itself and other views of the same people, before and after.

    python benchmarks/stages.py --workdir=runs/pipeline/general --workdir=runs/pipeline/compensation

PSNR in dB over fixed test pairs: of the source drawn with its own camera and expression (what compensation is for), and
of the target (reenactment). Runs are compared on the data set of the first.
"""

import argparse
import dataclasses
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from nofa_jax import build
from nofa_jax.cli import exit_code
from nofa_jax.metrics.expression import to_uint8
from nofa_jax.metrics.image import psnr
from nofa_jax.metrics.protocol import blind, load_pairs, model_avatar, padded
from nofa_jax.train import checkpoint
from nofa_jax.types import Frame

BATCH = 8


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", action="append", required=True, help="of a run; give it once for each")
    parser.add_argument("--pairs", type=int, default=144)
    parser.add_argument("--split", default="test", choices=("train", "val", "test"))
    args = parser.parse_args()

    pairs = None
    print("| run | step | source view | other views |\n|---|---|---|---|")
    for workdir in args.workdir:
        step = checkpoint.load(workdir, ("ema", "constants"), None).step
        config, model, variables = build.load(workdir, step)
        pairs = pairs or load_pairs(build.dataset(config), args.split, args.pairs, seed=0)
        avatar = padded(
            model_avatar(model, dataclasses.replace(build.rendering(config), compensate=True))(variables), BATCH
        )

        def score(target: Frame, avatar=avatar, pairs=pairs) -> float:
            pictures = to_uint8(avatar(pairs.source, blind(target), True)) / 255
            return float(np.mean(psnr(pictures, to_uint8(target.image) / 255)))

        print(f"| {workdir} | {step} | {score(pairs.source):.2f} | {score(pairs.target):.2f} |", flush=True)


if __name__ == "__main__":
    sys.exit(exit_code(main))
