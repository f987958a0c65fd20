"""Draws the people and expressions of an embedded head: rows of identities, then one person's expressions and views."""

import argparse
import sys

import numpy as np

from nofa_jax.face3d.appearance import sample_appearance
from nofa_jax.face3d.crop import FOCAL
from nofa_jax.face3d.model import DRAWN_HEADS, MorphableModel, load_morphable_model
from nofa_jax.face3d.raster import Camera, Painted, paint_head, render_painted
from nofa_jax.media.grid import image_grid, write_png
from nofa_jax.progress import log

EXAMPLE = "python -m data_prep.contact_sheet --head=procedural --out=docs/images/heads.png"

EXPRESSIONS: tuple[dict[str, float], ...] = (
    {},
    {"jawOpen": 0.8},
    {"mouthSmile": 1.0},
    {"mouthSmile": 0.8, "jawOpen": 0.35, "cheekSquint": 0.6},
    {"mouthPucker": 1.0},
    {"mouthFunnel": 1.0},
    {"mouthFrown": 1.0, "browInnerUp": 1.0},
    {"eyeBlink": 1.0},
    {"browDown": 1.0, "noseSneer": 1.0, "mouthUpperUp": 0.7},
    {"eyeWide": 1.0, "browInnerUp": 1.0, "browOuterUp": 1.0, "jawOpen": 0.3},
    {"cheekPuff": 1.0},
    {"mouthLeft": 1.0},
)
VIEWS_DEG: tuple[tuple[float, float], ...] = ((-70, 0), (-30, 15), (30, -15), (70, 0))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--head", choices=DRAWN_HEADS, default="procedural", help="default %(default)s")
    parser.add_argument("--ict", default=None, help="ICT FaceKit's file or folder, for --head=ict")
    parser.add_argument("--size", type=int, default=84, help="pixels of one picture (default %(default)s)")
    parser.add_argument("--people", type=int, default=16, help="how many identities (default %(default)s)")
    parser.add_argument("--seed", type=int, default=5, help="default %(default)s")
    parser.add_argument("--out", default="heads.png", help="default %(default)s")


def run(args: argparse.Namespace) -> int:
    model = load_morphable_model(args.head, args.ict)
    write_png(args.out, sheet(model, args.size, args.people, args.seed))
    log(f"wrote {args.out}")
    return 0


def sheet(model: MorphableModel, size: int, people: int, seed: int, columns: int = 8) -> np.ndarray:
    """uint8 [h,w,3]: identities, then expressions and views of one of them."""
    pictures = [_person(model, size, np.random.default_rng([seed, k])) for k in range(people)]
    painted, id_coeff = _draw(model, np.random.default_rng([seed, 0]))
    for weights in EXPRESSIONS:
        beta = model.expression(**weights)
        pictures.append(render_painted(painted, id_coeff, beta, orbit(0.0, 0.0), size)["image"])
    for yaw, pitch in VIEWS_DEG:
        camera = orbit(np.radians(yaw), np.radians(pitch))
        pictures.append(render_painted(painted, id_coeff, model.expression(), camera, size)["image"])
    return image_grid([pictures[i : i + columns] for i in range(0, len(pictures), columns)])


def _draw(model: MorphableModel, rng: np.random.Generator) -> tuple[Painted, np.ndarray]:
    return paint_head(model, sample_appearance(rng)), model.sample_id(rng)


def _person(model: MorphableModel, size: int, rng: np.random.Generator) -> np.ndarray:
    painted, id_coeff = _draw(model, rng)
    camera = orbit(rng.normal(0.0, 0.25), rng.normal(0.0, 0.1))
    return render_painted(painted, id_coeff, model.expression(), camera, size)["image"]


def orbit(yaw: float, pitch: float, radius: float = 2.7) -> Camera:
    """A camera that looks at the origin: yaw > 0 from the subject's left, pitch > 0 from above; radians."""
    away = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    right = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
    cam2world = np.eye(4, dtype=np.float32)
    cam2world[:3] = np.stack([right, np.cross(right, away), -away, radius * away], axis=1)
    intrinsics = np.array([[FOCAL, 0.0, 0.5], [0.0, FOCAL, 0.5], [0.0, 0.0, 1.0]], np.float32)
    return cam2world, intrinsics


if __name__ == "__main__":
    from nofa_jax.__main__ import run_command
    from nofa_jax.cli import exit_code

    module = sys.modules["__main__"]
    sys.exit(exit_code(lambda: run_command(module, "python -m data_prep.contact_sheet", sys.argv[1:])))
