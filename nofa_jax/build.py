"""From a config to modules, data and losses: the only reader of the configs' names."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jaxtyping import Array, PyTree
from ml_collections import ConfigDict

from nofa_jax.data.records import Dataset, open_dataset
from nofa_jax.errors import UserError
from nofa_jax.face3d.model import MorphableModel, load_morphable_model, tracker_for
from nofa_jax.models.compensation import Compensation
from nofa_jax.models.deformation import Deformation
from nofa_jax.models.encoder import Encoder
from nofa_jax.models.generator import Generator
from nofa_jax.models.nofa import NOFA
from nofa_jax.models.renderer import Decoder, VolumeRenderer
from nofa_jax.models.superres import SuperResolution
from nofa_jax.ops.resample import resize
from nofa_jax.port.init import load_initial
from nofa_jax.progress import log
from nofa_jax.train.earlier_run import load_run, missing_run
from nofa_jax.train.finetune import Finetuner, Limits, Phase
from nofa_jax.train.frozen import identity_network, perceptual_network, restoring_network
from nofa_jax.train.mesh import state_shardings
from nofa_jax.train.objective import Objective
from nofa_jax.train.stages import Stage, begin_stage, plan, stage_optimizer
from nofa_jax.train.state import TrainState
from nofa_jax.train.step import Rendering, make_train_step
from nofa_jax.train.warm_start import warm_start
from nofa_jax.weights import missing_message, weight_path

DTYPES = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}


def build_model(config: ConfigDict) -> NOFA:
    """The six boxes of the paper's figure 2, sized by config.model."""
    m = config.model
    if m.dtype not in DTYPES:
        raise UserError(f"config.model.dtype is one of {', '.join(DTYPES)}, not {m.dtype!r}")
    _check_sizes(config)
    dtype = DTYPES[m.dtype]
    generator = _module(Generator, "generator", dtype=dtype, **m.generator)
    renderer = dict(m.renderer)
    decoder = Decoder(renderer.pop("decoder_features"), renderer.pop("decoder_width"), dtype=dtype)
    return NOFA(
        halo=m.halo,
        encoder=_module(
            Encoder,
            "encoder",
            input_resolution=m.source_size,
            num_ws=generator.num_ws,
            w_dim=m.generator.w_dim,
            dtype=dtype,
            **m.encoder,
        ),
        generator=generator,
        compensation=_module(
            Compensation, "compensation", plane_channels=m.generator.plane_channels, dtype=dtype, **m.compensation
        ),
        deformation=_module(Deformation, "deformation", dtype=dtype, **m.deformation),
        renderer=_module(VolumeRenderer, "renderer", decoder=decoder, **renderer),
        superres=_module(
            SuperResolution,
            "superres",
            input_resolution=m.rendering_resolution,
            output_resolution=m.output_size,
            dtype=dtype,
            **m.superres,
        ),
    )


