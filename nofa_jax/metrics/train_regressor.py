"""Trains the expression regressor that `eval.py` measures with, on embedded heads, and keeps it in the cache.

The identities of the data set's training split teach, those of its validation split judge; the test split is not
read. The accuracy is stored with the weights and repeated in every report.
"""

import argparse
import dataclasses
import functools
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float

from nofa_jax import compile_cache
from nofa_jax.compile_cache import cache_dir
from nofa_jax.data.records import Dataset, open_dataset
from nofa_jax.errors import UserError
from nofa_jax.metrics.expression import (
    SHAPES_SHOWN,
    ExpressionNet,
    Regressor,
    from_uint8,
    head_angles,
    load_regressor,
    mirrored_channels,
    mirrored_views,
    pearson,
    shape_groups,
    to_uint8,
    views,
)
from nofa_jax.metrics.regions import mean_face, region_anchors, region_boxes
from nofa_jax.progress import Progress, log

EXAMPLE = "python -m nofa_jax.metrics.train_regressor --data=data/heads64"
LABELS = ("exp_coeff", "cam2world", "intrinsics", "landmarks")


@dataclasses.dataclass(frozen=True)
class Samples:
    """Labelled renders in memory."""

    images: np.ndarray  # uint8 [n, h, w, 3]
    exp_coeff: np.ndarray  # [n, e]
    cam2world: np.ndarray  # [n, 4, 4]
    intrinsics: np.ndarray  # [n, 3, 3]
    landmarks: np.ndarray  # [n, 68, 2]

    def __len__(self) -> int:
        return len(self.images)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to train."""

    steps: int = 1200
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 1e-3
    box_jitter: float = (
        0.06  # standard deviation of the boxes' shift, in box widths; a third of it for the whole picture
    )
    blur: float = 0.5  # largest share of a half-resolution copy mixed in: renders of a small model are soft
    angle_weight: float = 0.3
    max_frames: int = 6000
    seed: int = 0


def train_regressor(data: Samples, exp_names: tuple[str, ...], settings: Settings = Settings()) -> Regressor:
    """Huber loss on standardised exp_coeff and head angles; Adam with weight decay, warm-up and cosine decay."""
    constants = _constants(data)
    angles = head_angles(data.cam2world).astype(np.float32)
    varies = (data.exp_coeff.std(axis=0) > 1e-3).astype(np.float32)  # a channel that never moves teaches nothing
    schedule = optax.warmup_cosine_decay_schedule(0.0, settings.learning_rate, 50, settings.steps)
    optimizer = optax.chain(
        optax.clip_by_global_norm(1.0), optax.adamw(schedule, b2=0.99, weight_decay=settings.weight_decay)
    )
    key = jax.random.key(settings.seed)
    net = ExpressionNet(len(exp_names))
    boxes = jnp.tile(jnp.array([0.0, 0.0, 1.0, 1.0]), (1, 3, 1))
    params = jax.jit(net.init)(key, **views(jnp.zeros((1, *data.images.shape[1:])), boxes, boxes[:, 0]))["params"]
    opt_state = optimizer.init(params)
    static = {"constants": constants, "permutation": mirrored_channels(exp_names), "varies": varies}
    rng = np.random.default_rng(settings.seed)
    started = time.monotonic()
    with Progress(settings.steps, "expression regressor") as progress:
        for step in range(settings.steps):
            rows = rng.choice(len(data), settings.batch_size, replace=len(data) < settings.batch_size)
            batch = {
                "images": data.images[rows],
                "cam2world": data.cam2world[rows],
                "intrinsics": data.intrinsics[rows],
                "exp": data.exp_coeff[rows],
                "angles": angles[rows],
            }
            params, opt_state, loss = _step(
                net, optimizer, settings, params, opt_state, batch, static, jax.random.fold_in(key, step)
            )
            progress.update(loss=loss) if step % 20 == 19 else progress.update()
    info = {"training": dataclasses.asdict(settings) | {"frames": len(data), "seconds": time.monotonic() - started}}
    return Regressor(jax.tree.map(np.asarray, params), constants, exp_names, info)


def accuracy(regressor: Regressor, data: Samples) -> dict[str, Any]:
    """Mean absolute errors on real renders and, for each shape that varies, Pearson's r (both sides pooled)."""
    exp, angles = regressor(from_uint8(data.images), data.cam2world, data.intrinsics)
    groups = shape_groups(regressor.exp_names).items()
    return {
        "n": len(data),
        "aed": float(np.abs(exp - data.exp_coeff).mean()),
        "apd": float(np.abs(angles - head_angles(data.cam2world)).mean()),
        "corr": {name: pearson(exp[:, list(i)], data.exp_coeff[:, list(i)]) for name, i in groups},
    }


