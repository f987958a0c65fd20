"""Colours and hair: in range, where they belong, different from person to person."""

import dataclasses

import numpy as np
import pytest

from nofa_jax.face3d.appearance import Appearance, hair_depth, paint, sample_appearance
from nofa_jax.face3d.hair import grow, scalp
from nofa_jax.face3d.model import WORLD_PER_CM, MorphableModel, load_morphable_model
from nofa_jax.face3d.paint import GRID_WEIGHTS, POINTS, canvas
from nofa_jax.face3d.scene import vertex_normals
from tests.shared import shared_path


@pytest.fixture(scope="module", params=["procedural", "ict"])
def head(request) -> MorphableModel:
    return load_morphable_model(request.param, shared_path("ict_facekit") if request.param == "ict" else None)


def person(seed: int, **changes) -> Appearance:
    return dataclasses.replace(sample_appearance(np.random.default_rng(seed)), **changes)


def test_sampling_is_seeded_and_in_range():
    for seed in range(40):
        a, again = person(seed), person(seed)
        for field in dataclasses.fields(Appearance):
            np.testing.assert_array_equal(getattr(a, field.name), getattr(again, field.name))
        for colour in (a.skin, a.hair, a.brow, a.lip, a.iris):
            assert colour.shape == (3,)
            assert (colour > 0).all()
            assert (colour <= 1).all()
        assert np.linalg.norm(a.light) == pytest.approx(1.0, abs=1e-5)
        assert a.light[2] > -0.5 or abs(a.light[0]) > 0.3  # never straight from behind
        assert 0 <= a.beard <= 1


def test_people_differ_strongly():
    people = [person(seed) for seed in range(60)]
    for name, spread in (("skin", 0.15), ("hair", 0.04), ("iris", 0.03)):
        colours = np.stack([getattr(p, name) for p in people])
        assert colours.std(0).max() > spread, name
    assert 5 <= sum(p.beard > 0.3 for p in people) <= 30
    assert 1 <= sum(p.bald > 0 for p in people) <= 12
    assert np.ptp([p.hairline[-1] for p in people]) > 5  # long and short hair


def test_grid_weights_are_barycentric():
    assert GRID_WEIGHTS.shape == (POINTS, 3)
    np.testing.assert_allclose(GRID_WEIGHTS.sum(1), 1.0)
    assert len(np.unique(GRID_WEIGHTS, axis=0)) == POINTS


def test_canvas_finds_lips_lids_brows_and_irises(head):
    c = canvas(head)
    assert c is canvas(head)  # made once
    landmarks = head.mean[head.landmark_index] / WORLD_PER_CM

    def at(places: np.ndarray, values: np.ndarray) -> np.ndarray:
        return values[[int(np.argmin(((c.points - p) ** 2).sum(1))) for p in places]]

    for name in ("lip", "lip_line", "lash", "lid", "nostril", "beard", "moustache", "ear", "openness"):
        values = getattr(c, name)
        assert values.min() >= -1e-6, name
        assert values.max() <= 1 + 1e-6, name
    middle_of_lips = 0.5 * (landmarks[[50, 51, 52, 56, 57, 58]] + landmarks[[61, 62, 63, 65, 66, 67]])
    assert (at(middle_of_lips, c.lip) > 0.6).all()
    assert (at(landmarks[[8, 27, 30, 33, 17, 26]], c.lip) == 0).all()
    assert (at(landmarks[17:27], c.brow_distance) < 0.3).all()
    assert (at(landmarks[[37, 38, 43, 44]], c.lash) > 0.4).all()
    assert (at(landmarks[[8, 57]], c.moustache) < 0.2).all()
    for eye, side in enumerate(("left", "right")):
        front = head.eye_centers[eye] + 0.04 * head.eye_axes[eye]
        ball = c.part == head.part_names.index(f"eyeball_{side}")
        nearest = np.argmin(np.where(ball, ((c.points - front / WORLD_PER_CM) ** 2).sum(1), np.inf))
        assert c.gaze_angle[nearest] < 0.2


def test_mouth_folds_are_darker_than_the_forehead(head):
    c = canvas(head)
    forehead = (c.height > 3.5) & (c.height < 5) & (c.azimuth < 20) & (c.part == 0)
    assert c.openness[forehead].mean() > 0.9
    assert c.openness[c.lip_line > 0.8].mean() < 0.8


def test_paint_is_finite_and_shows_the_appearance(head):
    a = person(1, beard=0.0, moustache=0.0, bald=1.0, spots=0.0, blush=0.0)
    colour = paint(head, a)
    assert colour.shape == (len(head.triangles) * POINTS, 3)
    assert np.isfinite(colour).all()
    assert colour.min() >= 0
    c = canvas(head)
    cheek = (c.cheek > 0.8) & (c.openness > 0.97) & (c.lid == 0)
    np.testing.assert_allclose(colour[cheek].mean(0), a.skin, rtol=0.1)
    iris = (c.gaze_angle > 0.22) & (c.gaze_angle < 0.3)
    assert np.abs(colour[iris].mean(0) - a.iris).max() < 0.5 * a.iris.max()
    red = paint(head, dataclasses.replace(a, lip=np.float32([0.9, 0.0, 0.0])))
    changed = np.abs(red - colour).max(1) > 0.02
    assert (c.lip[changed] > 0).all()


def test_points_painted_alone_look_as_in_the_whole(head):
    a = person(5)
    some = np.random.default_rng(0).permutation(len(head.triangles) * POINTS)[:500]
    np.testing.assert_allclose(paint(head, a, some), paint(head, a)[some], atol=1e-5)


def test_beard_stays_on_the_lower_face(head):
    bare = paint(head, person(2, beard=0.0, moustache=0.0))
    bearded = paint(head, person(2, beard=1.0, moustache=1.0))
    changed = np.abs(bearded - bare).max(1) > 0.01
    c = canvas(head)
    assert changed.sum() > 1000
    assert c.height[changed].max() < 1.0  # below the eyes
    assert (c.lip[changed] < 0.99).all()


def test_hair_grows_above_the_hairline_only(head):
    a = person(3, bald=0.0)
    hair = grow(head, a)
    s = scalp(head)
    depth = hair_depth(a, s.azimuth, s.height)
    assert (hair.thickness[depth > 0.2] > 0).all()
    assert (hair.thickness[depth < -0.2] < 0).all()
    assert hair.thickness.max() < 4 * WORLD_PER_CM
    face_centre = (s.azimuth < 30) & (s.height < 2)
    assert not face_centre.any()
    normals = vertex_normals(head.mean, head.triangles)
    shell = hair.vertices(head.mean, normals)
    assert shell.shape == (len(s.vertex), 3)
    lift = np.linalg.norm(shell - head.mean[s.vertex], axis=1)
    np.testing.assert_allclose(lift, np.abs(hair.thickness), atol=1e-5)


def test_bald_people_have_no_shell(head):
    assert grow(head, person(0, bald=1.0)) is None
