"""Pictures of morphable heads by ray casting (Embree), with exact mask, depth and landmarks.

Cameras are those of rendering/camera.py, here in numpy: a process that makes data needs no accelerator library.
"""

import dataclasses
import typing

import numpy as np

from nofa_jax.face3d.appearance import Appearance, paint
from nofa_jax.face3d.hair import Hair, grow
from nofa_jax.face3d.model import MorphableModel
from nofa_jax.face3d.paint import GRID, GRID_INDEX, POINTS
from nofa_jax.face3d.scene import Hits, Scene, pixel_centres, project, rays, vertex_normals

Camera = tuple[np.ndarray, np.ndarray]  # (cam2world [4,4], intrinsics [3,3] as fractions of the image size)


class HeadImage(typing.TypedDict):
    """One rendered frame."""

    image: np.ndarray  # uint8 [s,s,3]
    mask: np.ndarray  # uint8 [s,s], 255 where the ray through the pixel's centre meets the head
    depth: np.ndarray  # float32 [s,s], distance along that ray in world units, 0 where it meets nothing
    landmarks: np.ndarray  # float32 [68,2], fractions of the image size, x right, y down


class Colours:
    """One person's colour at every point of the model and, behind them, of the hair. Painted when first asked for:
    the pictures of a clip meet a small part of a fine mesh.
    """

    def __init__(self, model: MorphableModel, appearance: Appearance, hair: Hair | None) -> None:
        own = len(model.triangles) * POINTS
        shell = np.zeros((0, 3), np.float32) if hair is None else hair.colour.reshape(-1, 3)
        self._model, self._appearance = model, appearance
        self._colour = np.concatenate([np.zeros((own, 3), np.float32), shell])
        self._painted = np.arange(len(self._colour)) >= own

    def at(self, points: np.ndarray) -> np.ndarray:
        """Linear RGB [n,3], float32, of points by their indices (triangle * POINTS + point of the triangle)."""
        fresh = np.unique(points[~self._painted[points]])
        if len(fresh):
            self._colour[fresh] = paint(self._model, self._appearance, fresh)
            self._painted[fresh] = True
        return self._colour[points]


@dataclasses.dataclass(frozen=True)
class Painted:
    """A model with one person's colours and hair: everything of a clip that stays the same from frame to frame."""

    model: MorphableModel
    appearance: Appearance
    hair: Hair | None
    triangles: np.ndarray  # int32 [t,3]: the model's, then the hair's
    colours: Colours
    gloss: np.ndarray  # float32 [t, 2]: strength and exponent of the highlight


def paint_head(model: MorphableModel, appearance: Appearance) -> Painted:
    """Prepare a person for rendering; do it once per clip: pictures then share what they paint."""
    hair = grow(model, appearance)
    triangles = np.asarray(model.triangles)
    corner = np.asarray(model.vertex_part)[triangles[:, 0]]
    gloss = np.tile(np.array([appearance.gloss, 18.0], np.float32), (len(triangles), 1))
    for name, shine in (("eyeball_left", (0.55, 90.0)), ("eyeball_right", (0.55, 90.0)), ("teeth", (0.12, 30.0))):
        gloss[corner == model.part_names.index(name)] = shine
    gloss[corner == model.part_names.index("mouth_socket"), 0] = 0.0
    if hair is not None:
        triangles = np.concatenate([triangles, hair.scalp.triangles + len(model.mean)])
        gloss = np.concatenate([gloss, np.tile(np.array([0.05, 12.0], np.float32), (len(hair.scalp.triangles), 1))])
    return Painted(model, appearance, hair, triangles.astype(np.int32), Colours(model, appearance, hair), gloss)


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
      supersample: rays per pixel along each axis, where the picture has detail.
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
    cam2world, intrinsics = (np.asarray(a, np.float32) for a in camera)
    scene = Scene(vertices, head.triangles, seen_from=cam2world[:3, 3])
    backdrop = np.asarray(background, np.float32)
    at = pixel_centres(size)
    colour, depth = _trace(head, normals, scene, rays(at, cam2world, intrinsics), backdrop)
    if supersample > 1:
        fine = np.flatnonzero(_detail(colour.reshape(size, size, 3)))
        within = (pixel_centres(supersample) - 0.5) / size
        sub = (at[fine, None] + within).reshape(-1, 2)
        parts, _ = _trace(head, normals, scene, rays(sub, cam2world, intrinsics), backdrop)
        colour[fine] = parts.reshape(len(fine), supersample**2, 3).mean(1)
    landmarks = vertices[np.asarray(head.model.landmark_index)]
    return HeadImage(
        image=np.round(colour * 255.0).astype(np.uint8).reshape(size, size, 3),
        mask=np.where(depth > 0.0, 255, 0).astype(np.uint8).reshape(size, size),
        depth=depth.reshape(size, size),
        landmarks=project(landmarks, cam2world, intrinsics),
    )


def _trace(head, normals, scene, rays, backdrop) -> tuple[np.ndarray, np.ndarray]:
    """sRGB colours [r,3] and distances [r] (0 for none) of rays (origin, directions)."""
    hit = scene.cast(*rays)
    colour = np.tile(backdrop, (len(hit.triangle), 1))
    seen = np.flatnonzero(hit.triangle >= 0)
    colour[seen] = _encode(_shade(head, normals, hit, seen, rays[1]))
    return colour, hit.distance


DETAIL = 0.08  # difference of neighbouring pixels (sRGB in [0,1]) above which both are supersampled


def _detail(colour: np.ndarray) -> np.ndarray:
    """Pixels [s,s] that differ from a neighbour: one ray is enough for the rest, and most of a face is smooth."""
    found = np.zeros(colour.shape[:2], bool)
    down = np.abs(colour[1:] - colour[:-1]).max(-1) > DETAIL
    right = np.abs(colour[:, 1:] - colour[:, :-1]).max(-1) > DETAIL
    found[1:] |= down
    found[:-1] |= down
    found[:, 1:] |= right
    found[:, :-1] |= right
    return found


def surface(head: Painted, id_coeff: np.ndarray, exp_coeff: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """World vertices and unit normals of the model and, behind them, of the hair."""
    model = head.model
    vertices = np.asarray(model.vertices(np.asarray(id_coeff, np.float32), np.asarray(exp_coeff, np.float32)))
    normals = vertex_normals(vertices, np.asarray(model.triangles))
    if head.hair is None:
        return vertices, normals
    shell = head.hair.vertices(vertices, normals)
    shell_normals = vertex_normals(shell, head.hair.scalp.triangles)
    return np.concatenate([vertices, shell]), np.concatenate([normals, shell_normals])


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
    albedo = head.colours.at(triangle * POINTS + GRID_INDEX[i, j])
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
