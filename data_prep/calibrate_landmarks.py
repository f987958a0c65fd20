"""Measures how MediaPipe sees the embedded heads; writes the table that the fit corrects by (face3d/calibration.py).

A detector's 68 points are not the model's: along brows, lips and jaw "the same" point is a matter of convention, and
its blendshape scores have their own scale. On rendered heads the truth is known, so both are measured: the mean offset
and the scatter of every landmark, and the line from each score to the true weight.
"""

import argparse
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.motion import ExpressionSampler, camera_path, intrinsics
from nofa_jax.face3d.appearance import sample_appearance
from nofa_jax.face3d.calibration import TABLE, mirror68
from nofa_jax.face3d.crop import FOCAL
from nofa_jax.face3d.fit_solver import GAPS
from nofa_jax.face3d.landmarker import Landmarker, find_landmarker
from nofa_jax.face3d.mediapipe import MEDIAPIPE_68, MEDIAPIPE_BLENDSHAPES
from nofa_jax.face3d.model import WORLD_PER_CM, MorphableModel, load_morphable_model
from nofa_jax.face3d.raster import paint_head, render_painted
from nofa_jax.progress import log, track

EXAMPLE = "python -m data_prep.calibrate_landmarks --ict=ict_face_small.npz"
SECONDS = 20.0  # of motion, from which the frames are drawn
ID_STRENGTH = 0.7
RIDGE = 0.02  # of an offset's depth, which views from the front tell little about


