"""The regressor's bookkeeping: names and mirrors, angles, storage; and that it can learn."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.metrics.expression import (
    ExpressionNet,
    Regressor,
    from_uint8,
    head_angles,
    load_regressor,
    mirrored_channels,
    mirrored_views,
    pearson,
    shape_groups,
    standardize,
    to_uint8,
    views,
)
from nofa_jax.metrics.regions import region_boxes
from nofa_jax.rendering.camera import fov_to_intrinsics, look_at
from tests.tolerances import METRIC_RTOL

NAMES = (
    "browInnerUp",
    "eyeBlinkLeft",
    "eyeBlinkRight",
    "jawLeft",
    "jawRight",
    "mouthSmile_L",
    "mouthSmile_R",
    "jawOpen",
)


def test_sides_are_pooled_but_directions_are_not():
    groups = shape_groups(NAMES)
    assert groups == {
        "browInnerUp": (0,),
        "eyeBlink": (1, 2),
        "jawLeft": (3,),
        "jawRight": (4,),
        "mouthSmile": (5, 6),
        "jawOpen": (7,),
    }
    assert sorted(i for channels in groups.values() for i in channels) == list(range(len(NAMES)))


def test_mirror_swaps_sides_and_directions_and_is_its_own_inverse():
    p = mirrored_channels(NAMES)
    assert [NAMES[i] for i in p] == [
        "browInnerUp", "eyeBlinkRight", "eyeBlinkLeft", "jawRight", "jawLeft", "mouthSmile_R", "mouthSmile_L", "jawOpen"
    ]  # fmt: skip
    np.testing.assert_array_equal(p[p], np.arange(len(NAMES)))
    np.testing.assert_array_equal(mirrored_channels(("mouthSmileLeft", "jawOpen")), [0, 1])  # no partner: itself


def test_head_angles_are_those_the_camera_was_placed_with():
    rng = np.random.default_rng(0)
    yaw, pitch, roll = (rng.uniform(-0.9, 0.9, 50) for _ in range(3))
    cam2world = np.asarray(look_at(jnp.asarray(yaw), jnp.asarray(pitch)))
    angles = head_angles(cam2world)
    np.testing.assert_allclose(angles, np.stack([yaw, pitch, 0 * roll], axis=1), atol=1e-5)
    c, s = np.cos(roll), np.sin(roll)
    turn = np.zeros((50, 4, 4))
    turn[:, 0, 0], turn[:, 0, 1], turn[:, 1, 0], turn[:, 1, 1] = c, -s, s, c  # about the optical axis
    turn[:, 2, 2] = turn[:, 3, 3] = 1.0
    np.testing.assert_allclose(head_angles(cam2world @ turn), np.stack([yaw, pitch, -roll], axis=1), atol=1e-5)


def test_mirrored_camera_changes_the_sign_of_yaw_and_roll():
    cam2world = np.asarray(look_at(0.5, 0.2))
    turn = np.eye(4)
    turn[:2, :2] = [[0.9, -np.sqrt(0.19)], [np.sqrt(0.19), 0.9]]
    camera = cam2world @ turn
    mirror = np.diag([-1.0, 1.0, 1.0, 1.0])  # world x and image x both change sign
    np.testing.assert_allclose(head_angles(mirror @ camera @ mirror), head_angles(camera) * [[-1, 1, -1]], atol=1e-6)


def test_pearson_agrees_with_the_definition_and_is_undefined_for_constants():
    rng = np.random.default_rng(0)
    a, b = rng.standard_normal((2, 30, 2))
    da, db = a - a.mean(), b - b.mean()
    assert pearson(a, b) == pytest.approx((da * db).sum() / np.sqrt((da**2).sum() * (db**2).sum()), rel=METRIC_RTOL)
    assert pearson(a, 3.0 * a + 1.0) == pytest.approx(1.0)
    assert pearson(a, np.ones_like(a)) is None


def test_standardize_forgets_colour_and_contrast():
    x = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (2, 12, 12, 3)), jnp.float32)
    tinted = 0.3 * x + jnp.array([0.1, -0.2, 0.3])[None, None, None]
    np.testing.assert_allclose(standardize(tinted), standardize(x), atol=5e-3)  # 1e-4 under the root
    flat = standardize(jnp.full((1, 8, 8, 3), 0.7))
    np.testing.assert_allclose(flat, 0.0, atol=1e-3)  # a rounding of 0.7, enlarged a hundredfold


def test_views_of_the_mirrored_picture_are_the_mirrored_views():
    rng = np.random.default_rng(0)
    images = jnp.asarray(rng.uniform(-1, 1, (2, 32, 32, 3)), jnp.float32)
    cam2world = look_at(jnp.array([0.4, -0.1]), jnp.array([0.2, 0.0]))
    intrinsics = jnp.tile(fov_to_intrinsics(18.0), (2, 1, 1))
    centers = jnp.array([[0.0, -0.1, 0.2], [-0.08, 0.06, 0.2], [0.08, 0.06, 0.2]])  # symmetric about x = 0
    extents = jnp.array([[0.06, 0.05], [0.04, 0.03], [0.04, 0.03]])
    whole = jnp.tile(jnp.array([0.0, 0.0, 1.0, 1.0]), (2, 1))
    jit_views = jax.jit(views)
    mirror = jnp.diag(jnp.array([-1.0, 1.0, 1.0, 1.0]))
    seen = jit_views(images, region_boxes(centers, extents, cam2world, intrinsics), whole)
    mirrored_boxes = region_boxes(centers, extents, mirror @ cam2world @ mirror, intrinsics)
    expected = jit_views(images[:, :, ::-1], mirrored_boxes, whole)
    for name, view in mirrored_views(seen).items():
        np.testing.assert_allclose(view, expected[name], atol=1e-4)


@pytest.fixture(scope="module")
def regressor() -> Regressor:
    """Random weights, last layers included."""
    n = len(NAMES)
    shapes = {"whole": 64, "mouth": 32, "eye_right": 24, "eye_left": 24}
    sample = {name: jnp.zeros((1, size, size, 3)) for name, size in shapes.items()}
    abstract = jax.eval_shape(lambda: ExpressionNet(n).init(jax.random.key(0), **sample)["params"])
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda x: (0.05 * rng.standard_normal(x.shape)).astype(np.float32), abstract)
    constants = {
        "centers": np.array([[0.0, -0.1, 0.2], [-0.08, 0.06, 0.2], [0.08, 0.06, 0.2]]),
        "extents": np.array([[0.06, 0.05], [0.04, 0.03], [0.04, 0.03]]),
        "exp_mean": np.full(n, 0.3),
        "exp_std": np.full(n, 5.0),  # large enough that some answers meet the limits
        "exp_low": np.zeros(n),
        "exp_high": np.ones(n),
        "angle_mean": np.zeros(3),
        "angle_std": np.ones(3),
    }
    constants = {name: value.astype(np.float32) for name, value in constants.items()}
    return Regressor(params, constants, NAMES, {"accuracy": {"n": 4}})


@pytest.fixture(scope="module")
def pictures() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(1)
    cam2world = look_at(jnp.asarray(rng.uniform(-0.4, 0.4, 5)), jnp.asarray(rng.uniform(-0.2, 0.2, 5)))
    intrinsics = np.tile(np.asarray(fov_to_intrinsics(18.0)), (5, 1, 1))
    return rng.uniform(-1, 1, (5, 48, 48, 3)).astype(np.float32), np.asarray(cam2world), intrinsics


def test_answers_lie_in_the_trained_range_and_do_not_depend_on_the_batch(regressor, pictures):
    exp, angles = regressor(*pictures, batch_size=4)
    assert exp.shape == (5, len(NAMES))
    assert angles.shape == (5, 3)
    assert exp.min() >= 0.0
    assert exp.max() <= 1.0
    assert len(np.unique(exp.round(4))) > 5  # not all at the limits
    alone = [regressor(*(x[i : i + 1] for x in pictures), batch_size=4) for i in range(5)]
    np.testing.assert_allclose(exp, np.concatenate([e for e, _ in alone]), atol=1e-4)
    np.testing.assert_allclose(angles, np.concatenate([a for _, a in alone]), atol=1e-4)


def test_stored_regressor_answers_the_same(regressor, pictures, tmp_path):
    regressor.save(tmp_path / "r")
    again = load_regressor(tmp_path / "r")
    assert again.fingerprint == regressor.fingerprint
    assert again.exp_names == NAMES
    assert again.info == {"accuracy": {"n": 4}}
    for a, b in zip(regressor(*pictures, batch_size=4), again(*pictures, batch_size=4), strict=True):
        np.testing.assert_array_equal(a, b)
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["regressor.json", "regressor.safetensors"]


@pytest.mark.parametrize("damage", ["missing", "half", "flipped", "other"])
def test_damaged_regressors_are_refused(regressor, tmp_path, damage):
    regressor.save(tmp_path)
    tensors, described = tmp_path / "regressor.safetensors", tmp_path / "regressor.json"
    data = bytearray(tensors.read_bytes())
    if damage == "missing":
        tensors.unlink()
    elif damage == "half":
        tensors.write_bytes(data[: len(data) // 2])
    elif damage == "flipped":
        data[-5] ^= 1
        tensors.write_bytes(data)
    else:
        described.write_text(json.dumps(json.loads(described.read_text()) | {"fingerprint": "0" * 16}))
    with pytest.raises(UserError, match="delete the folder"):
        load_regressor(tmp_path)


def test_rounding_to_eight_bits_is_exact_and_clips():
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    np.testing.assert_array_equal(to_uint8(from_uint8(levels)), levels)
    np.testing.assert_array_equal(to_uint8(np.array([[-3.0, 3.0]], np.float32)), [[0, 255]])
