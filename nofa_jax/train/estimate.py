"""What a run will take, before it is started: parameters, FLOPs, memory and time, from shapes alone."""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from nofa_jax import build
from nofa_jax.errors import UserError
from nofa_jax.extractors.arcface import IRSE50
from nofa_jax.extractors.gfpgan import GFPGAN
from nofa_jax.extractors.lpips import build_lpips
from nofa_jax.losses import identity, perceptual
from nofa_jax.ops.resample import resize
from nofa_jax.train.frozen import Frozen
from nofa_jax.train.objective import Objective
from nofa_jax.train.stages import Stage, begin_stage, plan
from nofa_jax.train.state import TrainState, split_params
from nofa_jax.types import Batch, Frame

IMAGE_SIZES = {"id": 256, "restorer": 512}  # what ArcFace and GFPGAN are initialised with


@dataclasses.dataclass(frozen=True)
class StageEstimate:
    """One stage on `devices` devices; bytes are those of one device, FLOPs those of a step on all of them."""

    name: str
    steps: int
    batch_size: int
    devices: int
    parameters: int  # numbers, of the whole model
    trained: int  # of these in this stage
    networks: int  # numbers in the frozen networks of the losses
    flops: float
    state_bytes: int
    input_bytes: int  # networks and this device's rows of the batch
    temporary_bytes: int | None  # XLA's count for the CPU; None: not compiled
    checkpoint_bytes: int

    @property
    def memory_bytes(self) -> int | None:
        """The most one device holds."""
        if self.temporary_bytes is None:
            return None
        return self.state_bytes + self.input_bytes + self.temporary_bytes

    def hours(self, teraflops: float) -> float:
        """At so many 1e12 FLOP/s sustained by each device."""
        return self.flops * self.steps / (teraflops * 1e12 * self.devices) / 3600


def estimate(config: ConfigDict, devices: int, compiled: bool = True) -> list[StageEstimate]:
    """Every stage of `config`. `compiled`: also compile for the CPU, which takes minutes at full size, for the memory.

    FLOPs are those of the program before optimisation, all rays at once (XLA counts a loop's body once, so chunks of
    rays would be left out), including what rematerialisation computes twice. They grow with the batch and nothing else,
    and so do temporaries. Raises UserError when the batch cannot be shared by so many devices.
    """
    rows = build.rows_at_a_time(config)
    fsdp = config.mesh.fsdp
    if devices < 1 or rows % devices or fsdp < 1 or devices % fsdp:
        raise UserError(f"{rows} examples at a time cannot be shared by {devices} devices with mesh.fsdp={fsdp}")
    model = build.build_model(config)
    variables = dict(
        jax.eval_shape(lambda: build.init_variables(config, model, _counts(config), jax.random.key(config.seed)))
    )
    params = variables.pop("params")
    losses = abstract_objective(config)
    return [_stage(config, stage, params, variables, losses, devices, compiled) for stage in plan(config)]


def abstract_objective(config: ConfigDict) -> Objective:
    """The config's losses with shapes in place of the networks' weights: nothing needs to be at hand."""
    t, key = config.train, jax.random.key(0)
    dtype = build.DTYPES[config.model.dtype]
    looks = Frozen("laplacian-pyramid", lambda variables, a, b: perceptual.laplacian_pyramid(a, b))
    if t.perceptual.startswith("lpips-"):
        lpips = build_lpips(t.perceptual.removeprefix("lpips-"))
        image = jnp.zeros((1, 64, 64, 3))
        looks = Frozen(
            t.perceptual,
            functools.partial(perceptual.lpips, lpips.apply),
            jax.eval_shape(lpips.init, key, image, image),
        )
    person = Frozen("lowpass-cosine", lambda variables, a, b: identity.lowpass_cosine(a, b))
    if t.identity == "arcface-irse50":
        arcface = IRSE50()

        def distance(variables: PyTree, a: jax.Array, b: jax.Array) -> jax.Array:
            return identity.cosine_distance(*(arcface.apply(variables, x) for x in (a, b)))

        image = jnp.zeros((1, IMAGE_SIZES["id"], IMAGE_SIZES["id"], 3))
        person = Frozen(t.identity, distance, jax.eval_shape(arcface.init, key, image))
    restorer = None
    if any(term.startswith("teeth") for stage in plan(config) for term in stage.options.losses):
        gfpgan, size = GFPGAN(dtype=dtype), IMAGE_SIZES["restorer"]

        def restore(variables: PyTree, image: jax.Array) -> jax.Array:
            return gfpgan.apply(variables, resize(image, (size, size)))

        restorer = Frozen("gfpgan", restore, jax.eval_shape(gfpgan.init, key, jnp.zeros((1, size, size, 3))))
    return Objective(looks, person, t.mouth_size, restorer)


