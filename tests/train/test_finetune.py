"""Adapting to one photo: held-out views, when it ends, what it changes, PTI, and the cache."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax import build
from nofa_jax.rendering.camera import make_rays
from nofa_jax.train import finetune, finetune_cache
from nofa_jax.train.finetune import Finetuner, Limits, _Best
from nofa_jax.train.held_out import orbit, warp_photo
from nofa_jax.types import Frame, Output
from tests.fakes import fake_frame, tiny_config
from tests.quick import fast_compile
from tests.train.test_stages import changed_parts


@pytest.fixture(scope="module")
def photo() -> Frame:
    return fake_frame(jax.random.key(3), (1,), 32)


@pytest.fixture(scope="module")
def variables() -> dict:
    config = tiny_config()
    with fast_compile():
        return dict(build.init_variables(config, build.build_model(config), (5, 6), jax.random.key(0)))


def plane_seen_by(cameras: jax.Array, intrinsics: jax.Array, size: int) -> Output:
    """Depth of the plane z = 0 from cameras in front of it, opaque everywhere."""
    rays = make_rays(cameras, jnp.repeat(intrinsics, len(cameras), axis=0), size)
    depth = (-rays.origins[..., 2] / rays.directions[..., 2]).reshape(-1, size, size, 1)
    return Output(depth, depth, depth, jnp.ones_like(depth), depth)


def test_a_photo_of_a_plane_seen_from_the_side(photo: Frame) -> None:
    """The photo's red is its own horizontal place; a camera to the side sees the place that its ray hits."""
    size = 16
    across = jnp.broadcast_to((jnp.arange(size) + 0.5)[None, None, :, None] / size, (1, size, size, 3))
    picture = photo.replace(image=across, mask=jnp.ones((1, size, size)))
    cameras = orbit(photo.cam2world)
    np.testing.assert_allclose(np.linalg.norm(cameras[:, :3, 3], axis=1), 2.7, rtol=1e-6)
    own = plane_seen_by(photo.cam2world, photo.intrinsics, size)
    views = plane_seen_by(cameras, photo.intrinsics, size)
    held_out = warp_photo(picture, own, cameras, views)
    rays = make_rays(cameras, jnp.repeat(photo.intrinsics, 2, axis=0), size)
    x = (rays.origins + views.image_depth.reshape(2, -1, 1) * rays.directions)[..., 0].reshape(2, size, size)
    wanted = 4.2647 * x / 2.7 + 0.5
    inside = (wanted > 0.5 / size) & (wanted < 1 - 0.5 / size) & (held_out.visible > 0)
    assert float(inside.mean()) > 0.7
    np.testing.assert_allclose(held_out.image[..., 0][inside], wanted[inside], atol=1e-4)
    hidden = own.replace(image_depth=own.image_depth - 0.1)  # something stood in front of all of it
    assert not np.any(warp_photo(picture, hidden, cameras, views).visible)
    background = picture.replace(mask=jnp.zeros((1, size, size)))
    assert not np.any(warp_photo(background, own, cameras, views).visible)


def test_hope_ends_after_some_looks_without_improvement() -> None:
    best = _Best(patience=2)
    seen = [best.improving(error, {"p": jnp.float32(i)}) for i, error in enumerate((1.0, 0.5, 0.499, 0.6))]
    assert seen == [True, True, True, False]  # 0.499 is no improvement worth waiting for, but the best there is
    assert float(best.trained["p"]) == 2.0


def test_fine_tuning_ends_by_itself_by_the_clock_or_when_told(photo: Frame, variables: dict, monkeypatch) -> None:
    config = tiny_config()
    with config.unlocked():
        config.finetune.update({"steps": 40, "check_every": 2, "patience": 2, "learning_rate": 0.0})
    tuner = build.finetuner(config, build.build_model(config))
    with fast_compile():
        nothing_seen = tuner(variables, photo, show_progress=False)  # a random model is transparent
        assert (nothing_seen.stopped, nothing_seen.steps, nothing_seen.held_out) == ("steps", 40, [])
        monkeypatch.setattr(finetune, "LEAST_VISIBLE", 0.0)
        result = tuner(variables, photo, show_progress=False)
        assert (result.stopped, result.steps) == ("no improvement", 4)  # at a rate of 0 nothing improves
        assert [step for step, _ in result.held_out] == [0, 2, 4]
        assert not changed_parts(variables["params"], result.variables["params"])
        tuner.limits = Limits(seconds=1e-6)
        assert tuner(variables, photo, show_progress=False).stopped == "time"
        tuner.phases = (dataclasses.replace(tuner.phases[0], learning_rate=1e-3),)
        exactly = tuner(variables, photo, 3, show_progress=False)
    assert (exactly.stopped, exactly.steps, exactly.held_out) == ("steps", 3, [])
    assert changed_parts(variables["params"], exactly.variables["params"]) == {"compensation"}


def test_pti_turns_the_latent_first_and_the_generator_around_it(photo: Frame, variables: dict) -> None:
    config = tiny_config("configs/pti.py:quickstart")
    model = build.build_model(config)
    tuner: Finetuner = build.photo_finetuner(config, model)
    assert [(phase.steps, phase.compensate) for phase in tuner.phases] == [(1, False), (3, False)]
    with fast_compile():
        result = tuner(variables, photo, show_progress=False)
        encode = jax.jit(lambda v: model.apply(v, photo.image, method="canonical_volume")[0].ws)
        before, after = encode(variables), encode(result.variables)
    changed = changed_parts(variables["params"], result.variables["params"])
    assert changed == {"encoder", "generator", "renderer", "superres"}
    mine, theirs = variables["params"]["encoder"], result.variables["params"]["encoder"]
    assert not changed_parts(mine["trunk"], theirs["trunk"])
    assert changed_parts(mine, theirs) == {name for name in mine if name.startswith("heads_")}
    moved = np.abs(after - before).max(axis=(0, 2))
    assert np.all(moved > 1e-4)  # every code of W+ is free


def test_the_cache_knows_the_photo_the_model_and_the_settings(photo: Frame, variables: dict) -> None:
    c = variables["params"]["compensation"]
    settings = finetune_cache.settings(tiny_config())
    key = finetune_cache.cache_key(photo, variables, settings)
    assert key == finetune_cache.cache_key(photo, variables, settings)
    other = photo.replace(image=photo.image.at[0, 0, 0, 0].add(1e-3))
    keys = {key, finetune_cache.cache_key(other, variables, settings)}
    keys.add(finetune_cache.cache_key(photo, variables, settings | {"steps": 7}))
    moved = jax.tree.map(lambda x: x + 1, c)
    keys.add(finetune_cache.cache_key(photo, {**variables, "params": {**variables["params"], "c": moved}}, settings))
    assert len(keys) == 4
    assert finetune_cache.load_compensation(key, c) is None
    finetune_cache.save_compensation(key, moved)
    found = finetune_cache.load_compensation(key, c)
    assert not changed_parts(moved, found)


def test_a_damaged_or_foreign_file_of_the_cache_is_passed_over(variables: dict, capsys) -> None:
    c = variables["params"]["compensation"]
    finetune_cache.save_compensation("k" * 64, c)
    path = finetune_cache._path("k" * 64)
    assert finetune_cache.load_compensation("k" * 64, {"other": np.zeros(3)}) is None
    path.write_bytes(path.read_bytes()[:100])
    assert finetune_cache.load_compensation("k" * 64, c) is None
    path.write_bytes(b"")
    assert finetune_cache.load_compensation("k" * 64, c) is None
    assert capsys.readouterr().out.count("fine-tuned again") == 3
