"""Measuring expression and head pose in a picture of an embedded head: a small convolutional regressor.

Real footage is measured with a face reconstruction network (the paper, Sec. 4.1, follows PIRenderer). Embedded heads
have exact coefficients instead, so a network trained on renders of *other* identities does the job: it sees the whole
picture and, at places given by the known camera, the mouth and both eyes, and answers with exp_coeff and the three
angles of the head. `train_regressor.py` makes it; `Regressor` holds a trained one.
"""

import dataclasses
import functools
import hashlib
import json
import re
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jaxtyping import Array, Float, UInt8
from safetensors import SafetensorError
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from nofa_jax.errors import UserError
from nofa_jax.metrics.regions import cut, region_boxes

SIDES = re.compile(r"(_?(?:Left|Right)|_[LR])$")
DIRECTIONS = ("jaw", "mouth")  # jawLeft and mouthRight name a direction: two shapes, not two sides of one
WHOLE_SIZE, MOUTH_SIZE, EYE_SIZE = 64, 32, 24  # pixels of the regressor's views, whatever the size of the picture
SHAPES_SHOWN = ("jawOpen", "mouthSmile", "eyeBlink", "mouthPucker", "browInnerUp")


def shape_groups(exp_names: tuple[str, ...]) -> dict[str, tuple[int, ...]]:
    """Expression channels by shape, both sides under one name: mouthSmileLeft and mouthSmile_R belong to mouthSmile."""
    groups: dict[str, tuple[int, ...]] = {}
    for index, name in enumerate(exp_names):
        base = SIDES.sub("", name)
        key = name if base in DIRECTIONS else base
        groups[key] = (*groups.get(key, ()), index)
    return groups


def mirrored_channels(exp_names: tuple[str, ...]) -> np.ndarray:
    """Permutation p such that the mirror image of a face with exp_coeff b has exp_coeff b[p]."""
    swap = {"Left": "Right", "Right": "Left", "L": "R", "R": "L"}

    def other(name: str) -> str:
        side = SIDES.search(name)
        if not side:
            return name
        mark = side.group(1)
        return name[: side.start()] + ("_" if mark.startswith("_") else "") + swap[mark.lstrip("_")]

    position = {name: i for i, name in enumerate(exp_names)}
    return np.array([position.get(other(name), position[name]) for name in exp_names])


def head_angles(cam2world: Float[np.ndarray, "... 4 4"]) -> Float[np.ndarray, "... 3"]:
    """Yaw, pitch and roll of the head seen from the camera, radians; zero for a camera straight in front of the face.

    The camera's rotation relative to the frontal one (x right = the subject's left, y down, z away from the viewer),
    split as R_y(yaw) R_x(-pitch) R_z(roll): signs as in `rendering.camera.look_at`, which has no roll.
    """
    r = cam2world[..., :3, :3] * np.array([1.0, -1.0, -1.0])
    yaw = np.arctan2(r[..., 0, 2], r[..., 2, 2])
    pitch = np.arcsin(np.clip(r[..., 1, 2], -1.0, 1.0))
    roll = np.arctan2(r[..., 1, 0], r[..., 1, 1])
    return np.stack([yaw, pitch, roll], axis=-1)


def to_uint8(image: Float[np.ndarray, "... c"]) -> UInt8[np.ndarray, "... c"]:
    """[-1, 1] -> 0..255, rounded; values outside are clipped."""
    return np.clip(np.round((np.asarray(image, np.float32) + 1.0) * 127.5), 0, 255).astype(np.uint8)


def from_uint8(image: UInt8[np.ndarray, "... c"]) -> Float[np.ndarray, "... c"]:
    """0..255 -> [-1, 1]."""
    return image.astype(np.float32) / 127.5 - 1.0


def pearson(predicted: np.ndarray, true: np.ndarray) -> float | None:
    """Pearson's r over all elements, or None where one side is constant: a correlation is then not defined."""
    a, b = predicted.astype(np.float64).ravel(), true.astype(np.float64).ravel()
    if min(a.std(), b.std()) < 1e-6:
        return None
    return float(np.corrcoef(a, b)[0, 1])


