"""Gradients of every network that training goes through, reverse mode against central differences at small sizes."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.extractors.arcface import IRSE50
from nofa_jax.extractors.gfpgan import GFPGAN
from nofa_jax.extractors.lpips import build_lpips
from nofa_jax.models.compensation import Compensation
from nofa_jax.models.deformation import Deformation
from nofa_jax.models.generator import Generator
from nofa_jax.models.renderer import Decoder, VolumeRenderer
from nofa_jax.models.superres import SuperResolution
from nofa_jax.types import Rays
from tests.quick import fast_compile
from tests.tolerances import DIFFERENCES_RTOL

STEP = 1e-3  # times the input's norm, along the gradient: where the signal is largest and the fewest kinks are met
RNG = np.random.default_rng(0)
Case = tuple[Callable[[Any, jax.Array], jax.Array], Any, jax.Array]  # output, variables, input


def normal(*shape: int) -> jax.Array:
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def variables(module: Any, *inputs: Any) -> dict:
    """Normal draws; kernels over the root of their inputs, variances positive."""

    def draw(path: Any, leaf: jax.ShapeDtypeStruct) -> jax.Array:
        name = path[-1].key
        if name in ("var", "scale") or name.startswith("head"):
            return jnp.asarray(RNG.uniform(0.5, 1.5, leaf.shape), leaf.dtype)
        stylegan = isinstance(module, Generator | SuperResolution | VolumeRenderer)  # scales its weights itself
        gain = 1.0 if stylegan or leaf.ndim < 2 else np.sqrt(2 / np.prod(leaf.shape[:-1]))
        return normal(*leaf.shape) * gain * (0.1 if name == "bias" else 1.0)

    return jax.tree_util.tree_map_with_path(draw, jax.eval_shape(module.init, jax.random.key(0), *inputs))


def lpips(net: str) -> Case:
    model, a, b = build_lpips(net), normal(1, 40, 36, 3) / 3, normal(1, 40, 36, 3) / 3
    return lambda v, x: model.apply(v, x, b), variables(model, a, b), a


def arcface() -> Case:
    model, x = IRSE50(units=(1, 1), widths=(8, 12), features=16, stem_width=8), normal(1, 64, 64, 3) / 3
    return model.apply, variables(model, x), x


def generator() -> Case:
    model = Generator(8, 25, 8, plane_resolution=16, plane_channels=2, channel_base=64, channel_max=4)
    ws = normal(1, model.num_ws, 8)
    return lambda v, w: model.apply(v, w).planes, variables(model, ws), ws


def superres() -> Case:
    model = SuperResolution(8, 32, (6, 4))
    x, ws = normal(1, 8, 8, 5), normal(1, 2, 8)
    return lambda v, x: model.apply(v, x, ws), variables(model, x, ws), x


def renderer() -> Case:
    """One pass: where the second one looks carries no gradient on purpose, but moves the numeric one."""
    model = VolumeRenderer(Decoder(4, 8), samples=12, importance_samples=0)
    directions = 0.1 * normal(1, 20, 3) - jnp.array([[[0, 0, 1.0]]])
    directions /= jnp.linalg.norm(directions, axis=-1, keepdims=True)
    rays = Rays(origins=jnp.broadcast_to(jnp.array([[[0, 0, 2.7]]]), (1, 20, 3)), directions=directions)
    planes = normal(1, 3, 8, 8, 4)

    def output(v: Any, planes: jax.Array) -> jax.Array:
        out = model.apply(v, planes, rays)
        return jnp.concatenate([out.features, out.depth[..., None], out.weights[..., None]], axis=-1)

    return output, variables(model, planes, rays), planes


def compensation() -> Case:
    model = Compensation(channels=(6, 4, 4), plane_channels=2, hidden=4)
    feature, photo = normal(1, 4, 4, 6), normal(1, 8, 8, 3)
    return lambda v, f: model.apply(v, f, photo), variables(model, feature, photo), feature


def deformation() -> Case:
    """One octave: of seven the highest turns by a quarter between the two points that are compared."""
    model = Deformation(depth=3, width=12, skip=1, weight_depth=2, weight_width=8, octaves=1, modulate=True)
    points, alpha, beta = 0.3 * normal(1, 20, 3), normal(1, 5), normal(1, 4)
    return lambda v, x: model.apply(v, x, alpha, beta).x_canonical, variables(model, points, alpha, beta), points


def gfpgan() -> Case:
    """To the picture, which no loss takes: the teeth stage stops the gradient there."""
    model, x = GFPGAN(unet_channels=(4, 6, 8), decoder_channels=(12, 12, 8), code_dim=16), normal(1, 16, 16, 3) / 3
    return model.apply, variables(model, x), x


CASES: dict[str, Callable[[], Case]] = {
    "lpips-alex": lambda: lpips("alex"),
    "lpips-vgg": lambda: lpips("vgg"),
    "arcface-irse50": arcface,
    "generator": generator,
    "superres": superres,
    "renderer": renderer,
    "compensation": compensation,
    "deformation": deformation,
    "gfpgan": gfpgan,
}


@pytest.mark.parametrize("name", CASES)
def test_gradient(name: str) -> None:
    output, v, x = CASES[name]()
    weights = normal(*jax.eval_shape(output, v, x).shape)

    def loss(v: Any, x: jax.Array) -> jax.Array:
        return jnp.sum(weights * output(v, x))

    with fast_compile():
        gradient = jax.jit(jax.grad(loss, argnums=1))(v, x)
        assert jnp.isfinite(gradient).all()
        length = float(jnp.linalg.norm(gradient))
        step = gradient * (STEP * float(jnp.linalg.norm(x)) / length)
        run = jax.jit(loss)
        numeric = (run(v, x + step) - run(v, x - step)) / (2 * STEP * float(jnp.linalg.norm(x)))
    np.testing.assert_allclose(length, numeric, rtol=DIFFERENCES_RTOL)