def _check_sizes(config: ConfigDict) -> None:
    """Sizes that do not fit together, found before anything compiles. Raises UserError naming the field."""
    m, t = config.model, config.train
    options = [stage.options for stage in plan(config)]
    feature = min(m.generator.channel_base // (m.generator.plane_resolution // 4), m.generator.channel_max)
    rules = {
        "model.renderer.samples must be at least 2": m.renderer.samples >= 2,
        "model.renderer.near must be less than far": m.renderer.near < m.renderer.far,
        "model.output_size must be 1, 2 or 4 times model.rendering_resolution": m.rendering_resolution > 0
        and m.output_size / m.rendering_resolution in (1, 2, 4),
        "model.source_size must be a power of two of at least 32": _power_of_two(m.source_size, 32),
        "model.generator.plane_resolution must be a power of two of at least 16": _power_of_two(
            m.generator.plane_resolution, 16
        ),
        f"model.compensation.channels must begin with the generator's feature width, {feature}": tuple(
            m.compensation.channels
        )[:1]
        == (feature,),
        "data.size must equal model.output_size": config.data.size == m.output_size,
        "train.window must be at most model.rendering_resolution": 0 <= t.window <= m.rendering_resolution,
        "train.window must be 0 with teeth losses: GFPGAN restores whole faces": not t.window
        or not any(term.startswith("teeth_") for stage in options for term in stage.losses),
        "train.targets_per_source must be at least 1, or 0 where every stage is self-supervised": t.targets_per_source
        >= (0 if all(stage.self_supervised for stage in options) else 1),
        "train.steps, batch_size and the *_every intervals must be at least 1": min(
            t.steps, t.batch_size, t.checkpoint_every, t.log_every, t.preview_every
        )
        >= 1,
    }
    for rule, holds in rules.items():
        if not holds:
            raise UserError(f"config: {rule}")


def _power_of_two(value: int, least: int) -> bool:
    return value >= least and value & (value - 1) == 0


def _module(cls: Any, name: str, **fields: Any) -> Any:
    """cls(**fields); the module's own fields are the config's schema, so a typo is an error that names it."""
    try:
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()})
    except TypeError as error:
        raise UserError(
            f"config.model.{name}: {error}; its fields are those of {cls.__module__}.{cls.__name__}"
        ) from error


def coefficient_counts(config: ConfigDict, metadata: Mapping[str, Any] | None = None) -> tuple[int, int]:
    """(number of alpha, number of beta): the data set's, which must agree with the config where that names them.

    Raises UserError where they do not, or where the data set's coefficients are of another head or tracker than the
    config's.
    """
    wanted = (config.model.id_coeffs, config.model.exp_coeffs)
    if metadata is None:
        return wanted
    if metadata["head"] != config.data.head:
        raise UserError(
            f"config.data.head is {config.data.head}, but the data set's coefficients are of the head "
            f"{metadata['head']}: give --config.data.head={metadata['head']}, or another --config.data.path"
        )
    tracker = tracker_for(config.data.head, _tracker(config))
    if metadata.get("tracker", tracker) != tracker:  # embedded heads are not tracked
        raise UserError(
            f"the data set's coefficients are of the tracker {metadata['tracker']}, not of {tracker}: give "
            f"--config.data.tracker={metadata['tracker']}, or another --config.data.path"
        )
    found = (metadata["n_id"], metadata["n_exp"])
    for name, want, have in zip(("id_coeffs", "exp_coeffs"), wanted, found, strict=True):
        if want and want != have:
            raise UserError(f"config.model.{name} is {want}, but the data set has {have} (head {metadata['head']})")
    return found


def init_variables(config: ConfigDict, model: NOFA, counts: tuple[int, int], key: Array) -> PyTree:
    """All variable collections of the model; jitted, since eager initialisation takes minutes at full size."""
    size = config.model.source_size
    example = (
        jnp.zeros((1, size, size, 3)),
        jnp.eye(4)[None].at[:, 2, 3].set(2.7),
        jnp.array([[[4.2647, 0.0, 0.5], [0.0, 4.2647, 0.5], [0.0, 0.0, 1.0]]]),
        jnp.zeros((1, counts[0])),
        jnp.zeros((1, counts[1])),
    )
    resolution = config.model.rendering_resolution
    return jax.jit(lambda k: model.init(k, *example, resolution=resolution))(key)


def rendering(config: ConfigDict, stage: ConfigDict | None = None) -> Rendering:
    """How a stage renders; without a stage: whole images, deterministic, C on, as evaluation and the product do."""
    m, t = config.model, config.train
    if stage is None:  # C is exactly zero until a stage or a photo trains it
        return Rendering(m.rendering_resolution, m.output_size, compensate=True, jitter=False)
    return Rendering(
        resolution=m.rendering_resolution,
        output_size=m.output_size,
        window=t.window,
        focus=t.window_focus,
        compensate=stage.compensate,
        self_supervised=stage.self_supervised,
    )


def morphable_model(config: ConfigDict) -> MorphableModel:
    """The head behind alpha and beta, and the tracker that finds them in pictures."""
    return load_morphable_model(config.data.head, config.data.ict or None, _tracker(config))


