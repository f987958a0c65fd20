"""ROI align (He et al. 2017, arXiv 1703.06870) as torchvision defines it, for crops such as the mouth of Eq. 4.

The samples of a box form a grid, so pooling is one matrix product per image axis. Value and gradient are then dense
products, without gathers or scatter-adds, which are slow on CPUs and TPUs alike.
"""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def roi_align(
    image: Float[Array, "b h w c"],
    boxes: Float[Array, "b 4"],
    output_size: int | tuple[int, int],
    sampling_ratio: int = 0,
    aligned: bool = True,
) -> Float[Array, "b oh ow c"]:
    """Crops one box of each image to `output_size` (one side, or height and width).

    Args:
      boxes: x1, y1, x2, y2 as fractions of the image size; they receive no gradient. torchvision counts in pixels:
        its x1 * spatial_scale / w is our x1, whatever `aligned` is.
      sampling_ratio: samples per output pixel and axis; 0: as many as the box is larger than the output, rounded up
        (counted up to a box twice as large as the image).
      aligned: False reproduces the older rule: no half-pixel shift, boxes at least one pixel large.

    Samples more than one pixel outside the image count as zero, nearer ones take the border's value, like
    torchvision's compiled kernel.
    """
    height, width = image.shape[1:3]
    rows, columns = (output_size, output_size) if isinstance(output_size, int) else output_size
    boxes = jax.lax.stop_gradient(boxes)
    shift, options = (0.5 if aligned else 0.0), (sampling_ratio, aligned)
    down = _pooling(boxes[:, 1] * height - shift, boxes[:, 3] * height - shift, rows, height, *options)
    across = _pooling(boxes[:, 0] * width - shift, boxes[:, 2] * width - shift, columns, width, *options)
    # Full precision: an accelerator's fast products would round the interpolation weights to 8 bits.
    return jnp.einsum(
        "boh,bpw,bhwc->bopc",
        down.astype(image.dtype),
        across.astype(image.dtype),
        image,
        optimize="optimal",
        precision="highest",
    )


def _pooling(
    start: Float[Array, " b"], end: Float[Array, " b"], bins: int, size: int, sampling_ratio: int, aligned: bool
) -> Float[Array, "b bins size"]:
    """Weights with which the `size` pixels of one axis enter each bin."""
    length = end - start if aligned else jnp.maximum(end - start, 1.0)
    bin_length = length / bins
    if sampling_ratio > 0:
        most = sampling_ratio
        count = jnp.full_like(length, sampling_ratio)
    else:
        most = max(1, math.ceil(2 * size / bins))
        count = jnp.clip(jnp.ceil(bin_length), 1, most)
    sample = jnp.arange(most, dtype=length.dtype)[None, None, :]
    first = start[:, None, None] + jnp.arange(bins, dtype=length.dtype)[None, :, None] * bin_length[:, None, None]
    position = first + (sample + 0.5) * (bin_length / count)[:, None, None]
    used = (sample < count[:, None, None]) & (position >= -1) & (position <= size)
    position = jnp.clip(position, 0, size - 1)[..., None]
    hat = jnp.maximum(0, 1 - jnp.abs(position - jnp.arange(size, dtype=length.dtype)[None, None, None, :]))
    return jnp.sum(hat * used[..., None], axis=2) / count[:, None, None]