def cached_regressor(dataset: Dataset, settings: Settings = Settings(), cache: Path | None = None) -> Regressor:
    """The regressor of a data set, settings and this code: read from `cache` ($NOFA_CACHE/regressors), or made now."""
    known = {"data": dataset.fingerprint, "settings": dataclasses.asdict(settings), "code": _code_hash()}
    key = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()[:16]
    folder = (cache or cache_dir("regressors")) / key
    if (folder / "regressor.json").is_file():
        return load_regressor(folder)
    log(f"training the expression regressor (a few minutes, once for this data set): {folder}")
    exp_names = tuple(dataset.metadata["exp_names"])
    regressor = train_regressor(read_samples(dataset, "train", settings.max_frames, settings.seed), exp_names, settings)
    judged = accuracy(regressor, read_samples(dataset, "val", settings.max_frames, settings.seed))
    regressor.info.update(data={"fingerprint": dataset.fingerprint, "path": str(dataset.path)}, accuracy=judged)
    regressor.save(folder)
    return regressor


def read_samples(dataset: Dataset, split: str, limit: int, seed: int = 0, max_bytes: int = 1 << 29) -> Samples:
    """Up to `limit` random frames of a split (all, in order, where they are fewer), at most `max_bytes` of pixels."""
    total = dataset.num_frames(split)
    limit = min(limit, max_bytes // dataset.frame(split, 0).image.size)
    rows = np.arange(total)
    if limit < total:
        rows = np.sort(np.random.default_rng(seed).choice(total, limit, replace=False))
    parts = [dataset.frames(split, rows[i : i + 256]) for i in range(0, len(rows), 256)]
    joined = {name: np.concatenate([getattr(f, name) for f in parts]) for name in LABELS}
    return Samples(images=np.concatenate([to_uint8(f.image) for f in parts]), **joined)


def _code_hash() -> str:
    """Of the files that decide what a regressor is."""
    here = Path(__file__).parent
    names = ("expression.py", "regions.py", "train_regressor.py")
    return hashlib.sha256(b"".join((here / name).read_bytes() for name in names)).hexdigest()


def _constants(data: Samples) -> dict[str, np.ndarray]:
    centers, extents = region_anchors(mean_face(data.landmarks, data.cam2world, data.intrinsics))
    angles = head_angles(data.cam2world)
    values = {
        "centers": centers,
        "extents": extents,
        "exp_mean": data.exp_coeff.mean(axis=0),
        "exp_std": np.maximum(data.exp_coeff.std(axis=0), 1e-3),
        "exp_low": data.exp_coeff.min(axis=0),
        "exp_high": data.exp_coeff.max(axis=0),
        "angle_mean": angles.mean(axis=0),
        "angle_std": np.maximum(angles.std(axis=0), 1e-3),
    }
    return {name: value.astype(np.float32) for name, value in values.items()}


@functools.partial(jax.jit, static_argnums=(0, 1, 2), donate_argnums=(3, 4))
def _step(
    net: ExpressionNet,
    optimizer: optax.GradientTransformation,
    settings: Settings,
    params: Any,
    opt_state: Any,
    batch: dict[str, Array],
    static: Any,
    key: Array,
) -> tuple[Any, Any, Array]:
    inputs, exp, angles = _augment(batch, static, settings, key)

    def loss_of(params: Any) -> Array:
        got_exp, got_angles = net.apply({"params": params}, **inputs)
        exp_loss = (optax.huber_loss(got_exp, exp) * static["varies"][None]).mean()
        return exp_loss + settings.angle_weight * optax.huber_loss(got_angles, angles).mean()

    loss, gradient = jax.value_and_grad(loss_of)(params)
    updates, opt_state = optimizer.update(gradient, opt_state, params)
    return optax.apply_updates(params, updates), opt_state, loss


def _augment(
    batch: dict[str, Array], static: Any, settings: Settings, key: Array
) -> tuple[dict[str, Array], Float[Array, "b e"], Float[Array, "b 3"]]:
    """Views and labels of a batch, half of it mirrored: boxes shifted, pictures softened, brightness changed."""
    images = batch["images"].astype(jnp.float32) / 127.5 - 1.0
    n, h, w = images.shape[:3]
    keys = jax.random.split(key, 6)
    constants = static["constants"]
    boxes = region_boxes(constants["centers"], constants["extents"], batch["cam2world"], batch["intrinsics"])
    side = boxes[..., 2:3] - boxes[..., 0:1]
    shift = settings.box_jitter * side * jax.random.normal(keys[0], (n, 3, 2))
    boxes = boxes + jnp.concatenate([shift, shift], axis=-1)
    offset = settings.box_jitter / 6.0 * jax.random.normal(keys[1], (n, 2))
    whole = jnp.array([[0.0, 0.0, 1.0, 1.0]]) + jnp.concatenate([offset, offset], axis=-1)

    half = jax.image.resize(images, (n, h // 2, w // 2, 3), "linear")
    soft = jax.image.resize(half, images.shape, "linear")
    images = images + settings.blur * jax.random.uniform(keys[2], (n, 1, 1, 1)) * (soft - images)
    gain = 1.0 + 0.1 * jax.random.normal(keys[3], (n, 1, 1, 1))
    images = jnp.clip(gain * images + 0.1 * jax.random.normal(keys[4], (n, 1, 1, 3)), -1.0, 1.0)

    mirror = jax.random.bernoulli(keys[5], shape=(n, 1))
    seen = views(images, boxes, whole)
    flipped = mirrored_views(seen)
    inputs = {name: jnp.where(mirror[..., None, None], flipped[name], view) for name, view in seen.items()}
    exp = jnp.where(mirror, batch["exp"][:, static["permutation"]], batch["exp"])
    signs = jnp.array([[-1.0, 1.0, -1.0]])  # yaw and roll change sign in a mirror
    angles = jnp.where(mirror, signs * batch["angles"], batch["angles"])
    return (
        inputs,
        (exp - constants["exp_mean"][None]) / constants["exp_std"][None],
        (angles - constants["angle_mean"][None]) / constants["angle_std"][None],
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", required=True, help="directory of an embedded data set (data_prep.synthesize)")
    parser.add_argument("--steps", type=int, default=Settings.steps, help="(default %(default)s)")
    parser.add_argument("--out", help="also write the regressor into this directory")


def run(args: argparse.Namespace) -> int:
    if args.steps < 1:
        raise UserError(f"--steps must be at least 1, not {args.steps}")
    compile_cache.enable()
    regressor = cached_regressor(open_dataset(args.data), Settings(steps=args.steps))
    if args.out:
        regressor.save(Path(args.out))
    judged = regressor.info["accuracy"]
    shapes = ", ".join(f"{s} {judged['corr'][s]:.2f}" for s in SHAPES_SHOWN if judged["corr"].get(s) is not None)
    errors = f"AED {judged['aed']:.3f}, APD {judged['apd']:.4f} radians"
    log(f"regressor {regressor.fingerprint}: on {judged['n']} held-out frames {errors}, r {shapes}")
    return 0


if __name__ == "__main__":
    from nofa_jax.__main__ import run_command
    from nofa_jax.cli import exit_code

    module = sys.modules["__main__"]
    sys.exit(exit_code(lambda: run_command(module, "python -m nofa_jax.metrics.train_regressor", sys.argv[1:])))
