"""Which loss reads what: the one table between the model's outputs and the paper's losses (Sec. 3.3).

| term        | equation      | reads                                        |
|-------------|---------------|----------------------------------------------|
| l2          | 3, first term | image, target image                          |
| lpips       | 3, second     | image, target image                          |
| mouth_l2    | 4, first term | the same, cropped at the mouth by ROI align  |
| mouth_lpips | 4, second     | the same                                     |
| teeth_l2    | 8, first term | mouth crops of image and of GFPGAN(image)    |
| teeth_lpips | 8, second     | the same                                     |
| id          | 5             | image, target image                          |
| latent      | 6             | E's offsets w_s - w_avg                      |
| depth       | 10            | canonical planes V_c, compensation V_m       |
| raw_l2      | ours          | volume-rendered colour, target at its size   |
| mask        | ours          | opacity, head mask                           |

Every term is an unweighted scalar; the stage's weights multiply them. The paper's L_rec is l2 + lpips with one weight.
"""

import typing
from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, ArrayLike, Float, PyTree

from nofa_jax.losses import pixel, regularization
from nofa_jax.losses.regions import mouth_crop
from nofa_jax.models.nofa import Volume
from nofa_jax.ops.resample import shrink
from nofa_jax.train.frozen import Frozen
from nofa_jax.types import Output


@typing.no_type_check
@struct.dataclass
class View:
    """What one rendering is compared with."""

    image: Float[Array, "b h w 3"]  # [-1, 1]
    mask: Float[Array, "b h w"]
    landmarks: Float[Array, "b 68 2"]  # fractions of `image`


class Objective:
    """The losses with the frozen networks they need.

    perceptual, identity: LPIPS and ArcFace, or the documented stand-ins that need no weights; they take two image
    batches in [-1, 1]. restorer: GFPGAN, needed by the teeth terms alone.
    networks: their weights, an argument of the jitted step. names: what the log calls the terms that use them, so that
    a stand-in is never reported under the real one's name.
    """

    def __init__(self, perceptual: Frozen, identity: Frozen, mouth_size: int, restorer: Frozen | None = None) -> None:
        self.mouth_size = mouth_size
        self._apply = {"perceptual": perceptual.apply, "identity": identity.apply}
        self.networks: dict[str, PyTree] = {"perceptual": perceptual.variables, "identity": identity.variables}
        if restorer is not None:
            self._apply["restorer"] = restorer.apply
            self.networks["restorer"] = restorer.variables
        term = perceptual.name.replace("-", "_")
        self.names = {"lpips": term, "mouth_lpips": f"mouth_{term}", "teeth_lpips": f"teeth_{term}"}
        self.names["id"] = f"id_{identity.name.replace('-', '_')}"

    def __call__(
        self, terms: frozenset[str], output: Output, volume: Volume, view: View, networks: PyTree | None = None
    ) -> dict[str, Array]:
        """The named terms, unweighted. networks: `self.networks` as the caller's jitted arguments; default as held."""
        networks = self.networks if networks is None else networks

        def distance(name: str, a: Array, b: Array) -> Array:
            return self._apply[name](networks[name], a, b)

        def mouths() -> tuple[Array, Array]:
            return mouth(output.image), mouth(view.image)

        def teeth() -> tuple[Array, Array]:
            # A target, not a second output: without the stop the restorer's view of the teeth would be pulled to ours.
            restored = self._apply["restorer"](networks["restorer"], jax.lax.stop_gradient(output.image))
            return mouth(output.image), jax.lax.stop_gradient(mouth(restored))

        def mouth(image: Array) -> Array:
            return mouth_crop(image, view.landmarks, self.mouth_size)

        table: dict[str, Callable[[], Array]] = {
            "l2": lambda: pixel.l2(output.image, view.image),
            "lpips": lambda: distance("perceptual", output.image, view.image),
            "mouth_l2": lambda: pixel.l2(*mouths()),
            "mouth_lpips": lambda: distance("perceptual", *mouths()),
            "teeth_l2": lambda: pixel.l2(*teeth()),
            "teeth_lpips": lambda: distance("perceptual", *teeth()),
            "id": lambda: distance("identity", output.image, view.image),
            "latent": lambda: regularization.latent(volume.offsets),
            "depth": lambda: regularization.depth_consistency(volume.canonical, volume.compensation),
            "raw_l2": lambda: pixel.l2(output.image_raw, shrink(view.image, output.image_raw.shape[1])),
            "mask": lambda: pixel.l2(output.opacity, shrink(view.mask[..., None], output.opacity.shape[1])),
        }
        unknown = terms - set(table)
        if unknown:
            raise ValueError(f"unknown loss terms {sorted(unknown)}; there are {sorted(table)}")
        return {name: table[name]() for name in sorted(terms)}


def weighted_sum(losses: Mapping[str, Array], weights: Mapping[str, ArrayLike]) -> Array:
    """sum of weight * loss; every loss must have a weight."""
    total = jnp.zeros(())
    for name, value in losses.items():
        total = total + jnp.asarray(weights[name], jnp.float32) * value
    return total
