"""Image regions that get a loss of their own: the mouth of Eqs. 4 and 8."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from nofa_jax.ops.roi_align import roi_align

MOUTH = slice(48, 68)  # iBUG's outer and inner lips, counted from 0


def mouth_box(landmarks: Float[Array, "*b 68 2"], margin: float = 0.25) -> Float[Array, "*b 4"]:
    """Square box around the mouth: x1, y1, x2, y2 as fractions of a square image, for `ops.roi_align`.

    Its side is the larger side of the lip points' bounding box, plus `margin` of it at each end; a box across the
    image's border is moved inside. The margin holds chin and cheeks next to the lips, so that an opening jaw stays
    visible.

    Args:
      landmarks: iBUG's 68 points, (x, y) as fractions of the image size.
      margin: in units of the bounding box's larger side.
    """
    mouth = landmarks[..., MOUTH, :]
    low, high = jnp.min(mouth, axis=-2), jnp.max(mouth, axis=-2)
    side = jnp.clip(jnp.max(high - low, axis=-1, keepdims=True) * (1 + 2 * margin), 1e-3, 1.0)
    corner = jnp.clip((low + high) / 2 - side / 2, 0.0, 1.0 - side)
    return jnp.concatenate([corner, corner + side], axis=-1)


def mouth_crop(
    image: Float[Array, "b h w c"], landmarks: Float[Array, "b 68 2"], size: int
) -> Float[Array, "b size size c"]:
    """crop(I) of Eqs. 4 and 8: the mouth box by ROI align, whatever the image's resolution."""
    return roi_align(image, mouth_box(landmarks), size)
