"""D, the deformation field (Sec. 3.2, Fig. 3): target-space points back to the canonical volume.

    x_c = x + W(x, alpha, beta) * D(x, alpha, beta)

D-Net predicts an offset, W-Net one scalar weight in [0, 1] for each location. Both read the positionally encoded point,
the source's identity alpha and the target's expression beta. The paper gives no sizes; ours and where they come from
are listed in docs/conventions.md (the shape of D-Net is Nerfies' translation field).
"""

import typing

import flax.linen as nn
import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float


@typing.no_type_check
@struct.dataclass
class Warp:
    """Where points of the target space lie in the canonical volume."""

    x_canonical: Float[Array, "b n 3"]
    offset: Float[Array, "b n 3"]  # D-Net
    weight: Float[Array, "b n 1"]  # W-Net; all ones without it


def positional_encoding(x: Float[Array, "*n c"], octaves: int, progress: float | Array = 1.0) -> Float[Array, "*n k"]:
    """[x, sin(2^k pi x), cos(2^k pi x)] for k < octaves (NeRF, Eq. 4), for x in about [-1, 1].

    `progress` in [0, 1] fades octaves in from coarse to fine (Nerfies, Eq. 8); 1 uses all of them.
    """
    # Double angles: two multiplications instead of two transcendental functions.
    waves = [(jnp.sin(jnp.pi * x), jnp.cos(jnp.pi * x))]
    for _ in range(octaves - 1):
        sine, cosine = waves[-1]
        waves.append((2.0 * sine * cosine, 1.0 - 2.0 * sine**2))
    if not isinstance(progress, float) or progress < 1.0:
        octave = jnp.arange(octaves, dtype=x.dtype)
        fade = (1.0 - jnp.cos(jnp.pi * jnp.clip(jnp.asarray(progress, x.dtype) * octaves - octave, 0.0, 1.0))) / 2.0
        waves = [(fade[k] * sine, fade[k] * cosine) for k, (sine, cosine) in enumerate(waves)]
    return jnp.concatenate([x, *(sine for sine, _ in waves), *(cosine for _, cosine in waves)], axis=-1)


class ConditionedMLP(nn.Module):
    """ReLU layers on [encoded point, condition], with the input joined again before layer `skip`.

    A dense layer of the concatenation is the sum of a dense layer of each part; written so, the condition is multiplied
    once for each image, not once for each of its points.
    """

    depth: int
    width: int
    skip: int | None
    out_features: int
    out_init: nn.initializers.Initializer
    modulate: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(self, encoded: Float[Array, "b n k"], condition: Float[Array, "b c"]) -> Float[Array, "b n o"]:
        encoded, condition = encoded.astype(self.dtype), condition.astype(self.dtype)
        x = encoded
        for layer in range(self.depth):
            dense = nn.Dense(
                self.width, dtype=self.dtype, kernel_init=nn.initializers.he_normal(), name=f"layer_{layer}"
            )
            joins = layer == 0 or layer == self.skip
            if layer and joins:
                x = jnp.concatenate([x, encoded], axis=-1)
            x = dense(x)
            if joins:
                init = nn.initializers.normal(stddev=1.0 / max(condition.shape[-1], 1) ** 0.5)
                per_image = nn.Dense(
                    self.width, use_bias=False, dtype=self.dtype, kernel_init=init, name=f"condition_{layer}"
                )(condition)
                x = x + per_image[:, None, :]
            x = nn.relu(x)
        if self.modulate:
            init = nn.initializers.normal(stddev=1.0 / max(condition.shape[-1], 1) ** 0.5)
            gain = nn.Dense(self.width, dtype=self.dtype, kernel_init=init, name="modulation")(condition)
            x = x * (1.0 + gain[:, None, :])
        return nn.Dense(self.out_features, dtype=self.dtype, kernel_init=self.out_init, name="out")(x)


class Deformation(nn.Module):
    """D = (D-Net, W-Net). Untrained it is the identity up to about 1e-3 of the box."""

    depth: int = 6  # D-Net hidden layers (Nerfies)
    width: int = 128  # D-Net width (Nerfies)
    skip: int = 4  # D-Net layer that reads the input again (Nerfies)
    weight_depth: int = 3  # W-Net hidden layers
    weight_width: int = 64
    octaves: int = 7  # positional encoding; Nerfies uses 6 to 8
    box_warp: float = 1.0  # side of the volume in world units: points are encoded in [-1, 1]
    use_weight_net: bool = True  # False: ablation "w/o weighting network" of Table 5
    use_identity: bool = True  # False: ablation "w/o identity condition" of Table 5
    # Blendshapes move a point by a sum of products, beta times a function of place. Scaling D-Net's last hidden layer
    # by 1 + (condition @ matrix) gives it that product; by concatenation alone it must build one from ReLUs.
    modulate: bool = False
    # alpha has many coefficients of variance one, beta few that are not zero: unscaled, identity drowns expression in
    # the first layer, and D learns that the mouth opens long before it learns when.
    id_gain: float = 0.25
    exp_gain: float = 3.0
    output_scale: float = 1e-3  # deviation of the last layer: tiny, so that switching D on does not jump
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self,
        points: Float[Array, "b n 3"],
        id_coeff: Float[Array, "b i"],
        exp_coeff: Float[Array, "b e"],
        progress: float | Array = 1.0,
    ) -> Warp:
        """Points in world units, alpha and beta of the image they are seen in -> canonical points.

        Coordinates stay float32 whatever the compute dtype: bfloat16 resolves only 1/256 of the box.
        """
        condition = exp_coeff * self.exp_gain
        if self.use_identity:
            condition = jnp.concatenate([id_coeff * self.id_gain, condition], axis=-1)
        encoded = positional_encoding(points * (2.0 / self.box_warp), self.octaves, progress)
        tiny = nn.initializers.normal(stddev=self.output_scale)
        d_net = ConditionedMLP(self.depth, self.width, self.skip, 3, tiny, self.modulate, self.dtype, name="d_net")
        offset = d_net(encoded, condition).astype(jnp.float32)
        if self.use_weight_net:
            w_net = ConditionedMLP(self.weight_depth, self.weight_width, None, 1, tiny, False, self.dtype, name="w_net")
            weight = jax.nn.sigmoid(w_net(encoded, condition).astype(jnp.float32))
        else:
            weight = jnp.ones((*points.shape[:-1], 1), jnp.float32)
        return Warp(x_canonical=points + weight * offset, offset=offset, weight=weight)
