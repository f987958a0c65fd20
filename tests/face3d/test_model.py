"""The morphable model's interface, on the procedural head, and what bad files end as."""

import io
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.face3d import npz
from nofa_jax.face3d.mediapipe import MEDIAPIPE_BLENDSHAPES, arkit_name
from nofa_jax.face3d.model import MEDIAPIPE_68, MorphableModel, check_model, load_morphable_model, mediapipe_matrix
from nofa_jax.face3d.npz import read_npz
from tests.shared import shared_path
from tests.tolerances import OPS_ATOL, OPS_RTOL


@pytest.fixture(scope="module")
def head() -> MorphableModel:
    return load_morphable_model("procedural")


def coefficients(head: MorphableModel, *lead: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    alpha = rng.standard_normal((*lead, head.num_id)).astype(np.float32)
    return alpha, rng.uniform(0, 1, (*lead, head.num_exp)).astype(np.float32)


def test_vertices_are_mean_plus_weighted_bases(head):
    alpha, beta = coefficients(head)
    want = head.mean.astype(np.float64)
    for weight, delta in zip(alpha, head.id_basis, strict=True):
        want = want + weight * delta
    for weight, delta in zip(beta, head.exp_basis, strict=True):
        want = want + weight * delta
    np.testing.assert_allclose(head.vertices(alpha, beta), want, rtol=OPS_RTOL, atol=OPS_ATOL)


def test_numpy_stays_numpy_and_agrees_with_jax_under_jit_and_vmap(head):
    alpha, beta = coefficients(head, 3)
    here = head.vertices(alpha, beta)
    assert isinstance(here, np.ndarray)
    assert here.dtype == np.float32
    jitted = jax.jit(lambda m, a, b: m.vertices(a, b))(head, alpha, beta)
    mapped = jax.vmap(head.landmarks)(jnp.asarray(alpha), jnp.asarray(beta))
    np.testing.assert_allclose(jitted, here, rtol=OPS_RTOL, atol=OPS_ATOL)
    np.testing.assert_allclose(mapped, here[:, head.landmark_index], rtol=OPS_RTOL, atol=OPS_ATOL)


def test_leading_axes_broadcast_one_identity_over_many_frames(head):
    alpha, beta = coefficients(head, 5)
    shared = head.vertices(alpha[0], beta)
    assert shared.shape == (5, len(head.mean), 3)
    np.testing.assert_allclose(shared[3], head.vertices(alpha[0], beta[3]), rtol=OPS_RTOL, atol=OPS_ATOL)
    in_jax = head.landmarks(jnp.asarray(alpha[0]), jnp.asarray(beta))
    np.testing.assert_allclose(in_jax, shared[:, head.landmark_index], rtol=OPS_RTOL, atol=OPS_ATOL)


def test_gradient_of_landmarks_to_coefficients_is_the_basis(head):
    alpha, beta = coefficients(head)
    jacobian = jax.jacobian(lambda b: head.landmarks(jnp.asarray(alpha), b))(jnp.asarray(beta))
    want = np.moveaxis(head.exp_basis[:, head.landmark_index], 0, -1)
    np.testing.assert_allclose(jacobian, want, rtol=OPS_RTOL, atol=OPS_ATOL)


def test_expression_index_knows_sides_and_both_spellings(head):
    left, right = (head.exp_names.index(f"mouthSmile{side}") for side in ("Left", "Right"))
    assert head.expression_index("mouthSmile") == (left, right)
    assert head.expression_index("mouthSmileLeft") == (left,)
    assert head.expression_index("mouthSmile_L") == (left,)
    assert len(head.expression_index("jawOpen")) == 1
    # jawLeft is a direction, not a side of "jaw"
    with pytest.raises(UserError, match="jaw"):
        head.expression_index("jaw")
    assert head.expression_index("jawLeft") == (head.exp_names.index("jawLeft"),)
    with pytest.raises(UserError, match="mouthSmileLeft"):
        head.expression_index("mouthSmil")


def test_expression_sets_only_what_is_named(head):
    beta = head.expression(jawOpen=0.5, eyeBlink=1.0)
    assert beta[list(head.expression_index("eyeBlink"))].tolist() == [1.0, 1.0]
    assert beta.sum() == pytest.approx(2.5)


def test_canonical_expression_is_a_slightly_open_mouth(head):
    (jaw,) = head.expression_index("jawOpen")
    assert 0.05 < head.canonical_exp[jaw] < 0.5
    assert np.count_nonzero(head.canonical_exp) == 1


def test_sample_id_is_seeded_and_bounded(head):
    first, again = (head.sample_id(np.random.default_rng(3), strength=0.5) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(np.stack([head.sample_id(np.random.default_rng(k)) for k in range(50)])).max() <= 1.6 + 1e-6


def test_mediapipe_matrix_drives_every_expression_once(head):
    matrix = mediapipe_matrix(head.exp_names)
    np.testing.assert_array_equal(matrix, head.mediapipe_to_exp)
    assert matrix.shape == (52, head.num_exp)
    np.testing.assert_array_equal(matrix.sum(0), 1.0)
    scores = np.zeros(52, np.float32)
    scores[MEDIAPIPE_BLENDSHAPES.index("eyeBlinkLeft")] = 0.7
    np.testing.assert_allclose(scores @ matrix, head.expression(eyeBlinkLeft=0.7))


def test_unsided_scores_drive_both_sides():
    matrix = mediapipe_matrix(("browInnerUp_L", "browInnerUp_R", "jawOpen", "nonsense"))
    row = matrix[MEDIAPIPE_BLENDSHAPES.index("browInnerUp")]
    np.testing.assert_array_equal(row, [1, 1, 0, 0])
    assert matrix[:, 3].sum() == 0


def test_mediapipe_tables_are_those_of_the_parity_data():
    facts = json.loads(shared_path("ict_facekit/arkit_map.json").read_text())
    assert facts["mediapipe_index_of_landmark68"] == list(MEDIAPIPE_68)
    assert facts["mediapipe_order"] == list(MEDIAPIPE_BLENDSHAPES)
    want = {ict: source for source, targets in facts["map"].items() for ict in targets}
    matrix = mediapipe_matrix(tuple(facts["ict_order"]))
    for j, name in enumerate(facts["ict_order"]):
        assert MEDIAPIPE_BLENDSHAPES[int(matrix[:, j].argmax())] == want[name]


def test_arkit_name():
    assert arkit_name("mouthSmile_L") == "mouthSmileLeft"
    assert arkit_name("jawOpen") == "jawOpen"


def test_unknown_head_and_missing_path_are_user_errors():
    with pytest.raises(UserError, match="procedural, ict"):
        load_morphable_model("bfm2040")
    with pytest.raises(UserError, match="--ict=PATH"):
        load_morphable_model("ict")


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("triangles", np.array([[0, 1, 10**6]]), "index 1000000"),
        ("landmark_index", np.zeros(67, int), r"\(67,\), expected \(68,\)"),
        ("mean", np.full((4, 3), np.nan), "non-finite"),
        ("exp_basis", np.zeros((2, 3, 3)), "exp_basis has shape"),
    ],
)
def test_check_model_names_the_field_that_does_not_fit(field, value, message):
    good = {
        "mean": np.zeros((4, 3)),
        "id_basis": np.zeros((1, 4, 3)),
        "exp_basis": np.zeros((2, 4, 3)),
        "triangles": np.array([[0, 1, 2]]),
        "landmark_index": np.zeros(68, int),
        "vertex_part": np.zeros(4, int),
        "canonical_exp": np.zeros(2),
        "mediapipe_to_exp": np.zeros((52, 2)),
        "eye_centers": np.zeros((2, 3)),
        "eye_axes": np.zeros((2, 3)),
        "name": "toy",
        "exp_names": ("a", "b"),
    }
    assert check_model(MorphableModel(**good), "toy").mean.dtype == np.float32
    with pytest.raises(UserError, match=message):
        check_model(MorphableModel(**(good | {field: value})), "toy")


