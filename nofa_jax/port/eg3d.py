"""EG3D's `G_ema` (NVlabs/eg3d, training/triplane.py) -> variables and fields of `nofa_jax.models.eg3d.EG3D`."""

import re
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nofa_jax.errors import UserError
from nofa_jax.models.eg3d import EG3D
from nofa_jax.models.generator import Generator
from nofa_jax.models.renderer import Decoder, VolumeRenderer
from nofa_jax.models.superres import EG3D_SUPERRES, SuperResolution
from nofa_jax.port.mapping import Ignore, Rule, channels_last, conv, convert, keep, linear, pointwise
from nofa_jax.rendering.triplane import EG3D_PLANE_AXES

MAX_MAPPING_LAYERS = 64  # StyleGANs have 2 to 8
_SYNTHESIS = r"(?P<net>backbone\.synthesis\.b\d+|superresolution\.block\d)"
_LAYER = _SYNTHESIS + r"\.(?P<layer>conv[01]|torgb)"


def _path(match) -> str:
    """Flax path of the block or layer that a rule's source names."""
    net = match["net"].replace("backbone.synthesis.", "generator/").replace("superresolution.", "superres/")
    layer = match.groupdict().get("layer")
    return f"{net}/{layer}" if layer else net


RULES = [
    Rule(_SYNTHESIS + r"\.const", lambda m: f"params/{_path(m)}/const", channels_last),
    Rule(_SYNTHESIS + r"\.(?P<layer>conv[01])\.weight", lambda m: f"params/{_path(m)}/kernel", conv),
    Rule(_SYNTHESIS + r"\.(?P<layer>torgb)\.weight", lambda m: f"params/{_path(m)}/kernel", pointwise),
    Rule(_LAYER + r"\.(?P<leaf>bias|noise_strength)", lambda m: f"params/{_path(m)}/{m['leaf']}", keep),
    Rule(_LAYER + r"\.noise_const", lambda m: f"buffers/{_path(m)}/noise_const", keep),
    Rule(_LAYER + r"\.affine\.weight", lambda m: f"params/{_path(m)}/affine/kernel", linear),
    Rule(_LAYER + r"\.affine\.bias", lambda m: f"params/{_path(m)}/affine/bias", keep),
    Rule(r"backbone\.mapping\.(embed|fc\d+)\.weight", r"params/generator/mapping/\1/kernel", linear),
    Rule(r"backbone\.mapping\.(embed|fc\d+)\.bias", r"params/generator/mapping/\1/bias"),
    Rule(r"backbone\.mapping\.w_avg", "buffers/generator/mapping/w_avg"),
    Rule(r"decoder\.net\.0\.weight", "params/renderer/decoder/hidden_layer/kernel", linear),
    Rule(r"decoder\.net\.0\.bias", "params/renderer/decoder/hidden_layer/bias"),
    Rule(r"decoder\.net\.2\.weight", "params/renderer/decoder/output_layer/kernel", linear),
    Rule(r"decoder\.net\.2\.bias", "params/renderer/decoder/output_layer/bias"),
    Ignore(r"(.*\.)?resample_filter", "[1, 3, 3, 1] everywhere; `port` checks it"),
    Ignore(r"dataset_label_std", "only EG3D's training uses it"),
]


def port(state: Mapping[str, np.ndarray], model: EG3D, name: str = "EG3D weights") -> dict[str, Any]:
    """State dict of `G_ema` -> {"params", "buffers"} of `model`.

    Raises:
      UserError: the tensors do not fit the model, or were made with another resampling filter.
    """
    taps = np.array([1, 3, 3, 1]) / 8
    for key, value in state.items():
        if key.endswith("resample_filter") and not np.allclose(value, np.outer(taps, taps), atol=1e-6):
            raise UserError(f"{name}: {key} is not the [1, 3, 3, 1] filter; only that one is supported")
    return convert(state, RULES, abstract_variables(model), name)


