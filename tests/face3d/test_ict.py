"""ICT FaceKit through the common interface."""

import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.face3d.ict import FILES, ORIGIN_CM
from nofa_jax.face3d.model import WORLD_PER_CM, MorphableModel, load_morphable_model
from tests.shared import shared_path


@pytest.fixture(scope="module")
def head() -> MorphableModel:
    return load_morphable_model("ict", shared_path("ict_facekit"))


def test_folder_means_the_small_file(head):
    direct = load_morphable_model("ict", shared_path("ict_facekit/ict_face_small.npz"))
    np.testing.assert_array_equal(head.mean, direct.mean)
    assert (head.num_id, head.num_exp) == (100, 53)


def test_expressions_and_identities_are_ict_s_own_numbers(head):
    raw = np.load(shared_path("ict_facekit/ict_face_small.npz"), allow_pickle=False)
    rows = raw["landmarks68"]
    rng = np.random.default_rng(0)
    alpha = rng.standard_normal(100).astype(np.float32)
    beta = rng.uniform(0, 1, 53).astype(np.float32)
    cm = raw["vertices"][rows].astype(np.float64)
    cm = cm + np.tensordot(alpha, raw["id_deltas"][:, rows].astype(np.float64), 1)
    cm = cm + np.tensordot(beta, raw["expr_deltas"][:, rows].astype(np.float64), 1)
    np.testing.assert_allclose(head.landmarks(alpha, beta), (cm - ORIGIN_CM) * WORLD_PER_CM, atol=2e-6)


def test_full_and_small_file_agree_on_landmarks(head):
    full = load_morphable_model("ict", shared_path("ict_facekit/ict_facekit.npz"))
    assert len(full.mean) > 3 * len(head.mean)
    assert full.exp_names == head.exp_names
    alpha = head.sample_id(np.random.default_rng(0))
    beta = head.expression(jawOpen=0.7, mouthSmile=0.5, eyeBlink=0.3)
    np.testing.assert_allclose(full.landmarks(alpha, beta), head.landmarks(alpha, beta), atol=1e-6)


def test_shader_helpers_and_shoulders_are_left_out(head):
    assert set(np.unique(head.vertex_part)) == set(range(len(head.part_names)))
    assert head.mean[:, 1].min() > -0.48
    assert np.abs(head.mean).max() < 0.5


def test_heads_of_ordinary_people_fit_the_box(head):
    rng = np.random.default_rng(0)
    alpha = np.stack([head.sample_id(rng) for _ in range(64)])
    vertices = head.vertices(alpha, np.zeros(head.num_exp, np.float32))
    skull = head.part("face", "ear_left", "ear_right") | (head.part("head_and_neck") & (head.mean[:, 1] > -0.2))
    outside = np.abs(vertices[:, skull]).max(-1) > 0.5
    assert outside.mean() < 0.002


def test_framing_is_that_of_eg3d(head):
    corners = head.mean[head.landmark_index[[36, 45]]]
    assert (corners[1, 0] - corners[0, 0]) * 4.2647 / (2.7 - corners[0, 2]) == pytest.approx(0.38, abs=0.02)


def test_both_spellings_name_the_same_shape(head):
    assert head.expression_index("mouthSmileLeft") == (head.exp_names.index("mouthSmile_L"),)
    assert len(head.expression_index("browInnerUp")) == 2
    assert len(head.expression_index("cheekPuff")) == 2


def test_every_mediapipe_score_but_neutral_reaches_a_shape(head):
    np.testing.assert_array_equal(head.mediapipe_to_exp.sum(0), 1.0)
    assert (head.mediapipe_to_exp[1:].sum(1) >= 1).all()
    assert head.mediapipe_to_exp[0].sum() == 0


def test_gaze_turns_the_eyeballs(head):
    for eye, side, name, axis, sign in (
        (0, "left", "eyeLookOut_L", 0, 1),
        (1, "right", "eyeLookOut_R", 0, -1),
        (1, "right", "eyeLookIn_R", 0, 1),
        (0, "left", "eyeLookDown_L", 1, -1),
    ):
        ball = head.part(f"eyeball_{side}")
        offset = head.mean[ball] - head.eye_centers[eye]
        front = int(np.argmax(offset @ head.eye_axes[eye]))
        delta = head.exp_basis[head.exp_names.index(name), ball]
        assert sign * delta[front, axis] > 0.4 * WORLD_PER_CM
        turned = np.linalg.norm(offset + delta, axis=1)
        np.testing.assert_allclose(turned, np.linalg.norm(offset, axis=1), rtol=1e-3)


def test_folder_without_the_files(tmp_path):
    with pytest.raises(UserError, match=FILES[0]):
        load_morphable_model("ict", tmp_path)


def test_a_morphable_model_without_ict_s_labels_is_named_as_such(tmp_path):
    np.savez(
        tmp_path / "plain.npz",
        vertices=np.zeros((3, 3), np.float32),
        id_deltas=np.zeros((1, 3, 3), np.float32),
        expr_deltas=np.zeros((1, 3, 3), np.float32),
        expr_names=np.array(["jawOpen"]),
        triangles=np.array([[0, 1, 2]]),
    )
    with pytest.raises(UserError, match="lacks landmarks68"):
        load_morphable_model("ict", tmp_path / "plain.npz")
