"""Port the e4e encoder: `e4e_ffhq_encode.pt` and files of its layout, or the IR-SE50 trunk alone.

Layout of omertov/encoder4editing's checkpoints: {"state_dict": {"encoder.*", "decoder.*"}, "latent_avg", "opts"}.
"""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from nofa_jax.errors import UserError
from nofa_jax.models.encoder import Encoder
from nofa_jax.models.irse import IRSETrunk
from nofa_jax.port.layers import Table, irse_trunk
from nofa_jax.port.mapping import Ignore, Rule, conv, convert, linear


def _head_conv(leaf: str):
    """Convolutions and activations alternate in the original's list: entry 2 i is convolution i."""

    def target(match: re.Match[str]) -> str:
        return f"params/heads_{match[1]}/conv_{int(match[2]) // 2}/{leaf}"

    return target


RULES: Table = [
    *irse_trunk(r"encoder\.", "trunk/"),
    Rule(r"encoder\.styles\.(\d+)\.convs\.(\d*[02468])\.weight", _head_conv("kernel"), conv),
    Rule(r"encoder\.styles\.(\d+)\.convs\.(\d*[02468])\.bias", _head_conv("bias")),
    Rule(r"encoder\.styles\.(\d+)\.linear\.weight", r"params/heads_\1/weight", linear),
    Rule(r"encoder\.styles\.(\d+)\.linear\.bias", r"params/heads_\1/bias"),
    Rule(r"encoder\.latlayer1\.weight", "params/lateral_c2/kernel", conv),
    Rule(r"encoder\.latlayer1\.bias", "params/lateral_c2/bias"),
    Rule(r"encoder\.latlayer2\.weight", "params/lateral_c1/kernel", conv),
    Rule(r"encoder\.latlayer2\.bias", "params/lateral_c1/bias"),
    Ignore(r"decoder\..*", "e4e's own StyleGAN2 generator; NOFA's generator is EG3D"),
]

# The trunk of model_ir_se50.pth, from which e4e and NOFA start the encoder's training.
TRUNK_RULES: Table = [
    *irse_trunk(),
    Ignore(r"output_layer\..*", "the embedding head of ArcFace; the encoder has style heads"),
]


def state_dict(checkpoint: Mapping) -> dict[str, np.ndarray]:
    """The tensors of a checkpoint, or of a bare state dict."""
    return dict(checkpoint.get("state_dict", checkpoint))


def encoder_for(state: Mapping[str, np.ndarray], name: str = "weights") -> Encoder:
    """An Encoder with as many codes as the file has style heads (18 in the published FFHQ checkpoint).

    Raises:
      UserError: the file has no e4e style heads.
    """
    heads = {int(m[1]) for key in state if (m := re.match(r"encoder\.styles\.(\d+)\.", key))}
    if not heads:
        raise UserError(f"{name} is not an e4e checkpoint: it has no tensor named encoder.styles.*")
    return Encoder(num_ws=max(heads) + 1)


def port_encoder(checkpoint: Mapping, name: str = "weights") -> tuple[Encoder, dict, np.ndarray | None]:
    """Encoder, its variables, and the checkpoint's `latent_avg` [l, 512] (added to the codes outside the encoder).

    Raises:
      UserError: tensors missing, left over or of the wrong shape, all named.
    """
    state = state_dict(checkpoint)
    encoder = encoder_for(state, name)
    size = encoder.input_resolution
    target = jax.eval_shape(encoder.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    latent_avg = checkpoint.get("latent_avg")
    return encoder, convert(state, RULES, target, name), None if latent_avg is None else np.asarray(latent_avg)


def port_trunk(state: Mapping[str, np.ndarray], name: str = "weights") -> dict:
    """Variables of `Encoder.trunk` ({"params": …, "batch_stats": …}) from model_ir_se50.pth's tensors."""
    target = jax.eval_shape(IRSETrunk().init, jax.random.key(0), jnp.zeros((1, 64, 64, 3)))
    return convert(state, TRUNK_RULES, target, name)