def _tracker(config: ConfigDict) -> str:
    return config.data.get("tracker", "")  # the configs of earlier versions have none


def dataset(config: ConfigDict) -> Dataset:
    """Opens config.data.path, or makes the embedded heads that config.data describes (cached)."""
    d = config.data
    if d.path:
        return open_dataset(d.path)
    if not d.identities:
        raise UserError(missing_prerequisites(config))
    from data_prep.synthesize import make_dataset

    return open_dataset(
        make_dataset(
            ict_path=d.ict or None,
            workers=d.workers,
            head=d.head,
            size=d.size,
            identities=d.identities,
            frames=d.frames,
            seconds=d.seconds,
            seed=d.seed,
        )
    )


def initial_state(config: ConfigDict, model: NOFA, data: Dataset, stages: list[Stage], warm: bool = True) -> TrainState:
    """State at step 0: parameters of an earlier run, or random and ported ones with D warm-started if the config says
    so; on resume (`warm` is false) only the shapes count.
    """
    counts, key = coefficient_counts(config, data.metadata), jax.random.key(config.seed)
    if config.init_from.run:
        abstract = jax.eval_shape(lambda: init_variables(config, model, counts, key))
        empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), abstract)
        variables = dict(load_run(config, abstract) if warm else empty)
        warm = False  # D and the batch norm's statistics are past their start
    else:
        variables = dict(init_variables(config, model, counts, key))
    if warm and config.warm_start.encoder_batches:
        variables = calibrate_encoder(model, variables, data, config.warm_start.encoder_batches)
    if warm:
        variables = load_initial(variables, model, {part: config.init_from[part] for part in ("generator", "encoder")})
    params = dict(variables.pop("params"))
    if warm and config.warm_start.steps:
        records = np.linspace(0, data.num_frames("train") - 1, min(512, data.num_frames("train"))).astype(int)
        seen = data.frames("train", records).exp_coeff
        params["deformation"], errors = warm_start(
            model.deformation, params["deformation"], morphable_model(config), seen, config.warm_start, config.seed
        )
        log(f"warm start of D: relative error {errors['before']:.3f} -> {errors['after']:.3f}")
    return begin_stage(config, stages[0], params, variables)


def calibrate_encoder(model: NOFA, variables: dict, data: Dataset, batches: int) -> dict:
    """Sets the batch-norm statistics of a random encoder to those of `batches` x 16 training photos.

    A pretrained trunk brings its statistics; a random one would pass its input on ever weaker from unit to unit. They
    stay as they are afterwards, so training does not depend on the batch's size or on how many devices share it.
    """
    mine = {name: tree["encoder"] for name, tree in variables.items() if "encoder" in tree}
    size = model.encoder.input_resolution
    photos = data.frames("train", np.random.default_rng(0).integers(data.num_frames("train"), size=16 * batches)).image

    @jax.jit
    def update(mine: dict, image: Array) -> dict:
        _, changed = model.encoder.apply(mine, resize(image, (size, size)), train=True, mutable=["batch_stats"])
        return {**mine, **changed}

    for i in range(batches):
        mine = update(mine, photos[16 * i : 16 * (i + 1)])
    return {**variables, "batch_stats": {**variables["batch_stats"], "encoder": mine["batch_stats"]}}


def objective(config: ConfigDict, terms: Iterable[str] | None = None) -> Objective:
    """The losses, with the frozen networks that config.train names or the stand-ins that need no weights.

    terms: those that will be asked for; default all of the config's stages.
    """
    t = config.train
    wanted = {term for stage in plan(config) for term in stage.options.losses} if terms is None else set(terms)
    restorer = None
    if wanted & {"teeth_l2", "teeth_lpips"}:
        restorer = restoring_network(t.restorer, config.model.output_size, DTYPES[config.model.dtype])
    return Objective(
        perceptual_network(t.perceptual, t.stand_ins), identity_network(t.identity, t.stand_ins), t.mouth_size, restorer
    )


