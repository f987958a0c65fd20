"""EG3D as `port run` runs it: codes or noise and a camera in, everything the original's synthesis gives out."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nofa_jax.errors import UserError
from nofa_jax.models.eg3d import EG3D
from nofa_jax.port.eg3d import abstract_variables, model_from
from nofa_jax.port.networks import Arrays, Network, Variables, in_batches
from nofa_jax.progress import log
from nofa_jax.rendering.camera import make_rays, split_label

RAYS_AT_ONCE = 128 * 128  # of all images together: about 1 GiB at 96 samples a ray
MAX_RESOLUTION = 1024  # rays per side


def eg3d_network(options: Mapping[str, Any], dtype: Any = jnp.float32) -> Network:
    """The network that `port.eg3d.generator_config_from` described; rays and points are always float32."""
    superres = {**options["superres"], "channels": tuple(options["superres"]["channels"])}
    renderer = {**options["renderer"], "plane_axes": tuple(map(tuple, options["renderer"]["plane_axes"]))}
    model = model_from({**options, "superres": superres, "renderer": renderer}, dtype=dtype)
    return Network(abstract_variables(model), lambda variables, inputs: run(model, variables, inputs))


def run(model: EG3D, variables: Variables, inputs: Arrays) -> Arrays:
    """All outputs. Generator and super-resolution see one image at a time, the renderer all of them: EG3D clamps
    depths to the range of the samples of the whole batch.
    """
    parts = {
        name: {kind: jax.tree.map(jnp.asarray, tree[name]) for kind, tree in variables.items() if name in tree}
        for name in ("generator", "renderer", "superres")
    }
    ws = inputs["ws"] if "ws" in inputs else _codes(model, parts["generator"], inputs)
    camera = inputs["camera"]
    if ws.shape != (len(camera), model.generator.num_ws, model.generator.w_dim):
        wanted = f"[n, {model.generator.num_ws}, {model.generator.w_dim}]"
        raise UserError(f"ws has shape {list(ws.shape)}, this network takes {wanted} and one camera for each")
    resolution = int(inputs.get("neural_rendering_resolution", model.rendering_resolution))
    if not 1 <= resolution <= MAX_RESOLUTION:
        raise UserError(f"neural_rendering_resolution is {resolution}, allowed are 1 to {MAX_RESOLUTION}")
    made = _planes(model, parts["generator"], ws)
    rendered = _render(model, parts["renderer"], made["planes"], camera, resolution)
    images = _super_resolution(model, parts["superres"], rendered["features"], ws)
    return {"ws": ws, **made, "image_depth": rendered["depth"], **images}


def _codes(model: EG3D, variables: Variables, inputs: Arrays) -> np.ndarray:
    """The mapping network, with truncation of all layers."""
    generator = model.generator
    label = inputs.get("camera_mapping", inputs["camera"])  # as the original's forward, which has one camera for both
    psi = float(inputs.get("truncation_psi", 1.0))
    if inputs["z"].shape[1] != generator.z_dim:
        raise UserError(f"z has shape {list(inputs['z'].shape)}, this network takes [n, {generator.z_dim}]")
    if generator.c_dim and label.shape[1] != generator.c_dim:
        raise UserError(f"camera_mapping has {label.shape[1]} numbers, this network takes {generator.c_dim}")
    apply = jax.jit(lambda v, z, c: generator.apply(v, z, c, jnp.float32(psi), method="mapping"))
    return np.asarray(apply(variables, inputs["z"], label))


def _planes(model: EG3D, variables: Variables, ws: np.ndarray) -> Arrays:
    """Tri-planes, and the output of block b64 where the network has one."""

    @jax.jit
    def apply(v: Variables, ws: jax.Array) -> dict[str, jax.Array]:
        made, inside = model.generator.apply(v, ws, capture_intermediates=lambda module, _: module.name == "b64")
        block = inside.get("intermediates", {}).get("b64")
        features = {} if block is None else {"feature64": block["__call__"][0][0].astype(jnp.float32)}
        return {**features, "planes": made.planes}

    return in_batches(lambda rows: apply(variables, rows), 1, ws)


def _render(model: EG3D, variables: Variables, planes: np.ndarray, camera: np.ndarray, resolution: int) -> Arrays:
    chunk = max(1, RAYS_AT_ONCE // len(camera))
    renderer = model.renderer.clone(ray_chunk=chunk if chunk < resolution**2 else 0)

    @jax.jit
    def apply(v: Variables, planes: jax.Array, camera: jax.Array) -> dict[str, jax.Array]:
        out = renderer.apply(v, planes, make_rays(*split_label(camera), resolution))
        square = (len(planes), resolution, resolution, -1)
        return {"features": out.features.reshape(square), "depth": out.depth.reshape(square)}

    return {name: np.asarray(value) for name, value in apply(variables, planes, camera).items()}


def _super_resolution(model: EG3D, variables: Variables, features: np.ndarray, ws: np.ndarray) -> Arrays:
    """The image, and the raw image as the original returns it.

    Where the first block does not double the size, the original adds that block's colours to the raw image in place, so
    that the `image_raw` it returns has them, unless the feature image was resized (a copy) before.
    """
    superres, key = model.superres, None
    if superres.noise_mode == "random":
        log("superresolution_noise_mode is 'random' in this file: no two runs of the original agree either")
        key = jax.random.key(0)
    size = features.shape[1]
    resized = {"always": size != superres.input_resolution, "enlarge": size < superres.input_resolution}
    shared = not superres.doubles[0] and not resized.get(superres.resize, False)

    @jax.jit
    def apply(v: Variables, features: jax.Array, ws: jax.Array) -> dict[str, jax.Array]:
        image, inside = superres.apply(
            v, features, ws, key=key, capture_intermediates=lambda module, _: module.name == "block0"
        )
        colours = inside["intermediates"]["block0"]["__call__"][0][1]
        return {"image": image, "image_raw": colours if shared else features[..., :3]}

    return in_batches(lambda f, w: apply(variables, f, w), 1, features, ws)
