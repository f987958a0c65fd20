"""Rows that several porters share: one PyTorch layer or backbone, several tensors."""

import numpy as np

from nofa_jax.port.mapping import Ignore, Rule, Transform, conv, pointwise

Table = list[Rule | Ignore]

COUNTER = "training counter, unused because the momentum is a constant (older files lack it)"


def batch_norm(source: str, target: str) -> Table:
    """Affine BatchNorm: `source` a pattern, `target` the module's path inside its collections."""
    return [
        Rule(rf"{source}\.weight", f"params/{target}/scale"),
        Rule(rf"{source}\.bias", f"params/{target}/bias"),
        Rule(rf"{source}\.running_mean", f"batch_stats/{target}/mean"),
        Rule(rf"{source}\.running_var", f"batch_stats/{target}/var"),
        Ignore(rf"{source}\.num_batches_tracked", COUNTER),
    ]


def irse_trunk(source: str = "", target: str = "") -> Table:
    """`models.irse.IRSETrunk`. `source`: pattern prefix ("encoder\\."); `target`: path prefix ("trunk/")."""
    stem, unit, to = rf"{source}input_layer", rf"{source}body\.(\d+)", rf"{target}unit_\1"
    return [
        Rule(rf"{stem}\.0\.weight", f"params/{target}stem_conv/kernel", conv),
        *batch_norm(rf"{stem}\.1", f"{target}stem_norm"),
        Rule(rf"{stem}\.2\.weight", f"params/{target}stem_act/slope"),
        *batch_norm(rf"{unit}\.res_layer\.0", f"{to}/norm1"),
        Rule(rf"{unit}\.res_layer\.1\.weight", f"params/{to}/conv1/kernel", conv),
        Rule(rf"{unit}\.res_layer\.2\.weight", f"params/{to}/act/slope"),
        Rule(rf"{unit}\.res_layer\.3\.weight", f"params/{to}/conv2/kernel", conv),
        *batch_norm(rf"{unit}\.res_layer\.4", f"{to}/norm2"),
        Rule(rf"{unit}\.res_layer\.5\.fc1\.weight", f"params/{to}/gate/squeeze/kernel", pointwise),
        Rule(rf"{unit}\.res_layer\.5\.fc2\.weight", f"params/{to}/gate/excite/kernel", pointwise),
        Rule(rf"{unit}\.shortcut_layer\.0\.weight", f"params/{to}/project/kernel", conv),
        *batch_norm(rf"{unit}\.shortcut_layer\.1", f"{to}/project_norm"),
    ]


def flattened_linear(height: int, width: int) -> Transform:
    """Linear layer after a channel-first flatten of [c, height, width]: [out, c h w] -> [h w c, out]."""

    def transform(x: np.ndarray) -> np.ndarray:
        return x.reshape(x.shape[0], -1, height, width).transpose(2, 3, 1, 0).reshape(-1, x.shape[0])

    return transform
