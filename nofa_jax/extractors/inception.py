"""FID's InceptionV3 (TensorFlow, 2015-12-05): uint8 images to 2048 features.

The network behind published FID numbers, as converted by mseitzer/pytorch-fid and toshas/torch-fidelity (Apache-2.0):
it differs from torchvision's in the resize, the average pools and the last block. Blocks are written as tables of
branches; module names are the converted file's, so that a block can be compared with it by name.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jaxtyping import Array, Float, UInt8

from nofa_jax.models.layers import PADDING, BatchNorm, Dtype
from nofa_jax.ops.resize import resize_bilinear_tf1

INPUT_SIZE = 299
FEATURES = 2048


class Conv(NamedTuple):
    """Convolution, BN, ReLU. Stride 1 keeps the size; stride 2 and `valid` are unpadded."""

    name: str
    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    valid: bool = False


def average3(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    """3x3 mean that does not count the padding (TensorFlow's rule)."""
    return nn.avg_pool(x, (3, 3), (1, 1), PADDING, count_include_pad=False)


def maximum3(x: Float[Array, "b h w c"]) -> Float[Array, "b h w c"]:
    return nn.max_pool(x, (3, 3), (1, 1), PADDING)


def halve(x: Float[Array, "b h w c"]) -> Float[Array, "b i j c"]:
    return nn.max_pool(x, (3, 3), (2, 2), "VALID")


Step = Conv | tuple[Conv, Conv] | Callable  # a pair of convolutions reads the same input and is concatenated
Block = tuple[tuple[Step, ...], ...]  # branches, concatenated in this order


def block_a(pool_features: int) -> Block:
    """5b, 5c, 5d: 35²."""
    return (
        (Conv("branch1x1", 64),),
        (Conv("branch5x5_1", 48), Conv("branch5x5_2", 64, (5, 5))),
        (
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3)),
        ),
        (average3, Conv("branch_pool", pool_features)),
    )


def block_b() -> Block:
    """6a: 35² to 17²."""
    return (
        (Conv("branch3x3", 384, (3, 3), 2),),
        (
            Conv("branch3x3dbl_1", 64),
            Conv("branch3x3dbl_2", 96, (3, 3)),
            Conv("branch3x3dbl_3", 96, (3, 3), 2),
        ),
        (halve,),
    )


def block_c(width: int) -> Block:
    """6b to 6e: 17², factorised 7x7 convolutions."""
    return (
        (Conv("branch1x1", 192),),
        (
            Conv("branch7x7_1", width),
            Conv("branch7x7_2", width, (1, 7)),
            Conv("branch7x7_3", 192, (7, 1)),
        ),
        (
            Conv("branch7x7dbl_1", width),
            Conv("branch7x7dbl_2", width, (7, 1)),
            Conv("branch7x7dbl_3", width, (1, 7)),
            Conv("branch7x7dbl_4", width, (7, 1)),
            Conv("branch7x7dbl_5", 192, (1, 7)),
        ),
        (average3, Conv("branch_pool", 192)),
    )


def block_d() -> Block:
    """7a: 17² to 8²."""
    return (
        (Conv("branch3x3_1", 192), Conv("branch3x3_2", 320, (3, 3), 2)),
        (
            Conv("branch7x7x3_1", 192),
            Conv("branch7x7x3_2", 192, (1, 7)),
            Conv("branch7x7x3_3", 192, (7, 1)),
            Conv("branch7x7x3_4", 192, (3, 3), 2),
        ),
        (halve,),
    )


def block_e(pool: Callable) -> Block:
    """7b, 7c: 8², forked 3x3 convolutions."""
    return (
        (Conv("branch1x1", 320),),
        (
            Conv("branch3x3_1", 384),
            (Conv("branch3x3_2a", 384, (1, 3)), Conv("branch3x3_2b", 384, (3, 1))),
        ),
        (
            Conv("branch3x3dbl_1", 448),
            Conv("branch3x3dbl_2", 384, (3, 3)),
            (Conv("branch3x3dbl_3a", 384, (1, 3)), Conv("branch3x3dbl_3b", 384, (3, 1))),
        ),
        (pool, Conv("branch_pool", 192)),
    )


STEM: tuple[Step, ...] = (
    Conv("Conv2d_1a_3x3", 32, (3, 3), 2),
    Conv("Conv2d_2a_3x3", 32, (3, 3), valid=True),
    Conv("Conv2d_2b_3x3", 64, (3, 3)),
    halve,
    Conv("Conv2d_3b_1x1", 80),
    Conv("Conv2d_4a_3x3", 192, (3, 3), valid=True),
    halve,
)
BLOCKS: dict[str, Block] = {
    "Mixed_5b": block_a(32),
    "Mixed_5c": block_a(64),
    "Mixed_5d": block_a(64),
    "Mixed_6a": block_b(),
    "Mixed_6b": block_c(128),
    "Mixed_6c": block_c(160),
    "Mixed_6d": block_c(160),
    "Mixed_6e": block_c(192),
    "Mixed_7a": block_d(),
    "Mixed_7b": block_e(average3),
    "Mixed_7c": block_e(maximum3),  # a slip of the 2015 graph that every published FID contains
}


class ConvNorm(nn.Module):
    """One `Conv` of the tables."""

    conv: Conv
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j k"]:
        _, features, kernel, stride, valid = self.conv
        padding = "VALID" if valid or stride > 1 else [(k // 2, k // 2) for k in kernel]
        x = nn.Conv(features, kernel, stride, padding, use_bias=False, dtype=self.dtype, name="conv")(x)
        return nn.relu(BatchNorm(epsilon=1e-3, dtype=self.dtype, name="bn")(x))


class Mixed(nn.Module):
    """One block: its branches side by side, concatenated along the channels."""

    block: Block
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b h w c"]) -> Float[Array, "b i j k"]:
        return jnp.concatenate([apply_steps(x, branch, self.dtype) for branch in self.block], axis=-1)


def apply_steps(x: Float[Array, "b h w c"], steps: tuple[Step, ...], dtype: Dtype) -> Float[Array, "b i j k"]:
    """The steps in sequence, as submodules of the module that calls."""
    for step in steps:
        if isinstance(step, Conv):
            x = ConvNorm(step, dtype, name=step.name)(x)
        elif isinstance(step, tuple):
            x = jnp.concatenate([ConvNorm(conv, dtype, name=conv.name)(x) for conv in step], axis=-1)
        else:
            x = step(x)
    return x


class FIDInception(nn.Module):
    """uint8 RGB images of any size to FID's features [b, 2048], float32."""

    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, image: UInt8[Array, "b h w 3"]) -> Float[Array, "b 2048"]:
        x = resize_bilinear_tf1(image.astype(jnp.float32), INPUT_SIZE, INPUT_SIZE)
        x = ((x - 128.0) / 128.0).astype(self.dtype)
        x = apply_steps(x, STEM, self.dtype)
        for name, block in BLOCKS.items():
            x = Mixed(block, self.dtype, name=name)(x)
        return jnp.mean(x, axis=(1, 2), dtype=jnp.float32)
