"""ArcFace: face images to identity embeddings, for the identity loss (Sec. 3.3) and the identity metric.

Two families go by this name. `IRSE50` is the one of pSp and e4e's identity loss (the encoder's own trunk, crop and
pooling inside); `IResNet` is insightface's arcface_torch backbone (iresnet50, iresnet100), for the metric. Written
from the behaviour of omertov/encoder4editing (MIT) and deepinsight/insightface recognition/arcface_torch (MIT).
"""

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float

from nofa_jax.models.irse import IRSETrunk
from nofa_jax.models.layers import PADDING, BatchNorm, Dtype, PReLU
from nofa_jax.ops.resize import adaptive_average_pool

CROP_ROWS = (35, 223)  # of a 256² image aligned as FFHQ's
CROP_COLUMNS = (32, 220)
FACE_SIZE = 112
IRESNET_UNITS = {50: (3, 4, 14, 3), 100: (3, 13, 30, 3)}


def crop_face(image: Float[Array, "b h w 3"]) -> Float[Array, "b 112 112 3"]:
    """The identity loss's crop of an FFHQ-framed image and its adaptive average pooling to 112².

    Other sizes than 256² are first averaged (or repeated) to 256². The crop's numbers suit FFHQ's alignment.
    """
    if image.shape[1:3] != (256, 256):
        image = adaptive_average_pool(image, 256, 256)
    face = image[:, CROP_ROWS[0] : CROP_ROWS[1], CROP_COLUMNS[0] : CROP_COLUMNS[1]]
    return adaptive_average_pool(face, FACE_SIZE, FACE_SIZE)


class EmbeddingHead(nn.Module):
    """Feature map to embedding: BN, flatten, linear, BN. float32 after the first BN."""

    features: int = 512
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"], train: bool = False) -> Float[Array, "b e"]:
        x = BatchNorm(dtype=self.dtype, name="norm")(x, train)
        x = nn.Dense(self.features, dtype=self.dtype, name="linear")(x.reshape(x.shape[0], -1))
        return BatchNorm(name="embedding_norm")(x, train)


class IRSE50(nn.Module):
    """IR-SE50: images in [-1, 1] to embeddings of unit length."""

    units: tuple[int, ...] = (3, 4, 14, 3)
    widths: tuple[int, ...] = (64, 128, 256, 512)
    stem_width: int = 64
    features: int = 512
    dtype: Dtype = jnp.float32

    def setup(self) -> None:
        self.trunk = IRSETrunk(self.units, self.widths, self.stem_width, dtype=self.dtype)
        self.head = EmbeddingHead(self.features, dtype=self.dtype)

    def embed_face(self, face: Float[Array, "b 112 112 3"]) -> Float[Array, "b e"]:
        """Embedding of already cropped faces."""
        embedding = self.head(self.trunk(face).groups[-1])
        return embedding / jnp.linalg.norm(embedding, axis=-1, keepdims=True)

    def __call__(self, image: Float[Array, "b h w 3"]) -> Float[Array, "b e"]:
        """Embedding of FFHQ-framed images (256² in the original), cropped and pooled inside."""
        return self.embed_face(crop_face(image))


class IResNetUnit(nn.Module):
    """Residual unit BN, conv, BN, PReLU, conv (stride), BN; the first of a group projects its shortcut."""

    features: int
    stride: int = 1
    project: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j k"]:
        y = BatchNorm(dtype=self.dtype, name="norm1")(x)
        y = nn.Conv(self.features, (3, 3), 1, PADDING, use_bias=False, dtype=self.dtype, name="conv1")(y)
        y = PReLU(name="act")(BatchNorm(dtype=self.dtype, name="norm2")(y))
        y = nn.Conv(self.features, (3, 3), self.stride, PADDING, use_bias=False, dtype=self.dtype, name="conv2")(y)
        y = BatchNorm(dtype=self.dtype, name="norm3")(y)
        if self.project:
            s = self.stride
            x = nn.Conv(self.features, (1, 1), s, "VALID", use_bias=False, dtype=self.dtype, name="project")(x)
            x = BatchNorm(dtype=self.dtype, name="project_norm")(x)
        return y + x


class IResNet(nn.Module):
    """iresnet50 / iresnet100: aligned 112² faces in [-1, 1] to embeddings, *not* normalised."""

    units: tuple[int, ...] = IRESNET_UNITS[50]
    widths: tuple[int, ...] = (64, 128, 256, 512)
    features: int = 512
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, face: Float[Array, "b h w 3"]) -> Float[Array, "b e"]:
        x = nn.Conv(self.widths[0], (3, 3), 1, PADDING, use_bias=False, dtype=self.dtype, name="stem_conv")(
            face.astype(self.dtype)
        )
        x = PReLU(name="stem_act")(BatchNorm(dtype=self.dtype, name="stem_norm")(x))
        for group, (count, width) in enumerate(zip(self.units, self.widths, strict=True), start=1):
            for i in range(count):
                unit = IResNetUnit(width, 2 if i == 0 else 1, i == 0, dtype=self.dtype, name=f"layer{group}_{i}")
                x = unit(x)
        return EmbeddingHead(self.features, dtype=self.dtype, name="head")(x)
