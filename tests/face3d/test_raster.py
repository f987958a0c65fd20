"""Pictures of heads: geometry against brute force and the model's cameras, and what expressions look like in them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from data_prep.contact_sheet import orbit, sheet
from nofa_jax.face3d.appearance import sample_appearance
from nofa_jax.face3d.model import MorphableModel, load_morphable_model
from nofa_jax.face3d.raster import Painted, paint_head, render_head, render_painted, surface
from nofa_jax.face3d.scene import Scene, openness, pixel_centres, project, rays, vertex_normals
from nofa_jax.rendering import camera
from tests.shared import shared_path
from tests.tolerances import OPS_ATOL, OPS_RTOL

GREEN = np.float32([0.0, 1.0, 0.0])


@pytest.fixture(scope="module", params=["procedural", "ict"])
def head(request) -> MorphableModel:
    return load_morphable_model(request.param, shared_path("ict_facekit") if request.param == "ict" else None)


def someone(head: MorphableModel, **changes) -> Painted:
    changes = {"bald": 0.0, "beard": 0.0, "moustache": 0.0} | changes
    return paint_head(head, dataclasses.replace(sample_appearance(np.random.default_rng(4)), **changes))


@pytest.fixture(scope="module")
def person(head) -> Painted:
    return someone(head)


def picture(person: Painted, yaw: float = 0.0, pitch: float = 0.0, size: int = 64, **weights: float):
    alpha = np.zeros(person.model.num_id, np.float32)
    return render_painted(person, alpha, person.model.expression(**weights), orbit(yaw, pitch), size)


def test_rays_and_projection_are_those_of_the_renderer():
    cam2world, intrinsics = orbit(0.4, -0.2)
    intrinsics = intrinsics.copy()
    intrinsics[0] = [4.1, 0.05, 0.47]
    want = camera.make_rays(jnp.asarray(cam2world)[None], jnp.asarray(intrinsics)[None], 9)
    origin, directions = rays(pixel_centres(9), cam2world, intrinsics)
    np.testing.assert_allclose(directions, want.directions[0], rtol=OPS_RTOL, atol=OPS_ATOL)
    np.testing.assert_allclose(origin, want.origins[0, 0], rtol=OPS_RTOL, atol=OPS_ATOL)
    points = np.random.default_rng(0).uniform(-0.4, 0.4, (20, 3)).astype(np.float32)
    uv, _ = camera.project(*(jnp.asarray(a)[None] for a in (points, cam2world, intrinsics)))
    np.testing.assert_allclose(project(points, cam2world, intrinsics), uv[0], rtol=OPS_RTOL, atol=OPS_ATOL)


def test_sheet_camera_is_the_renderer_s_look_at():
    want = camera.look_at(0.5, 0.3, 2.7, jnp.zeros(3))[0]
    np.testing.assert_allclose(orbit(0.5, 0.3)[0], want, rtol=OPS_RTOL, atol=OPS_ATOL)


def nearest_hit(origin: np.ndarray, direction: np.ndarray, corners: np.ndarray) -> float:
    """Möller-Trumbore against every triangle [t,3,3], float64; 0 for none."""
    a, ab, ac = corners[:, 0], corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0]
    p = np.cross(direction, ac)
    det = np.einsum("ij,ij->i", ab, p)
    inverse = 1.0 / np.where(np.abs(det) < 1e-14, np.inf, det)
    s = origin - a
    u = np.einsum("ij,ij->i", s, p) * inverse
    q = np.cross(s, ab)
    v = q @ direction * inverse
    t = np.einsum("ij,ij->i", ac, q) * inverse
    good = (u >= 0) & (v >= 0) & (u + v <= 1) & (t > 0) & (np.abs(det) > 1e-14)
    return float(t[good].min()) if good.any() else 0.0


def test_depth_is_the_distance_to_the_nearest_triangle(person):
    size, view = 32, orbit(0.3, 0.1)
    alpha, beta = person.model.sample_id(np.random.default_rng(1)), person.model.expression(jawOpen=0.6)
    frame = render_painted(person, alpha, beta, view, size)
    vertices, _ = surface(person, alpha, beta)
    corners = vertices[person.triangles].astype(np.float64)
    origin, directions = rays(pixel_centres(size), *view)
    for k in np.random.default_rng(2).choice(size * size, 60, replace=False):
        want = nearest_hit(origin.astype(np.float64), directions[k].astype(np.float64), corners)
        assert frame["depth"].reshape(-1)[k] == pytest.approx(want, abs=2e-4)


def test_mask_is_where_there_is_depth_and_background_elsewhere(person):
    alpha, beta = np.zeros(person.model.num_id, np.float32), person.model.expression()
    for supersample in (1, 2, 3):
        frame = render_painted(person, alpha, beta, orbit(0.2, 0.0), 48, supersample, background=(0.2, 0.4, 1.0))
        assert frame["image"].dtype == frame["mask"].dtype == np.uint8
        assert set(np.unique(frame["mask"])) == {0, 255}
        np.testing.assert_array_equal(frame["mask"] > 0, frame["depth"] > 0)
        far = ~grown(frame["mask"] > 0)
        assert far.sum() > 100
        np.testing.assert_array_equal(frame["image"][far], np.broadcast_to([51, 102, 255], (far.sum(), 3)))
        assert frame["depth"][frame["mask"] > 0].min() > 2.2
        assert frame["depth"].max() < 3.3


def test_a_camera_that_looks_past_the_head_sees_background(person):
    cam2world, intrinsics = orbit(0.0, 0.0)
    cam2world = cam2world.copy()
    cam2world[:3, 3] += [5.0, 0.0, 0.0]
    alpha, beta = np.zeros(person.model.num_id, np.float32), person.model.expression()
    frame = render_painted(person, alpha, beta, (cam2world, intrinsics), 16)
    assert (frame["image"] == 255).all()
    assert not frame["mask"].any()
    assert not frame["depth"].any()


def grown(mask: np.ndarray) -> np.ndarray:
    padded = np.pad(mask, 1)
    h, w = mask.shape
    return np.any([padded[i : i + h, j : j + w] for i in range(3) for j in range(3)], axis=0)


def test_supersampling_smooths_without_moving_geometry(person):
    alpha, beta = np.zeros(person.model.num_id, np.float32), person.model.expression()
    coarse, fine, full = (render_painted(person, alpha, beta, orbit(0.2, 0.0), 48, s) for s in (1, 2, 3))
    np.testing.assert_array_equal(coarse["depth"], fine["depth"])
    reference = full["image"].astype(float)
    error = [np.abs(f["image"] - reference).mean() for f in (coarse, fine)]
    assert error[1] < 0.5 * error[0]


def test_landmarks_lie_on_the_head(person):
    for yaw in (-0.3, 0.0, 0.3):
        frame = picture(person, yaw, size=96)
        place = np.clip((frame["landmarks"] * 96).astype(int), 0, 95)
        inside = grown(grown(frame["mask"] > 0))[place[:, 1], place[:, 0]]
        assert inside.all()
        # landmarks of the middle of the face are seen where they are said to be
        model = person.model
        world = model.landmarks(np.zeros(model.num_id, np.float32), model.expression())[27:36]
        distance = np.linalg.norm(world - orbit(yaw, 0.0)[0][:3, 3], axis=1)
        seen = frame["depth"][place[27:36, 1], place[27:36, 0]]
        assert np.median(np.abs(seen - distance)) < 0.02


def green_pixels(frame) -> int:
    rgb = frame["image"].astype(int)
    return int((rgb[..., 1] - np.maximum(rgb[..., 0], rgb[..., 2]) > 60).sum())


def test_blink_covers_the_irises(head):
    person = someone(head, iris=GREEN, light_strength=0.3)
    wide = green_pixels(picture(person, size=128))
    assert wide > 40
    assert green_pixels(picture(person, size=128, eyeBlink=1.0)) < 0.1 * wide
    one = green_pixels(picture(person, size=128, eyeBlinkLeft=1.0))
    assert 0.3 * wide < one < 0.7 * wide


def seen_parts(person: Painted, **weights: float) -> dict[str, int]:
    """Pixels of a frontal 128² view in which each part is seen."""
    model = person.model
    vertices, _ = surface(person, np.zeros(model.num_id, np.float32), model.expression(**weights))
    view = orbit(0.0, 0.0)
    hit = Scene(vertices, person.triangles).cast(*rays(pixel_centres(128), *view)).triangle
    hit = hit[(hit >= 0) & (hit < len(model.triangles))]
    part = np.asarray(model.vertex_part)[np.asarray(model.triangles)[hit, 0]]
    return {name: int((part == k).sum()) for k, name in enumerate(model.part_names)}


def test_open_mouth_shows_teeth_and_inside(person):
    closed, opened = seen_parts(person), seen_parts(person, jawOpen=0.8)
    inside = ("mouth_socket", "teeth", "gums_and_tongue")
    assert sum(closed[p] for p in inside) < 20
    assert sum(opened[p] for p in inside) > 150
    smiling = seen_parts(person, mouthSmile=1.0, jawOpen=0.3)
    assert smiling["teeth"] > 40
    assert smiling["teeth"] > 2 * closed["teeth"]


def test_every_expression_changes_the_picture(person):
    names = person.model.exp_names
    neutral = picture(person, 0.35)["image"].astype(float)
    for name in names:
        changed = np.abs(picture(person, 0.35, **{name: 1.0})["image"] - neutral).max(-1) > 8
        assert changed.sum() > 8, name


def test_light_and_identity_change_the_picture(head, person):
    plain = picture(person)["image"].astype(float)
    lit = someone(head, light=np.float32([1.0, 0.0, 0.0]), light_strength=0.9)
    image = picture(lit)["image"].astype(float)
    assert np.abs(image - plain).mean() > 3
    # light from the subject's left (image right) makes that cheek brighter
    cheeks = [image[36:42, slice_].mean() for slice_ in (slice(16, 24), slice(40, 48))]
    assert cheeks[1] > cheeks[0] + 15


def test_render_head_is_paint_and_render(head):
    appearance = sample_appearance(np.random.default_rng(4))
    alpha, beta = head.sample_id(np.random.default_rng(0)), head.expression(jawOpen=0.3)
    direct = render_head(head, appearance, alpha, beta, orbit(0.1, 0.0), 32)
    twice = render_painted(paint_head(head, appearance), alpha, beta, orbit(0.1, 0.0), 32)
    for name, value in direct.items():
        np.testing.assert_array_equal(value, dict(twice)[name])


def test_openness_of_a_plane_and_under_a_lid():
    """A point of an open plane sees everything; under a near, wide lid it sees almost nothing."""
    square = np.float32([[-1, -1, 0], [1, -1, 0], [1, 1, 0], [-1, 1, 0], [0, 0, 0]])
    triangles = np.int32([[0, 1, 4], [1, 2, 4], [2, 3, 4], [3, 0, 4]])
    normals = vertex_normals(square, triangles)
    np.testing.assert_allclose(normals, np.broadcast_to([0, 0, 1], (5, 3)), atol=1e-6)
    assert openness(square, triangles, normals, reach=0.5)[4] == 1.0
    both = np.concatenate([square, square * np.float32([4, 4, 0]) + np.float32([0, 0, 0.05])]).astype(np.float32)
    lidded = np.concatenate([triangles, triangles[:, ::-1] + 5])
    assert openness(both, lidded, vertex_normals(both, lidded), reach=1.0)[4] < 0.2


def test_contact_sheet():
    image = sheet(load_morphable_model("procedural"), size=16, people=2, seed=0, columns=6)
    assert image.dtype == np.uint8
    assert image.shape[1] > 6 * 16
    assert image.std() > 10
