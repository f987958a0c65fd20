"""Casting rays at triangles with Embree, and the camera's rays and projection.

Cameras are those of rendering/camera.py, here in numpy: a process that makes data needs no accelerator library.
"""

import dataclasses

import numpy as np

from nofa_jax.errors import UserError


def vertex_normals(vertices: np.ndarray, triangles: np.ndarray) -> np.ndarray:
    """Unit normals [v,3]: means of the adjacent triangles' normals, weighted by area."""
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    face = np.cross(b - a, c - a)
    total = np.empty_like(vertices)
    corners = triangles.T.reshape(-1)
    for axis in range(3):
        total[:, axis] = np.bincount(corners, np.tile(face[:, axis], 3), len(vertices))
    return total / np.maximum(np.linalg.norm(total, axis=1, keepdims=True), 1e-20)


def pixel_centres(size: int) -> np.ndarray:
    """Centres [size * size, 2] of the pixels as fractions of the image (x right, y down), row-major."""
    at = (np.arange(size, dtype=np.float32) + np.float32(0.5)) / np.float32(size)
    x, y = np.meshgrid(at, at)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def rays(at: np.ndarray, cam2world: np.ndarray, intrinsics: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Camera centre [3] and unit directions [n,3] through image positions [n,2] (fractions)."""
    y = (at[:, 1] - intrinsics[1, 2]) / intrinsics[1, 1]
    x = (at[:, 0] - intrinsics[0, 2] - intrinsics[0, 1] * y) / intrinsics[0, 0]
    local = np.stack([x, y, np.ones_like(x)], axis=1)
    local /= np.sqrt(x * x + y * y + 1.0)[:, None]
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
    """Triangles that rays can be cast at.

    With `seen_from`, a point, triangles that turn their back to it are left out: rays from there do not meet them. A
    closed surface looks the same, and Embree's mesh, whose making takes longer than the rays of a small picture, is
    half as large.
    """

    def __init__(self, vertices: np.ndarray, triangles: np.ndarray, seen_from: np.ndarray | None = None) -> None:
        try:
            from embreex.mesh_construction import TriangleMesh  # ty: ignore[import-not-found]
            from embreex.rtcore_scene import EmbreeScene  # ty: ignore[import-not-found]
        except ImportError as e:
            raise UserError("rendering heads needs the package embreex: pip install embreex") from e
        self._kept: np.ndarray | None = None
        if seen_from is not None:
            a, b, c = (vertices[triangles[:, k]] for k in range(3))
            self._kept = np.flatnonzero(np.einsum("tc,tc->t", np.cross(b - a, c - a), seen_from - a) > 0.0)
            triangles = triangles[self._kept]
            used = np.zeros(len(vertices), bool)
            used[triangles] = True
            vertices, triangles = vertices[used], (np.cumsum(used) - 1)[triangles]
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
        if self._kept is not None and len(self._kept):
            triangle = np.where(triangle >= 0, self._kept[triangle], -1)
        return Hits(triangle, found["u"], found["v"], distance)


def openness(
    vertices: np.ndarray, triangles: np.ndarray, normals: np.ndarray, reach: float, samples: int = 48
) -> np.ndarray:
    """Part of the cosine-weighted hemisphere over each vertex [v] that is free within `reach`: 1 open, 0 buried."""
    k = np.arange(samples) + 0.5
    radius, phi = np.sqrt(k / samples), k * np.pi * (3.0 - np.sqrt(5.0))
    local = np.stack([radius * np.cos(phi), radius * np.sin(phi), np.sqrt(1.0 - radius**2)], axis=1)
    helper = np.where(np.abs(normals[:, :1]) > 0.7, [[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]])
    tangent = np.cross(helper, normals)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-12)
    frame = np.stack([tangent, np.cross(normals, tangent), normals], axis=1)
    directions = np.einsum("sk,vkc->vsc", local, frame).reshape(-1, 3).astype(np.float32)
    origins = np.repeat(vertices + 0.02 * reach * normals, samples, axis=0)
    hit = Scene(vertices, triangles).cast(origins, directions)
    blocked = (hit.triangle >= 0) & (hit.distance < reach)
    weight = np.where(blocked, 1.0 - hit.distance / reach, 0.0)
    return 1.0 - weight.reshape(-1, samples).mean(1).astype(np.float32)
