"""The Basel Face Model against the official code on a made-up model, and its port."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.face3d.bfm import BaselFaceModel, rotation
from nofa_jax.port.bfm import port_bfm
from nofa_jax.port.mat_file import load_mat
from tests import golden
from tests.golden import assert_parity
from tests.quick import fast_compile
from tests.shared import shared_path


@pytest.fixture(scope="module")
def arrays() -> dict[str, np.ndarray]:
    return load_mat(shared_path("golden/face3d/made_up_BFM_model_front.mat"))


@pytest.fixture(scope="module")
def model(arrays: dict[str, np.ndarray]) -> BaselFaceModel:
    return BaselFaceModel(**jax.tree.map(jnp.asarray, port_bfm(arrays)[1]["buffers"]))


def test_shape_pose_light_and_landmarks(model: BaselFaceModel) -> None:
    stored = golden.arrays("face3d", "face_model")

    @jax.jit
    def everything(coeffs):
        c = model.split(coeffs)
        vertices = model.vertices(c.id, c.exp)
        return {
            "shape": vertices,
            "rotation": jnp.swapaxes(rotation(c.angle), 1, 2),
            "texture": model.texture(c.tex),
            "normal": model.normals(vertices),
            "color": model.colors(c),
            "landmarks_image_y_down": model.landmarks(c),
        }

    assert_parity(model.mean, stored["mean_shape_recentred"])
    for name, value in everything(stored["coeff"]).items():
        assert_parity(value, stored[name])


def test_gradients_are_finite(model: BaselFaceModel) -> None:
    coeffs = golden.arrays("face3d", "face_model")["coeff"]

    def total(x):
        return jnp.sum(model.landmarks(model.split(x)) ** 2) + jnp.sum(model.colors(model.split(x)))

    with fast_compile():
        grad = jax.jit(jax.grad(total))(coeffs)
    assert jnp.all(jnp.isfinite(grad))
    with pytest.raises(ValueError, match="takes 257 coefficients, got 256"):
        model.split(jnp.asarray(coeffs[:, :-1]))


def test_published_sizes_are_covered() -> None:
    listed = golden.manifest("face3d", "inventory_bfm")["tensors"]
    arrays = {name: np.broadcast_to(np.float32(1), entry["shape"]) for name, entry in listed.items()}
    sizes, variables = port_bfm(arrays)
    assert sizes == {"vertices": 35709, "triangles": 70789, "id": 80, "exp": 64, "tex": 80, "keypoints": 68}
    assert variables["buffers"]["id_basis"].shape == (80, 35709, 3)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"keypoints": np.array([[0.0]])}, "keypoints holds indices -1 to -1, allowed are 0 to 356"),
        ({"tri": np.array([[1.0, 2.0, 358.0]])}, "triangles holds indices 0 to 357, allowed are 0 to 356"),
        ({"tri": np.array([[1.0, 2.0, 1e12]])}, "does not suit the transform indices"),
        ({"tri": np.array([[1.5, 2.0, 3.0]])}, "does not suit the transform indices"),
        ({"exBase": np.zeros((9, 64))}, "exBase -> buffers/exp_basis"),
        ({"extra": np.zeros((2, 2))}, "no rule takes .extra"),
    ],
)
def test_bad_files_are_refused(arrays: dict[str, np.ndarray], change: dict, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        port_bfm(arrays | change, "face.mat")


def test_a_missing_array_is_named(arrays: dict[str, np.ndarray], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="has no matrix 'idBase'"):
        port_bfm({k: v for k, v in arrays.items() if k != "idBase"}, "face.mat")
