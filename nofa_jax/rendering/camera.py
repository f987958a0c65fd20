"""Pinhole cameras: rays, projection, EG3D's camera labels and pose samplers (paper Sec. 3.2; EG3D Sec. 3).

cam2world has OpenCV axes (x right, y down, z forward) and the camera centre in its last column; intrinsics are
divided by the image size. World: y up, the default view looks from +z towards -z.
"""

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Int

from nofa_jax.types import Rays

Point = tuple[float, float, float]

EG3D_FOV_DEG = 18.837  # of FFHQ-trained EG3D
EG3D_RADIUS = 2.7
EG3D_PIVOT = (0.0, 0.0, 0.2)


def split_label(label: Float[Array, "... 25"]) -> tuple[Float[Array, "... 4 4"], Float[Array, "... 3 3"]]:
    """EG3D's camera label c -> (cam2world, intrinsics), both row-major in the label."""
    lead = label.shape[:-1]
    return label[..., :16].reshape(*lead, 4, 4), label[..., 16:].reshape(*lead, 3, 3)


def join_label(cam2world: Float[Array, "... 4 4"], intrinsics: Float[Array, "... 3 3"]) -> Float[Array, "... 25"]:
    """(cam2world, intrinsics) -> EG3D's camera label c."""
    lead = cam2world.shape[:-2]
    return jnp.concatenate([cam2world.reshape(*lead, 16), intrinsics.reshape(*lead, 9)], axis=-1)


def fov_to_intrinsics(fov_deg: float) -> Float[Array, "3 3"]:
    """Square pixels, centred. The rounded 3.14159 and 1.414 are EG3D's: its labels were made with them."""
    focal = 1.0 / (jnp.tan(fov_deg * 3.14159 / 360.0) * 1.414)
    return jnp.array([[focal, 0.0, 0.5], [0.0, focal, 0.5], [0.0, 0.0, 1.0]])


def make_rays(
    cam2world: Float[Array, "b 4 4"],
    intrinsics: Float[Array, "b 3 3"],
    resolution: int | tuple[int, int],
    window: Int[Array, "b 2"] | None = None,
    window_size: int | tuple[int, int] | None = None,
) -> Rays:
    """One ray through the centre of each pixel, row-major: pixel (row, column) is ray row * width + column.

    Args:
      resolution: size (or height, width) of the whole ray grid over the image.
      window: top-left (row, column) of the part of the grid to trace; None for all of it. It may be traced (jit).
      window_size: static size (or height, width) of that part.

    Returns:
      Rays [b, r, 3]. Skew is honoured.
    """
    height, width = (resolution, resolution) if isinstance(resolution, int) else resolution
    rows, columns = height, width
    corner = jnp.zeros((1, 2), jnp.int32)
    if window is not None:
        if window_size is None:
            raise ValueError("make_rays: window needs its static window_size")
        rows, columns = (window_size, window_size) if isinstance(window_size, int) else window_size
        corner = window
    dtype = cam2world.dtype
    row = corner[:, :1] + jnp.arange(rows)[None]  # [b or 1, rows]
    column = corner[:, 1:] + jnp.arange(columns)[None]
    v = ((row.astype(dtype) + 0.5) / height)[:, :, None]
    u = ((column.astype(dtype) + 0.5) / width)[:, None, :]

    fx, fy, cx, cy, skew = (intrinsics[:, i, j][:, None, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2), (0, 1)))
    y = (v - cy) / fy
    x = (u - cx - skew * y) / fx  # [b, rows, columns]
    y = jnp.broadcast_to(y, x.shape)
    in_camera = jnp.stack([x, y, jnp.ones_like(x)], axis=-1).reshape(x.shape[0], -1, 3)
    directions = jnp.einsum("bij,brj->bri", cam2world[:, :3, :3], in_camera, precision="highest")
    directions = directions / jnp.linalg.norm(directions, axis=-1, keepdims=True)  # z = 1 in camera: never 0
    origins = jnp.broadcast_to(cam2world[:, None, :3, 3], directions.shape)
    return Rays(origins=origins, directions=directions)