def rows_at_a_time(config: ConfigDict) -> int:
    """Examples whose gradient is taken at once, by all devices together."""
    t = config.train
    if t.accumulate < 1 or t.batch_size % t.accumulate:
        raise UserError(f"config: train.accumulate ({t.accumulate}) must divide train.batch_size ({t.batch_size})")
    return t.batch_size // t.accumulate


def train_step(
    config: ConfigDict, model: NOFA, losses: Objective, stage: Stage, state: TrainState, mesh: Mesh | None = None
) -> jax.stages.Wrapped:
    """The jitted step of a stage, as `train.step.make_train_step` describes it. `state` may be shapes alone."""
    options = stage.options
    return make_train_step(
        model,
        stage_optimizer(config, stage, state.params),
        losses,
        rendering(config, options),
        frozenset(options.losses),
        options.trainable,
        config.train.ema,
        config.seed,
        config.train.skip_nonfinite > 0,
        config.train.accumulate,
        mesh,
        state_shardings(mesh, state) if mesh is not None else None,
    )


def finetuner(config: ConfigDict, model: NOFA) -> Finetuner:
    """One-shot fine-tuning of C as config.finetune says: what eval and the product do."""
    f = config.finetune
    return _finetuner(config, model, (Phase(f.steps, f.learning_rate, dict(f.losses)),))


def photo_finetuner(config: ConfigDict, model: NOFA) -> Finetuner:
    """The stages of a config with a `photo`, as phases on that photo; their limits are config.finetune's."""
    phases = [
        Phase(
            stage.stop - stage.start,
            config.train.learning_rate,
            dict(stage.options.losses),
            stage.options.trainable,
            stage.options.compensate,
        )
        for stage in plan(config)
    ]
    return _finetuner(config, model, phases)


def _finetuner(config: ConfigDict, model: NOFA, phases: Sequence[Phase]) -> Finetuner:
    names = [name for name in ("seconds", "check_every", "patience") if name in config.finetune]  # older runs: none
    limits = Limits(**{name: config.finetune[name] for name in names})
    losses = objective(config, {term for phase in phases for term in phase.losses})
    return Finetuner(model, rendering(config), losses, phases, limits, config.seed)


def missing_prerequisites(config: ConfigDict) -> str:
    """What the config needs and does not find, or an empty string; with the command to run instead."""
    missing, start = [], config.init_from
    photo = config.photo.file if "photo" in config else ""
    if not (config.data.path or config.data.identities or photo):
        alone = all(config.stage[name].self_supervised for name in config.stages)
        paper = (
            "FFHQ, https://github.com/NVlabs/ffhq-dataset"
            if alone
            else "CelebV-HQ, https://github.com/CelebV-HQ/CelebV-HQ"
        )
        missing.append(f"config.data.path, a packed data set (the paper's: {paper}; format: data_prep/README.md)")
    if start.run and (text := missing_run(start.run, start.made_by)):
        missing.append(text)
    for name in sorted({n for n in (start.generator, start.encoder) if n and not weight_path(n).exists()}):
        missing.append(missing_message(name))
    if not missing:
        return ""
    return (
        f"{config.name} cannot start. Missing: "
        + "; ".join(f"({i}) {text}" for i, text in enumerate(missing, 1))
        + ". "
        "To train now, without any of these: `python train.py --config=configs/quickstart.py` (10 minutes) or "
        "`python train.py --config=configs/general.py:small` (longer, 128 pixels)"
    )


def load(workdir: str | Path, step: int | None = None) -> tuple[ConfigDict, NOFA, PyTree]:
    """(config, model, variables) of a training run, with the averaged parameters: what eval and the product use.

    Raises UserError when the directory holds no run or no good checkpoint.
    """
    from nofa_jax.train.checkpoint import load as load_items
    from nofa_jax.train.provenance import read_config

    config = read_config(workdir)
    found = load_items(workdir, ("ema", "constants"), step)
    return config, build_model(config), {"params": found.state["ema"], **found.state["constants"]}