def abstract_variables(model: EG3D) -> dict[str, Any]:
    """Shapes and dtypes of the model's variables; computes nothing."""
    ws = jnp.zeros((1, model.generator.num_ws, model.generator.w_dim))
    small = model.clone(rendering_resolution=4)  # no variable depends on it
    return jax.eval_shape(small.init, jax.random.key(0), ws, jnp.zeros((1, 25)))


def generator_config_from(
    init_kwargs: Mapping[str, Any],
    rendering_kwargs: Mapping[str, Any],
    state: Mapping[str, np.ndarray],
    resolution: int | None = None,
    plane_axes: np.ndarray | None = None,
) -> dict[str, Any]:
    """Fields of the four modules from what the network file says of itself.

    Args:
      init_kwargs: `G_ema`'s constructor arguments.
      rendering_kwargs: its rendering arguments (the attribute, which training updates, not the constructor's copy).
      state: its tensors. Sizes that EG3D's constructor fixes (planes, super-resolution) are read from their shapes, so
        networks of changed size load too.
      resolution: its `neural_rendering_resolution`; None: EG3D's initial 64.
      plane_axes: its renderer's `plane_axes` [3, 3, 3]; None: those of EG3D's releases.

    Returns:
      {"generator", "decoder", "renderer", "superres", "rendering_resolution"}, see `model_from`.

    Raises:
      UserError: a missing argument, or a value this package cannot reproduce.
    """
    if rendering_kwargs.get("clamp_mode", "softplus") != "softplus":
        raise UserError(f"EG3D rendering_kwargs: clamp_mode {rendering_kwargs['clamp_mode']!r} is not 'softplus'")
    if rendering_kwargs.get("density_noise", 0):
        raise UserError("EG3D rendering_kwargs: density_noise is not supported")
    _refuse_other_values("", init_kwargs, {"activation": "lrelu", "architecture": "skip", "use_noise": True})
    mapping = init_kwargs.get("mapping_kwargs", {})
    _refuse_other_values("mapping_kwargs: ", mapping, {"activation": "lrelu"})
    if mapping.get("num_layers", 8) not in range(1, MAX_MAPPING_LAYERS + 1):
        raise UserError(f"EG3D mapping_kwargs: num_layers {mapping['num_layers']!r} is not 1 to {MAX_MAPPING_LAYERS}")
    try:
        return {
            "generator": _generator_fields(init_kwargs, rendering_kwargs, state),
            "decoder": _decoder_fields(rendering_kwargs, state),
            "renderer": {**_renderer_fields(rendering_kwargs), "plane_axes": _axes(plane_axes)},
            "superres": _superres_fields(init_kwargs, rendering_kwargs, state),
            "rendering_resolution": int(resolution or 64),
        }
    except KeyError as e:
        raise UserError(f"EG3D network: {e.args[0]!r} is missing from its arguments or tensors") from e


def model_from(fields: Mapping[str, Any], ray_chunk: int = 0, dtype: Any = jnp.float32) -> EG3D:
    """The network that `generator_config_from` describes."""
    decoder = Decoder(**fields["decoder"])
    return EG3D(
        generator=Generator(**fields["generator"], dtype=dtype),
        renderer=VolumeRenderer(decoder=decoder, ray_chunk=ray_chunk, **fields["renderer"]),
        superres=SuperResolution(**fields["superres"], dtype=dtype),
        rendering_resolution=fields["rendering_resolution"],
    )


def _refuse_other_values(where: str, given: Mapping[str, Any], only: Mapping[str, Any]) -> None:
    for name, value in only.items():
        if given.get(name, value) != value:
            raise UserError(f"EG3D {where}{name} {given[name]!r} is not supported, only {value!r}")


