"""The Basel Face Model as Deep3DFaceRecon uses it: 257 coefficients to vertices, colours and landmarks of a 224² photo.

Written from the behaviour of sicxu/Deep3DFaceRecon_pytorch's models/bfm.py (MIT). Units are the model's own (about
10 cm); its camera looks along -z from 10 units away. Coefficients are those of `extractors.deep3d.Deep3DRecon`.
"""

import math
import typing

import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

FOCAL, CENTER, IMAGE_SIZE, CAMERA_DISTANCE = 1015.0, 112.0, 224, 10.0  # pixels, pixels, pixels, model units
AMBIENT = 0.8  # added to the first harmonic of each colour's light


@typing.no_type_check
@struct.dataclass
class Coefficients:
    """The 257 numbers by meaning."""

    id: Float[Array, "b i"]  # standardised shape
    exp: Float[Array, "b e"]
    tex: Float[Array, "b t"]
    angle: Float[Array, "b 3"]  # radians about x, y, z
    light: Float[Array, "b 3 9"]  # spherical harmonics for red, green, blue
    translation: Float[Array, "b 3"]


@typing.no_type_check
class BaselFaceModel(struct.PyTreeNode):
    """Arrays of the model; vertex indices start at 0."""

    mean: Float[Array, "v 3"]  # centred on its vertices
    id_basis: Float[Array, "i v 3"]
    exp_basis: Float[Array, "e v 3"]
    mean_texture: Float[Array, "v 3"]  # 0 to 255
    tex_basis: Float[Array, "t v 3"]
    triangles: Int[Array, "f 3"]
    vertex_triangles: Int[Array, "v 8"]  # triangles around each vertex; f marks an empty place
    keypoints: Int[Array, " k"]  # the 68 landmarks

    def split(self, coeffs: Float[Array, "b n"]) -> Coefficients:
        """Raises ValueError when the number of coefficients is not this model's (257 for the published one)."""
        sizes = (len(self.id_basis), len(self.exp_basis), len(self.tex_basis), 3, 27, 3)
        if coeffs.shape[-1] != sum(sizes):
            raise ValueError(f"the face model takes {sum(sizes)} coefficients, got {coeffs.shape[-1]}")
        ends = [sum(sizes[: i + 1]) for i in range(len(sizes) - 1)]
        shape, exp, tex, angle, light, translation = jnp.split(coeffs, ends, axis=-1)
        return Coefficients(shape, exp, tex, angle, light.reshape(-1, 3, 9), translation)

    def vertices(self, id_coeff: Float[Array, "b i"], exp_coeff: Float[Array, "b e"]) -> Float[Array, "b v 3"]:
        """The face before it is turned and moved."""
        return self.mean[None] + _combine(id_coeff, self.id_basis) + _combine(exp_coeff, self.exp_basis)

    def texture(self, tex_coeff: Float[Array, "b t"]) -> Float[Array, "b v 3"]:
        """Albedo, about [0, 1], not clipped."""
        return (self.mean_texture[None] + _combine(tex_coeff, self.tex_basis)) / 255.0

    def normals(self, vertices: Float[Array, "b v 3"]) -> Float[Array, "b v 3"]:
        """Unit normals: of the triangles, summed around each vertex."""
        a, b, c = (vertices[:, self.triangles[:, k]] for k in range(3))
        faces = _unit(jnp.cross(a - b, b - c))
        faces = jnp.concatenate([faces, jnp.zeros_like(faces[:, :1])], axis=1)  # what empty places point at
        return _unit(jnp.sum(faces[:, self.vertex_triangles], axis=2))

    def colors(self, coefficients: Coefficients) -> Float[Array, "b v 3"]:
        """Albedo under the spherical-harmonics light, not clipped."""
        normals = self.normals(self.vertices(coefficients.id, coefficients.exp))
        turned = normals @ _transposed(rotation(coefficients.angle))
        shading = harmonics(turned) @ _transposed(coefficients.light.at[:, :, 0].add(AMBIENT))
        return shading * self.texture(coefficients.tex)

    def landmarks(self, coefficients: Coefficients) -> Float[Array, "b k 2"]:
        """Pixels of the 224² photo, x right, y down, pixel (row i, column j) at (j, i)."""
        k = self.keypoints
        at = self.replace(mean=self.mean[k], id_basis=self.id_basis[:, k], exp_basis=self.exp_basis[:, k])
        points = at.vertices(coefficients.id, coefficients.exp) @ _transposed(rotation(coefficients.angle))
        x, y, z = jnp.moveaxis(points + coefficients.translation[:, None], -1, 0)
        scale = FOCAL / (CAMERA_DISTANCE - z)
        return jnp.stack([x * scale + CENTER, IMAGE_SIZE - 1 - (y * scale + CENTER)], axis=-1)


def rotation(angles: Float[Array, "b 3"]) -> Float[Array, "b 3 3"]:
    """Rz Ry Rx for column vectors."""
    (sx, sy, sz), (cx, cy, cz) = jnp.sin(angles).T, jnp.cos(angles).T
    rows = [
        [cz * cy, cz * sy * sx - sz * cx, cz * sy * cx + sz * sx],
        [sz * cy, sz * sy * sx + cz * cx, sz * sy * cx - cz * sx],
        [-sy, cy * sx, cy * cx],
    ]
    return jnp.stack([jnp.stack(row, axis=-1) for row in rows], axis=-2)


def harmonics(normals: Float[Array, "b v 3"]) -> Float[Array, "b v 9"]:
    """The first nine spherical harmonics as the model's light is given in."""
    x, y, z = jnp.moveaxis(normals, -1, 0)
    a0, a1, a2 = math.pi, 2 * math.pi / math.sqrt(3), 2 * math.pi / math.sqrt(8)
    c0, c1, c2 = 1 / math.sqrt(4 * math.pi), math.sqrt(3 / (4 * math.pi)), 3 * math.sqrt(5 / (12 * math.pi))
    second = a2 * c2
    basis = [
        jnp.full_like(x, a0 * c0),
        *(-a1 * c1 * y, a1 * c1 * z, -a1 * c1 * x),
        *(second * x * y, -second * y * z, second * (3 * z**2 - 1) / (2 * math.sqrt(3))),
        *(-second * x * z, second * (x**2 - y**2) / 2),
    ]
    return jnp.stack(basis, axis=-1)


def _combine(coeff: Float[Array, "b n"], basis: Float[Array, "n v 3"]) -> Float[Array, "b v 3"]:
    return jnp.einsum("bn,nvc->bvc", coeff, basis)


def _unit(x: Float[Array, "b n 3"]) -> Float[Array, "b n 3"]:
    return x / jnp.maximum(jnp.sqrt(jnp.sum(x * x, axis=-1, keepdims=True)), 1e-12)


def _transposed(x: Float[Array, "b i j"]) -> Float[Array, "b j i"]:
    return jnp.swapaxes(x, -1, -2)
