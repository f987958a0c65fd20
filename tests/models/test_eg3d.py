"""The whole network against the original's images, depths and gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from nofa_jax.port.eg3d import RULES
from tests.eg3d_golden import assert_matches, golden, nchw, nhwc
from tests.models.eg3d_nets import compiled, network

RENDERS = [
    ("mini", "cam_a"),
    pytest.param("mini", "cam_b", marks=pytest.mark.slow),
    pytest.param("tiny", "cam_a", marks=pytest.mark.slow),
    pytest.param("tiny", "cam_b", marks=pytest.mark.slow),
    pytest.param("full", "cam_a", marks=pytest.mark.slow),
    pytest.param("full", "cam_b", marks=pytest.mark.slow),
    pytest.param("full", "cam_a_nrr64", marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("part", "view"), RENDERS)
def test_images_match_eg3d(part, view):
    g = golden(part)
    _, variables = network(part)
    size = g.meta["renders"][view]["neural_rendering_resolution"]
    out = compiled(part)(variables, jnp.asarray(g["ws_plus"]), jnp.asarray(g[f"c/{view}"]), size)
    assert_matches(g, f"{view}/feature_image", nchw(out.feature_image))
    assert_matches(g, f"{view}/image_raw", nchw(out.image_raw))
    assert_matches(g, f"{view}/image_depth", nchw(out.image_depth))
    assert_matches(g, f"{view}/weights_sum", nchw(out.opacity))
    assert_matches(g, f"{view}/image", nchw(out.image))


def test_gradients_match_eg3d():
    """d loss / d ws and nine parameters across all parts, through both render passes."""
    g = golden("mini")
    model, variables = network("mini")
    names = ("image", "image_raw", "image_depth")
    directions = [jnp.asarray(nhwc(g.input(f"grad_proj_{name}"))) for name in names]
    size = g.meta["renders"]["cam_a"]["neural_rendering_resolution"]
    camera = jnp.asarray(g["c/cam_a"])

    @jax.jit
    def run(params, ws):
        def loss(params, ws):
            out = model.apply(variables | {"params": params}, ws, camera, size)
            values = [getattr(out, name) for name in names]
            return sum((v * d).sum() / d.size**0.5 for v, d in zip(values, directions, strict=True))

        return jax.value_and_grad(loss, (0, 1))(params, ws)

    value, (grad_params, grad_ws) = run(variables["params"], jnp.asarray(g["ws_plus"]))
    assert_matches(g, "grad/loss", value[None])
    assert_matches(g, "grad/ws_plus", grad_ws)
    for item in g.names("output"):
        name = item.removeprefix("grad/")
        if item.startswith("grad/") and name not in ("loss", "ws_plus"):
            assert_matches(g, item, _original_layout(name, grad_params, g.items[item]["shape"]))


def _original_layout(name: str, tree: dict, shape: list[int]) -> np.ndarray:
    """The leaf that a PyTorch name is ported to, back in PyTorch's layout: by porting the positions themselves."""
    rule, match = next((rule, match) for rule in RULES if (match := re.fullmatch(rule.source, name)))
    path = rule.target(match) if callable(rule.target) else match.expand(rule.target)
    leaf = traverse_util.flatten_dict({"params": tree}, sep="/")[path]
    positions = rule.transform(np.arange(np.prod(shape, dtype=int)).reshape(shape))
    out = np.empty(positions.size, np.float32)
    out[positions.reshape(-1)] = np.asarray(leaf).reshape(-1)
    return out.reshape(shape)
