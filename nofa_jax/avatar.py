"""The user's side of NOFA: an avatar from one photo, rendered in any pose and expression, or driven by a video.

avatar = Avatar.from_image("photo.jpg", workdir="runs/quickstart")
image = avatar.render(yaw=20, expression={"jawOpen": 0.8})     # uint8 [h, w, 3]
avatar.reenact("clip.mp4", "avatar.mp4")
"""

import dataclasses
import functools
from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree, UInt8
from ml_collections import ConfigDict

from nofa_jax import build
from nofa_jax.errors import UserError
from nofa_jax.face3d.crop import FRAMINGS, RADIUS, Framing, apply_crop, to_crop
from nofa_jax.face3d.landmarker import find_landmarker
from nofa_jax.face3d.matte import cut_out
from nofa_jax.face3d.model import MorphableModel
from nofa_jax.face3d.pose import OPENCV_AXES, cam2world_of, turned
from nofa_jax.face3d.track import Track, intrinsics, track_clip, track_photo
from nofa_jax.media.grid import image_grid, to_uint8
from nofa_jax.media.photo import load_photo
from nofa_jax.media.video import VideoReader
from nofa_jax.media.video_writer import VideoWriter
from nofa_jax.models.nofa import NOFA, Volume
from nofa_jax.progress import log, track
from nofa_jax.train.finetune_cache import cache_key, load_compensation, save_compensation, settings
from nofa_jax.train.provenance import read_config
from nofa_jax.types import Frame

BATCH = 8  # frames rendered at once
GRID_CELL = 128  # pixels at least
LIMITS_DEG = {"yaw": 90.0, "pitch": 60.0, "roll": 90.0}