def _axes(matrices: np.ndarray | None) -> tuple[tuple[int, int], ...]:
    """Which coordinates (along width, along height) each plane is read at, from the planes' axes as matrices' rows."""
    if matrices is None:
        return EG3D_PLANE_AXES
    # A point's place on a plane is the first two entries of x @ inverse(axes); for a permutation that is its transpose.
    turns = np.asarray(matrices, np.float64)
    if turns.shape != (3, 3, 3) or not np.array_equal(np.sort(turns, axis=2), np.tile([0.0, 0.0, 1.0], (3, 3, 1))):
        raise UserError("EG3D renderer: plane_axes are not three planes along the coordinate axes")
    return tuple((int(m[0].argmax()), int(m[1].argmax())) for m in turns)


def _generator_fields(init: Mapping[str, Any], rendering: Mapping[str, Any], state: Mapping) -> dict[str, Any]:
    blocks = [int(m[1]) for key in state if (m := re.fullmatch(r"backbone\.synthesis\.b(\d+)\.torgb\.bias", key))]
    if not blocks:
        raise KeyError("backbone.synthesis.b4.torgb.bias")
    clamp = init.get("conv_clamp", 256)  # the default of EG3D's blocks
    mapping = init.get("mapping_kwargs", {})
    return {
        "z_dim": int(init["z_dim"]),
        "c_dim": int(init["c_dim"]),
        "w_dim": int(init["w_dim"]),
        "num_mapping_layers": int(mapping.get("num_layers", 8)),
        "mapping_lr_multiplier": float(mapping.get("lr_multiplier", 0.01)),
        **{f"mapping_{x}": _optional(mapping.get(x)) for x in ("embed_features", "layer_features")},
        "plane_resolution": max(blocks),
        "plane_channels": len(state["backbone.synthesis.b4.torgb.bias"]) // 3,
        "channel_base": int(init.get("channel_base", 32768)),
        "channel_max": int(init.get("channel_max", 512)),
        "c_scale": float(rendering.get("c_scale", 0.0)),
        "zero_conditioning": bool(rendering.get("c_gen_conditioning_zero", False)),
        "clamp": None if clamp is None else float(clamp),
    }


def _optional(size: Any) -> int | None:
    return None if size is None else int(size)


def _decoder_fields(rendering: Mapping[str, Any], state: Mapping) -> dict[str, Any]:
    return {
        "features": len(state["decoder.net.2.bias"]) - 1,
        "hidden": len(state["decoder.net.0.bias"]),
        "lr_multiplier": float(rendering.get("decoder_lr_mul", 1.0)),
    }


def _renderer_fields(rendering: Mapping[str, Any]) -> dict[str, Any]:
    near, far = rendering["ray_start"], rendering["ray_end"]
    auto = near == "auto" and far == "auto"
    return {
        "near": "auto" if auto else float(near),
        "far": "auto" if auto else float(far),
        "box_warp": float(rendering["box_warp"]),
        "samples": int(rendering["depth_resolution"]),
        "importance_samples": int(rendering["depth_resolution_importance"]),
        "in_disparity": bool(rendering.get("disparity_space_sampling", False)),
        "white_back": bool(rendering.get("white_back", False)),
    }


def _superres_fields(init: Mapping[str, Any], rendering: Mapping[str, Any], state: Mapping) -> dict[str, Any]:
    name = str(rendering["superresolution_module"]).rsplit(".", 1)[-1].removeprefix("SuperresolutionHybrid")
    if name not in EG3D_SUPERRES:
        raise UserError(f"EG3D super-resolution {name!r} is unknown; known are {', '.join(EG3D_SUPERRES)}")
    fields: dict[str, Any] = dict(EG3D_SUPERRES[name])
    factor = fields["output_resolution"] // fields["input_resolution"]
    output = len(state["superresolution.block1.conv1.noise_const"])
    return {
        **fields,
        "input_resolution": output // factor,
        "output_resolution": output,
        "channels": tuple(len(state[f"superresolution.block{i}.conv0.bias"]) for i in range(2)),
        "antialias": bool(rendering.get("sr_antialias", True)),
        "clamp": 256.0 if init.get("sr_num_fp16_res", 0) > 0 else None,
        "noise_mode": rendering.get("superresolution_noise_mode", "none"),
    }