@dataclass(frozen=True)
class Sample:
    """One rendered frame in which a face was found."""

    seen: np.ndarray  # [68,2] MediaPipe's points, fractions
    scores: np.ndarray  # [52]
    id_coeff: np.ndarray
    exp_coeff: np.ndarray
    cam2world: np.ndarray


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--ict", default=None, help="ICT FaceKit's file or folder; without it only the procedural head")
    parser.add_argument("--landmarker", default=None, help="face_landmarker.task")
    parser.add_argument("--identities", type=int, default=48, help="people per head (default %(default)s)")
    parser.add_argument("--frames", type=int, default=5, help="frames per person (default %(default)s)")
    parser.add_argument("--size", type=int, default=256, help="pixels (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="default %(default)s")
    parser.add_argument("--out", default=str(TABLE), help="default %(default)s")


def run(args: argparse.Namespace) -> int:
    models = [load_morphable_model("procedural")]
    if args.ict:
        models.append(load_morphable_model("ict", args.ict))
    heads, pooled = {}, []
    for model in models:
        samples = list(rendered(model, args))
        log(f"{model.name}: a face found in {len(samples)} of {args.identities * args.frames} frames")
        heads[model.name] = landmark_table(model, samples)
        pooled.append((model, samples))
    table = {
        "made_by": f"calibrate_landmarks --identities={args.identities} --frames={args.frames} --seed={args.seed}",
        "landmarker_sha256": hashlib.sha256(find_landmarker(args.landmarker).read_bytes()).hexdigest(),
        "heads": heads,
        "scores": score_table(pooled),
    }
    out = Path(args.out)
    part = out.with_name(f".{out.name}.part")
    part.write_text(json.dumps(table, indent=1) + "\n")
    os.replace(part, out)
    log(f"wrote {out}")
    return 0


def rendered(model: MorphableModel, args: argparse.Namespace) -> Iterator[Sample]:
    """Random people, expressions and cameras, as the landmarker sees them."""
    sampler = ExpressionSampler(model.exp_names)
    with Landmarker(args.landmarker, max_faces=1) as landmarker:
        for person in track(range(args.identities), description=model.name):
            rng = np.random.default_rng([args.seed, person])
            painted = paint_head(model, sample_appearance(rng))
            id_coeff = model.sample_id(rng, ID_STRENGTH)
            times = rng.uniform(0, SECONDS, args.frames)
            betas, cameras = sampler.path(SECONDS, rng)(times), camera_path(SECONDS, rng)(times)
            red, green, blue = rng.uniform(0.1, 0.9, 3).tolist()
            for beta, cam2world in zip(betas.astype(np.float32), cameras, strict=True):
                camera = (cam2world, intrinsics())
                picture = render_painted(painted, id_coeff, beta, camera, args.size, background=(red, green, blue))
                for face in landmarker.detect(picture["image"]):
                    yield Sample(face.landmarks[list(MEDIAPIPE_68), :2], face.blendshapes, id_coeff, beta, cam2world)


def landmark_table(model: MorphableModel, samples: list[Sample]) -> dict[str, Any]:
    """Offsets (cm, head axes) and scatter (1/1000 crop widths) of the landmarks and gaps, made symmetric."""
    residuals, derivatives = (np.stack(a) for a in zip(*(_residual(model, s) for s in samples), strict=True))
    information = np.einsum("fnij,fnik->njk", derivatives, derivatives)
    pull = np.einsum("fnij,fni->nj", derivatives, residuals)
    information += RIDGE * np.trace(information, axis1=1, axis2=2)[:, None, None] * np.eye(3)
    offset = np.linalg.solve(information, pull[..., None])[..., 0]
    mirror = mirror68()
    offset = (offset + offset[mirror] * [-1, 1, 1]) / 2
    rest = residuals - np.einsum("fnij,nj->fni", derivatives, offset)
    scatter = _scatter(rest)
    upper, lower = (list(i) for i in zip(*GAPS, strict=True))
    gaps = _scatter(rest[:, upper] - rest[:, lower])
    return {
        "offset_cm": np.round(offset / WORLD_PER_CM, 3).tolist(),
        "deviation": np.round(1000 * (scatter + scatter[mirror]) / 2, 2).tolist(),
        "gap_deviation": np.round(1000 * gaps, 2).tolist(),
    }


def score_table(pooled: list[tuple[MorphableModel, list[Sample]]]) -> dict[str, list[float]]:
    """MediaPipe's score name -> [slope, intercept, deviation] of the true weight, both sides of a face together."""
    table = {}
    for row, name in enumerate(MEDIAPIPE_BLENDSHAPES):
        other = name.replace("Left", "#").replace("Right", "Left").replace("#", "Right")
        paired = name[:3] in ("bro", "eye", "che", "nos") or name.removesuffix("Left").removesuffix("Right") in (
            *("mouthDimple", "mouthFrown", "mouthLowerDown", "mouthPress", "mouthSmile", "mouthStretch"),
            "mouthUpperUp",
        )
        score, truth = [], []
        for model, samples in pooled:
            for i in {row, MEDIAPIPE_BLENDSHAPES.index(other)} if paired and other != name else {row}:
                for j in np.flatnonzero(np.asarray(model.mediapipe_to_exp)[i]):
                    score += [s.scores[i] for s in samples]
                    truth += [s.exp_coeff[j] for s in samples]
        if truth:
            table[name] = [round(float(v), 3) for v in _line(np.array(score), np.array(truth))]
    return table


def _residual(model: MorphableModel, sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """Seen minus true [68,2], and the derivative of the picture by a landmark's position in the head [68,2,3]."""
    rotation = sample.cam2world[:3, :3].T
    local = (np.asarray(model.landmarks(sample.id_coeff, sample.exp_coeff)) - sample.cam2world[:3, 3]) @ rotation.T
    x, y, z = local.T
    zero = np.zeros_like(z)
    camera = FOCAL * np.stack([np.stack([1 / z, zero, -x / z**2], -1), np.stack([zero, 1 / z, -y / z**2], -1)], -2)
    return sample.seen - (FOCAL * local[:, :2] / z[:, None] + 0.5), camera @ rotation


def _scatter(residuals: np.ndarray) -> np.ndarray:
    """Deviation per axis of 2D residuals [f,n,2], from the median so that lost landmarks do not count."""
    return np.sqrt(np.median((residuals**2).sum(axis=-1), axis=0) / (2 * np.log(2)))


def _line(score: np.ndarray, truth: np.ndarray) -> tuple[float, float, float]:
    """Least squares with a slope of at least 0: (slope, intercept, deviation)."""
    centred = score - score.mean()
    slope = max(0.0, float((centred * truth).mean() / ((centred**2).mean() + 1e-4)))
    intercept = float(truth.mean() - slope * score.mean())
    return slope, intercept, float(np.sqrt(np.mean((truth - intercept - slope * score) ** 2)))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, epilog=f"example: {EXAMPLE}")
    add_arguments(parser)
    run(parser.parse_args())
