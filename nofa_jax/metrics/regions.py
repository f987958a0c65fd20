"""Where the mouth and the eyes are in a picture whose camera is known, and cutting them out.

No landmark detector is involved: the 68 landmarks of a whole data set are triangulated once into one mean face
(`mean_face`), whose mouth and eyes are then projected with each picture's own camera (`region_boxes`). A badly rendered
picture is therefore cut at the same place as a good one.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from nofa_jax.rendering.camera import project

REGIONS = ("mouth", "eye_right", "eye_left")  # sides are the subject's
LANDMARKS_OF = {"mouth": slice(48, 68), "eye_right": slice(36, 42), "eye_left": slice(42, 48)}
# Half width and half height of a region and the drop of its centre, in units of the mouth width or the distance between
# the eyes' centres: the mouth's region reaches to the chin of an open jaw, an eye's to its brow.
EXTENT = {"mouth": (0.95, 0.95, 0.20), "eye_right": (0.45, 0.45, -0.10), "eye_left": (0.45, 0.45, -0.10)}


def mean_face(
    landmarks: Float[np.ndarray, "n 68 2"],
    cam2world: Float[np.ndarray, "n 4 4"],
    intrinsics: Float[np.ndarray, "n 3 3"],
) -> Float[np.ndarray, "68 3"]:
    """World position of each landmark, averaged over all frames: the point nearest to its rays in the least squares."""
    rays_camera = np.concatenate([landmarks, np.ones_like(landmarks[..., :1])], axis=-1) @ np.linalg.inv(
        intrinsics
    ).transpose(0, 2, 1)
    rays = rays_camera @ cam2world[:, :3, :3].transpose(0, 2, 1)
    rays = rays / np.linalg.norm(rays, axis=-1, keepdims=True)
    off_ray = np.eye(3) - rays[..., :, None] * rays[..., None, :]  # projects a vector across the ray: [n, 68, 3, 3]
    origins = cam2world[:, None, :3, 3, None]
    return np.linalg.solve(off_ray.sum(axis=0), (off_ray @ origins).sum(axis=0))[..., 0]


def region_anchors(face: Float[np.ndarray, "68 3"]) -> tuple[Float[np.ndarray, "3 3"], Float[np.ndarray, "3 2"]]:
    """Centres and half extents (width, height) of `REGIONS` in world units."""
    eyes = [face[LANDMARKS_OF[name]].mean(axis=0) for name in ("eye_right", "eye_left")]
    units = dict.fromkeys(REGIONS, float(np.linalg.norm(eyes[0] - eyes[1])))
    units["mouth"] = float(np.linalg.norm(face[48] - face[54]))
    centers, extents = [], []
    for name in REGIONS:
        half_width, half_height, drop = (units[name] * x for x in EXTENT[name])
        centers.append(face[LANDMARKS_OF[name]].mean(axis=0) - np.array([0.0, drop, 0.0]))
        extents.append((half_width, half_height))
    return np.array(centers, np.float32), np.array(extents, np.float32)


def region_boxes(
    centers: Float[Array, "k 3"],
    extents: Float[Array, "k 2"],
    cam2world: Float[Array, "b 4 4"],
    intrinsics: Float[Array, "b 3 3"],
) -> Float[Array, "b k 4"]:
    """Boxes (x0, y0, x1, y1) of world regions as fractions of the image: upright in the image, sized by their depth."""
    center, depth = project(jnp.broadcast_to(centers, (cam2world.shape[0], *centers.shape)), cam2world, intrinsics)
    focal = jnp.stack([intrinsics[:, 0, 0], intrinsics[:, 1, 1]], axis=-1)[:, None]
    half = focal * extents[None] / depth[..., None]
    return jnp.concatenate([center - half, center + half], axis=-1)


def cut(images: Float[Array, "b h w c"], boxes: Float[Array, "b 4"], size: int) -> Float[Array, "b {size} {size} c"]:
    """Resamples each box (x0, y0, x1, y1, fractions of the image) to `size` x `size`, linear with antialiasing.

    What lies outside the picture reads as zero.
    """
    h, w, channels = images.shape[1:]

    def one(image: Array, box: Array) -> Array:
        low, high = box[:2][::-1], box[2:][::-1]  # y before x, as the axes are
        shape = jnp.array([h, w], jnp.float32)
        scale = size / ((high - low) * shape)
        return jax.image.scale_and_translate(
            image, (size, size, channels), (0, 1), scale, -low * shape * scale, method="linear", antialias=True
        )

    return jax.vmap(one)(images, boxes)
