"""Identity losses: Eq. 5, and a stand-in that needs no weights."""

import jax.numpy as jnp
from jaxtyping import Array, Float


def cosine_distance(a: Float[Array, "b e"], b: Float[Array, "b e"]) -> Float[Array, ""]:
    """Eq. 5: mean over the batch of 1 - <F(I_t), F(I)>, for embeddings of any length; in [0, 2].

    An all-zero embedding has no direction: it counts as orthogonal (distance 1) and gets no gradient.
    """
    return jnp.mean(1 - jnp.sum(_unit(a) * _unit(b), axis=-1))


def lowpass_cosine(
    a: Float[Array, "b h w 3"], b: Float[Array, "b h w 3"], mask: Float[Array, "b h w"] | None = None, size: int = 16
) -> Float[Array, ""]:
    """Stand-in for the ArcFace loss: 1 - cosine of the low-pass pixels without their mean, averaged over the batch.

    Images are averaged down to `size` x `size`, weighted by `mask` (the face) if given; each channel's masked mean is
    removed, so that exposure and skin tone as a whole do not count, but the layout of light and dark areas does.
    Says far less about a person's identity than a face recognition network.
    """
    weight = jnp.ones(a.shape[:3], a.dtype) if mask is None else mask.astype(a.dtype)
    share = _shrink(weight[..., None], size)
    return cosine_distance(_centred(a, weight, share, size), _centred(b, weight, share, size))


def _centred(
    image: Float[Array, "b h w 3"], weight: Float[Array, "b h w"], share: Float[Array, "b s s 1"], size: int
) -> Float[Array, "b n"]:
    low = _shrink(image * weight[..., None], size)  # the masked sum of each cell over the cell's area
    mean = jnp.sum(low, axis=(1, 2), keepdims=True) / jnp.maximum(jnp.sum(share, axis=(1, 2), keepdims=True), 1e-8)
    return (low - share * mean).reshape(image.shape[0], -1)


def _shrink(x: Float[Array, "b h w c"], size: int) -> Float[Array, "b s t c"]:
    """Area average to at most `size` cells an axis."""
    for axis in (1, 2):
        length = x.shape[axis]
        if length > size:
            matrix = _area_matrix(length, size).astype(x.dtype)
            x = jnp.moveaxis(jnp.tensordot(x, matrix, axes=(axis, 1), precision="highest"), -1, axis)
    return x


def _area_matrix(length: int, size: int) -> Float[Array, "s n"]:
    """Weights of `length` pixels in `size` equal cells; a pixel across two cells counts in both by its share."""
    edges = jnp.arange(size + 1) * (length / size)
    pixel = jnp.arange(length)[None]
    overlap = jnp.minimum(edges[1:, None], pixel + 1) - jnp.maximum(edges[:-1, None], pixel)
    return jnp.maximum(overlap, 0) * (size / length)


def _unit(x: Float[Array, "b e"]) -> Float[Array, "b e"]:
    square = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
    empty = square == 0
    return x * jnp.where(empty, 0.0, 1 / jnp.sqrt(jnp.where(empty, 1.0, square)))
