"""The evaluation protocol: a model and its controls on fixed pairs of identities that training never saw.

A score alone proves little: a model that ignores the expression still has a fair PSNR and even AED. Every method below
is therefore measured on the same pairs, with the same regressor:

    model               source photo, driven by the target's expression and camera
    source_expression   … by the source's own expression and the target's camera: what the expression is worth
    no_deformation      … with D off: the canonical volume
    wrong_source        … from another identity's photo and id_coeff: what the photo is worth
    copy_source         the source photo itself
    target              the target itself: the regressor's own error, the floor of AED and APD

Pictures are rounded to 8 bits before anything is measured, so saved PNGs reproduce the numbers. One row per method and
pair; `summarize` averages them.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from jaxtyping import Array, Float, Int, PyTree, UInt8

from nofa_jax.data.records import Dataset
from nofa_jax.data.sampler import fixed_pairs
from nofa_jax.errors import UserError
from nofa_jax.metrics.expression import from_uint8, head_angles, pearson, shape_groups, to_uint8
from nofa_jax.metrics.face import aed, apd, mouth_psnr
from nofa_jax.metrics.image import psnr, ssim
from nofa_jax.progress import Progress
from nofa_jax.train.step import Rendering
from nofa_jax.types import Frame

Row = dict[str, Any]
SCORES = ("psnr", "ssim", "psnr_mouth", "aed", "aed_estimated", "apd")
Avatar = Callable[[Frame, Frame, bool], Float[np.ndarray, "b h w 3"]]
"""(source, drive, deform) -> pictures in about [-1, 1]: the person of the source's image and id_coeff with the drive's
exp_coeff, seen by the drive's camera. deform=False leaves D off. The drive shows no picture (see `blind`)."""

