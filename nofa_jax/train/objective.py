"""Which loss reads what: the one table between the model's outputs and the paper's losses (Sec. 3.3).

| term        | equation      | reads                                        |
|-------------|---------------|----------------------------------------------|
| l2          | 3, first term | image, target image                          |
| lpips       | 3, second     | image, target image                          |
| mouth_l2    | 4, first term | the same, cropped at the mouth by ROI align  |
| mouth_lpips | 4, second     | the same                                     |
| id          | 5             | image, target image                          |
| latent      | 6             | E's offsets w_s - w_avg                      |
| depth       | 10            | canonical planes V_c, compensation V_m       |
| raw_l2      | ours          | volume-rendered colour, target at its size   |
| mask        | ours          | opacity, head mask                           |

Every term is an unweighted scalar; the stage's weights multiply them. The paper's L_rec is l2 + lpips with one weight.
"""

import typing
from collections.abc import Callable, Mapping

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, ArrayLike, Float

from nofa_jax.losses import pixel, regularization
from nofa_jax.losses.regions import mouth_box
from nofa_jax.models.nofa import Volume
from nofa_jax.ops.roi_align import roi_align
from nofa_jax.types import Output

Distance = Callable[[Array, Array], Array]  # two image batches in [-1, 1] -> scalar


@typing.no_type_check
@struct.dataclass
class View:
    """What one rendering is compared with."""

    image: Float[Array, "b h w 3"]  # [-1, 1]
    mask: Float[Array, "b h w"]
    landmarks: Float[Array, "b 68 2"]  # fractions of `image`


class Objective:
    """The losses with the frozen networks they need.

    perceptual_distance, identity_distance: LPIPS and ArcFace, or the documented stand-ins that need no weights.
    names: what the log calls these two, so that a stand-in is never reported under the real one's name.
    """

    def __init__(
        self,
        perceptual_distance: Distance,
        identity_distance: Distance,
        mouth_size: int,
        names: Mapping[str, str],
    ) -> None:
        self.perceptual_distance = perceptual_distance
        self.identity_distance = identity_distance
        self.mouth_size = mouth_size
        self.names = dict(names)

    def __call__(self, terms: frozenset[str], output: Output, volume: Volume, view: View) -> dict[str, Array]:
        """The named terms, unweighted."""
        table: dict[str, Callable[[], Array]] = {
            "l2": lambda: pixel.l2(output.image, view.image),
            "lpips": lambda: self.perceptual_distance(output.image, view.image),
            "mouth_l2": lambda: pixel.l2(*mouths()),
            "mouth_lpips": lambda: self.perceptual_distance(*mouths()),
            "id": lambda: self.identity_distance(output.image, view.image),
            "latent": lambda: regularization.latent(volume.offsets),
            "depth": lambda: regularization.depth_consistency(volume.canonical, volume.compensation),
            "raw_l2": lambda: pixel.l2(output.image_raw, shrink(view.image, output.image_raw.shape[1])),
            "mask": lambda: pixel.l2(output.opacity, shrink(view.mask[..., None], output.opacity.shape[1])),
        }

        def mouths() -> tuple[Array, Array]:
            boxes = mouth_box(view.landmarks)
            size = self.mouth_size
            return roi_align(output.image, boxes, size), roi_align(view.image, boxes, size)

        unknown = terms - set(table)
        if unknown:
            raise ValueError(f"unknown loss terms {sorted(unknown)}; there are {sorted(table)}")
        return {name: table[name]() for name in sorted(terms)}


def shrink(image: Float[Array, "b h w c"], size: int) -> Float[Array, "b s s c"]:
    """Box-filtered reduction by a whole factor, so that a pixel is the mean of what its ray's cell covers."""
    factor = image.shape[1] // size
    if factor * size != image.shape[1]:
        raise ValueError(f"{image.shape[1]} pixels are not a multiple of {size}")
    b, h, w, c = image.shape
    return image.reshape(b, h // factor, factor, w // factor, factor, c).mean(axis=(2, 4))


def weighted_sum(losses: Mapping[str, Array], weights: Mapping[str, ArrayLike]) -> Array:
    """sum of weight * loss; every loss must have a weight."""
    total = jnp.zeros(())
    for name, value in losses.items():
        total = total + jnp.asarray(weights[name], jnp.float32) * value
    return total
