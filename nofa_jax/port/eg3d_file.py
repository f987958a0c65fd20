"""Reads the network files of EG3D's training code (NVlabs/eg3d): a pickle of whole modules, with their source code.

Nothing of that code runs. Classes become inert records of their attributes, and the state dict, the constructor's
arguments and the rendering options are collected from the record of `G_ema`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nofa_jax.errors import UserError
from nofa_jax.port.pickle_values import ordered_dict
from nofa_jax.port.pickle_vm import Opaque, PickleError
from nofa_jax.port.unpickle import Names

# Positional arguments of TriPlaneGenerator, which files made by copying a network may hold instead of names.
ARGUMENTS = (
    *("z_dim", "c_dim", "w_dim", "img_resolution", "img_channels"),
    *("sr_num_fp16_res", "mapping_kwargs", "rendering_kwargs", "sr_kwargs"),
)


class Module(Opaque):
    """An instance of a class of the training code: only its name and attributes."""

    def attributes(self) -> dict[str, Any]:
        if not isinstance(self.state, dict):
            raise PickleError(f"a {self.name[:60]!r} without attributes")
        return self.state

    def entries(self, group: str) -> dict[str, Any]:
        """`_parameters`, `_buffers` or `_modules`, without the empty ones."""
        found = self.attributes().get(group)
        if not isinstance(found, dict | None):
            raise PickleError(f"a {self.name[:60]!r} with a malformed {group}")
        return {str(name): value for name, value in (found or {}).items() if value is not None}


def _module(name: str):
    return lambda *args: Module(name, args)


def _persistent(meta: Any) -> Module:
    """torch_utils.persistence: a class kept as source text (`module_src`, dropped here) and the instance's state."""
    if not isinstance(meta, dict) or not isinstance(meta.get("class_name"), str):
        raise PickleError("a persistent object without the name of its class")
    module = Module(meta["class_name"])
    module.set_state(meta.get("state"))
    return module


NAMES: Names = {
    "dnnlib.util.EasyDict": ordered_dict,
    "torch_utils.persistence._reconstruct_persistent_obj": _persistent,
    **{
        name: _module(name.rsplit(".", 1)[-1])
        for name in (
            "torch.nn.modules.container.Sequential",
            "torch.nn.modules.activation.Softplus",
            "training.triplane.OSGDecoder",
            "training.volumetric_rendering.renderer.ImportanceRenderer",
            "training.volumetric_rendering.ray_sampler.RaySampler",
            "training.volumetric_rendering.ray_marcher.MipRayMarcher2",
        )
    },
}


@dataclass(frozen=True)
class EG3DFile:
    """What a network file says of its `G_ema`."""

    init_kwargs: dict[str, Any]
    rendering_kwargs: dict[str, Any]
    rendering_resolution: int | None  # `neural_rendering_resolution`
    plane_axes: np.ndarray | None  # [3, 3, 3]
    state: dict[str, np.ndarray]


def is_network_file(tree: Any) -> bool:
    """Whether a file's tree is that of StyleGAN2-ADA's family of training codes, to which EG3D's belongs."""
    return isinstance(tree, dict) and isinstance(tree.get("G_ema"), Module)


def read_generator(tree: Any, name: str | Path) -> EG3DFile:
    """The generator in a file's tree (`load_checkpoint(path, NAMES)`).

    Raises:
      UserError: it holds no generator of EG3D's, or a malformed one.
    """
    if not is_network_file(tree):
        raise UserError(f"{name} is not a network file of EG3D's: it has no entry G_ema")
    generator = tree["G_ema"]
    if generator.name != "TriPlaneGenerator":
        raise UserError(f"{name}: its G_ema is a {generator.name[:60]!a}, not EG3D's TriPlaneGenerator")
    try:
        attributes = generator.attributes()
        given = attributes.get("_init_args", ())
        kwargs = dict(zip(ARGUMENTS, given if isinstance(given, tuple) else (), strict=False))
        kwargs |= _plain(_mapping(attributes, "_init_kwargs"))
        axes = [m.attributes().get("plane_axes") for n, m in generator.entries("_modules").items() if n == "renderer"]
        resolution = attributes.get("neural_rendering_resolution")
        return EG3DFile(
            init_kwargs=kwargs,
            rendering_kwargs=_plain(_mapping(attributes, "rendering_kwargs")),
            rendering_resolution=resolution if type(resolution) is int and resolution > 0 else None,
            plane_axes=axes[0] if axes and isinstance(axes[0], np.ndarray) else None,
            state=dict(_tensors(generator)),
        )
    except PickleError as error:
        raise UserError(f"{name}: refused: {error}") from error


def _mapping(attributes: Mapping[str, Any], name: str) -> dict:
    if not isinstance(attributes.get(name), dict):
        raise PickleError(f"a generator without {name}")
    return attributes[name]


def _plain(values: Mapping[Any, Any]) -> dict[str, Any]:
    """The entries that JSON can hold: numbers, text, None and containers of these."""
    return {str(k): plain for k, v in values.items() if (plain := _plain_value(v)) is not NotImplemented}


def _plain_value(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, dict):
        return _plain(value)
    if isinstance(value, list | tuple):
        items = [_plain_value(item) for item in value]
        return NotImplemented if any(item is NotImplemented for item in items) else items
    return NotImplemented


def _tensors(module: Module, prefix: str = "") -> Iterator[tuple[str, np.ndarray]]:
    """The state dict: parameters and persistent buffers of the module and those in it, names joined by dots."""
    skipped = module.attributes().get("_non_persistent_buffers_set")
    for group in ("_parameters", "_buffers"):
        for name, value in module.entries(group).items():
            if group == "_buffers" and isinstance(skipped, set) and name in skipped:
                continue
            if not isinstance(value, np.ndarray) or not name.isprintable():
                raise PickleError(f"an entry of {group} that is no tensor with a printable name")
            yield prefix + name, value
    for name, child in module.entries("_modules").items():
        if not isinstance(child, Module):
            raise PickleError(f"an entry of _modules that is no module: {name[:60]!a}")
        yield from _tensors(child, f"{prefix}{name}.")
