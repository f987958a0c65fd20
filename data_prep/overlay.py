"""Draws the fitted head over a photo or video: does the tracking sit on the face?"""

import argparse
from pathlib import Path

import cv2
import numpy as np
from jaxtyping import UInt8

from data_prep.tracker import add_tracker_arguments, chosen_tracker
from nofa_jax import compile_cache
from nofa_jax.errors import UserError
from nofa_jax.face3d.crop import to_crop
from nofa_jax.face3d.model import MorphableModel
from nofa_jax.face3d.scene import project, vertex_normals
from nofa_jax.face3d.track import Track, track_clip
from nofa_jax.media.video import VideoReader
from nofa_jax.media.video_writer import VideoWriter, check_target
from nofa_jax.progress import log, track

EXAMPLE = "python -m data_prep overlay clip.mp4 --out=overlay.mp4 --head=ict --ict=ict_facekit.npz"

OPACITY = 0.65
PARTS = ("face", "eyeball_left", "eyeball_right")  # what landmarks can place; the rest of the head hides the picture


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("video")
    parser.add_argument("--out", required=True, help="MP4 to write")
    add_tracker_arguments(parser)
    parser.add_argument("--landmarker", help="MediaPipe's face_landmarker.task (default $NOFA_LANDMARKER, the cache)")
    parser.add_argument("--face", type=int, metavar="K", help="which person, from the left; default the largest")
    parser.add_argument("--track", help="a track file in place of the landmarker")


def run(args: argparse.Namespace) -> int:
    compile_cache.enable()
    out = Path(args.out)
    check_target(out)
    if out.exists() and out.samefile(args.video):
        raise UserError(f"--out={out} is the video itself")
    head, network = chosen_tracker(args)
    model = head.load()
    reader = VideoReader(args.video)
    fitted = track_clip(reader, model, args.landmarker, args.track, face=args.face, network=network)
    with VideoWriter(out, reader.info.rate) as writer:
        for i, frame in enumerate(track(reader, len(fitted), "overlay")):
            image = draw(frame.image, fitted, i, model) if fitted.valid[i] else frame.image
            writer.write(image, frame.time)
    log(f"wrote {out}: median distance of the landmarks {100 * np.nanmedian(fitted.error):.1f} % of the eyes' distance")
    return 0


def draw(image: UInt8[np.ndarray, "h w 3"], fitted: Track, i: int, model: MorphableModel) -> UInt8[np.ndarray, "h w 3"]:
    """Frame `i` with the face's triangles that look at the camera, shaded grey, far ones first."""
    vertices = np.asarray(model.vertices(fitted.id_coeff, fitted.exp_coeff[i]))
    chosen = np.flatnonzero(model.part(*PARTS))
    triangles = np.asarray(model.triangles)
    triangles = triangles[np.isin(triangles, chosen).all(axis=1)]
    eye = fitted.cam2world[i, :3, 3]
    corners = vertices[triangles]
    normal = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    towards = eye - corners.mean(axis=1)
    away = np.linalg.norm(towards, axis=1)
    facing = np.einsum("tc,tc->t", normal, towards) > 0
    triangles, away, towards = triangles[facing], away[facing], towards[facing]
    light = np.einsum("tc,tc->t", vertex_normals(vertices, np.asarray(model.triangles))[triangles[:, 0]], towards)
    pixels = to_crop(project(vertices, fitted.cam2world[i], fitted.intrinsics[i]), np.linalg.inv(fitted.crop[i]))
    mask, shade = np.zeros(image.shape[:2], np.uint8), np.zeros(image.shape[:2], np.uint8)
    polygons = np.round(16 * pixels[triangles]).astype(np.int32)
    for k in np.argsort(-away):
        cv2.fillConvexPoly(mask, polygons[k], 255, shift=4)
        cv2.fillConvexPoly(shade, polygons[k], int(60 + 180 * np.clip(light[k] / away[k], 0, 1)), shift=4)
    weight = OPACITY * (mask[..., None] / 255.0)
    return np.round(image * (1 - weight) + shade[..., None] * weight).astype(np.uint8)