Measurer = Callable[[np.ndarray, np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]
"""(pictures in [-1, 1], cam2world, intrinsics) -> exp_coeff, head angles: an `expression.Regressor`."""


@dataclasses.dataclass(frozen=True)
class Pairs:
    """Frames of the pairs, all with the leading axis n: source and target of one clip, and another identity's photo."""

    source: Frame
    target: Frame
    stranger: Frame
    identity: Int[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.identity)

    def rows(self, index: np.ndarray) -> "Pairs":
        frames = (rows_of(frame, index) for frame in (self.source, self.target, self.stranger))
        return Pairs(*frames, self.identity[index])


def load_pairs(dataset: Dataset, split: str, count: int, seed: int) -> Pairs:
    """The data set's fixed pairs, read into memory; UserError if the split has not enough of them."""
    pairs = fixed_pairs(dataset, split, count, seed)
    frames = (dataset.frames(split, [getattr(p, role) for p in pairs]) for role in ("source", "target", "wrong_source"))
    return Pairs(*frames, dataset.index(split, "identity")[[p.source for p in pairs]])


Method = Callable[[Avatar, Pairs], tuple[np.ndarray, Frame]]
"""Pictures in about [-1, 1], and the frames whose cameras they were taken with."""


def _model(avatar: Avatar, x: Pairs) -> tuple[np.ndarray, Frame]:
    return avatar(x.source, blind(x.target), True), x.target


def _source_expression(avatar: Avatar, x: Pairs) -> tuple[np.ndarray, Frame]:
    return avatar(x.source, blind(x.target).replace(exp_coeff=x.source.exp_coeff), True), x.target


def _no_deformation(avatar: Avatar, x: Pairs) -> tuple[np.ndarray, Frame]:
    return avatar(x.source, blind(x.target), False), x.target


def _wrong_source(avatar: Avatar, x: Pairs) -> tuple[np.ndarray, Frame]:
    return avatar(x.stranger, blind(x.target), True), x.target


METHODS: dict[str, Method] = {
    "model": _model,
    "source_expression": _source_expression,
    "no_deformation": _no_deformation,
    "wrong_source": _wrong_source,
    "copy_source": lambda avatar, x: (x.source.image, x.source),
    "target": lambda avatar, x: (x.target.image, x.target),
}


def evaluate(
    avatar: Avatar,
    regressor: Measurer,
    pairs: Pairs,
    batch_size: int = 16,
    methods: dict[str, Method] = METHODS,
    keep: Sequence[int] | np.ndarray = (),
) -> tuple[list[Row], dict[str, UInt8[np.ndarray, "k h w 3"]]]:
    """Measures every method on every pair.

    Returns:
      rows: one per method and pair, {method, pair, identity, psnr, ssim, psnr_mouth, aed, aed_estimated, apd, exp,
        exp_true}; exp is the regressor's answer. Both vectors are rounded to four digits after aed was computed.
      pictures: for each method those of the pairs whose numbers are in `keep`, in order.
    """
    rows: list[Row] = []
    kept: dict[str, list[np.ndarray]] = {name: [] for name in methods}
    avatar = padded(avatar, batch_size)
    with Progress(len(methods) * len(pairs), "evaluation") as progress:
        for name, method in methods.items():
            for start in range(0, len(pairs), batch_size):
                index = np.arange(start, min(start + batch_size, len(pairs)))
                x = pairs.rows(index)
                images, shown = method(avatar, x)
                pictures = to_uint8(images)
                kept[name] += [pictures[k - start] for k in sorted(keep) if k in index]
                measured = measure(pictures, x.target, shown, regressor)
                for j, pair in enumerate(index):
                    rows.append({"method": name, "pair": int(pair), "identity": int(pairs.identity[pair])})
                    rows[-1] |= {key: _plain(value[j]) for key, value in measured.items()}
                progress.update(len(index))
    return rows, {name: np.stack(pictures) for name, pictures in kept.items() if pictures}


def padded(avatar: Avatar, batch_size: int) -> Avatar:
    """The avatar called with exactly `batch_size` frames at a time, whatever it is asked for: one compiled shape."""

    def whole(source: Frame, drive: Frame, deform: bool) -> np.ndarray:
        count = len(drive.cam2world)
        parts = []
        for start in range(0, count, batch_size):
            index = np.minimum(np.arange(start, start + batch_size), count - 1)
            parts.append(np.asarray(avatar(rows_of(source, index), rows_of(drive, index), deform)))
        return np.concatenate(parts)[:count]

    return whole


def measure(
    pictures: UInt8[np.ndarray, "b h w 3"], target: Frame, shown: Frame, regressor: Measurer
) -> dict[str, np.ndarray]:
    """Scores of pictures against their targets, one per picture; `shown` holds the cameras of the pictures."""
    truth = to_uint8(target.image)
    if pictures.shape != truth.shape:
        raise UserError(f"pictures of shape {pictures.shape[1:]} cannot be compared with targets of {truth.shape[1:]}")
    a, b = pictures / 255.0, truth / 255.0
    exp, angles = regressor(from_uint8(pictures), shown.cam2world, shown.intrinsics)
    exp_target, _ = regressor(from_uint8(truth), target.cam2world, target.intrinsics)
    return {
        "psnr": psnr(a, b),
        "ssim": ssim(a, b),
        "psnr_mouth": mouth_psnr(a, b, target.landmarks),
        "aed": aed(exp, target.exp_coeff),
        "aed_estimated": aed(exp, exp_target),
        "apd": apd(angles, head_angles(target.cam2world)),
        "exp": exp,
        "exp_true": np.asarray(target.exp_coeff),
    }


def summarize(rows: Sequence[Row], exp_names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """Means over the pairs of each method, and Pearson's r of every shape (both sides pooled) over the pairs.

    PSNR is averaged over pictures, not computed from the mean error. A mean that is infinite (identical pictures) or a
    correlation that is not defined (a constant) is None.
    """
    results: dict[str, dict[str, Any]] = {}
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        means = {key: float(np.mean([row[key] for row in mine])) for key in SCORES}
        predicted, true = (np.array([row[key] for row in mine]) for key in ("exp", "exp_true"))
        results[method] = {"n": len(mine)} | {key: x if np.isfinite(x) else None for key, x in means.items()}
        results[method]["corr"] = {
            name: pearson(predicted[:, list(channels)], true[:, list(channels)])
            for name, channels in shape_groups(exp_names).items()
        }
    return results


@dataclasses.dataclass(frozen=True)
class Views:
    """One identity for fine-tuning: the photo (leading axis 1) and other frames of its clip (leading axis m)."""

    identity: int
    source: Frame
    others: Frame


def load_views(dataset: Dataset, split: str, count: int, seed: int) -> list[Views]:
    """The first `count` identities of a split, each with a photo drawn from its first clip and all its other frames."""
    clips = {clip.identity: clip for clip in reversed(dataset.clips(split)) if len(clip.records) > 1}
    if len(clips) < count:
        raise UserError(f"{dataset.path}: split {split!r} has {len(clips)} identities to fine-tune on, not {count}")
    rng = np.random.default_rng([seed, count])
    people = []
    for identity in sorted(clips)[:count]:
        records = rng.permutation(clips[identity].records)
        people.append(Views(identity, dataset.frames(split, records[:1]), dataset.frames(split, np.sort(records[1:]))))
    return people


def evaluate_finetuning(
    avatar: Avatar, finetune: Callable[[Frame], Avatar], people: Sequence[Views], batch_size: int = 16
) -> list[Row]:
    """PSNR before and after one-shot fine-tuning, a row per identity: of the photo itself, and the mean of others."""
    rows = []
    with Progress(len(people), "fine-tuning") as progress:
        for person in people:
            started = time.monotonic()
            tuned = finetune(person.source)
            row: Row = {"method": "finetuned", "identity": person.identity, "seconds": time.monotonic() - started}
            for when, who in (("before", avatar), ("after", tuned)):
                for what, drive in (("source", person.source), ("other", person.others)):
                    source = rows_of(person.source, np.zeros(len(drive.cam2world), np.int64))
                    pictures = to_uint8(padded(who, batch_size)(source, blind(drive), True))
                    row[f"{what}_{when}"] = float(psnr(pictures / 255.0, to_uint8(drive.image) / 255.0).mean())
            rows.append(row)
            progress.update()
    return rows


def summarize_finetuning(rows: Sequence[Row], steps: int) -> dict[str, Any]:
    """source_gain and other_gain in dB (means over identities), and the seconds per identity (the median: the first
    one also compiles)."""
    gain = {what: [row[f"{what}_after"] - row[f"{what}_before"] for row in rows] for what in ("source", "other")}
    return {
        "n": len(rows),
        "source_gain": float(np.mean(gain["source"])),
        "other_gain": float(np.mean(gain["other"])),
        "steps": steps,
        "seconds": float(np.median([row["seconds"] for row in rows])),
    }


def model_avatar(model: nn.Module, rendering: Rendering) -> Callable[[PyTree], Avatar]:
    """variables -> avatar of a trained `NOFA`. One compilation serves all variables, fine-tuned ones too."""

    @functools.partial(jax.jit, static_argnames="deform")
    def render(variables: PyTree, source: Frame, drive: Frame, deform: bool) -> Array:
        volume = model.apply(variables, source.image, rendering.compensate, method="volume")
        driven = (drive.cam2world, drive.intrinsics, source.id_coeff, drive.exp_coeff)
        options = {"resolution": rendering.resolution, "deform": deform}
        return model.apply(variables, volume.planes, volume.ws, *driven, **options, method="render").image

    return lambda variables: lambda source, drive, deform: np.asarray(render(variables, source, drive, deform))


def rows_of(frame: Frame, index: np.ndarray) -> Frame:
    """The named rows of every field."""
    return jax.tree.map(lambda x: x[index], frame)


def blind(drive: Frame) -> Frame:
    """What may drive a model: coefficients and camera, nothing that shows the answer."""
    fields = ("image", "mask", "landmarks")
    return drive.replace(**{name: np.zeros_like(getattr(drive, name)) for name in fields})


def _plain(value: Any) -> Any:
    """JSON's numbers of a numpy scalar or vector (vectors rounded: they are the bulk of the file)."""
    return [round(float(v), 4) for v in value] if np.ndim(value) else float(value)
