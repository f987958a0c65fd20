"""Starting a run from ported weights: EG3D into generator, renderer and super-resolution, a face network into the
encoder's trunk.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from nofa_jax.errors import UserError
from nofa_jax.models.nofa import NOFA
from nofa_jax.port.files import load_ported
from nofa_jax.progress import log
from nofa_jax.weights import missing_message, weight_path

Tree = Mapping[str, Any]

# Fields that decide what EG3D's weights mean, by module. Ranges and numbers of samples are the run's own choice.
EG3D_FIELDS = {
    "generator": ("clamp",),
    "decoder": ("lr_multiplier",),
    "renderer": ("box_warp", "plane_axes"),
    "superres": ("input_resolution", "output_resolution", "antialias", "clamp", "noise_mode"),
}


def load_initial(variables: Tree, model: NOFA, names: Mapping[str, str]) -> dict[str, Any]:
    """The model's variables with those of ported files in their places.

    Args:
      variables: collections of the whole model ("params", "buffers", …).
      names: for "generator" and "encoder" the entry of `nofa weights` that each starts from, or a path of a
        .safetensors file; empty: left as it is.

    Raises:
      UserError: a file is missing, of an unsuitable kind, or of other sizes than the model; names all that differs.
    """
    flat = traverse_util.flatten_dict(dict(variables), sep="/")
    for part, name in names.items():
        if not name:
            continue
        path = weight_path(name)
        if not path.is_file():
            raise UserError(f"init_from.{part}={name} is not here: {missing_message(name)}")
        tree, facts = load_ported(path)
        new, roots = _take(part, tree, facts, model, f"init_from.{part}={path}")
        _check(flat, new, roots, f"init_from.{part}={path}")
        flat |= {key: jnp.asarray(value) for key, value in new.items()}
        log(f"{part} starts from {path.name}: {len(new)} tensors of {facts.get('source', 'a ported file')}")
    return traverse_util.unflatten_dict(flat, sep="/")


def _take(part: str, tree: Tree, facts: Tree, model: NOFA, what: str) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    """The file's tensors by their paths in the model, and the modules that they must fill."""
    flat = traverse_util.flatten_dict(dict(tree), sep="/")
    kind = facts["kind"]
    if part == "generator" and kind == "eg3d":
        _check_fields(facts["options"], model, what)
        return flat, ("generator", "renderer", "superres")
    if part == "encoder" and kind in ("e4e", "ir_se50", "arcface-irse50"):
        alone = facts["options"].get("codes") == 0  # the trunk without a network around it
        if kind == "e4e" and not alone:
            # Its average code (buffers) is StyleGAN2's, so it stays behind.
            return {_inside("encoder", k): v for k, v in flat.items() if not k.startswith("buffers/")}, ("encoder",)
        trunk = {k: v for k, v in flat.items() if alone or k.split("/")[1] == "trunk"}
        return {_inside("encoder/trunk" if alone else "encoder", k): v for k, v in trunk.items()}, ("encoder/trunk",)
    suitable = {"generator": "eg3d", "encoder": "arcface-irse50, ir_se50 or e4e"}
    if part not in suitable:
        raise UserError(f"{what}: only {' and '.join(suitable)} can start from a file")
    raise UserError(f"{what} is of kind {kind}; the {part} starts from {suitable[part]}")


def _inside(module: str, path: str) -> str:
    collection, rest = path.split("/", 1)
    return f"{collection}/{module}/{rest}"


def _check_fields(options: Tree, model: NOFA, what: str) -> None:
    modules = {
        **{name: getattr(model, name) for name in ("generator", "renderer", "superres")},
        "decoder": model.renderer.decoder,
    }
    wrong = []
    for module, names in EG3D_FIELDS.items():
        for name in names:
            theirs, ours = options[module][name], getattr(modules[module], name)
            if _plain(theirs) != _plain(ours):
                wrong.append(f"{module}.{name} is {_plain(theirs)} in the file, {_plain(ours)} in the model")
    if wrong:
        raise UserError(f"{what} does not fit the config: {'; '.join(wrong)}")


def _plain(value: Any) -> Any:
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _check(model: Tree, new: Tree, roots: tuple[str, ...], what: str) -> None:
    """UserError unless the new tensors are exactly those of the modules `roots`, in their shapes."""
    wanted = {k for k in model if any(k.split("/", 1)[1].startswith(root + "/") for root in roots)}
    problems = [
        *(f"{k} is missing in the file" for k in sorted(wanted - new.keys())),
        *(f"{k} has no place in the model" for k in sorted(new.keys() - wanted)),
        *(
            f"{k} is {list(new[k].shape)} in the file, {list(model[k].shape)} in the model"
            for k in sorted(wanted & new.keys())
            if tuple(new[k].shape) != tuple(model[k].shape)
        ),
    ]
    if problems:
        more = f" and {len(problems) - 5} more" if len(problems) > 5 else ""
        raise UserError(f"{what} does not fit the model: {'; '.join(problems[:5])}{more}")
