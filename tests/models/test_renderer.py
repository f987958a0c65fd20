"""Decoder and volume renderer: EG3D's numbers, chunks, deformation, randomness."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from nofa_jax.models.renderer import Decoder, VolumeRenderer
from nofa_jax.rendering import camera, sampling
from tests import tolerances
from tests.eg3d_golden import assert_matches, golden
from tests.models.random_init import random_variables

OPTIONS = {
    "fixed": {},
    "given_random": {},
    "coarse_only": {"importance_samples": 0},
    "auto_limits_white": {"near": "auto", "far": "auto", "white_back": True},
}


def _decoder_params(g) -> dict:
    layers = {"hidden_layer": "osg.net.0", "output_layer": "osg.net.2"}
    return {
        layer: {"kernel": g.input(f"{name}.weight").T, "bias": g.input(f"{name}.bias")}
        for layer, name in layers.items()
    }


def test_decoder_matches_eg3d():
    g = golden("ops")
    features = jnp.asarray(g["triplane/features"]).mean(axis=1)
    rgb, sigma = Decoder(4, 64).apply({"params": _decoder_params(g)}, features)
    assert_matches(g, "osg/rgb", rgb)
    assert_matches(g, "osg/sigma", sigma)


@pytest.mark.parametrize("case", list(OPTIONS))
def test_renderer_matches_eg3d(case):
    g = golden("ops")
    renderer = VolumeRenderer(Decoder(4, 64), samples=12, **{"importance_samples": 14} | OPTIONS[case])
    planes = jnp.moveaxis(jnp.asarray(g.input("tri_planes")), 2, -1)
    rays = camera.make_rays(*camera.split_label(jnp.asarray(g["in/labels"])), 6)
    variables = {"params": {"decoder": _decoder_params(g)}}
    if case == "fixed":
        out = jax.jit(renderer.apply)(variables, planes, rays)
    else:
        jitter = jnp.asarray(g.input("r_jitter"))[..., 0]
        u = jnp.sort(jnp.asarray(g.input("r_u")).reshape(2, 36, 14), axis=-1)  # order does not change the picture
        if renderer.near == "auto":
            near, far = sampling.auto_limits(rays.origins, rays.directions, renderer.box_warp)
        else:
            near, far = renderer.near, renderer.far
        run = jax.jit(functools.partial(renderer.apply, method="render_at"))
        out = run(variables, planes, rays, sampling.stratified(near, far, jitter), u)
    assert_matches(g, f"renderer/{case}_rgb", out.features)
    assert_matches(g, f"renderer/{case}_depth", out.depth[..., None])
    assert_matches(g, f"renderer/{case}_wsum", out.weights[..., None])


class _Shift(nn.Module):
    """A deformation with a parameter."""

    @nn.compact
    def __call__(self, points):
        return points + self.param("offset", nn.initializers.constant(0.05), (3,))[None, None]


class _Scene(nn.Module):
    renderer: VolumeRenderer
    deformation: nn.Module

    def __call__(self, planes, rays, key=None):
        return self.renderer(planes, rays, deform=self.deformation, key=key)


@functools.cache
def _scene():
    scene = _Scene(VolumeRenderer(Decoder(4, 8), samples=5, importance_samples=4), _Shift())
    planes = 3 * jnp.asarray(np.random.default_rng(1).normal(size=(2, 3, 8, 8, 6)), jnp.float32)
    poses = camera.look_at(jnp.array([0.3, -0.4]), jnp.array([0.1, 0.0]))
    rays = camera.make_rays(poses, jnp.tile(camera.fov_to_intrinsics(18.837)[None], (2, 1, 1)), 5)
    variables = random_variables(scene, planes, rays)
    variables["params"]["deformation"]["offset"] = jnp.full((3,), 0.05)
    return scene, variables, planes, rays


@functools.cache
def _loss(scene):
    _, _, _, rays = _scene()

    def loss(variables, planes):
        out = scene.apply(variables, planes, rays)
        return jnp.square(out.features).mean() + out.depth.mean() + out.weights.mean()

    return jax.jit(jax.value_and_grad(loss, (0, 1)))


def test_chunks_and_remat_change_nothing():
    """Values and gradients, those of a bound deformation module's parameter included."""
    scene, variables, planes, _rays = _scene()
    expected = _loss(scene)(variables, planes)
    assert jnp.abs(expected[1][0]["params"]["deformation"]["offset"]).max() > 0
    chunked = scene.clone(renderer=dataclasses.replace(scene.renderer, ray_chunk=7, remat=True))
    found = _loss(chunked)(variables, planes)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerances.OPS_RTOL, atol=tolerances.OPS_ATOL)


def test_key_gives_random_but_repeatable_samples():
    scene, variables, planes, rays = _scene()
    render = jax.jit(lambda key: scene.apply(variables, planes, rays, key).features)
    first, again, other = (render(jax.random.key(k)) for k in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert jnp.abs(first - other).max() > 1e-4


def test_a_deformation_moves_the_points():
    """Shifting the points by the deformation = shifting the rays without it."""
    scene, variables, planes, rays = _scene()
    deformed = jax.jit(scene.apply)(variables, planes, rays)
    plain = scene.renderer.clone(parent=None)
    shifted = rays.replace(origins=rays.origins + 0.05)
    moved = jax.jit(plain.apply)({"params": variables["params"]["renderer"]}, planes, shifted)
    np.testing.assert_allclose(deformed.features, moved.features, atol=tolerances.OPS_ATOL)


def test_opacity_is_a_fraction_and_a_window_of_rays_a_crop():
    scene, variables, planes, rays = _scene()
    run = jax.jit(scene.apply)
    out = run(variables, planes, rays)
    assert (out.weights >= 0).all()
    assert (out.weights <= 1 + tolerances.OPS_ATOL).all()
    assert (out.features >= -1.01).all()
    assert (out.features <= 1.01).all()
    part = jax.tree.map(lambda x: x[:, 6:13], rays)
    np.testing.assert_allclose(run(variables, planes, part).features, out.features[:, 6:13], atol=tolerances.OPS_ATOL)


def test_empty_planes_give_finite_gradients():
    scene, variables, planes, _rays = _scene()
    flat = traverse_util.flatten_dict(variables)
    flat["params", "renderer", "decoder", "output_layer", "bias"] = jnp.full((5,), -1e4)
    value, gradients = _loss(scene)(traverse_util.unflatten_dict(flat), jnp.zeros_like(planes))
    assert np.isfinite(value)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))