def project(
    points: Float[Array, "b n 3"], cam2world: Float[Array, "b 4 4"], intrinsics: Float[Array, "b 3 3"]
) -> tuple[Float[Array, "b n 2"], Float[Array, "b n"]]:
    """World points -> (uv as fractions of the image size, x right, y down; depth along the optical axis).

    Points at depth 0 give finite values without meaning; behind the camera the depth is negative.
    """
    rotation, centre = cam2world[:, :3, :3], cam2world[:, :3, 3]
    local = jnp.einsum("bji,bnj->bni", rotation, points - centre[:, None, :], precision="highest")
    depth = local[..., 2]
    safe = jnp.where(jnp.abs(depth) < 1e-8, 1e-8, depth)
    image = jnp.einsum("bij,bnj->bni", intrinsics[:, :2], local / safe[..., None], precision="highest")
    return image, depth


def look_at(
    yaw: ArrayLike, pitch: ArrayLike, radius: ArrayLike = EG3D_RADIUS, target: Point | ArrayLike = EG3D_PIVOT
) -> Float[Array, "n 4 4"]:
    """Cameras on a sphere around `target` [3], looking at it, for scalar or [n] angles.

    yaw > 0 moves the camera to +x (the subject's left), pitch > 0 moves it up; radians, true angles; 0, 0 is
    frontal.
    """
    yaw, pitch, radius = _together(yaw, pitch, radius)
    offset = jnp.stack([jnp.sin(yaw) * jnp.cos(pitch), jnp.sin(pitch), jnp.cos(yaw) * jnp.cos(pitch)], axis=-1)
    target = jnp.broadcast_to(jnp.asarray(target, float), offset.shape)
    return _facing(target + radius[:, None] * offset, -offset)


def eg3d_pose(
    horizontal: ArrayLike,
    vertical: ArrayLike,
    radius: ArrayLike = EG3D_RADIUS,
    target: Point | ArrayLike = (0.0, 0.0, 0.0),
) -> Float[Array, "n 4 4"]:
    """EG3D's look-at pose sampler for given angles; the caller adds any spread to them first.

    horizontal pi/2, vertical pi/2 is frontal; larger horizontal moves the camera to +x, smaller vertical moves it
    up. The vertical value is not the polar angle: polar = arccos(1 - 2 v / pi). The camera's position is relative to
    the origin also when it looks at another `target`.
    """
    horizontal, vertical, radius = _together(horizontal, vertical, radius)
    vertical = jnp.clip(vertical, 1e-5, jnp.pi - 1e-5)
    polar = jnp.arccos(1.0 - 2.0 * vertical / jnp.pi)
    azimuth = jnp.pi - horizontal
    unit = [jnp.sin(polar) * jnp.cos(azimuth), jnp.cos(polar), jnp.sin(polar) * jnp.sin(azimuth)]
    centre = radius[:, None] * jnp.stack(unit, axis=-1)
    target = jnp.broadcast_to(jnp.asarray(target, float), centre.shape)
    return _facing(centre, target - centre)


def sample_eg3d_poses(
    key: jax.Array,
    count: int,
    horizontal_std: float = 0.3,
    vertical_std: float = 0.155,
    radius: float = EG3D_RADIUS,
    target: Point = EG3D_PIVOT,
) -> Float[Array, "n 4 4"]:
    """Gaussian spread around the frontal view, as EG3D's pose samplers."""
    draws = jax.random.normal(key, (2, count))
    half = jnp.pi / 2
    return eg3d_pose(half + horizontal_std * draws[0], half + vertical_std * draws[1], radius, target)


def _together(*values: ArrayLike) -> list[Float[Array, " n"]]:
    return list(jnp.broadcast_arrays(*(jnp.atleast_1d(jnp.asarray(value, float)) for value in values)))


def _facing(centre: Float[Array, "n 3"], forward: Float[Array, "n 3"]) -> Float[Array, "n 4 4"]:
    """cam2world at `centre` looking along `forward`, with the world's y up."""
    forward = _unit(forward)
    up = jnp.broadcast_to(jnp.array([0.0, 1.0, 0.0], forward.dtype), forward.shape)
    right = _unit(jnp.cross(forward, up))
    down = jnp.cross(forward, right)
    top = jnp.stack([right, down, forward, centre], axis=-1)
    bottom = jnp.broadcast_to(jnp.array([0.0, 0.0, 0.0, 1.0], top.dtype), (top.shape[0], 1, 4))
    return jnp.concatenate([top, bottom], axis=-2)


def _unit(x: Float[Array, "n 3"]) -> Float[Array, "n 3"]:
    # Looking straight up or down leaves right = 0; the floor keeps value and gradient finite there.
    return x * jax.lax.rsqrt(jnp.maximum(jnp.sum(x * x, axis=-1, keepdims=True), 1e-20))
