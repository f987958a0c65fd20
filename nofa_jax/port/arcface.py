"""Port ArcFace networks: model_ir_se50.pth (pSp, e4e) and arcface_torch's backbone.pth (iresnet50, iresnet100)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from nofa_jax.extractors.arcface import FACE_SIZE, IRESNET_UNITS, IRSE50, IResNet
from nofa_jax.port.layers import Table, batch_norm, flattened_linear, irse_trunk
from nofa_jax.port.mapping import Rule, conv, convert

# Both heads flatten a 7x7 map (112 / 16) in channel-first order.
head_linear = flattened_linear(FACE_SIZE // 16, FACE_SIZE // 16)

IRSE50_RULES: Table = [
    *irse_trunk(target="trunk/"),
    *batch_norm(r"output_layer\.0", "head/norm"),
    Rule(r"output_layer\.3\.weight", "params/head/linear/kernel", head_linear),
    Rule(r"output_layer\.3\.bias", "params/head/linear/bias"),
    *batch_norm(r"output_layer\.4", "head/embedding_norm"),
]

UNIT, TO = r"layer([1-4])\.(\d+)", r"layer\1_\2"
IRESNET_RULES: Table = [
    Rule(r"conv1\.weight", "params/stem_conv/kernel", conv),
    *batch_norm("bn1", "stem_norm"),
    Rule(r"prelu\.weight", "params/stem_act/slope"),
    *batch_norm(rf"{UNIT}\.bn1", f"{TO}/norm1"),
    Rule(rf"{UNIT}\.conv1\.weight", f"params/{TO}/conv1/kernel", conv),
    *batch_norm(rf"{UNIT}\.bn2", f"{TO}/norm2"),
    Rule(rf"{UNIT}\.prelu\.weight", f"params/{TO}/act/slope"),
    Rule(rf"{UNIT}\.conv2\.weight", f"params/{TO}/conv2/kernel", conv),
    *batch_norm(rf"{UNIT}\.bn3", f"{TO}/norm3"),
    Rule(rf"{UNIT}\.downsample\.0\.weight", f"params/{TO}/project/kernel", conv),
    *batch_norm(rf"{UNIT}\.downsample\.1", f"{TO}/project_norm"),
    *batch_norm("bn2", "head/norm"),
    Rule(r"fc\.weight", "params/head/linear/kernel", head_linear),
    Rule(r"fc\.bias", "params/head/linear/bias"),
    *batch_norm("features", "head/embedding_norm"),
]


def port_irse50(state: Mapping[str, np.ndarray], name: str = "weights") -> tuple[IRSE50, dict]:
    """Network and variables from the tensors of model_ir_se50.pth.

    Raises:
      UserError: tensors missing, left over or of the wrong shape, all named.
    """
    model = IRSE50()
    return model, _port(model, 256, state, IRSE50_RULES, name)


def port_iresnet(state: Mapping[str, np.ndarray], depth: int, name: str = "weights") -> tuple[IResNet, dict]:
    """Network and variables from the tensors of a backbone.pth; depth 50 or 100. Raises as `port_irse50`."""
    model = IResNet(IRESNET_UNITS[depth])
    return model, _port(model, FACE_SIZE, state, IRESNET_RULES, name)


def _port(model: IRSE50 | IResNet, size: int, state: Mapping[str, np.ndarray], rules: Table, name: str) -> dict:
    target = jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, size, size, 3)))
    return convert(state, rules, target, name)
