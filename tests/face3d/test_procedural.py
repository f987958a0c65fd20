"""The procedural head: a closed skin, independent bases, expressions that move what they name."""

import numpy as np
import pytest
from scipy.spatial import KDTree

from nofa_jax.face3d.model import WORLD_PER_CM, MorphableModel, load_morphable_model
from nofa_jax.face3d.procedural.anatomy import Anatomy, build_anatomy
from nofa_jax.face3d.procedural.parts import all_parts
from nofa_jax.face3d.procedural.topology import build_skin


@pytest.fixture(scope="module")
def head() -> MorphableModel:
    return load_morphable_model("procedural")


@pytest.fixture(scope="module")
def anatomy() -> Anatomy:
    return build_anatomy()


def assert_closed(points: np.ndarray, triangles: np.ndarray) -> None:
    """Every edge belongs to two triangles that agree on the outside; one piece without handles; positive volume."""
    directed = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    assert len(np.unique(directed, axis=0)) == len(directed)
    edges, count = np.unique(np.sort(directed, axis=1), axis=0, return_counts=True)
    assert (count == 2).all()
    assert len(np.unique(triangles)) == len(points)
    assert len(points) - len(edges) + len(triangles) == 2  # Euler characteristic of a sphere
    a, b, c = (points[triangles[:, k]] for k in range(3))
    assert np.einsum("ij,ij->", a, np.cross(b, c)) > 0


def test_skin_with_mouth_and_eye_sockets_is_one_closed_surface():
    skin = build_skin()
    assert_closed(skin.points, skin.triangles)


def test_other_parts_are_closed():
    for part in all_parts():
        assert_closed(part.points, part.triangles)


def test_sizes(head):
    assert 5_000 <= len(head.triangles) <= 10_000
    assert head.num_id >= 16
    assert head.num_exp >= 20
    assert len(np.unique(head.landmark_index)) == 68
    # all parts occur
    assert set(np.unique(head.vertex_part)) == set(range(len(head.part_names)))


def test_construction_is_deterministic(anatomy):
    again = build_anatomy()
    np.testing.assert_array_equal(anatomy.points, again.points)
    np.testing.assert_array_equal(anatomy.triangles, again.triangles)


def test_mean_is_symmetric(anatomy):
    distance, twin = KDTree(anatomy.points).query(anatomy.points * [-1, 1, 1])
    assert distance.max() < 1e-6
    np.testing.assert_array_equal(twin[twin], np.arange(len(twin)))


def test_bases_are_independent(head):
    basis = np.concatenate([head.id_basis, head.exp_basis]).reshape(head.num_id + head.num_exp, -1)
    unit = basis.astype(np.float64) / np.linalg.norm(basis, axis=1, keepdims=True)
    similarity = unit @ unit.T
    assert np.sqrt(np.linalg.eigvalsh(similarity).min()) > 0.02  # least singular value
    assert (similarity - np.eye(len(unit))).max() < 0.95  # no two are nearly the same shape


def test_every_axis_and_expression_is_visible(head):
    """At least a millimetre and a half at full strength (two standard deviations of an identity axis)."""
    skin = head.part("face", "head_and_neck", "ear_left")
    assert (2.0 * np.linalg.norm(head.id_basis, axis=-1)[:, skin].max(1) > 0.15 * WORLD_PER_CM).all()
    outside = head.part("face", "head_and_neck", "eyeball_left", "eyeball_right")
    assert (np.linalg.norm(head.exp_basis, axis=-1)[:, outside].max(1) > 0.15 * WORLD_PER_CM).all()


def test_head_fills_the_frame_as_eg3d_crops_do(head):
    corners = head.mean[head.landmark_index[[36, 45]]]
    width = (corners[1, 0] - corners[0, 0]) * 4.2647 / (2.7 - corners[0, 2])
    assert width == pytest.approx(0.38, abs=0.03)
    chin = head.mean[head.landmark_index[8]]
    assert 0.8 < 0.5 - chin[1] * 4.2647 / (2.7 - chin[2]) < 0.97
    rng = np.random.default_rng(0)
    alpha = np.stack([head.sample_id(rng) for _ in range(64)])
    assert np.abs(head.vertices(alpha, np.zeros(head.num_exp, np.float32))).max() < 0.5


def shift(head: MorphableModel, name: str) -> np.ndarray:
    """Displacement [68,3] of the landmarks in cm at weight 1."""
    (index,) = head.expression_index(name)
    return np.asarray(head.exp_basis[index, head.landmark_index]) / WORLD_PER_CM


def test_jaw_open_moves_the_lower_face_only(head):
    moved = shift(head, "jawOpen")
    assert moved[8, 1] < -1.5  # chin
    assert moved[66, 1] < -1.5  # lower lip
    assert np.abs(moved[17:36]).max() < 0.15  # brows and nose
    assert np.abs(moved[36:48]).max() < 0.01
    assert moved[62, 1] - moved[66, 1] > 1.5  # the lips part