class Trunk(nn.Module):
    """3x3 convolutions, halving the size after the first by stride, down to a feature vector."""

    widths: tuple[int, ...]
    features: int
    first_stride: int = 1

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b f"]:
        for i, width in enumerate(self.widths):
            stride = self.first_stride if i == 0 else 2
            x = nn.relu(nn.GroupNorm(num_groups=4)(nn.Conv(width, (3, 3), (stride, stride))(x)))
        x = nn.relu(nn.GroupNorm(num_groups=4)(nn.Conv(self.widths[-1], (3, 3))(x)))
        return nn.relu(nn.Dense(self.features)(x.reshape(x.shape[0], -1)))


class ExpressionNet(nn.Module):
    """Whole picture, mouth and both eyes -> standardised exp_coeff and head angles.

    One trunk serves both eyes: the right one arrives mirrored. The angles come from the whole picture alone, because
    where the mouth and eyes were cut already says what they should be.
    """

    n_exp: int
    hidden: int = 256

    @nn.compact
    def __call__(
        self,
        whole: Float[Array, "b 64 64 3"],
        mouth: Float[Array, "b m m 3"],
        eye_right: Float[Array, "b e e 3"],
        eye_left: Float[Array, "b e e 3"],
    ) -> tuple[Float[Array, "b {self.n_exp}"], Float[Array, "b 3"]]:
        seen = Trunk((16, 32, 64, 96), 128, first_stride=2, name="whole")(whole)
        eyes = jnp.concatenate([eye_right[:, :, ::-1], eye_left], axis=0)
        right, left = jnp.split(Trunk((24, 48, 64), 64, name="eye")(eyes), 2, axis=0)
        parts = [seen, Trunk((24, 48, 72, 96), 128, name="mouth")(mouth), right, left]
        zeros = nn.initializers.zeros
        joint = nn.relu(nn.Dense(self.hidden, name="joint")(jnp.concatenate(parts, axis=-1)))
        return nn.Dense(self.n_exp, kernel_init=zeros, name="exp")(joint), nn.Dense(
            3, kernel_init=zeros, name="angles"
        )(seen)


def views(
    images: Float[Array, "b h w 3"], boxes: Float[Array, "b 3 4"], whole: Float[Array, "b 4"]
) -> dict[str, Float[Array, "b _ _ 3"]]:
    """The pictures `ExpressionNet` looks at; boxes in the order of `regions.REGIONS`, `whole` the box of the whole."""
    cuts = [standardize(cut(images, boxes[:, k], n)) for k, n in enumerate((MOUTH_SIZE, EYE_SIZE, EYE_SIZE))]
    seen = standardize(cut(images, whole, WHOLE_SIZE))
    return {"whole": seen, "mouth": cuts[0], "eye_right": cuts[1], "eye_left": cuts[2]}


def mirrored_views(seen: dict[str, Float[Array, "b _ _ 3"]]) -> dict[str, Float[Array, "b _ _ 3"]]:
    """`views` of the mirror images seen by the mirrored cameras."""
    other = {"whole": "whole", "mouth": "mouth", "eye_right": "eye_left", "eye_left": "eye_right"}
    return {name: seen[source][:, :, ::-1] for name, source in other.items()}


def standardize(images: Float[Array, "b h w 3"]) -> Float[Array, "b h w 3"]:
    """Each channel of each picture to mean 0, all together to deviation 1: skin, light and contrast drop out."""
    centered = images - images.mean(axis=(1, 2), keepdims=True)
    return centered * jax.lax.rsqrt((centered**2).mean(axis=(1, 2, 3), keepdims=True) + 1e-4)


