"""The whole of EG3D (Chan et al. 2022): generator, volume renderer and super-resolution, ws + camera label -> image."""

from flax import linen as nn
from flax import struct
from jaxtyping import Array, Float

from nofa_jax.models.generator import Generator
from nofa_jax.models.renderer import VolumeRenderer
from nofa_jax.models.superres import SuperResolution
from nofa_jax.rendering.camera import make_rays, split_label


@struct.dataclass
class EG3DOutput:
    """What EG3D computes for each code."""

    image: Float[Array, "b h w 3"]  # about [-1, 1]
    image_raw: Float[Array, "b r r 3"]
    image_depth: Float[Array, "b r r 1"]  # distance along the ray
    feature_image: Float[Array, "b r r c"]
    opacity: Float[Array, "b r r 1"]
    planes: Float[Array, "b 3 h w c"]
    feature: Float[Array, "b h w c"]


class EG3D(nn.Module):
    """Submodules are named as in NOFA, so ported variables serve both."""

    generator: Generator
    renderer: VolumeRenderer
    superres: SuperResolution
    rendering_resolution: int = 128

    def __call__(
        self,
        ws: Float[Array, "b l w"],
        camera: Float[Array, "b 25"],
        rendering_resolution: int | None = None,
        noise_mode: str = "const",
        key: Array | None = None,
    ) -> EG3DOutput:
        """Synthesis; `key` draws the ray samples. The noise of the super-resolution is a field of its own."""
        generated = self.generator(ws, noise_mode)
        size = self.rendering_resolution if rendering_resolution is None else rendering_resolution
        rendered = self.renderer(generated.planes, make_rays(*split_label(camera), size), key=key)

        def as_image(x: Array) -> Array:
            return x.reshape(x.shape[0], size, size, -1)

        feature_image = as_image(rendered.features)
        return EG3DOutput(
            image=self.superres(feature_image, ws),
            image_raw=feature_image[..., :3],
            image_depth=as_image(rendered.depth),
            feature_image=feature_image,
            opacity=as_image(rendered.weights),
            planes=generated.planes,
            feature=generated.feature,
        )

    def mapping(
        self,
        z: Float[Array, "b z"],
        camera: Float[Array, "b 25"],
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
    ) -> Float[Array, "b l w"]:
        return self.generator.mapping(z, camera, truncation_psi, truncation_cutoff)
