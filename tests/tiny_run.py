"""A training run of random parameters on disk, and media that need no detector: a rendered head as photo and driver."""

import dataclasses
import functools
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from nofa_jax import build
from nofa_jax.face3d.appearance import sample_appearance
from nofa_jax.face3d.landmarks import LandmarkTrack, save_track
from nofa_jax.face3d.mediapipe import MEDIAPIPE_68
from nofa_jax.face3d.model import MorphableModel, load_morphable_model
from nofa_jax.face3d.pose import OPENCV_AXES, cam2world_of, turned
from nofa_jax.face3d.raster import paint_head, render_painted
from nofa_jax.face3d.track import intrinsics
from nofa_jax.media.video_writer import VideoWriter
from nofa_jax.train.checkpoint import Checkpointer
from nofa_jax.train.provenance import record_run
from tests.fakes import tiny_config
from tests.quick import fast_compile

SIZE = 160  # pixels of the rendered media


@functools.cache
def _random_variables() -> dict:
    config, head = tiny_config(), load_morphable_model("procedural")
    model = build.build_model(config)
    with fast_compile():
        return dict(build.init_variables(config, model, (head.num_id, head.num_exp), jax.random.key(0)))


def save_tiny_run(workdir: Path, ict: str = "") -> Path:
    """What train.py leaves behind, with random parameters; `ict` names the file that the head is said to come from."""
    config = tiny_config().unlock()
    if ict:
        config.data.update({"head": "ict", "ict": ict})
    config.lock()
    variables = dict(_random_variables())
    params = variables.pop("params")
    record_run(workdir, config, resuming=False)
    with Checkpointer(workdir) as checkpointer:
        checkpointer.save(1, {"step": jnp.array(1), "ema": params, "constants": variables})
    return workdir


@dataclasses.dataclass(frozen=True)
class Clip:
    """A rendered head that turns and opens its mouth, with its landmarks as a track file holds them."""

    head: MorphableModel
    images: list[np.ndarray]  # uint8 [SIZE,SIZE,3]
    masks: list[np.ndarray]
    points: np.ndarray  # [f,68,2] pixels
    cam2world: np.ndarray
    exp_coeff: np.ndarray

    def repeated(self, times: int) -> "Clip":
        """The same frames again and again, forwards and backwards."""
        rows = np.tile(np.r_[0 : len(self.images), len(self.images) - 1 : -1 : -1], (times + 1) // 2)
        rows = rows[: times * len(self.images)]
        return dataclasses.replace(
            self,
            images=[self.images[i] for i in rows],
            masks=[self.masks[i] for i in rows],
            points=self.points[rows],
            cam2world=self.cam2world[rows],
            exp_coeff=self.exp_coeff[rows],
        )

    def write_video(self, path: Path, rate: Fraction = Fraction(25)) -> Path:
        with VideoWriter(path, rate) as writer:
            for image in self.images:
                writer.write(image)
        return path

    def write_track(self, path: Path, rate: Fraction = Fraction(25), lost: tuple[int, ...] = ()) -> Path:
        save_track(path, self.landmark_track(rate, lost))
        return path

    def landmark_track(
        self, rate: Fraction = Fraction(25), lost: tuple[int, ...] = (), size: int = SIZE
    ) -> LandmarkTrack:
        """What a detector would have seen in pictures of size² pixels."""
        frames = len(self.images)
        landmarks = np.full((frames, 478, 3), 0.5, np.float32)
        landmarks[:, list(MEDIAPIPE_68), :2] = self.points / size
        scores = np.zeros((frames, 52), np.float32)
        matrix = np.tile(np.eye(4, dtype=np.float32), (frames, 1, 1))
        valid = ~np.isin(np.arange(frames), lost)
        for array in (landmarks, scores, matrix):
            array[~valid] = np.nan
        times = np.array([float(i / rate) for i in range(frames)])
        return LandmarkTrack(landmarks, scores, matrix, valid, times, size, size, float(rate))


def render_clip(frames: int, seed: int = 1) -> Clip:
    """Yaw from -20 to 20 degrees, jaw from closed to 0.8."""
    head = load_morphable_model("procedural")
    rng = np.random.default_rng(seed)
    appearance, alpha = sample_appearance(rng), head.sample_id(rng)
    painted = paint_head(head, appearance)
    shown = []
    for share in np.linspace(0, 1, frames):
        rotation = OPENCV_AXES @ turned(np.radians(40 * share - 20), 0.0, 0.0)
        cam2world = cam2world_of(rotation[None], np.array([[0.0, 0.0, 2.7]]))[0].astype(np.float32)
        beta = head.expression(jawOpen=0.8 * share)
        shown.append((render_painted(painted, alpha, beta, (cam2world, intrinsics()), SIZE, 1), cam2world, beta))
    return Clip(
        head=head,
        images=[picture["image"] for picture, _, _ in shown],
        masks=[picture["mask"] / 255 for picture, _, _ in shown],
        points=np.stack([picture["landmarks"] * SIZE for picture, _, _ in shown]),
        cam2world=np.stack([camera for _, camera, _ in shown]),
        exp_coeff=np.stack([beta for _, _, beta in shown]),
    )
