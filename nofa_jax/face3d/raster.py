"""Pictures of morphable heads by ray casting (Embree), with exact mask, depth and landmarks.

Cameras are those of rendering/camera.py, here in numpy: a process that makes data needs no accelerator library.
"""

import dataclasses
import typing

import numpy as np

from nofa_jax.errors import UserError
from nofa_jax.face3d.appearance import Appearance, paint
from nofa_jax.face3d.hair import Hair, grow
from nofa_jax.face3d.model import MorphableModel
from nofa_jax.face3d.paint import GRID, GRID_INDEX, POINTS

Camera = tuple[np.ndarray, np.ndarray]  # (cam2world [4,4], intrinsics [3,3] as fractions of the image size)


class HeadImage(typing.TypedDict):
    """One rendered frame."""

    image: np.ndarray  # uint8 [s,s,3]
    mask: np.ndarray  # uint8 [s,s], 255 where the ray through the pixel's centre meets the head
    depth: np.ndarray  # float32 [s,s], distance along that ray in world units, 0 where it meets nothing
    landmarks: np.ndarray  # float32 [68,2], fractions of the image size, x right, y down


@dataclasses.dataclass(frozen=True)
class Painted:
    """A model with one person's colours and hair: everything of a clip that stays the same from frame to frame."""

    model: MorphableModel
    appearance: Appearance
    hair: Hair | None
    triangles: np.ndarray  # int32 [t,3]: the model's, then the hair's
    colour: np.ndarray  # float32 [t * POINTS, 3] linear RGB
    gloss: np.ndarray  # float32 [t, 2]: strength and exponent of the highlight


def paint_head(model: MorphableModel, appearance: Appearance) -> Painted:
    """Prepare a person for rendering; do it once per clip (tens of milliseconds)."""
    hair = grow(model, appearance)
    triangles, colour = np.asarray(model.triangles), paint(model, appearance)
    corner = np.asarray(model.vertex_part)[triangles[:, 0]]
    gloss = np.tile(np.float32([appearance.gloss, 18.0]), (len(triangles), 1))
    for name, shine in (("eyeball_left", (0.55, 90.0)), ("eyeball_right", (0.55, 90.0)), ("teeth", (0.12, 30.0))):
        gloss[corner == model.part_names.index(name)] = shine
    gloss[corner == model.part_names.index("mouth_socket"), 0] = 0.0
    if hair is not None:
        triangles = np.concatenate([triangles, hair.scalp.triangles + len(model.mean)])
        colour = np.concatenate([colour, hair.colour])
        gloss = np.concatenate([gloss, np.tile(np.float32([0.05, 12.0]), (len(hair.scalp.triangles), 1))])
    return Painted(model, appearance, hair, triangles.astype(np.int32), colour.reshape(-1, 3).astype(np.float32), gloss)


