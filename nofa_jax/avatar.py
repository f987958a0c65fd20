"""The user's side of NOFA: an avatar from one photo, rendered in any pose and expression, or driven by a video.

avatar = Avatar.from_image("photo.jpg", workdir="runs/quickstart")
image = avatar.render(yaw=20, expression={"jawOpen": 0.8})     # uint8 [h, w, 3]
avatar.reenact("clip.mp4", "avatar.mp4")
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, UInt8

from nofa_jax import build
from nofa_jax.errors import UserError
from nofa_jax.face3d.crop import apply_crop
from nofa_jax.face3d.matte import head_mask
from nofa_jax.face3d.model import MorphableModel
from nofa_jax.face3d.track import Track, intrinsics, track_clip, track_photo
from nofa_jax.media.grid import image_grid, to_uint8
from nofa_jax.media.photo import load_photo
from nofa_jax.media.video import VideoReader
from nofa_jax.media.video_writer import VideoWriter
from nofa_jax.models.nofa import NOFA, Volume
from nofa_jax.progress import log, track
from nofa_jax.rendering.camera import project
from nofa_jax.types import Frame

BATCH = 8  # frames rendered at once
LIMITS_DEG = {"yaw": 90.0, "pitch": 60.0, "roll": 90.0}
BACKGROUND = 255  # of the embedded heads, on which quickstart-size models are trained


@dataclasses.dataclass(frozen=True)
class Avatar:
    """One person: the canonical volume of a photo and the model that renders it. Made by `from_image`."""

    model: NOFA
    variables: PyTree
    volume: Volume
    head: MorphableModel
    id_coeff: Float[np.ndarray, " i"]
    exp_coeff: Float[np.ndarray, " e"]  # of the photo
    cam2world: Float[np.ndarray, "4 4"]  # of the photo
    photo: UInt8[np.ndarray, "h w 3"]  # the aligned crop that the model saw
    resolution: int  # rays per side

    @classmethod
    def from_image(
        cls,
        photo: str | Path | UInt8[np.ndarray, "h w 3"],
        workdir: str | Path,
        *,
        landmarker: str | Path | None = None,
        face: int | None = None,
        finetune_steps: int | None = None,
        keep_background: bool = False,
        step: int | None = None,
    ) -> "Avatar":
        """Finds the face, fits the morphable model, and adapts the compensation network C to the photo.

        Args:
          photo: file, or RGB pixels.
          workdir: of a training run.
          landmarker: MediaPipe's face_landmarker.task; default $NOFA_LANDMARKER or the cache.
          face: which face, counted from the left; default the largest.
          finetune_steps: of C on this photo; default the run's config.finetune.steps, 0 leaves C as it is.
          keep_background: else what surrounds the head becomes white where the model was trained on white.
          step: checkpoint; default the newest good one.

        Raises:
          UserError: unreadable photo, no face, no landmarker, no run in workdir.
        """
        config, model, variables = build.load(workdir, step)
        pixels = load_photo(photo) if not isinstance(photo, np.ndarray) else photo
        name = str(photo) if not isinstance(photo, np.ndarray) else "photo"
        head = build.morphable_model(config)
        tracked = track_photo(pixels, head, landmarker, face, name=name)
        size = config.model.output_size
        crop = apply_crop(pixels, tracked.crop[0], size)
        mask = np.ones((size, size), np.float32)
        if not keep_background and config.model.renderer.white_back:
            crop, mask = _on_white(pixels, tracked, head, size)
        source = _source_frame(crop, mask, tracked)
        steps = config.finetune.steps if finetune_steps is None else finetune_steps
        if steps:
            tuned = build.finetuner(config, model)(variables, source, steps)
            variables = tuned.variables
            log(f"fine-tuned C on {name}: {tuned.steps} steps in {tuned.seconds:.1f} s")
        compensate = bool(steps) or build.uses_compensation(config)
        volume = jax.jit(functools.partial(model.apply, method="volume"), static_argnums=2)(
            variables, source.image, compensate
        )
        return cls(
            model=model,
            variables=variables,
            volume=volume,
            head=head,
            id_coeff=tracked.id_coeff,
            exp_coeff=tracked.exp_coeff[0],
            cam2world=tracked.cam2world[0],
            photo=crop,
            resolution=config.model.rendering_resolution,
        )

    def render(
        self,
        exp_coeff: Float[np.ndarray, " e"] | None = None,
        *,
        expression: Mapping[str, float] | None = None,
        yaw: float = 0.0,
        pitch: float = 0.0,
        roll: float = 0.0,
    ) -> UInt8[np.ndarray, "h w 3"]:
        """One picture.

        Args:
          exp_coeff: beta; default the photo's own expression, or neutral when `expression` is given.
          expression: named shapes, e.g. {"jawOpen": 0.8}; they are set on top of exp_coeff.
          yaw, pitch, roll: degrees that the head turns: yaw > 0 to the subject's left (the picture's right), pitch > 0
            up, roll > 0 clockwise as seen.

        Raises:
          UserError: unknown expression, a weight or angle that is not a number in its range.
        """
        beta = self._expression(exp_coeff, expression)
        camera = camera_for_pose(yaw, pitch, roll)
        return self.render_frames(camera[None], beta[None])[0]

    def _expression(self, exp_coeff: Any, expression: Mapping[str, float] | None) -> Float[np.ndarray, " e"]:
        if exp_coeff is None:
            beta = np.zeros_like(self.exp_coeff) if expression else self.exp_coeff.copy()
        else:
            beta = np.array(exp_coeff, np.float32)
            if beta.shape != self.exp_coeff.shape:
                raise UserError(
                    f"exp_coeff has shape {beta.shape}; the {self.head.name} head takes {self.exp_coeff.shape}"
                )
        for name, weight in (expression or {}).items():
            if not 0.0 <= weight <= 1.0:
                raise UserError(f"expression {name}={weight}: weights are between 0 and 1")
            beta[list(self.head.expression_index(name))] = weight
        return beta

    def render_frames(
        self, cam2world: Float[np.ndarray, "f 4 4"], exp_coeff: Float[np.ndarray, "f e"]
    ) -> UInt8[np.ndarray, "f h w 3"]:
        """Pictures for cameras and expressions; f of any length, BATCH at a time."""
        frames = []
        for start in range(0, len(cam2world), BATCH):
            count = len(cam2world[start : start + BATCH])
            size = 1 if len(cam2world) == 1 else BATCH
            rows = start + np.minimum(np.arange(size), count - 1)  # the last frame fills the last batch
            frames.append(np.asarray(self._render(cam2world[rows], exp_coeff[rows]))[:count])
        return to_uint8(np.concatenate(frames))

    def _render(self, cam2world: np.ndarray, exp_coeff: np.ndarray) -> Array:
        return _render_batch(
            self.model,
            self.resolution,
            self.variables,
            self.volume.planes,
            self.volume.ws,
            jnp.asarray(cam2world, jnp.float32),
            jnp.asarray(self.id_coeff, jnp.float32),
            jnp.asarray(exp_coeff, jnp.float32),
        )

    def reenact(
        self,
        driving: str | Path,
        out: str | Path,
        *,
        landmarker: str | Path | None = None,
        track_file: str | Path | None = None,
        grid: bool = False,
    ) -> int:
        """Drives the avatar with the head of a video; returns the number of frames.

        H.264 with the driver's frame times and sound; memory does not grow with the clip's length. Frames in which the
        driver's face is lost are filled as documented at face3d.track.Track. `grid` puts source | driver | avatar side
        by side. Raises UserError for an unreadable video, one without a face, or an unwritable `out`.
        """
        reader = VideoReader(driving)
        with VideoWriter(out, reader.info.rate, reader.info) as writer:
            tracked = track_clip(reader, self.head, landmarker, track_file)
            lost = int((~tracked.valid).sum())
            if lost:
                log(f"{driving}: no face in {lost} of {len(tracked)} frames; their motion is filled in")
            pictures = self._driven(tracked)
            for frame in track(reader, len(tracked), "rendering the avatar"):
                if frame.index >= len(tracked):
                    break
                picture = next(pictures)
                if grid:
                    size = picture.shape[0]
                    picture = image_grid(
                        [[self.photo, apply_crop(frame.image, tracked.crop[frame.index], size), picture]],
                        ("source", "driver", "avatar"),
                        cell=max(size, 128),
                    )
                writer.write(picture, frame.time)
        return len(tracked)

    def _driven(self, tracked: Track) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for start in range(0, len(tracked), BATCH):
            rows = slice(start, start + BATCH)
            yield from self.render_frames(tracked.cam2world[rows], tracked.exp_coeff[rows])

    def turntable(self, out: str | Path, seconds: float = 4.0, rate: int = 25, yaw: float = 35.0) -> None:
        """Swings the head left and right by `yaw` degrees, in the photo's expression; writes an MP4."""
        frames = max(2, round(seconds * rate))
        angles = yaw * np.sin(2 * np.pi * np.arange(frames) / frames)
        cameras = np.stack([camera_for_pose(angle, 0.0, 0.0) for angle in angles])
        with VideoWriter(out, rate) as writer:  # ty: ignore[invalid-argument-type]
            for start in track(range(0, frames, BATCH), description="turntable"):
                for picture in self.render_frames(
                    cameras[start : start + BATCH], np.tile(self.exp_coeff, (len(cameras[start : start + BATCH]), 1))
                ):
                    writer.write(picture)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _render_batch(
    model: NOFA,
    resolution: int,
    variables: PyTree,
    planes: Float[Array, "1 3 h w c"],
    ws: Float[Array, "1 l w"],
    cam2world: Float[Array, "b 4 4"],
    id_coeff: Float[Array, " i"],
    exp_coeff: Float[Array, "b e"],
) -> Float[Array, "b y x 3"]:
    b = cam2world.shape[0]

    def repeat(x: Array) -> Array:
        return jnp.broadcast_to(x, (b, *x.shape[1:]))

    return model.apply(
        variables,
        repeat(planes),
        repeat(ws),
        cam2world,
        repeat(jnp.asarray(intrinsics(), jnp.float32)[None]),
        repeat(id_coeff[None]),
        exp_coeff,
        resolution=resolution,
        method="render",
    ).image


