"""Rows for one SPADE residual block (NVlabs/SPADE's SPADEResnetBlock), with or without spectral norm."""

import numpy as np

from nofa_jax.port.layers import Table
from nofa_jax.port.mapping import Rule, conv


def right_vector(x: np.ndarray) -> np.ndarray:
    """Right singular vector of a 3x3 kernel's matrix, [in 3 3] -> [3 3 in] (our kernels are stored that way)."""
    return x.reshape(-1, 3, 3).transpose(1, 2, 0).reshape(-1)


def residual_block(source: str = "", target: str = "") -> Table:
    """`models.compensation.SpadeResBlock`; `source` a pattern prefix, `target` a path prefix ("block_0/")."""
    modulation, projection = rf"{source}norm_([01s])\.mlp", rf"{source}conv_([01s])"
    return [
        Rule(rf"{modulation}_shared\.0\.weight", rf"params/{target}norm_\1/shared/kernel", conv),
        Rule(rf"{modulation}_shared\.0\.bias", rf"params/{target}norm_\1/shared/bias"),
        Rule(rf"{modulation}_(gamma|beta)\.weight", rf"params/{target}norm_\1/\2/kernel", conv),
        Rule(rf"{modulation}_(gamma|beta)\.bias", rf"params/{target}norm_\1/\2/bias"),
        Rule(rf"{projection}\.(?:weight|weight_orig)", rf"params/{target}conv_\1/kernel", conv),
        Rule(rf"{projection}\.bias", rf"params/{target}conv_\1/bias"),
        Rule(rf"{projection}\.weight_u", rf"batch_stats/{target}conv_\1/u"),
        Rule(rf"{source}conv_([01])\.weight_v", rf"batch_stats/{target}conv_\1/v", right_vector),
        Rule(rf"{source}conv_s\.weight_v", rf"batch_stats/{target}conv_s/v"),  # 1x1: the same order
    ]


RULES: Table = residual_block()