def render_head(
    model: MorphableModel,
    appearance: Appearance,
    id_coeff: np.ndarray,
    exp_coeff: np.ndarray,
    camera: Camera,
    size: int,
    supersample: int = 2,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> HeadImage:
    """One frame of one person. For many frames of the same person, `paint_head` once and call `render_painted`.

    Args:
      camera: (cam2world, intrinsics) of rendering/camera.py.
      supersample: rays per pixel along each axis, for the colours.
      background: sRGB in [0,1].
    """
    painted = paint_head(model, appearance)
    return render_painted(painted, id_coeff, exp_coeff, camera, size, supersample, background)


def render_painted(
    head: Painted,
    id_coeff: np.ndarray,
    exp_coeff: np.ndarray,
    camera: Camera,
    size: int,
    supersample: int = 2,
    background: tuple[float, float, float] = (1.0, 1.0, 1.0),
) -> HeadImage:
    """One frame of a prepared person; arguments as in `render_head`."""
    vertices, normals = surface(head, id_coeff, exp_coeff)
    scene = Scene(vertices, head.triangles)
    cam2world, intrinsics = (np.asarray(a, np.float32) for a in camera)
    origin, directions = pixel_rays(cam2world, intrinsics, size * supersample)
    hit = scene.cast(origin, directions)
    colour = np.empty((len(directions), 3), np.float32)
    colour[:] = np.asarray(background, np.float32)
    seen = np.flatnonzero(hit.triangle >= 0)
    colour[seen] = _encode(_shade(head, normals, hit, seen, directions))
    image = colour.reshape(size, supersample, size, supersample, 3).mean((1, 3))
    if supersample % 2:
        centre = hit.distance.reshape(size, supersample, size, supersample)
        depth = centre[:, supersample // 2, :, supersample // 2]
    else:
        depth = scene.cast(*pixel_rays(cam2world, intrinsics, size)).distance.reshape(size, size)
    landmarks = vertices[np.asarray(head.model.landmark_index)]
    return HeadImage(
        image=np.round(image * 255.0).astype(np.uint8),
        mask=np.where(depth > 0.0, 255, 0).astype(np.uint8),
        depth=depth,
        landmarks=project(landmarks, cam2world, intrinsics),
    )


def surface(head: Painted, id_coeff: np.ndarray, exp_coeff: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World vertices and unit normals of the model and, behind them, of the hair."""
    model = head.model
    vertices = model.vertices(np.asarray(id_coeff, np.float32), np.asarray(exp_coeff, np.float32))
    normals = vertex_normals(vertices, np.asarray(model.triangles))
    if head.hair is None:
        return vertices, normals
    shell = head.hair.vertices(vertices, normals)
    shell_normals = vertex_normals(shell, head.hair.scalp.triangles)
    return np.concatenate([vertices, shell]), np.concatenate([normals, shell_normals])


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Unit normals [v,3]: means of the adjacent triangles' normals, weighted by area."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    total = np.empty_like(vertices)
    corners = triangles.T.reshape(-1)
    for axis in range(3):
        total[:, axis] = np.bincount(corners, np.tile(face[:, axis], 3), len(vertices))
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-20)


def pixel_rays(cam2world: np.ndarray, intrinsics: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """Camera centre [3] and unit directions [size * size, 3] through the pixels' centres, row-major."""
    at = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    y = (at[:, None] - intrinsics[1, 2]) / intrinsics[1, 1]
    x = (at[None] - intrinsics[0, 2] - intrinsics[0, 1] * y) / intrinsics[0, 0]
    y = np.broadcast_to(y, x.shape)
    scale = 1.0 / np.sqrt(x * x + y * y + 1.0)
    local = np.stack([x * scale, y * scale, scale], axis=-1).reshape(-1, 3)
    return cam2world[:3, 3], local @ cam2world[:3, :3].T


def project(points: np.ndarray, cam2world: np.ndarray, intrinsics: np.ndarray) -> np.ndarray:
    """World points [n,3] -> fractions of the image size [n,2], x right, y down."""
    local = (points - cam2world[:3, 3]) @ cam2world[:3, :3]
    return (local[:, :2] / local[:, 2:]) @ intrinsics[:2, :2].T + intrinsics[:2, 2]


@dataclasses.dataclass(frozen=True)
class Hits:
    """First hits of r rays: triangle (-1 none), barycentric weights of its corners 1 and 2, distance (0 none)."""

    triangle: np.ndarray
    u: np.ndarray
    v: np.ndarray
    distance: np.ndarray


class Scene:
    """Triangles that rays can be cast at."""

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray) -> None:
        try:
            from embreex.mesh_construction import TriangleMesh
            from embreex.rtcore_scene import EmbreeScene
        except ImportError as e:
            raise UserError("rendering heads needs the package embreex: pip install embreex") from e
        self._scene = EmbreeScene()
        # Embree keeps no copy of its own that Python could free too early: hold the mesh as long as the scene.
        self._mesh = TriangleMesh(
            self._scene, np.ascontiguousarray(vertices, np.float32), np.ascontiguousarray(triangles, np.int32)
        )

    def cast(self, origin: np.ndarray, directions: np.ndarray) -> Hits:
        """First hits of rays from one point, or from one point each, in unit directions."""
        origins = np.empty(directions.shape, np.float32)
        origins[:] = origin
        found = self._scene.run(origins, np.ascontiguousarray(directions, np.float32), output=True)
        triangle = found["primID"]
        distance = np.where(triangle >= 0, found["tfar"], np.float32(0.0)).astype(np.float32)
        return Hits(triangle, found["u"], found["v"], distance)


def _shade(head: Painted, normals: np.ndarray, hit: Hits, seen: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """Linear colours [n,3] of the rays `seen`: ambient from above, wrapped Lambert key light, Blinn highlight."""
    a = head.appearance
    triangle, u, v = hit.triangle[seen], hit.u[seen], hit.v[seen]
    corners = head.triangles[triangle]
    normal = normals[corners[:, 0]] * (1.0 - u - v)[:, None]
    normal += normals[corners[:, 1]] * u[:, None]
    normal += normals[corners[:, 2]] * v[:, None]
    normal /= np.maximum(np.sqrt(np.einsum("nc,nc->n", normal, normal)), 1e-12)[:, None]
    towards = directions[seen]
    facing = np.einsum("nc,nc->n", normal, towards)
    normal = np.where((facing > 0.0)[:, None], -normal, normal)
    i = np.minimum(np.rint(u * GRID).astype(np.int32), GRID)
    j = np.minimum(np.rint(v * GRID).astype(np.int32), GRID - i)
    albedo = head.colour[triangle * POINTS + GRID_INDEX[i, j]]
    key = np.maximum((normal @ a.light + 0.15) / 1.15, 0.0)
    light = a.ambient * (0.8 + 0.2 * normal[:, 1]) + a.light_strength * key
    half = a.light - towards
    half /= np.sqrt(np.einsum("nc,nc->n", half, half))[:, None]
    gloss = head.gloss[triangle]
    shine = np.maximum(np.einsum("nc,nc->n", normal, half), 1e-3) ** gloss[:, 1] * gloss[:, 0] * a.light_strength
    return albedo * light[:, None] + shine[:, None]


_GAMMA = (np.linspace(0.0, 1.0, 4096) ** (1.0 / 2.2)).astype(np.float32)


def _encode(colour: np.ndarray) -> np.ndarray:
    """Linear RGB -> sRGB in [0,1], clipped."""
    return _GAMMA[np.clip(colour * 4095.0, 0.0, 4095.0).astype(np.int32)]