@dataclasses.dataclass(frozen=True)
class Regressor:
    """A trained regressor; calling it measures pictures."""

    params: dict[str, Any]
    constants: dict[str, np.ndarray]  # centers, extents: regions; exp_*, angle_*: standardisation and range
    exp_names: tuple[str, ...]
    info: dict[str, Any]  # training settings, data, accuracy on held-out renders

    @functools.cached_property
    def fingerprint(self) -> str:
        """sha256 of the stored tensors, first 16 digits."""
        return hashlib.sha256(self._tensors()).hexdigest()[:16]

    def __call__(
        self,
        images: Float[np.ndarray, "n h w 3"],
        cam2world: Float[np.ndarray, "n 4 4"],
        intrinsics: Float[np.ndarray, "n 3 3"],
        batch_size: int = 64,
    ) -> tuple[Float[np.ndarray, "n e"], Float[np.ndarray, "n 3"]]:
        """exp_coeff (within the range seen in training) and head angles (radians) of pictures in [-1, 1].

        The cameras must be those the pictures were made with. The last batch is padded, so one shape is compiled.
        """
        exps, angles = [], []
        for start in range(0, len(images), batch_size):
            part = slice(start, start + batch_size)
            count = len(images[part])
            batch = [_pad(np.asarray(x[part], np.float32), batch_size) for x in (images, cam2world, intrinsics)]
            exp, angle = _measure(self.params, self.constants, *batch)
            exps.append(np.asarray(exp)[:count])
            angles.append(np.asarray(angle)[:count])
        return np.concatenate(exps), np.concatenate(angles)

    def save(self, folder: Path) -> None:
        """Writes regressor.safetensors, then regressor.json, which marks the pair as complete."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "regressor.safetensors").write_bytes(self._tensors())
        text = json.dumps({"fingerprint": self.fingerprint, "exp_names": self.exp_names, **self.info}, indent=2)
        temporary = folder / "regressor.json.partial"
        temporary.write_text(text + "\n")
        temporary.replace(folder / "regressor.json")

    def _tensors(self) -> bytes:
        flat = {f"params/{k}": v for k, v in traverse_util.flatten_dict(self.params, sep="/").items()}
        flat |= {f"constants/{k}": v for k, v in self.constants.items()}
        return save_tensors({k: np.ascontiguousarray(np.asarray(v, np.float32)) for k, v in sorted(flat.items())})


def load_regressor(folder: Path) -> Regressor:
    """Reads what `Regressor.save` wrote; UserError if incomplete or if the tensors are not those described."""
    try:
        info = json.loads((folder / "regressor.json").read_text())
        flat = load_tensors((folder / "regressor.safetensors").read_bytes())
    except (OSError, ValueError, SafetensorError) as e:
        raise UserError(
            f"{folder}: not a complete expression regressor ({e}); delete the folder to train it anew"
        ) from e
    nested = traverse_util.unflatten_dict(flat, sep="/")
    fingerprint, names = info.pop("fingerprint"), tuple(info.pop("exp_names"))
    regressor = Regressor(nested["params"], nested["constants"], names, info)
    if regressor.fingerprint != fingerprint:
        raise UserError(
            f"{folder}: regressor.safetensors is damaged (fingerprint differs); delete the folder to retrain"
        )
    return regressor


@jax.jit
def _measure(params: Any, constants: Any, images: Array, cam2world: Array, intrinsics: Array) -> tuple[Array, Array]:
    boxes = region_boxes(constants["centers"], constants["extents"], cam2world, intrinsics)
    whole = jnp.broadcast_to(jnp.array([0.0, 0.0, 1.0, 1.0]), (images.shape[0], 4))
    net = ExpressionNet(constants["exp_mean"].shape[0])
    exp, angles = net.apply({"params": params}, **views(images, boxes, whole))
    exp = exp * constants["exp_std"][None] + constants["exp_mean"][None]
    exp = jnp.clip(exp, constants["exp_low"][None], constants["exp_high"][None])
    return exp, angles * constants["angle_std"][None] + constants["angle_mean"][None]


def _pad(x: np.ndarray, count: int) -> np.ndarray:
    return np.concatenate([x, np.repeat(x[-1:], count - len(x), axis=0)]) if len(x) < count else x