def abstract_batch(config: ConfigDict, rows: int) -> Batch:
    """Shapes of `rows` examples."""
    size, (alpha, beta) = config.data.size, _counts(config)
    shapes: dict[str, tuple[int, ...]] = {"image": (size, size, 3), "mask": (size, size), "landmarks": (68, 2)}
    shapes |= {"cam2world": (4, 4), "intrinsics": (3, 3), "id_coeff": (alpha,), "exp_coeff": (beta,)}

    def frame(*lead: int) -> Frame:
        return Frame(**{name: jax.ShapeDtypeStruct((*lead, *shape), jnp.float32) for name, shape in shapes.items()})

    return Batch(
        source=frame(rows),
        target=frame(rows, config.train.targets_per_source),
        clip=jax.ShapeDtypeStruct((rows,), jnp.int32),
    )


def _stage(
    config: ConfigDict,
    stage: Stage,
    params: PyTree,
    constants: PyTree,
    losses: Objective,
    devices: int,
    compiled: bool,
) -> StageEstimate:
    state = jax.eval_shape(functools.partial(begin_stage, config, stage), params, constants)
    share = config.train.batch_size // devices
    batch = abstract_batch(config, share)
    weights = dict.fromkeys(stage.options.losses, jax.ShapeDtypeStruct((), jnp.float32))
    arguments = (state, batch, weights, losses.networks)

    whole = config.copy_and_resolve_references().unlock()
    whole.model.renderer.ray_chunk, whole.train.accumulate = 0, 1
    cost = build.train_step(whole, build.build_model(whole), losses, stage, state).lower(*arguments).cost_analysis()
    temporary = None
    if compiled:
        program = build.train_step(config, build.build_model(config), losses, stage, state).lower(*arguments).compile()
        temporary = _known(program.memory_analysis()).temp_size_in_bytes
        if config.mesh.fsdp > 1:
            temporary += nbytes(params)  # fetched whole where they are used
    trained, _ = split_params(params, stage.options.trainable)
    return StageEstimate(
        name=stage.name,
        steps=stage.stop - stage.start,
        batch_size=config.train.batch_size,
        devices=devices,
        parameters=count(params),
        trained=count(trained),
        networks=count(losses.networks),
        flops=_known(cost)["flops"] * devices,
        state_bytes=_state_bytes(state, config.mesh.fsdp),
        input_bytes=nbytes(losses.networks) + nbytes(batch),
        temporary_bytes=temporary,
        checkpoint_bytes=nbytes(state),
    )


def _state_bytes(state: TrainState, fsdp: int) -> int:
    """On one device, when parameters, averages and moments are cut into `fsdp` parts (as if small ones were, too)."""
    cut = nbytes((state.params, state.ema, state.opt_state))
    return cut // fsdp + nbytes(state.constants)


def _known(analysis: Any) -> Any:
    """XLA's answer, which it may leave out on some backend, though not on the CPU."""
    if analysis is None:
        raise UserError("this version of XLA does not analyse programs for the CPU")
    return analysis


def _counts(config: ConfigDict) -> tuple[int, int]:
    """(alpha, beta); where the config leaves them to the data's head, those of the embedded one, which are near."""
    alpha, beta = build.coefficient_counts(config)
    if alpha and beta:
        return alpha, beta
    head = build.morphable_model(config)
    return head.num_id, head.num_exp


def count(tree: PyTree) -> int:
    """How many numbers."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


def nbytes(tree: PyTree) -> int:
    """How many bytes."""
    return sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
