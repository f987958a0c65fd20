"""Reading the tri-plane at points of the volume (paper Sec. 3.2 "query volume features"; EG3D Sec. 4.1)."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from nofa_jax.ops.resample import read_bilinear

# Coordinates of the points read along (width, height) of planes 0, 1 and 2. Plane 2 is the transpose of plane 1, so the
# tri-plane holds no yz information: a slip of EG3D (https://github.com/NVlabs/eg3d/issues/67) with which all its
# published weights were trained. Keep it.
EG3D_PLANE_AXES = ((0, 1), (0, 2), (2, 0))


def sample_planes(
    planes: Float[Array, "b 3 h w c"],
    points: Float[Array, "b n 3"],
    box_warp: float = 1.0,
    axes: tuple[tuple[int, int], ...] = EG3D_PLANE_AXES,
) -> Float[Array, "b n c"]:
    """Mean of the three plane features at each world point; the planes span [-box_warp / 2, box_warp / 2]."""
    first, *others = (_read(planes, points, box_warp, k, pair) for k, pair in enumerate(axes))
    return sum(others, start=first) / len(axes)


def plane_features(
    planes: Float[Array, "b 3 h w c"],
    points: Float[Array, "b n 3"],
    box_warp: float = 1.0,
    axes: tuple[tuple[int, int], ...] = EG3D_PLANE_AXES,
) -> Float[Array, "b 3 n c"]:
    """The three plane features at each world point, not averaged."""
    return jnp.stack([_read(planes, points, box_warp, k, pair) for k, pair in enumerate(axes)], axis=1)


def _read(planes: Array, points: Array, box_warp: float, index: int, pair: tuple[int, int]) -> Array:
    # One read for each plane, of a slice: stacking planes or coordinates is far slower on CPU.
    low, high = sorted(pair)
    chosen = jax.lax.slice_in_dim(points, low, high + 1, high - low, axis=-1)
    uv = (chosen if pair[0] == low else chosen[..., ::-1]) * (2.0 / box_warp)
    return jax.vmap(read_bilinear)(planes[:, index], uv)
