"""A tiny data set of random records, quick to make."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nofa_jax.data.writer import encode_record, write_dataset

N_ID, N_EXP, SIZE = 5, 3, 16


def fake_record(identity: int, clip: int, frame: int, size: int = SIZE) -> dict[str, Any]:
    """Random content that depends on (clip, frame) alone; the pixel [0, 0] spells them out."""
    rng = np.random.default_rng([clip, frame])
    image = rng.integers(0, 256, (size, size, 3)).astype(np.uint8)
    image[0, 0] = [identity, clip, frame]
    mask = np.zeros((size, size), np.uint8)
    mask[4:-4, 4:-4] = 255
    turn, _ = np.linalg.qr(rng.standard_normal((3, 3)))
    cam2world = np.eye(4)
    cam2world[:3, :3] = turn * np.linalg.det(turn)
    cam2world[:3, 3] = -2.7 * cam2world[:3, 2]  # 2.7 behind the origin along the viewing direction
    return {
        "image": image,
        "mask": mask,
        "depth": np.where(mask, rng.uniform(2.4, 3.0, mask.shape), 0.0),
        "id_coeff": rng.standard_normal(N_ID),
        "exp_coeff": rng.uniform(0, 1, N_EXP),
        "cam2world": cam2world,
        "intrinsics": np.array([[4.2647, 0, 0.5], [0, 4.2647, 0.5], [0, 0, 1]]),
        "landmarks": rng.uniform(0.2, 0.8, (68, 2)),
        "identity": identity,
        "clip": clip,
        "frame": frame,
        "time": frame / 4,
        "source": "päinting.mp4",
        "licence": "CC0-1.0",
    }


def fake_records(clips: range, frames: int, clips_per_identity: int = 1, coding: str = "png") -> Iterator[dict]:
    for clip in clips:
        for frame in range(frames):
            yield encode_record(fake_record(clip // clips_per_identity, clip, frame), coding)


def write_fake(path: Path, coding: str = "png", clips_per_identity: int = 1, frames: int = 4) -> Path:
    """24 training clips and 6 of val."""
    splits = {
        "train": fake_records(range(24), frames, clips_per_identity, coding),
        "val": fake_records(range(24, 30), frames, clips_per_identity, coding),
    }
    metadata = {"size": SIZE, "head": "fake", "exp_names": ["a", "b", "c"]}
    return write_dataset(path, splits, metadata, N_ID, N_EXP, coding)
