"""The networks behind the kinds of `port.kinds`: built from a ported file's options, run on named arrays.

Every `…_network(options, dtype)` gives the variables' shapes and a function from (variables, inputs) to named outputs,
both numpy; `dtype` is what the convolutions compute in. Images go through a few at a time, so that memory does not grow
with their number.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from nofa_jax.extractors.arcface import FACE_SIZE, IRESNET_UNITS, IRSE50, IResNet
from nofa_jax.extractors.deep3d import IMAGE_SIZE, Deep3DRecon
from nofa_jax.extractors.gfpgan import GFPGAN
from nofa_jax.extractors.inception import INPUT_SIZE, FIDInception
from nofa_jax.extractors.lpips import build_lpips
from nofa_jax.face3d.bfm import BaselFaceModel
from nofa_jax.models.encoder import Encoder
from nofa_jax.models.irse import IRSETrunk
from nofa_jax.port.bfm import abstract_arrays
from nofa_jax.port.lpips import abstract_lpips

Arrays = dict[str, np.ndarray]
Variables = Mapping[str, Any]


@dataclass(frozen=True)
class Network:
    """Shapes of a network's variables, and how to run it."""

    target: Mapping[str, Any]
    run: Callable[[Variables, Arrays], Arrays]


def in_batches(function: Callable[..., dict[str, jax.Array]], size: int, *inputs: np.ndarray) -> Arrays:
    """`function` over at most `size` rows of the inputs at a time; the rows of its outputs together again."""
    parts = [function(*(x[i : i + size] for x in inputs)) for i in range(0, len(inputs[0]), size)]
    return {name: np.concatenate([np.asarray(part[name]) for part in parts]) for name in parts[0]}


def _image_network(model: nn.Module, size: int, output: str, rows: int, pixels: Any = jnp.float32) -> Network:
    """A network from one image to one array."""
    target = jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct((1, size, size, 3), pixels))

    def run(variables: Variables, inputs: Arrays) -> Arrays:
        apply = jax.jit(lambda v, image: {output: model.apply(v, image)})
        on_device = jax.tree.map(jnp.asarray, dict(variables))
        return in_batches(lambda image: apply(on_device, image), rows, inputs["image"])

    return Network(target, run)


def irse50_network(options: Mapping[str, Any], dtype: Any = jnp.float32) -> Network:
    return _image_network(IRSE50(dtype=dtype), 256, "embedding", rows=16)


def iresnet_network(options: Mapping[str, Any], dtype: Any = jnp.float32) -> Network:
    return _image_network(IResNet(IRESNET_UNITS[options["depth"]], dtype=dtype), FACE_SIZE, "embedding", rows=16)


def inception_network(options: Mapping[str, Any], dtype: Any = jnp.float32) -> Network:
    return _image_network(FIDInception(dtype=dtype), INPUT_SIZE, "features", rows=8, pixels=jnp.uint8)


def deep3d_network(options: Mapping[str, Any], dtype: Any = jnp.float32) -> Network:
    return _image_network(Deep3DRecon(dtype=dtype), IMAGE_SIZE, "coeffs", rows=8)


def gfpgan_network(options: Mapping[str, Any], dtype: Any = jnp.float32) -> Network:
    return _image_network(GFPGAN(dtype=dtype), 512, "image", rows=1)


def lpips_network(options: Mapping[str, Any], dtype: Any = jnp.float32) -> Network:
    model = build_lpips(options["net"], dtype)

    def run(variables: Variables, inputs: Arrays) -> Arrays:
        apply = jax.jit(lambda v, a, b: {"distance": model.apply(v, a, b)})
        on_device = jax.tree.map(jnp.asarray, dict(variables))
        return in_batches(lambda a, b: apply(on_device, a, b), 4, inputs["image_a"], inputs["image_b"])

    return Network(abstract_lpips(options["net"]), run)


def encoder_network(options: Mapping[str, Any], dtype: Any = jnp.float32) -> Network:
    """e4e's encoder with options["codes"] style codes; 0: the trunk alone, which gives the features but no codes."""
    count = options["codes"]
    if type(count) is not int or not 0 <= count <= 64:
        raise ValueError(f"codes is {count!r}")
    model = Encoder(num_ws=count, dtype=dtype) if count else IRSETrunk(dtype=dtype)
    image = jax.ShapeDtypeStruct((1, 256, 256, 3), jnp.float32)
    target = dict(jax.eval_shape(model.init, jax.random.key(0), image))
    if options.get("latent_avg"):
        target["buffers"] = {"latent_avg": jax.ShapeDtypeStruct(tuple(options["latent_avg"]), np.float32)}

    def apply(variables: Variables, image: jax.Array) -> dict[str, jax.Array]:
        if not count:
            return dict(zip(("c1", "c2", "c3"), model.apply(variables, image).groups[1:], strict=True))
        features = model.apply(variables, image, method="features")
        codes = model.apply(variables, features, method="codes")
        return {"codes": codes, "c1": features.c1, "c2": features.c2, "c3": features.c3}

    def run(variables: Variables, inputs: Arrays) -> Arrays:
        jitted = jax.jit(apply)
        on_device = {name: jax.tree.map(jnp.asarray, variables[name]) for name in ("params", "batch_stats")}
        return in_batches(lambda image: jitted(on_device, image), 4, inputs["image"])

    return Network(target, run)


def bfm_network(options: Mapping[str, Any], dtype: Any = jnp.float32) -> Network:
    """The face model, always float32; options are its sizes, see `port.bfm.abstract_arrays`."""

    def apply(arrays: Mapping[str, jax.Array], coeffs: jax.Array) -> dict[str, jax.Array]:
        model = BaselFaceModel(**arrays)
        split = model.split(coeffs)
        return {
            "vertices": model.vertices(split.id, split.exp),
            "landmarks": model.landmarks(split),
            "color": model.colors(split),
        }

    def run(variables: Variables, inputs: Arrays) -> Arrays:
        jitted = jax.jit(apply)
        on_device = jax.tree.map(jnp.asarray, dict(variables["buffers"]))
        return in_batches(lambda coeffs: jitted(on_device, coeffs), 16, inputs["coeffs"])

    return Network(abstract_arrays(options), run)