def camera_for_pose(yaw: float, pitch: float, roll: float) -> Float[np.ndarray, "4 4"]:
    """EG3D's camera (2.7 from the origin, looking at it) that sees the head turned by these angles in degrees."""
    for name, value in (("yaw", yaw), ("pitch", pitch), ("roll", roll)):
        if not abs(value) <= LIMITS_DEG[name]:
            raise UserError(
                f"{name}={value}: angles are degrees between -{LIMITS_DEG[name]:g} and {LIMITS_DEG[name]:g}"
            )
    a, b, c = np.radians([yaw, -pitch, roll])
    turn_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    turn_x = np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    turn_z = np.array([[np.cos(c), np.sin(c), 0], [-np.sin(c), np.cos(c), 0], [0, 0, 1]])
    head = turn_z @ turn_x @ turn_y  # how the head is turned in front of a camera that stays where it is
    camera = np.eye(4)
    camera[:3, :3] = np.diag([1.0, -1.0, -1.0])  # OpenCV axes, looking along -z from +z
    camera[2, 3] = 2.7
    inverse = np.eye(4)
    inverse[:3, :3] = head.T
    return (inverse @ camera).astype(np.float32)


def _on_white(
    pixels: UInt8[np.ndarray, "h w 3"], tracked: Track, head: MorphableModel, size: int
) -> tuple[UInt8[np.ndarray, "s s 3"], Float[np.ndarray, "s s"]]:
    """(crop with what surrounds the head made white, mask of the head)."""
    work = max(size, 256)  # GrabCut needs some pixels to learn from
    crop = apply_crop(pixels, tracked.crop[0], work)
    vertices = head.vertices(tracked.id_coeff.astype(np.float32), tracked.exp_coeff[0].astype(np.float32))
    front = np.asarray(vertices)[head.part("face", "head_and_neck")][None]
    outline, _ = project(jnp.asarray(front), jnp.asarray(tracked.cam2world[:1]), jnp.asarray(tracked.intrinsics[:1]))
    mask = head_mask(crop, np.clip(np.asarray(outline)[0], -0.2, 1.2))
    white = crop * mask[..., None] + BACKGROUND * (1 - mask[..., None])
    identity = np.diag([1 / work, 1 / work, 1.0])
    small = apply_crop(np.round(white).astype(np.uint8), identity, size)
    small_mask = apply_crop(np.repeat(np.round(mask * 255).astype(np.uint8)[..., None], 3, -1), identity, size)
    return small, small_mask[..., 0].astype(np.float32) / 255


def _source_frame(crop: UInt8[np.ndarray, "s s 3"], mask: Float[np.ndarray, "s s"], tracked: Track) -> Frame:
    """The photo as a Frame of one."""
    fields = {
        "image": crop.astype(np.float32) / 127.5 - 1,
        "mask": mask,
        "cam2world": tracked.cam2world[0],
        "intrinsics": tracked.intrinsics[0],
        "id_coeff": tracked.id_coeff,
        "exp_coeff": tracked.exp_coeff[0],
        "landmarks": tracked.landmarks[0],
    }
    return Frame(**{name: jnp.asarray(value, jnp.float32)[None] for name, value in fields.items()})
