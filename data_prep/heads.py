"""Renders the frames of one clip of an embedded head, with its labels, as stored records."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep.motion import ExpressionSampler, camera_path, intrinsics
from nofa_jax.data.writer import encode_record
from nofa_jax.face3d.appearance import sample_appearance
from nofa_jax.face3d.ict import FILES as ICT_FILES
from nofa_jax.face3d.model import MorphableModel, load_morphable_model
from nofa_jax.face3d.raster import paint_head, render_painted

# sRGB in [0,1]. White and black cost a volume renderer nothing: they are what empty space shows.
BACKGROUNDS = {"white": (1.0, 1.0, 1.0), "black": (0.0, 0.0, 0.0), "grey": (0.5, 0.5, 0.5), "random": None}
LICENCES = {"procedural": "Apache-2.0", "ict": "MIT (ICT FaceKit, (c) 2020 USC Institute for Creative Technologies)"}

_IDENTITY, _MOTION = 0, 1  # streams of random numbers: a person looks the same in all their clips


@dataclass(frozen=True)
class HeadFile:
    """A morphable model by name, where its file lies if it has one, and by which tracker it is fitted."""

    head: str
    path: str | None
    tracker: str = ""  # see face3d.model.tracker_for

    def load(self) -> MorphableModel:
        return load_morphable_model(self.head, self.path, self.tracker)

    def files(self) -> list[Path]:
        """The files whose bytes decide what the model is."""
        if self.path is None:
            return []
        path = Path(self.path).expanduser()
        return [path] if path.is_file() else [path / name for name in ICT_FILES if (path / name).is_file()][:1]


@dataclass(frozen=True)
class ClipTask:
    identity: int
    clip: int


@dataclass(frozen=True)
class ClipRenderer:
    """Makes the records of one clip; picklable, so that worker processes can have it."""

    head: HeadFile
    size: int
    frames: int
    seconds: float
    seed: int
    background: str
    image_coding: str

    def __call__(self, task: ClipTask) -> list[dict[str, Any]]:
        """Stored records of the clip's frames, a function of the fields and the task alone."""
        model = self.head.load()
        person = np.random.default_rng([self.seed, _IDENTITY, task.identity])
        rng = np.random.default_rng([self.seed, _MOTION, task.clip])
        id_coeff = model.sample_id(person)
        painted = paint_head(model, sample_appearance(person))
        background = BACKGROUNDS[self.background] or tuple(rng.uniform(0.1, 1.0, 3))
        times = np.linspace(0.0, self.seconds, self.frames)
        # float32 before rendering: the picture is of the very numbers that the record holds
        exp_coeff = ExpressionSampler(model.exp_names).path(self.seconds, rng)(times).astype(np.float32)
        cameras = camera_path(self.seconds, rng)(times).astype(np.float32)
        records = []
        for frame, (beta, cam2world) in enumerate(zip(exp_coeff, cameras, strict=True)):
            camera = cam2world, intrinsics()
            picture = render_painted(painted, id_coeff, beta, camera, self.size, background=background)
            record = {
                **picture,
                "id_coeff": id_coeff,
                "exp_coeff": beta,
                "cam2world": cam2world,
                "intrinsics": camera[1],
                "identity": task.identity,
                "clip": task.clip,
                "frame": frame,
                "time": times[frame],
                "source": f"embedded {self.head.head} head, seed {self.seed}",
                "licence": LICENCES[self.head.head],
            }
            records.append(encode_record(record, self.image_coding))
        return records
