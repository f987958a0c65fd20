"""The terms that need more than two images: mouth and teeth, by hand, in value and gradient."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nofa_jax.losses.regions import mouth_box, mouth_crop
from nofa_jax.models.nofa import Volume
from nofa_jax.train.frozen import Frozen, identity_network, perceptual_network, restoring_network
from nofa_jax.train.objective import Objective, View
from nofa_jax.types import Output
from tests import tolerances as tol

SIZE, CROP = 32, 8


def restore(variables: dict, image: jax.Array) -> jax.Array:
    """A brighter picture of twice the size."""
    return variables["gain"] * jnp.repeat(jnp.repeat(image, 2, axis=1), 2, axis=2) + 0.25


@pytest.fixture(scope="module")
def objective() -> Objective:
    perceptual = perceptual_network("laplacian-pyramid", False)
    restorer = Frozen("brighter", restore, {"gain": jnp.float32(0.5)})
    return Objective(perceptual, identity_network("lowpass-cosine", False), CROP, restorer)


@pytest.fixture(scope="module")
def scene() -> tuple[jax.Array, View]:
    """A picture that is constant in its upper half, where the mouth is not, and in its lower half, where it is."""
    keys = jax.random.split(jax.random.key(0))
    landmarks = jnp.full((2, 68, 2), 0.2).at[:, 48:68].set(0.7).at[:, 48, 0].set(0.6).at[:, 54, 0].set(0.8)
    image = jnp.full((2, SIZE, SIZE, 3), -0.3).at[:, SIZE // 2 :].set(0.4)
    target = jax.random.uniform(keys[1], image.shape, minval=-1.0)
    return image, View(image=target, mask=jnp.ones((2, SIZE, SIZE)), landmarks=landmarks)


def terms(objective: Objective, image: jax.Array, view: View, *names: str) -> dict[str, jax.Array]:
    nothing = jnp.zeros((2, 1, 1, 1))
    output = Output(image, nothing, nothing, nothing, nothing)
    planes, ws = jnp.zeros((2, 3, 1, 1, 1)), jnp.zeros((2, 1, 1))
    return objective(frozenset(names), output, Volume(planes, planes, planes, ws, ws), view, objective.networks)


def test_the_mouth_terms_are_those_of_the_crops(objective, scene) -> None:
    image, view = scene
    assert float(mouth_box(view.landmarks)[0, 1]) > 0.5  # in the lower half
    crop = np.asarray(mouth_crop(view.image, view.landmarks, CROP))
    got = terms(objective, image, view, "mouth_l2", "mouth_lpips")
    np.testing.assert_allclose(got["mouth_l2"], np.mean((crop - 0.4) ** 2), rtol=tol.OPS_RTOL)
    gradient = jax.grad(lambda x: terms(objective, x, view, "mouth_l2")["mouth_l2"])(image)
    assert not np.any(gradient[:, : SIZE // 2])  # outside the box
    # A brighter mouth by d changes the loss by 2 d mean(0.4 - crop): the weights of every crop pixel sum to one.
    np.testing.assert_allclose(gradient.sum(), 2 * np.mean(0.4 - crop), rtol=1e-4)


def test_the_teeth_terms_draw_the_mouth_to_the_restored_one_which_gets_no_gradient(objective, scene) -> None:
    image, view = scene
    restored = 0.5 * 0.4 + 0.25
    got = terms(objective, image, view, "teeth_l2", "teeth_lpips")
    np.testing.assert_allclose(got["teeth_l2"], (restored - 0.4) ** 2, rtol=tol.OPS_RTOL)
    np.testing.assert_allclose(got["teeth_lpips"], restored - 0.4, rtol=tol.OPS_RTOL)  # flat: the coarsest level alone
    gradient = jax.grad(lambda x: terms(objective, x, view, "teeth_l2")["teeth_l2"])(image)
    # With the target held still: 2 (0.4 - 0.45). Through the restorer it would be half of that.
    np.testing.assert_allclose(gradient.sum(), 2 * (0.4 - restored), rtol=1e-4)
    assert not np.any(gradient[:, : SIZE // 2])


def test_the_log_names_what_was_really_used(objective) -> None:
    assert objective.names["lpips"] == "laplacian_pyramid"
    assert objective.names["teeth_lpips"] == "teeth_laplacian_pyramid"
    assert objective.names["id"] == "id_lowpass_cosine"
    assert set(objective.networks) == {"perceptual", "identity", "restorer"}


def test_an_untrained_restorer_of_any_size_runs_inside_a_jitted_step(capsys) -> None:
    network = restoring_network("untrained", 16)
    assert "mechanics alone" in capsys.readouterr().out
    image = jax.random.uniform(jax.random.key(1), (2, 16, 16, 3), minval=-1.0)
    restored = jax.jit(network.apply)(network.variables, image)
    assert restored.shape == (2, 16, 16, 3)
    assert float(jnp.abs(restored).max()) <= 1.0
