"""Values that travel between the parts of NOFA, as frozen pytrees with named, shaped fields.

Axes: b batch, t targets of one source, l style codes, p planes, r rays, n points, c channels, h w pixels.
Fields of `Any` array type hold numpy arrays on the host and jax arrays on the device.
World frame, cameras and ranges are those of docs/conventions.md.
"""

import typing
from typing import Any

from flax import struct
from jaxtyping import Array, Float, Int


@typing.no_type_check
@struct.dataclass
class Rays:
    """Rays in world space; directions have unit length, so depths are distances along the ray."""

    origins: Float[Array, "... r 3"]
    directions: Float[Array, "... r 3"]


@typing.no_type_check
@struct.dataclass
class TriPlane:
    """What the generator G makes of ws."""

    planes: Float[Array, "b 3 h w c"]  # canonical tri-plane V_c, EG3D's plane order
    feature: Float[Array, "b hf wf cf"]  # output of the block at a quarter of the plane size (EG3D's b64)


@typing.no_type_check
@struct.dataclass
class RenderedRays:
    """Volume rendering of a set of rays."""

    features: Float[Array, "b r c"]  # composited features, the first three are the raw colour in [-1, 1]
    depth: Float[Array, "b r"]  # expected distance along the ray
    weights: Float[Array, "b r"]  # sum of the compositing weights: opacity in [0, 1]


@typing.no_type_check
class Frame(struct.PyTreeNode):
    """One labelled image of a clip. Leading axes `...` are b, or b t for the targets of one source."""

    image: Float[Any, "... h w 3"]  # [-1, 1]
    mask: Float[Any, "... h w"]  # 1 on the head, 0 on the background
    cam2world: Float[Any, "... 4 4"]
    intrinsics: Float[Any, "... 3 3"]
    id_coeff: Float[Any, "... i"]  # alpha
    exp_coeff: Float[Any, "... e"]  # beta
    landmarks: Float[Any, "... 68 2"]  # fractions of the image size, x right, y down


@typing.no_type_check
class Batch(struct.PyTreeNode):
    """Source frames and the targets to be made of them, from the same clip."""

    source: Frame  # leading axis b
    target: Frame  # leading axes b t
    clip: Int[Any, " b"]


@typing.no_type_check
@struct.dataclass
class Output:
    """Everything NOFA computes for a batch of targets; what a jitted caller ignores is never computed."""

    image: Float[Array, "b h w 3"]  # after super-resolution, about [-1, 1]
    image_raw: Float[Array, "b hr wr 3"]  # volume-rendered colour, about [-1, 1]
    image_depth: Float[Array, "b hr wr 1"]  # expected distance along the ray, world units
    opacity: Float[Array, "b hr wr 1"]  # sum of compositing weights
    feature_image: Float[Array, "b hr wr c"]
