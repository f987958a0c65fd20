"""NOFA, the whole figure 2 on one screen: photo -> ws -> canonical tri-plane -> deformed, rendered, super-resolved.

    ws      = E(I_s) + w_avg                                    Eq. 1
    V_c     = G(ws);  V = V_c + C(feature of G, I_s)            Sec. 3.1
    x_c     = x + W-Net * D-Net (x, alpha_s, beta_t)            Sec. 3.2
    image   = SR(volume rendering of V read at x_c, ws)

No dynamics, no state: one forward serves every stage of training and the product.
"""

import typing
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float, Int

from nofa_jax.ops.resample import resize
from nofa_jax.rendering.camera import make_rays
from nofa_jax.types import Output


@typing.no_type_check
class Volume(struct.PyTreeNode):
    """The canonical volume of one photo: all that rendering needs to know of it."""

    planes: Float[Array, "b 3 h w c"]  # V_c + V_m
    canonical: Float[Array, "b 3 h w c"]  # V_c, of the generator alone
    compensation: Float[Array, "b 3 h w c"]  # V_m, zeros when C is off
    ws: Float[Array, "b l w"]
    offsets: Float[Array, "b l w"]  # E(I), the part of ws that the latent loss keeps small


class NOFA(nn.Module):
    """The submodules are fields, so parameter paths read encoder/…, generator/…, deformation/…"""

    encoder: nn.Module  # E
    generator: nn.Module  # G
    compensation: nn.Module  # C
    deformation: nn.Module  # D
    renderer: nn.Module
    superres: nn.Module
    # Rays traced beyond each border and cut off again after super-resolution, whose convolutions see zeros past the
    # edge. EG3D has none; where training is on windows, edges are everywhere and would be learned as part of the face.
    halo: int = 0

    def volume(self, image: Float[Array, "b h w 3"], compensate: bool = True) -> Volume:
        """Source photo in [-1, 1] -> canonical volume."""
        base, feature = self.canonical_volume(image)
        if not compensate and not self.is_initializing():
            return base
        delta = self.compensate(feature, image)
        return base.replace(planes=base.canonical + delta, compensation=delta)

    def canonical_volume(self, image: Float[Array, "b h w 3"]) -> tuple[Volume, Float[Array, "b hf wf cf"]]:
        """V_c of the generator alone, and the feature that C reads: all that does not depend on C.

        The photo may be larger than E's input: E sees it shrunk (antialiased), C as it is.
        """
        size = self.encoder.input_resolution
        offsets = self.encoder(resize(image, (size, size)))
        ws = offsets + jax.lax.stop_gradient(self.generator.w_avg)[None, None, :]
        tri = self.generator(ws)
        volume = Volume(
            planes=tri.planes,
            canonical=tri.planes,
            compensation=jnp.zeros_like(tri.planes),
            ws=ws,
            offsets=offsets,
        )
        return volume, tri.feature

    def compensate(
        self, feature: Float[Array, "b hf wf cf"], image: Float[Array, "b h w 3"]
    ) -> Float[Array, "b 3 hp wp c"]:
        """C: what to add to V_c."""
        return self.compensation(feature, image)

    def render(
        self,
        planes: Float[Array, "b 3 h w c"],
        ws: Float[Array, "b l w"],
        cam2world: Float[Array, "b 4 4"],
        intrinsics: Float[Array, "b 3 3"],
        id_coeff: Float[Array, "b i"],
        exp_coeff: Float[Array, "b e"],
        *,
        resolution: int,
        window: Int[Array, "b 2"] | None = None,
        window_size: int | None = None,
        deform: bool = True,
        key: Array | None = None,
    ) -> Output:
        """One image for each row: planes and ws of its source, the camera and coefficients that drive it.

        resolution: rays per side of the volume rendering. window, window_size: trace only the square of rays whose
        first row and column are given (training on crops). deform=False shows the canonical volume. key=None: no
        jitter.
        """
        size = resolution if window is None or window_size is None else window_size
        if self.halo:
            corner = jnp.zeros((cam2world.shape[0], 2), jnp.int32) if window is None else window
            window, size = corner - self.halo, size + 2 * self.halo
        rays = make_rays(cam2world, intrinsics, resolution, window=window, window_size=size)
        warp: Callable | None = None
        if deform:

            def warp(points: Float[Array, "b n 3"]) -> Float[Array, "b n 3"]:
                return self.deformation(points, id_coeff, exp_coeff).x_canonical

        out = self.renderer(planes, rays, deform=warp, key=key)
        square = (planes.shape[0], size, size)
        feature_image = out.features.reshape(*square, -1)
        output = Output(
            image=self.superres(feature_image, ws),
            image_raw=feature_image[..., :3],
            image_depth=out.depth.reshape(*square, 1),
            opacity=out.weights.reshape(*square, 1),
            feature_image=feature_image,
        )
        return jax.tree.map(lambda x: self._without_halo(x, x.shape[1] // size), output)

    def _without_halo(self, x: Float[Array, "b h w c"], scale: int) -> Float[Array, "b y x c"]:
        cut = self.halo * scale
        return x[:, cut : x.shape[1] - cut, cut : x.shape[2] - cut] if cut else x

    def __call__(
        self,
        image: Float[Array, "b h w 3"],
        cam2world: Float[Array, "b 4 4"],
        intrinsics: Float[Array, "b 3 3"],
        id_coeff: Float[Array, "b i"],
        exp_coeff: Float[Array, "b e"],
        *,
        resolution: int,
        compensate: bool = True,
        key: Array | None = None,
    ) -> Output:
        """Photo, and the camera and coefficients to show it with -> image."""
        if self.is_initializing():
            self.generator.mapping(
                jnp.zeros((1, self.generator.z_dim)), jnp.zeros((1, self.generator.c_dim))
            )  # unused by NOFA, but part of G's checkpoint
        volume = self.volume(image, compensate)
        return self.render(
            volume.planes, volume.ws, cam2world, intrinsics, id_coeff, exp_coeff, resolution=resolution, key=key
        )

    def warp_points(
        self, points: Float[Array, "b n 3"], id_coeff: Float[Array, "b i"], exp_coeff: Float[Array, "b e"]
    ) -> Float[Array, "b n 3"]:
        """D alone: what the warm start trains."""
        return self.deformation(points, id_coeff, exp_coeff).x_canonical
