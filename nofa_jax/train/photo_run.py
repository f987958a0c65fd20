"""train.py on one photo: a config with a `photo` (finetune.py, pti.py) adapts an earlier run's model to it.

The result is a run of its own: its checkpoint holds the adapted model, which render and eval take like any other.
"""

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from nofa_jax import build
from nofa_jax.media.grid import image_grid, to_uint8, write_png
from nofa_jax.metrics.image import psnr
from nofa_jax.metrics.protocol import Avatar, Views, blind, load_views, model_avatar, padded, rows_of
from nofa_jax.progress import log
from nofa_jax.train.checkpoint import Checkpointer, load
from nofa_jax.train.digest import params_digest
from nofa_jax.train.earlier_run import load_run
from nofa_jax.train.log import MetricWriter
from nofa_jax.train.provenance import record_run
from nofa_jax.types import Frame

BATCH = 8  # pictures rendered at once


def adapt(config: ConfigDict, workdir: Path, accept_changes: bool = False) -> int:
    """Runs the config's stages on its photo, keeps the result in `workdir`; a finished run only says so again.

    Writes one row of metrics, PSNR before and after of the photo and, for a person of a data set, of the other frames;
    and a picture. Raises UserError for an unreadable photo or run.
    """
    with Checkpointer(workdir) as checkpoints:
        finished = checkpoints.steps()
        record_run(workdir, config, resuming=bool(finished), accept_changes=accept_changes)
        if finished:
            params, done = load(workdir, ("ema",)).state["ema"], finished[-1]
        else:
            person, counts = _person(config)
            model = build.build_model(config)
            abstract = jax.eval_shape(lambda: build.init_variables(config, model, counts, jax.random.key(0)))
            variables = load_run(config, abstract)
            tuner = build.photo_finetuner(config, model)
            result = tuner(variables, jax.tree.map(jnp.asarray, person.source))
            params, done = result.variables["params"], result.steps
            log(f"adapted to the photo: {done} steps in {result.seconds:.1f} s, ended by: {result.stopped}")
            avatar_of = model_avatar(model, build.rendering(config))
            avatars = [padded(avatar_of(v), BATCH) for v in (variables, result.variables)]
            losses = {tuner.objective.names.get(name, name): value for name, value in result.losses.items()}
            with MetricWriter(workdir) as metrics:
                metrics.scalars(done, losses | _scores(avatars, person))
            write_png(workdir / "photo.png", _picture(avatars, person.source))
            constants = {name: tree for name, tree in result.variables.items() if name != "params"}
            state = {"step": jnp.asarray(done), "params": params, "ema": params, "constants": constants}
            checkpoints.save(done, state)
    log(f"done step={done} params={params_digest(params)}")
    return 0


def _person(config: ConfigDict) -> tuple[Views, tuple[int, int]]:
    """The photo, other frames of that person where there are any, and the numbers of coefficients."""
    photo = config.photo
    if photo.file:
        from nofa_jax.avatar import find_head, frame_of

        head = build.morphable_model(config)
        source = frame_of(*find_head(photo.file, head), config, head)
        none = rows_of(source, np.zeros(0, np.int64))
        return Views(0, source, none), build.coefficient_counts(
            config, {"n_id": head.num_id, "n_exp": head.num_exp, "head": head.name}
        )
    dataset = build.dataset(config)
    person = load_views(dataset, photo.split, photo.identity + 1, config.seed)[photo.identity]
    return person, build.coefficient_counts(config, dataset.metadata)


def _scores(avatars: list[Avatar], person: Views) -> dict[str, float]:
    """PSNR in dB, pictures rounded to 8 bits."""
    scores: dict[str, float] = {}
    for when, avatar in zip(("before", "after"), avatars, strict=True):
        for what, drive in (("source", person.source), ("other", person.others)):
            if len(drive.cam2world):
                made = to_uint8(_drive(avatar, person.source, drive))
                truth = to_uint8(np.asarray(drive.image))
                scores[f"{what}_psnr_{when}"] = float(psnr(made / 255.0, truth / 255.0).mean())
    log(", ".join(f"{name} {value:.2f}" for name, value in scores.items()))
    return scores


def _drive(avatar: Avatar, source: Frame, drive: Frame) -> np.ndarray:
    rows = rows_of(source, np.zeros(len(drive.cam2world), np.int64))
    return np.asarray(avatar(rows, blind(drive), True))


def _picture(avatars: list[Avatar], source: Frame) -> np.ndarray:
    """Rows before and after: the photo, the model at its camera, and 20 degrees to either side."""
    from nofa_jax.avatar import camera_for_pose

    cameras = np.stack([np.asarray(source.cam2world[0]), *(camera_for_pose(yaw, 0.0, 0.0) for yaw in (-20.0, 20.0))])
    views: Any = rows_of(source, np.zeros(len(cameras), np.int64)).replace(cam2world=cameras)
    photo = to_uint8(np.asarray(source.image[0]))
    rows = [[photo, *to_uint8(_drive(avatar, source, views))] for avatar in avatars]
    return image_grid(rows, ("photo", "model", "left", "right"), ("before", "after"))