@dataclasses.dataclass(frozen=True)
class Avatar:
    """One person: the canonical volume of a photo and the model that renders it. Made by `from_image`."""

    config: ConfigDict  # of the training run
    model: NOFA
    variables: PyTree
    head: MorphableModel
    volume: Volume
    photo: Frame  # the aligned crop that the model sees, with the fitted alpha, beta and camera; leading axis 1
    place: tuple[float, float]  # where the crop's middle, the head's, lies in the photo: fractions, x right, y down

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
          face: which face, counted from the left, 1 is the first; default the largest.
          finetune_steps: of C on this photo, 0 leaves it as it is; default until it stops improving.
          keep_background: else what surrounds the head becomes white where the model was trained on white.
          step: checkpoint; default the newest good one.

        Raises:
          UserError: unreadable photo, no face, no landmarker, no run in workdir.
        """
        head = build.morphable_model(read_config(workdir))
        pixels, tracked = find_head(photo, head, landmarker, face)
        source = frame_of(pixels, tracked, read_config(workdir), head, keep_background)
        config, model, variables = build.load(workdir, step)
        volume = _volume(model, True, variables, source.image)
        avatar = cls(
            config=config,
            model=model,
            variables=variables,
            head=head,
            volume=volume,
            photo=source,
            place=_place(pixels, tracked),
        )
        return avatar.finetuned(finetune_steps)

    def finetuned(self, steps: int | None = None) -> "Avatar":
        """The avatar with C adapted to its photo (Sec. 3.3, Eq. 12), from the cache if it was before.

        steps: exactly so many, 0: as it is; default until it stops improving, as config.finetune says.
        """
        if steps == 0 or (steps is None and not self.config.finetune.steps):
            return self
        key = cache_key(self.photo, self.variables, {"steps": steps} | settings(self.config))
        compensation = load_compensation(key, self.variables["params"]["compensation"])
        if compensation is None:
            tuned = build.finetuner(self.config, self.model)(self.variables, self.photo, steps)
            log(f"fine-tuned C on the photo: {tuned.steps} steps in {tuned.seconds:.1f} s, ended by: {tuned.stopped}")
            compensation = tuned.variables["params"]["compensation"]
            save_compensation(key, compensation)
        else:
            log("this photo's fine-tuned C is in the cache")
        variables = {**self.variables, "params": {**self.variables["params"], "compensation": compensation}}
        volume = _volume(self.model, True, variables, self.photo.image)
        return dataclasses.replace(self, variables=variables, volume=volume)

    def render(
        self,
        exp_coeff: Float[np.ndarray, " e"] | None = None,
        cam2world: Float[np.ndarray, "4 4"] | None = None,
        *,
        expression: Mapping[str, float] | None = None,
        yaw: float = 0.0,
        pitch: float = 0.0,
        roll: float = 0.0,
    ) -> UInt8[np.ndarray, "h w 3"]:
        """One picture.

        Args:
          exp_coeff: beta; default the photo's own expression, or neutral when `expression` is given.
          cam2world: camera, for example `avatar.photo.cam2world[0]`; default the one that sees the head turned as said.
          expression: named shapes, e.g. {"jawOpen": 0.8}; they are set on top of exp_coeff.
          yaw, pitch, roll: degrees that the head turns: yaw > 0 to the subject's left (the picture's right), pitch > 0
            up, roll > 0 clockwise as seen.

        Raises:
          UserError: unknown expression, a weight or angle that is not a number in its range.
        """
        beta = self.beta(expression, exp_coeff)
        camera = camera_for_pose(yaw, pitch, roll) if cam2world is None else np.asarray(cam2world)
        return self.render_frames(camera[None], beta[None])[0]

    def beta(
        self, expression: Mapping[str, float] | None = None, exp_coeff: Float[np.ndarray, " e"] | None = None
    ) -> Float[np.ndarray, " e"]:
        """Expression coefficients from named shapes on top of `exp_coeff`, see `render`."""
        own = np.array(self.photo.exp_coeff[0])
        start = np.zeros_like(own) if expression else own
        beta = start if exp_coeff is None else np.array(exp_coeff, np.float32)
        if beta.shape != own.shape:
            raise UserError(f"exp_coeff has shape {beta.shape}; the {self.head.name} head takes {own.shape}")
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

    def _render(self, cam2world: Float[np.ndarray, "b 4 4"], exp_coeff: Float[np.ndarray, "b e"]) -> Array:
        return _render_batch(
            self.model,
            self.config.model.rendering_resolution,
            self.variables,
            self.volume.planes,
            self.volume.ws,
            jnp.asarray(cam2world, jnp.float32),
            self.photo.id_coeff[0],
            jnp.asarray(exp_coeff, jnp.float32),
        )

    def reenact(
        self,
        driving: str | Path,
        out: str | Path,
        *,
        landmarker: str | Path | None = None,
        track_file: str | Path | None = None,
        framing: str = "auto",
        grid: bool = False,
        face: int | None = None,
    ) -> int:
        """Drives the avatar with the head of a video; returns the number of frames.

        H.264 with the driver's frame times and sound. Frames are read, rendered and written one after the other; what
        is kept for each is its landmarks. Frames in which the driver's face is lost are filled as documented at
        face3d.track.Track. `framing` is one of FRAMINGS, see the method of that name. `grid` puts source | driver |
        avatar side by side. Of several people one drives: the largest in the first frame that shows any, or the
        `face`-th from the left. Raises UserError for an unreadable video, one without a face, or an unwritable `out`.
        """
        reader = VideoReader(driving)
        writer = VideoWriter(out, reader.info.rate, reader.info)  # complains at once about an unwritable name
        tracked = track_clip(reader, self.head, landmarker, track_file, self.framing(framing, reader), face=face)
        return self.drive(reader, tracked, writer, grid)

    def framing(self, name: str, reader: VideoReader) -> Framing:
        """How the driver's motion in its picture becomes the avatar's in its own; docs/conventions.md.

        "fixed": within a square around the driver's median place, which the head may leave. "follow": the square
        follows slowly. "auto": fixed while the head stays in it, else following. "source": fixed, and the avatar's head
        is off the middle by as much as the driver's is off the place that the photo's head has in the photo (the
        paper's offset of key points; for a photo and a video that are framed alike).
        """
        if name not in FRAMINGS:
            raise UserError(f"unknown framing {name!r}; there are {', '.join(FRAMINGS)}")
        if name == "source":
            x, y = self.place
            return Framing(follow=False, centre=(x * reader.info.width, y * reader.info.height))
        return Framing({"auto": None, "fixed": False, "follow": True}[name])

    def drive(self, reader: VideoReader, tracked: Track, writer: VideoWriter, grid: bool = False) -> int:
        """`reenact` from the driver's track on."""
        lost = int((~tracked.valid).sum())
        if lost:
            log(f"{reader.path}: driver not seen in {lost} of {len(tracked)} frames; their motion is filled in")
        pictures = self._driven(tracked)
        with writer:
            for frame in track(reader, len(tracked), "rendering the avatar"):
                picture = next(pictures, None)
                if picture is None:
                    break
                writer.write(self._beside(frame.image, tracked, frame.index, picture) if grid else picture, frame.time)
        return writer.frames

    def _driven(self, tracked: Track) -> Iterator[UInt8[np.ndarray, "h w 3"]]:
        for start in range(0, len(tracked), BATCH):
            rows = slice(start, start + BATCH)
            yield from self.render_frames(tracked.cam2world[rows], tracked.exp_coeff[rows])

    def _beside(
        self, driver: UInt8[np.ndarray, "y x 3"], tracked: Track, index: int, picture: UInt8[np.ndarray, "h w 3"]
    ) -> UInt8[np.ndarray, "gh gw 3"]:
        cell = max(picture.shape[0], GRID_CELL)
        row = [to_uint8(np.asarray(self.photo.image[0])), apply_crop(driver, tracked.crop[index], cell), picture]
        return image_grid([row], ("source", "driver", "avatar"), cell=cell)

    def turntable(
        self,
        out: str | Path,
        expression: Mapping[str, float] | None = None,
        seconds: float = 4.0,
        rate: int = 25,
        yaw: float = 35.0,
    ) -> None:
        """Writes an MP4 that swings the head left and right by `yaw` degrees; `expression` as in `render`."""
        frames = max(2, round(seconds * rate))
        angles = yaw * np.sin(2 * np.pi * np.arange(frames) / frames)
        cameras = np.stack([camera_for_pose(angle, 0.0, 0.0) for angle in angles])
        betas = np.tile(self.beta(expression), (frames, 1))
        with VideoWriter(out, Fraction(rate)) as writer:
            for start in track(range(0, frames, BATCH), description="turntable"):
                for picture in self.render_frames(cameras[start : start + BATCH], betas[start : start + BATCH]):
                    writer.write(picture)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _volume(model: NOFA, compensate: bool, variables: PyTree, image: Float[Array, "1 h w 3"]) -> Volume:
    return model.apply(variables, image, compensate, method="volume")


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
    """EG3D's camera (2.7 from the origin, looking at it) that sees the head turned by these angles in degrees.

    yaw > 0: to the subject's left, which is the picture's right; pitch > 0: up; roll > 0: clockwise as seen.
    """
    for name, value in (("yaw", yaw), ("pitch", pitch), ("roll", roll)):
        if not abs(value) <= LIMITS_DEG[name]:
            raise UserError(
                f"{name}={value}: angles are degrees between -{LIMITS_DEG[name]:g} and {LIMITS_DEG[name]:g}"
            )
    rotation = turned(*np.radians([yaw, pitch, roll]))
    return cam2world_of((OPENCV_AXES @ rotation)[None], np.array([[0.0, 0.0, RADIUS]]))[0].astype(np.float32)


def find_head(
    photo: str | Path | UInt8[np.ndarray, "h w 3"],
    head: MorphableModel,
    landmarker: str | Path | None = None,
    face: int | None = None,
) -> tuple[UInt8[np.ndarray, "h w 3"], Track]:
    """The photo's pixels and the head in it. As `Avatar.from_image`."""
    name = str(photo) if not isinstance(photo, np.ndarray) else "photo"
    pixels = load_photo(photo) if not isinstance(photo, np.ndarray) else photo
    find_landmarker(landmarker)
    return pixels, track_photo(pixels, head, landmarker, face, name=name)


def frame_of(
    pixels: UInt8[np.ndarray, "h w 3"],
    tracked: Track,
    config: ConfigDict,
    head: MorphableModel,
    keep_background: bool = False,
) -> Frame:
    """The photo as the model of `config` sees it: aligned, fitted, cut out; leading axis 1."""
    size = config.model.output_size
    if not config.model.renderer.white_back or keep_background:
        return _source_frame(apply_crop(pixels, tracked.crop[0], size), np.ones((size, size)), tracked)
    matte = cut_out(pixels, tracked, head, size)
    if not matte.plausible:
        log("the outline of the photo's hair was not found; the fitted head's own outline is used")
    return _source_frame(matte.image, matte.mask, tracked)


def _place(pixels: UInt8[np.ndarray, "h w 3"], tracked: Track) -> tuple[float, float]:
    x, y = to_crop(np.array([[0.5, 0.5]]), np.linalg.inv(tracked.crop[0]))[0]
    return float(x / pixels.shape[1]), float(y / pixels.shape[0])


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
