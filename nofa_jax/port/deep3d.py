"""Port Deep3DFaceRecon's network: epoch_20.pth, {"net_recon": tensors, "opt_00": …, "sched_00": …}."""

import re
from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from nofa_jax.extractors.deep3d import GROUPS, IMAGE_SIZE, Deep3DRecon
from nofa_jax.port.layers import Table, batch_norm
from nofa_jax.port.mapping import Rule, conv, convert, pointwise


def _head(leaf: str):
    """The heads are numbered in the order of the groups."""
    names = list(GROUPS)

    def target(match: re.Match[str]) -> str:
        return f"params/head_{names[int(match[1])]}/{leaf}"

    return target


UNIT, TO = r"backbone\.layer([1-4])\.(\d+)", r"layer\1_\2"
RULES: Table = [
    Rule(r"backbone\.conv1\.weight", "params/stem_conv/kernel", conv),
    *batch_norm(r"backbone\.bn1", "stem_norm"),
    Rule(rf"{UNIT}\.conv([123])\.weight", rf"params/{TO}/conv\3/kernel", conv),
    *batch_norm(rf"{UNIT}\.bn([123])", rf"{TO}/norm\3"),
    Rule(rf"{UNIT}\.downsample\.0\.weight", f"params/{TO}/project/kernel", conv),
    *batch_norm(rf"{UNIT}\.downsample\.1", f"{TO}/project_norm"),
    Rule(r"final_layers\.([0-6])\.weight", _head("kernel"), pointwise),
    Rule(r"final_layers\.([0-6])\.bias", _head("bias")),
]


def port_deep3d(checkpoint: Mapping, name: str = "weights") -> tuple[Deep3DRecon, dict]:
    """Network and variables from the checkpoint, or from its `net_recon` alone.

    Raises:
      UserError: tensors missing, left over or of the wrong shape, all named.
    """
    state: Mapping[str, np.ndarray] = checkpoint.get("net_recon", checkpoint)
    model = Deep3DRecon()
    image = jnp.zeros((1, IMAGE_SIZE, IMAGE_SIZE, 3))
    return model, convert(state, RULES, jax.eval_shape(model.init, jax.random.key(0), image), name)
