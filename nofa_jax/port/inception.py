"""Port FID's Inception: the raw state dict of pt_inception-2015-12-05 (pytorch-fid, torch-fidelity)."""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np

from nofa_jax.extractors.inception import INPUT_SIZE, FIDInception
from nofa_jax.port.layers import Table, batch_norm
from nofa_jax.port.mapping import Ignore, Rule, conv, convert

RULES: Table = [
    Rule(r"(Conv2d_\w+)\.conv\.weight", r"params/\1/conv/kernel", conv),
    *batch_norm(r"(Conv2d_\w+)\.bn", r"\1/bn"),
    Rule(r"(Mixed_\w+)\.(branch\w+)\.conv\.weight", r"params/\1/\2/conv/kernel", conv),
    *batch_norm(r"(Mixed_\w+)\.(branch\w+)\.bn", r"\1/\2/bn"),
    Ignore(r"fc\.(weight|bias)", "the 1008-way classifier; FID reads the pooled features before it"),
]


def port_inception(state: Mapping[str, np.ndarray], name: str = "weights") -> tuple[FIDInception, dict]:
    """Network and variables.

    Raises:
      UserError: tensors missing, left over or of the wrong shape, all named.
    """
    model = FIDInception()
    image = jnp.zeros((1, INPUT_SIZE, INPUT_SIZE, 3), jnp.uint8)
    return model, convert(state, RULES, jax.eval_shape(model.init, jax.random.key(0), image), name)
