"""Where mouth and eyes are: triangulation, projection and cutting against independent computations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.metrics import regions
from nofa_jax.metrics.regions import REGIONS, mean_face, region_anchors, region_boxes
from nofa_jax.rendering.camera import fov_to_intrinsics, look_at, project
from tests.tolerances import OPS_ATOL, OPS_RTOL

cut = jax.jit(regions.cut, static_argnums=2)


@pytest.fixture(scope="module")
def scene() -> dict[str, np.ndarray]:
    """A face of 68 points on a bulge, seen by 20 cameras."""
    rng = np.random.default_rng(0)
    face = rng.uniform(-0.12, 0.12, (68, 3))
    face[:, 2] = 0.2 - face[:, 0] ** 2
    face[36:42] = [-0.08, 0.06, 0.19] + 0.01 * rng.standard_normal((6, 3))  # subject's right = -x
    face[42:48] = [0.08, 0.06, 0.19] + 0.01 * rng.standard_normal((6, 3))
    face[48:68] = [0.0, -0.1, 0.2] + 0.02 * rng.standard_normal((20, 3))
    face[48], face[54] = [-0.05, -0.1, 0.2], [0.05, -0.1, 0.2]
    cam2world = look_at(jnp.asarray(rng.uniform(-0.6, 0.6, 20)), jnp.asarray(rng.uniform(-0.3, 0.3, 20)))
    intrinsics = jnp.tile(fov_to_intrinsics(18.0), (20, 1, 1))
    uv, _ = project(jnp.tile(jnp.asarray(face, jnp.float32), (20, 1, 1)), cam2world, intrinsics)
    arrays = {"face": face, "cam2world": cam2world, "intrinsics": intrinsics, "uv": uv}
    return {name: np.asarray(value) for name, value in arrays.items()}


def test_mean_face_recovers_the_points_that_were_projected(scene):
    found = mean_face(scene["uv"], scene["cam2world"], scene["intrinsics"])
    np.testing.assert_allclose(found, scene["face"], atol=2e-4)  # uv is float32, 2.7 units away


def test_mean_face_averages_identities(scene):
    wide = scene["face"] * np.array([1.1, 1.0, 1.0])
    cameras = jnp.asarray(scene["cam2world"]), jnp.asarray(scene["intrinsics"])
    uv, _ = project(jnp.tile(jnp.asarray(wide, jnp.float32), (20, 1, 1)), *cameras)
    both = [np.concatenate([scene[k], scene[k]]) for k in ("cam2world", "intrinsics")]
    found = mean_face(np.concatenate([scene["uv"], np.asarray(uv)]), *both)
    np.testing.assert_allclose(found, (wide + scene["face"]) / 2, atol=2e-3)


def test_boxes_hold_the_landmarks_they_are_named_after(scene):
    centers, extents = region_anchors(scene["face"])
    boxes = region_boxes(*(jnp.asarray(x) for x in (centers, extents, scene["cam2world"], scene["intrinsics"])))
    assert boxes.shape == (20, len(REGIONS), 4)
    for k, part in enumerate((slice(48, 68), slice(36, 42), slice(42, 48))):
        low, high = np.asarray(boxes[:, k, None, :2]), np.asarray(boxes[:, k, None, 2:])
        inside = (scene["uv"][:, part] > low) & (scene["uv"][:, part] < high)
        assert inside.mean() > 0.97
        assert ((scene["uv"][:, :17] > low) & (scene["uv"][:, :17] < high)).all(axis=-1).mean() < 0.5


def test_box_of_a_frontal_camera_is_the_pinhole_formula():
    intrinsics = np.diag([4.0, 4.0, 1.0]).astype(np.float32)
    intrinsics[:2, 2] = 0.5
    cam2world = np.asarray(look_at(0.0, 0.0, radius=2.5, target=jnp.zeros(3)))
    center, extent = np.array([[0.1, 0.2, 0.0]], np.float32), np.array([[0.05, 0.025]], np.float32)
    box = region_boxes(*(jnp.asarray(x) for x in (center, extent, cam2world, intrinsics[None])))[0, 0]
    x, y = 0.5 + 4.0 * 0.1 / 2.5, 0.5 - 4.0 * 0.2 / 2.5
    np.testing.assert_allclose(box, [x - 0.08, y - 0.04, x + 0.08, y + 0.04], rtol=OPS_RTOL, atol=OPS_ATOL)


def test_cut_of_whole_pixels_is_the_crop_and_of_twice_the_pixels_interpolates():
    image = np.random.default_rng(1).uniform(-1, 1, (2, 16, 16, 3)).astype(np.float32)
    boxes = jnp.array([[4 / 16, 2 / 16, 12 / 16, 10 / 16], [0.0, 0.0, 0.5, 0.5]])  # x0 y0 x1 y1
    same = cut(jnp.asarray(image), boxes, 8)
    np.testing.assert_allclose(same[0], image[0, 2:10, 4:12], rtol=OPS_RTOL, atol=OPS_ATOL)
    np.testing.assert_allclose(same[1], image[1, :8, :8], rtol=OPS_RTOL, atol=OPS_ATOL)
    double = cut(jnp.asarray(image), boxes, 16)
    middle = 0.75 * image[0, 2:10, 4:12] + 0.25 * image[0, 2:10, 5:13]  # output 2i+1 lies a quarter towards i+1
    rows = 0.75 * middle[:-1] + 0.25 * (0.75 * image[0, 3:10, 4:12] + 0.25 * image[0, 3:10, 5:13])
    np.testing.assert_allclose(double[0, 1:-1:2, 1::2][:7], rows, rtol=OPS_RTOL, atol=OPS_ATOL)


def test_cut_reduces_with_antialiasing():
    checker = np.indices((32, 32)).sum(axis=0) % 2 * 2.0 - 1.0
    image = jnp.asarray(np.broadcast_to(checker[None, ..., None], (1, 32, 32, 3)), jnp.float32)
    small = cut(image, jnp.array([[0.0, 0.0, 1.0, 1.0]]), 8)
    assert np.abs(small[0, 1:-1, 1:-1]).max() < 0.1
