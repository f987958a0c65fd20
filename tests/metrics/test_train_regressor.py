"""The regressor's samples and cache; what it learns is judged by every evaluation (`target` in eval/metrics.json)."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.data.records import open_dataset
from nofa_jax.data.writer import encode_record, write_dataset
from nofa_jax.metrics import train_regressor as module
from nofa_jax.metrics.expression import Regressor, to_uint8
from nofa_jax.metrics.train_regressor import LABELS, Samples, Settings, cached_regressor, read_samples
from nofa_jax.rendering.camera import fov_to_intrinsics, look_at, project

EXP_NAMES = ("jawOpen", "eyeBlinkLeft", "eyeBlinkRight", "mouthClose")  # the last one never moves


def dots(count: int, seed: int, size: int = 48) -> Samples:
    """Grey faces whose mouth darkens with jawOpen and whose eyes brighten with their blink, seen by real cameras."""
    rng = np.random.default_rng(seed)
    exp = np.concatenate([rng.uniform(0, 1, (count, 3)), np.full((count, 1), 0.5)], axis=1).astype(np.float32)
    cam2world = look_at(jnp.asarray(rng.uniform(-0.5, 0.5, count)), jnp.asarray(rng.uniform(-0.2, 0.2, count)))
    intrinsics = jnp.tile(fov_to_intrinsics(18.0), (count, 1, 1))
    face = np.zeros((68, 3), np.float32)
    face[36:42], face[42:48], face[48:68] = [-0.08, 0.08, 0.1], [0.08, 0.08, 0.1], [0.0, -0.1, 0.15]
    face[48], face[54] = [-0.07, -0.1, 0.13], [0.07, -0.1, 0.13]
    uv = np.asarray(project(jnp.tile(jnp.asarray(face), (count, 1, 1)), cam2world, intrinsics)[0])
    axis = (np.arange(size) + 0.5) / size
    image = np.full((count, size, size, 3), -0.2)
    for landmark, value in ((50, -exp[:, 0]), (42, exp[:, 1]), (36, exp[:, 2])):
        center = uv[:, landmark]
        squared = (axis[None, None] - center[:, 0, None, None]) ** 2 + (
            axis[None, :, None] - center[:, 1, None, None]
        ) ** 2
        image += (0.8 * value[:, None, None] * np.exp(-squared / 0.04**2))[..., None]
    camera = {"cam2world": np.asarray(cam2world), "intrinsics": np.asarray(intrinsics)}
    return Samples(images=to_uint8(image), exp_coeff=exp, landmarks=uv, **camera)


@pytest.fixture
def dataset(tmp_path):
    """24 frames to learn from, 8 to judge with."""

    def records(count: int, seed: int):
        data = dots(count, seed)
        for i in range(count):
            constant = {"time": 0.0, "source": "dots", "licence": "none", "id_coeff": np.zeros(2, np.float32)}
            pixels = {"mask": np.zeros((48, 48), np.uint8), "depth": np.ones((48, 48), np.float32)}
            numbers = {"identity": seed, "clip": seed, "frame": i, "image": data.images[i]}
            yield encode_record(constant | pixels | numbers | {k: getattr(data, k)[i] for k in LABELS}, "png")

    splits = {"train": records(24, 0), "val": records(8, 1)}
    return open_dataset(write_dataset(tmp_path / "data", splits, {"exp_names": list(EXP_NAMES)}, 2, 4, "png"))


def test_samples_are_the_frames_and_a_limit_takes_a_fixed_random_part(dataset):
    everything = read_samples(dataset, "train", limit=100)
    np.testing.assert_array_equal(everything.images, dots(24, 0).images)
    np.testing.assert_array_equal(everything.exp_coeff, dots(24, 0).exp_coeff)
    part = read_samples(dataset, "train", limit=10, seed=3)
    assert len(part) == 10
    rows = [int(np.flatnonzero((everything.exp_coeff == e).all(axis=1))[0]) for e in part.exp_coeff]
    assert len(set(rows)) == 10
    assert rows != list(range(10))
    np.testing.assert_array_equal(part.images, read_samples(dataset, "train", limit=10, seed=3).images)
    assert len(read_samples(dataset, "train", limit=100, max_bytes=5 * 48 * 48 * 3)) == 5


def test_cache_is_found_again_and_depends_on_data_settings_and_code(dataset, tmp_path, monkeypatch):
    trained: list[tuple[int, int]] = []

    def fake_training(data: Samples, exp_names: tuple[str, ...], settings: Settings) -> Regressor:
        trained.append((len(data), settings.steps))
        params = {"w": np.full(3, settings.steps, np.float32)}
        return Regressor(params, {"centers": np.zeros((3, 3), np.float32)}, exp_names, {"training": {}})

    monkeypatch.setattr(module, "train_regressor", fake_training)
    monkeypatch.setattr(module, "accuracy", lambda regressor, data: {"n": len(data)})
    settings = Settings(steps=7)
    first = cached_regressor(dataset, settings, cache=tmp_path / "cache")
    assert trained == [(24, 7)]
    assert first.info["accuracy"] == {"n": 8}  # judged on the validation split
    second = cached_regressor(dataset, settings, cache=tmp_path / "cache")
    assert len(trained) == 1
    assert (second.fingerprint, second.exp_names, second.info) == (first.fingerprint, first.exp_names, first.info)
    cached_regressor(dataset, dataclasses.replace(settings, steps=8), cache=tmp_path / "cache")
    monkeypatch.setattr(module, "_code_hash", lambda: "other code")
    cached_regressor(dataset, settings, cache=tmp_path / "cache")
    assert [steps for _, steps in trained] == [7, 8, 7]
    assert len(list(Path(tmp_path / "cache").iterdir())) == 3
