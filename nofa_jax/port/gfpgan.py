"""Port GFPGAN: GFPGANv1.3.pth and GFPGANv1.4.pth, {"params_ema": tensors}."""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from nofa_jax.extractors.gfpgan import GFPGAN
from nofa_jax.port.layers import Table, flattened_linear
from nofa_jax.port.mapping import Ignore, Rule, channels_last, conv, convert, linear, pointwise


def modulated(x: np.ndarray) -> np.ndarray:
    """[1, out, in, h, w] -> [h, w, in, out]."""
    return conv(x.squeeze(0))


def modulated_pointwise(x: np.ndarray) -> np.ndarray:
    """[1, out, in, 1, 1] -> [in, out]."""
    return pointwise(x.squeeze(0))


def scalar(x: np.ndarray) -> np.ndarray:
    """[1] -> []."""
    return x.squeeze(0)


def image_bias(x: np.ndarray) -> np.ndarray:
    """[1, c, 1, 1] -> [c]."""
    return x[0, :, 0, 0]


def noise(x: np.ndarray) -> np.ndarray:
    """[1, 1, h, w] -> [h, w]."""
    return x[0, 0]


def constant(x: np.ndarray) -> np.ndarray:
    """[1, c, h, w] -> [h, w, c]."""
    return channels_last(x.squeeze(0))


def _after_first(name: str, leaf: str):
    """The original's lists start after the constant's own layer: entry i is our layer i + 1."""

    def target(match: re.Match[str]) -> str:
        return f"params/decoder/{name}_{int(match[1]) + 1}/{leaf}"

    return target


def _layer(source: str, target: str, name: str) -> Table:
    """One layer of the decoder; `source` either names the first one or captures the index in a list."""

    def to(leaf: str):
        return f"params/decoder/{target}/{leaf}" if target else _after_first(name, leaf)

    kernel = modulated if name == "conv" else modulated_pointwise
    rows: Table = [
        Rule(rf"{source}\.bias", to("bias"), image_bias),
        Rule(rf"{source}\.modulated_conv\.weight", to("kernel"), kernel),
        Rule(rf"{source}\.modulated_conv\.modulation\.weight", to("modulation/kernel"), linear),
        Rule(rf"{source}\.modulated_conv\.modulation\.bias", to("modulation/bias")),
    ]
    return [*rows, Rule(rf"{source}\.weight", to("noise_strength"), scalar)] if name == "conv" else rows


DECODER = r"stylegan_decoder\."
RULES: Table = [
    Rule(r"conv_body_first\.weight", "params/first/kernel", conv),
    Rule(r"conv_body_first\.bias", "params/first/bias"),
    Rule(r"conv_body_(down|up)\.(\d)\.(conv1|conv2|skip)\.weight", r"params/\1_\2/\3/kernel", conv),
    Rule(r"conv_body_(down|up)\.(\d)\.(conv1|conv2)\.bias", r"params/\1_\2/\3/bias"),
    Rule(r"final_conv\.weight", "params/last/kernel", conv),
    Rule(r"final_conv\.bias", "params/last/bias"),
    Rule(r"final_linear\.weight", "params/to_codes/kernel", flattened_linear(4, 4)),
    Rule(r"final_linear\.bias", "params/to_codes/bias"),
    Rule(r"condition_(scale|shift)\.(\d)\.0\.weight", r"params/\1_\2/conv1/kernel", conv),
    Rule(r"condition_(scale|shift)\.(\d)\.0\.bias", r"params/\1_\2/conv1/bias"),
    Rule(r"condition_(scale|shift)\.(\d)\.2\.weight", r"params/\1_\2/conv2/kernel", conv),
    Rule(r"condition_(scale|shift)\.(\d)\.2\.bias", r"params/\1_\2/conv2/bias"),
    Rule(rf"{DECODER}constant_input\.weight", "params/decoder/constant", constant),
    *_layer(rf"{DECODER}style_conv1", "conv_0", "conv"),
    *_layer(rf"{DECODER}to_rgb1", "to_rgb_0", "to_rgb"),
    *_layer(rf"{DECODER}style_convs\.(\d+)", "", "conv"),
    *_layer(rf"{DECODER}to_rgbs\.(\d+)", "", "to_rgb"),
    Rule(rf"{DECODER}noises\.noise(\d+)", r"buffers/decoder/conv_\1/noise", noise),
    Ignore(r"toRGB\.\d\.(weight|bias)", "side outputs of the U-Net, used by training losses only"),
    Ignore(rf"{DECODER}style_mlp\..*", "z to w; the U-Net's codes are used as w"),
]


def port_gfpgan(checkpoint: Mapping, name: str = "weights") -> tuple[GFPGAN, dict]:
    """Network and variables from the checkpoint, or from its `params_ema` alone.

    Raises:
      UserError: tensors missing, left over or of the wrong shape, all named.
    """
    state: Mapping[str, np.ndarray] = checkpoint.get("params_ema", checkpoint)
    model = GFPGAN()
    target = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 512, 512, 3)))
    return model, convert(state, RULES, target, name)
