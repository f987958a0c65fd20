"""Writes network files with the layout of EG3D's training code, without PyTorch and without its classes."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from tests.port.torch_files import Call, Name, legacy_bytes, tensor

PLANE_AXES = np.float32(
    [[[1, 0, 0], [0, 1, 0], [0, 0, 1]], [[1, 0, 0], [0, 0, 1], [0, 1, 0]], [[0, 0, 1], [1, 0, 0], [0, 1, 0]]]
)
PLAIN_CLASSES = {  # path of a module -> its class, where that is no persistent one
    "decoder": "training.triplane.OSGDecoder",
    "decoder.net": "torch.nn.modules.container.Sequential",
    "decoder.net.1": "torch.nn.modules.activation.Softplus",
    "renderer": "training.volumetric_rendering.renderer.ImportanceRenderer",
    "renderer.ray_marcher": "training.volumetric_rendering.ray_marcher.MipRayMarcher2",
    "ray_sampler": "training.volumetric_rendering.ray_sampler.RaySampler",
}
BUFFERS = ("noise_const", "resample_filter", "w_avg", "dataset_label_std")


class Instance:
    """An object whose class has no source in the file: NEWOBJ, then BUILD with its attributes."""

    def __init__(self, name: str, state: dict | None):
        module, _, attribute = name.rpartition(".")
        self.cls, self.state = Name(module, attribute), state


class _Pickler(pickle._Pickler):
    """Protocol 4, with names of modules that are not installed."""

    def save(self, obj: Any, save_persistent_id: bool = True) -> None:
        if isinstance(obj, Name):
            super().save(obj.module)
            super().save(obj.name)
            self.write(pickle.STACK_GLOBAL)
        elif isinstance(obj, Instance):
            self.save(obj.cls)
            self.save(())
            self.write(pickle.NEWOBJ)
            if obj.state is not None:
                self.save(obj.state)
                self.write(pickle.BUILD)
        elif type(obj) is np.ndarray:
            self.save(_parameter(obj))
        else:
            super().save(obj, save_persistent_id)


class _Storage:
    """`torch.storage._load_from_bytes`: a legacy checkpoint of one storage, in bytes."""

    def __init__(self, values: np.ndarray):
        self.values = values

    def __reduce__(self) -> tuple:
        content = legacy_bytes(tensor(self.values, "0").args[0])
        return Name("torch.storage", "_load_from_bytes"), (content,)


def _parameter(values: np.ndarray) -> Call:
    strides = tuple(s // values.itemsize for s in values.strides)
    empty = Call(Name("collections", "OrderedDict"))
    made = Call(Name("torch._utils", "_rebuild_tensor_v2"), _Storage(values), 0, values.shape, strides, False, empty)
    return Call(Name("torch._utils", "_rebuild_parameter"), made, True, empty)


def module(tensors: dict[str, np.ndarray], path: str = "", **attributes: Any) -> Call | Instance:
    """The module that owns the tensors below `path`, with its submodules."""
    below = {name.removeprefix(f"{path}." if path else ""): value for name, value in tensors.items()}
    own = {name: value for name, value in below.items() if "." not in name}
    children: dict[str, dict] = {}
    for name, value in below.items():
        if "." in name:
            children.setdefault(name.split(".", 1)[0], {})[name.split(".", 1)[1]] = value
    empty = {"renderer": {}, "ray_sampler": {}} if not path else {"1": {}} if path == "decoder.net" else {}
    modules = {}
    for name, inside in (children | empty).items():
        child = f"{path}.{name}" if path else name
        extra = {"plane_axes": PLANE_AXES} if child == "renderer" else {}
        modules[name] = module({f"{child}.{k}": v for k, v in inside.items()}, child, **extra)
    state = {
        "training": False,
        "_parameters": {k: v for k, v in own.items() if k not in BUFFERS} | {"unused": None},
        "_buffers": {k: v for k, v in own.items() if k in BUFFERS},
        "_non_persistent_buffers_set": set(),
        "_modules": modules,
        **attributes,
    }
    if path in PLAIN_CLASSES:
        return Instance(PLAIN_CLASSES[path], state)
    meta = {"type": "class", "version": 6, "module_src": "raise SystemExit('source was executed')", "state": state}
    meta["class_name"] = attributes.pop("class_name", path.rsplit(".", 1)[-1] or "TriPlaneGenerator")
    return Call(Name("torch_utils.persistence", "_reconstruct_persistent_obj"), meta)


def network_file(tensors: dict[str, np.ndarray], init_kwargs: dict, resolution: int, **attributes: Any) -> bytes:
    """A file whose `G_ema` has these tensors and constructor arguments; `attributes` replace the module's own."""
    own = {
        "rendering_kwargs": dict(init_kwargs["rendering_kwargs"]),
        "neural_rendering_resolution": resolution,
        "_init_args": (),
        "_init_kwargs": init_kwargs,
    }
    tree = {
        "training_set_kwargs": Instance("dnnlib.util.EasyDict", None),
        "G": None,
        "D": None,
        "G_ema": module(tensors, **{**own, **attributes}),
        "augment_pipe": None,
    }
    return write(tree)


def write(tree: Any) -> bytes:
    """Any tree with the marks above, in NVIDIA's protocol."""
    file = io.BytesIO()
    _Pickler(file, protocol=4).dump(tree)
    return file.getvalue()


def save_network(path: Path, *args: Any, **attributes: Any) -> Path:
    path.write_bytes(network_file(*args, **attributes))
    return path