BAD_MESHES = {
    "mesh_dims_disagree.npz": "expr_deltas has shape",
    "mesh_nan_vertex.npz": "non-finite",
    "mesh_triangle_out_of_range.npz": "1000000",
    "zip_slip.npz": "not a plain array name",
    "track_object_array.npz": "Object arrays",
    "zero_bytes.png": "not a readable",
    "truncated.jpg": "not a readable",
}


@pytest.mark.parametrize("name", BAD_MESHES)
def test_shared_bad_files_end_in_one_clear_line(name, tmp_path, monkeypatch):
    path = shared_path(f"faces_bad/{name}")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=BAD_MESHES[name]) as caught:
        load_morphable_model("ict", path)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_read_npz_never_unpickles(tmp_path):
    class Bomb:
        def __reduce__(self):
            return (open, (str(tmp_path / "unpickled"), "w"))

    np.savez(tmp_path / "bomb.npz", a=np.array([Bomb()], dtype=object))
    with pytest.raises(UserError, match="Object arrays"):
        read_npz(tmp_path / "bomb.npz")
    assert not (tmp_path / "unpickled").exists()


def test_read_npz_refuses_paths_other_members_and_bombs(tmp_path, monkeypatch):
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(3))
    for member in ("../a.npy", "sub/a.npy", "..\\a.npy", "readme.txt"):
        with zipfile.ZipFile(tmp_path / "bad.npz", "w") as archive:
            archive.writestr(member, buffer.getvalue())
        with pytest.raises(UserError, match="not a plain array name"):
            read_npz(tmp_path / "bad.npz")
    monkeypatch.setattr(npz, "MAX_BYTES", 1 << 20)
    with zipfile.ZipFile(tmp_path / "bomb.npz", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", bytes((1 << 20) + 1))
    with pytest.raises(UserError, match="more than 1 MiB"):
        read_npz(tmp_path / "bomb.npz")


def test_read_npz_says_what_is_missing(tmp_path):
    np.savez(tmp_path / "a.npz", here=np.zeros(2))
    with pytest.raises(UserError, match="lacks there; it holds here"):
        read_npz(tmp_path / "a.npz", ("there",))
    with pytest.raises(UserError, match="no such"):
        read_npz(tmp_path / "b.npz")
