"""Port the Basel Face Model: BFM_model_front.mat as Deep3DFaceRecon writes it (MATLAB 5, indices from 1)."""

from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from nofa_jax.errors import UserError
from nofa_jax.port.layers import Table
from nofa_jax.port.mapping import Ignore, Rule, convert


def points(x: np.ndarray) -> np.ndarray:
    """[1, 3v] -> [v, 3]."""
    return x.reshape(-1, 3).astype(np.float32)


def centred(x: np.ndarray) -> np.ndarray:
    """[1, 3v] -> [v, 3] around its mean."""
    vertices = x.reshape(-1, 3).astype(np.float64)
    return (vertices - vertices.mean(axis=0)).astype(np.float32)


def basis(x: np.ndarray) -> np.ndarray:
    """[3v, n] -> [n, v, 3]."""
    return np.transpose(x).reshape(x.shape[1], -1, 3).astype(np.float32)


def indices(x: np.ndarray) -> np.ndarray:
    """Whole numbers from 1, stored as floats -> int32 from 0."""
    if not np.array_equal(x, np.round(x)) or np.abs(x, dtype=np.float64).max(initial=0) >= 1 << 31:
        raise ValueError("not whole numbers of 32 bits")
    return x.astype(np.int32) - 1


def flat_indices(x: np.ndarray) -> np.ndarray:
    """[1, k] -> [k]."""
    return indices(x).reshape(-1)


RULES: Table = [
    Rule("meanshape", "buffers/mean", centred),
    Rule("meantex", "buffers/mean_texture", points),
    Rule("idBase", "buffers/id_basis", basis),
    Rule("exBase", "buffers/exp_basis", basis),
    Rule("texBase", "buffers/tex_basis", basis),
    Rule("tri", "buffers/triangles", indices),
    Rule("point_buf", "buffers/vertex_triangles", indices),
    Rule("keypoints", "buffers/keypoints", flat_indices),
    Ignore("tri_mask2|frontmask2_idx|skinmask", "masks of the original's renderer and losses"),
]


def abstract_arrays(sizes: Mapping[str, int]) -> dict[str, Any]:
    """Names and shapes of the model's arrays. Sizes: vertices, triangles, id, exp, tex, keypoints."""
    v, f = sizes["vertices"], sizes["triangles"]
    shapes: dict[str, tuple[tuple[int, ...], Any]] = {
        **{"mean": ((v, 3), np.float32), "mean_texture": ((v, 3), np.float32)},
        **{f"{name}_basis": ((sizes[name], v, 3), np.float32) for name in ("id", "exp", "tex")},
        **{"triangles": ((f, 3), np.int32), "vertex_triangles": ((v, 8), np.int32)},
        "keypoints": ((sizes["keypoints"],), np.int32),
    }
    return {"buffers": {name: jax.ShapeDtypeStruct(*entry) for name, entry in shapes.items()}}


def port_bfm(arrays: Mapping[str, np.ndarray], name: str = "weights") -> tuple[dict[str, int], dict]:
    """Sizes (see `abstract_arrays`) and variables {"buffers": fields of `face3d.bfm.BaselFaceModel`}.

    Raises:
      UserError: arrays missing, left over or of the wrong shape, all named; indices out of range.
    """
    for key in ("meanshape", "idBase", "exBase", "texBase", "tri", "keypoints"):
        if key not in arrays or arrays[key].ndim != 2:
            raise UserError(f"{name} has no matrix {key!r}, which BFM_model_front.mat has")
    sizes = {
        "vertices": arrays["meanshape"].size // 3,
        "triangles": len(arrays["tri"]),
        **{short: arrays[f"{long}Base"].shape[1] for short, long in (("id", "id"), ("exp", "ex"), ("tex", "tex"))},
        "keypoints": arrays["keypoints"].size,
    }
    variables = convert(arrays, RULES, abstract_arrays(sizes), name)
    vertices, triangles = sizes["vertices"], sizes["triangles"]
    for key, limit in (("triangles", vertices), ("vertex_triangles", triangles + 1), ("keypoints", vertices)):
        found = variables["buffers"][key]
        if found.size and not (found.min() >= 0 and found.max() < limit):
            raise UserError(f"{name}: {key} holds indices {found.min()} to {found.max()}, allowed are 0 to {limit - 1}")
    return sizes, variables
