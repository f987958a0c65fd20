"""How far a trained D is from the morphable model, by region of the face.

    python benchmarks/warp_error.py --workdir=runs/quickstart

For 64 test frames with their true alpha and beta, D moves the vertices of the target expression; the distance to the
same vertices in the canonical expression is given in pixels of the output (root mean square and 95th percentile), next
to the motion itself. D owes the morphable model nothing after its warm start: large values are a question, not a fault.
"""

import argparse
import sys
from pathlib import Path

import jax
import numpy as np
from jaxtyping import Array

sys.path.insert(0, str(Path(__file__).parents[1]))

from nofa_jax import build
from nofa_jax.cli import exit_code
from nofa_jax.face3d.model import MorphableModel
from nofa_jax.rendering.camera import EG3D_RADIUS
from nofa_jax.train import checkpoint

FRAMES, ROWS = 64, 8
NEAR, AROUND = 0.015, 0.04  # world units from the landmarks; one centimetre is 0.027


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workdir", required=True)
    args = parser.parse_args()

    step = checkpoint.load(args.workdir, ("ema", "constants"), None).step
    config, model, variables = build.load(args.workdir, step)
    head, data = build.morphable_model(config), build.dataset(config)
    frames = data.frames("test", np.linspace(0, data.num_frames("test") - 1, FRAMES).astype(int))
    target = head.vertices(frames.id_coeff, frames.exp_coeff)
    canonical = head.vertices(frames.id_coeff, np.broadcast_to(head.canonical_exp, frames.exp_coeff.shape))

    @jax.jit
    def warp(points: Array, alpha: Array, beta: Array) -> Array:
        return model.apply(variables, points, alpha, beta, method="warp_points")

    rows = [slice(start, start + ROWS) for start in range(0, FRAMES, ROWS)]
    moved = np.concatenate([warp(target[r], frames.id_coeff[r], frames.exp_coeff[r]) for r in rows])
    focal = float(np.asarray(frames.intrinsics)[0, 0, 0])  # of the image's width
    pixels = config.model.output_size * focal / EG3D_RADIUS
    errors = pixels * np.linalg.norm(moved - canonical, axis=-1)
    motion = pixels * np.linalg.norm(target - canonical, axis=-1)
    print(f"{args.workdir}, step {step}; pixels of {config.model.output_size}")
    print("| region | vertices | motion, rms | distance, rms | distance, 95 % |\n|---|---|---|---|---|")
    for name, chosen in regions(head).items():
        e, m = errors[:, chosen], motion[:, chosen]
        print(f"| {name} | {chosen.sum()} | {_rms(m):.2f} | {_rms(e):.2f} | {np.percentile(e, 95):.2f} |")


def regions(head: MorphableModel) -> dict[str, np.ndarray]:
    """Masks of the vertices: front of the eyeballs, lids, lips, the rest of the face."""
    mean = np.asarray(head.mean)
    marks = mean[np.asarray(head.landmark_index)]
    face = head.part("face")
    to_eyes, to_mouth = _distance(mean, marks[36:48]), _distance(mean, marks[48:68])
    front = mean[:, 2] > np.asarray(head.eye_centers)[:, 2].mean() + NEAR
    return {
        "eyeballs": head.part("eyeball_left", "eyeball_right") & front,
        "lids": face & (to_eyes < NEAR),
        "lips": face & (to_mouth < NEAR),
        "rest of the face": face & (to_eyes > AROUND) & (to_mouth > AROUND),
    }


def _distance(points: np.ndarray, marks: np.ndarray) -> np.ndarray:
    return np.linalg.norm(points[:, None] - marks[None], axis=-1).min(axis=1)


def _rms(x: np.ndarray) -> float:
    return float(np.sqrt(np.mean(x**2)))


if __name__ == "__main__":
    sys.exit(exit_code(main))
