"""How well the gaze is found: rendered heads with known gaze through MediaPipe and the fit, eyes open.

python benchmarks/gaze.py --landmarker=face_landmarker.task [--head=ict --ict=ict_facekit.npz]
"""

import argparse
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from data_prep.motion import ExpressionSampler, camera_path, intrinsics
from nofa_jax import compile_cache
from nofa_jax.cli import exit_code
from nofa_jax.face3d.appearance import sample_appearance
from nofa_jax.face3d.follow import landmark_track
from nofa_jax.face3d.ict import GAZE, GAZE_PITCH_DEG, GAZE_YAW_DEG
from nofa_jax.face3d.landmarker import Landmarker
from nofa_jax.face3d.model import HEADS, MorphableModel, load_morphable_model
from nofa_jax.face3d.raster import paint_head, render_painted
from nofa_jax.face3d.track import fit_clip

SIZE, SECONDS, FRAMES = 256, 8.0, 32
STEP = 1.0  # seconds given between frames, so that the fit does not link them in time
OPEN = 0.3  # eyeBlink below


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--landmarker")
    parser.add_argument("--head", default="procedural", choices=HEADS)
    parser.add_argument("--ict", metavar="PATH")
    parser.add_argument("--people", type=int, default=5)
    args = parser.parse_args()
    compile_cache.enable()
    model = load_morphable_model(args.head, args.ict)
    clips = [clip(model, args.landmarker, person) for person in range(args.people)]
    found, true = (np.concatenate(parts) for parts in zip(*clips, strict=True))
    print(f"{model.name}: {len(found)} frames of {args.people} people with open eyes; degrees")
    for k, name in enumerate(("yaw", "pitch")):
        error = found[..., k] - true[..., k]
        correlation = np.corrcoef(found[..., k].ravel(), true[..., k].ravel())[0, 1]
        left, right = error.mean(axis=0)
        print(f"    {name}: mean absolute error {np.abs(error).mean():.1f}, correlation {correlation:.2f}")
        print(f"        bias of the left eye {left:+.1f}, of the right {right:+.1f}")


def clip(model: MorphableModel, landmarker: str | None, person: int) -> tuple[np.ndarray, np.ndarray]:
    """Found and true gaze [frames, eye, (yaw, pitch)] in degrees, of frames with a face and open eyes."""
    rng = np.random.default_rng([5, person])
    painted, alpha = paint_head(model, sample_appearance(rng)), model.sample_id(rng)
    times = np.linspace(0, SECONDS, FRAMES, endpoint=False)
    betas = ExpressionSampler(model.exp_names).path(SECONDS, rng)(times).astype(np.float32)
    cameras = camera_path(SECONDS, rng)(times)
    faces = []
    with Landmarker(landmarker, max_faces=1) as detector:
        for beta, cam2world in zip(betas, cameras, strict=True):
            camera = (cam2world, intrinsics())
            image = render_painted(painted, alpha, beta, camera, SIZE, background=(0.3, 0.5, 0.4))["image"]
            faces.append(next(iter(detector.detect(image)), None))
    seen = landmark_track(faces, [STEP * i for i in range(FRAMES)], (SIZE, SIZE), 1 / STEP)
    found = fit_clip(model, seen).gaze
    assert found is not None
    blink = betas[:, list(model.expression_index("eyeBlink"))].max(axis=1)
    usable = seen.valid & (blink < OPEN)
    return np.degrees(found)[usable], true_gaze(model, betas)[usable]


def true_gaze(model: MorphableModel, betas: np.ndarray) -> np.ndarray:
    """Degrees by which the eyeLook shapes turn the eyeballs."""
    gaze = np.zeros((len(betas), 2, 2))
    for shape, (eye, yaw, pitch) in GAZE.items():
        weight = betas[:, model.expression_index(shape)[0], None]
        gaze[:, eye] += weight * [yaw * GAZE_YAW_DEG, pitch * GAZE_PITCH_DEG]
    return gaze


if __name__ == "__main__":
    sys.exit(exit_code(main))
