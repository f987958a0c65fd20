"""Views of a photo's person that nobody took: the photo seen from the side, by the depth that the model gives it.

One-shot fine-tuning sees one view. What it must not spoil are the others, and of those there is no picture. The model's
own depth before fine-tuning tells where each pixel of the photo lies; seen from a camera a few degrees to the side,
these points make a picture with holes that fine-tuning does not train on. Its error falls while C learns the face and
rises once C paints the one view instead.
"""

import math
import typing

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from nofa_jax.ops.resample import read_bilinear, shrink
from nofa_jax.rendering.camera import make_rays, project
from nofa_jax.types import Frame, Output

YAWS_DEG = (-12.0, 12.0)
TOLERANCE = 0.03  # world units, a centimetre: a point is what the photo shows if it is no deeper than that


@typing.no_type_check
class HeldOutViews(struct.PyTreeNode):
    """Cameras around the photo's own, and what they should see where `visible`."""

    cam2world: Float[Array, "v 4 4"]
    image: Float[Array, "v r r 3"]  # [-1, 1]
    visible: Float[Array, "v r r"]  # 0 or 1


def orbit(cam2world: Float[Array, "1 4 4"]) -> Float[Array, "v 4 4"]:
    """The camera turned by YAWS_DEG about the world's y axis, which goes through the head."""
    turns = []
    for degrees in YAWS_DEG:
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        turns.append([[c, 0, s, 0], [0, 1, 0, 0], [-s, 0, c, 0], [0, 0, 0, 1]])
    return jnp.einsum("vij,jk->vik", jnp.array(turns, jnp.float32), cam2world[0], precision="highest")


def warp_photo(photo: Frame, photo_view: Output, cameras: Float[Array, "v 4 4"], views: Output) -> HeldOutViews:
    """What `cameras` should see, from the photo (leading axis 1) and the model's depths there and here.

    photo_view, views: the model's renderings from the photo's camera and from `cameras`, at the same resolution.
    A pixel is visible if the model is opaque there, the photo shows the head where it projects to, and the photo's own
    depth there is the point's: else something in front hid it.
    """
    resolution = views.image_depth.shape[1]
    count = len(cameras)
    rays = make_rays(cameras, jnp.repeat(photo.intrinsics, count, axis=0), resolution)
    points = rays.origins + views.image_depth.reshape(count, -1, 1) * rays.directions
    own = jnp.repeat(photo.cam2world, count, axis=0)
    uv, _ = project(points, own, jnp.repeat(photo.intrinsics, count, axis=0))
    distance = jnp.linalg.norm(points - own[:, None, :3, 3], axis=-1)
    small = shrink(photo.image, resolution)
    seen = jnp.concatenate(
        [small, photo_view.image_depth, photo_view.opacity * shrink(photo.mask[..., None], resolution)], axis=-1
    )[0]
    read = jax.vmap(lambda places: read_bilinear(seen, places))(2 * uv - 1)
    visible = (views.opacity.reshape(count, -1) > 0.5) & (read[..., 4] > 0.5)
    visible &= jnp.abs(read[..., 3] - distance) < TOLERANCE
    square = (count, resolution, resolution)
    return HeldOutViews(
        cam2world=cameras, image=read[..., :3].reshape(*square, 3), visible=visible.reshape(square).astype(jnp.float32)
    )