@pytest.mark.parametrize(("side", "corner", "other"), [("Left", 54, 48), ("Right", 48, 54)])
def test_smile_lifts_its_own_corner_outwards(head, side, corner, other):
    moved = shift(head, f"mouthSmile{side}")
    outward = 1.0 if side == "Left" else -1.0
    assert moved[corner, 1] > 0.5
    assert moved[corner, 0] * outward > 0.4
    assert np.abs(moved[other]).max() < 0.1


def test_blink_closes_only_its_own_eye(head):
    left, right = [(43, 47), (44, 46)], [(37, 41), (38, 40)]
    mean = head.mean[head.landmark_index] / WORLD_PER_CM
    for name, closing, open_ in (("eyeBlinkLeft", left, right), ("eyeBlinkRight", right, left)):
        blinked = mean + shift(head, name)
        for upper, lower in closing:
            assert mean[upper, 1] - mean[lower, 1] > 0.5
            assert abs(blinked[upper, 1] - blinked[lower, 1]) < 0.15
        for upper, lower in open_:
            assert blinked[upper, 1] - blinked[lower, 1] == pytest.approx(mean[upper, 1] - mean[lower, 1])


def test_lids_stay_outside_the_eyeball_on_their_way(anatomy, head):
    """Half closed, the linear path cuts through the ball by less than the lids' height over it."""
    centre = head.eye_centers[0] / WORLD_PER_CM
    for weight in (0.25, 0.5, 0.75, 1.0):
        vertices = head.vertices(np.zeros(head.num_id, np.float32), head.expression(eyeBlinkLeft=weight)) / WORLD_PER_CM
        rim = (anatomy.eye == 0) & np.isin(anatomy.eye_ring, (0, 1))
        assert np.linalg.norm(vertices[rim] - centre, axis=1).min() > 1.5


def test_shapes_of_the_mouth(head):
    assert (shift(head, "mouthFrownLeft")[54, 1], shift(head, "mouthFrownRight")[48, 1]) < (-0.5, -0.5)
    pucker = shift(head, "mouthPucker")
    assert pucker[54, 0] < -0.5 < 0.5 < pucker[48, 0]  # narrower
    assert pucker[51, 2] > 0.5  # forward
    funnel = shift(head, "mouthFunnel")
    assert funnel[62, 1] - funnel[66, 1] > 0.6
    assert shift(head, "mouthLeft")[[48, 54], 0].min() > 0.5
    assert shift(head, "mouthRight")[[48, 54], 0].max() < -0.5
    upper, lower = shift(head, "mouthUpperUpLeft"), shift(head, "mouthLowerDownLeft")
    assert upper[63, 1] > 0.4
    assert abs(upper[66, 1]) < 0.1
    assert lower[65, 1] < -0.4
    assert abs(lower[62, 1]) < 0.1


def test_mouth_close_undoes_the_gap_of_an_open_jaw(head):
    opened, closed = shift(head, "jawOpen"), shift(head, "jawOpen") + shift(head, "mouthClose")
    gap = opened[62, 1] - opened[66, 1]
    assert abs(closed[62, 1] - closed[66, 1]) < 0.2 * gap
    assert closed[8, 1] < -1.5  # the jaw stays down


def test_shapes_of_brows_and_jaw(head):
    assert shift(head, "browInnerUp")[[21, 22], 1].min() > 0.5
    assert shift(head, "browDownLeft")[23, 1] < -0.4
    assert shift(head, "browOuterUpRight")[18, 1] > 0.4
    assert shift(head, "jawLeft")[8, 0] > 0.8
    assert shift(head, "jawRight")[8, 0] < -0.8
    assert shift(head, "jawForward")[8, 2] > 0.6


def test_gaze_turns_the_eyeball_about_its_centre(head):
    ball = head.part("eyeball_left")
    centre = head.eye_centers[0]
    radius = np.linalg.norm(head.mean[ball] - centre, axis=1)
    front = int(np.flatnonzero(ball)[np.argmax((head.mean[ball] - centre) @ head.eye_axes[0])])
    for name, axis, sign in (("eyeLookOutLeft", 0, 1), ("eyeLookInLeft", 0, -1), ("eyeLookUpLeft", 1, 1)):
        delta = head.exp_basis[head.expression_index(name)[0]]
        np.testing.assert_allclose(np.linalg.norm(head.mean[ball] + delta[ball] - centre, axis=1), radius, rtol=1e-3)
        assert sign * delta[front, axis] > 0.3 * WORLD_PER_CM


def test_identity_keeps_eyeballs_round_and_between_the_lids(anatomy, head):
    rng = np.random.default_rng(1)
    for _ in range(8):
        alpha = head.sample_id(rng)
        vertices = head.vertices(alpha, np.zeros(head.num_exp, np.float32))
        for eye, side in enumerate(("left", "right")):
            ball = vertices[head.part(f"eyeball_{side}")]
            centre = 0.5 * (ball.max(0) + ball.min(0))
            radius = np.linalg.norm(ball - centre, axis=1)
            assert radius.std() < 0.03 * radius.mean()
            rim = vertices[(anatomy.eye == eye) & (anatomy.eye_ring == 0)]
            assert (np.linalg.norm(rim - centre, axis=1) > 0.985 * radius.mean()).all()
