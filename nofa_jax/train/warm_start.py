"""D's warm start: the deformation field regressed onto the morphable model, before any image is seen.

Sec. 3.2 lets D learn expressions from images alone. The morphable model already knows how its surface moves, so D can
first be fitted to that: a point x near the surface of the target expression belongs to the canonical expression at

    x_c = x + fade(d) * (v_canonical - v_target)        v: the nearest surface point, d: its distance from x

with fade(d) = exp(-(d / reach)^2). No images are needed and any morphable model will do. It is ours, not the paper's:
a switch in the configs, off in the paper's own.
"""

from collections.abc import Mapping

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, PyTree

from nofa_jax.face3d.model import MorphableModel
from nofa_jax.models.deformation import Deformation
from nofa_jax.progress import Progress

INNER_PARTS = ("mouth_socket", "eye_socket_left", "eye_socket_right", "eyeball_left", "eyeball_right")
HIDDEN = 0.01  # world units: how much farther away the inner parts seem than they are
FLOOR = 0.01  # world units, a third of a centimetre: errors are relative to the displacement, but not below this


def displacement(
    points: Float[Array, "n 3"],
    target: Float[Array, "v 3"],
    canonical: Float[Array, "v 3"],
    penalty: Float[Array, " v"],
    reach: float,
) -> Float[Array, "n 3"]:
    """Backward displacement of `points` for one head: target and canonical are the same vertices in two expressions.

    penalty (squared world units) makes a vertex seem farther away: of a lid and the eyeball right behind it, the lid
    is what is seen.
    """
    squared = (jnp.sum(target**2, axis=-1) + penalty)[None, :] - 2.0 * points @ target.T  # + |x|^2, the same for all
    nearest = jnp.argmin(squared, axis=-1)
    offset = points - target[nearest]
    fade = jnp.exp(-jnp.sum(offset**2, axis=-1, keepdims=True) / reach**2)
    return fade * (canonical[nearest] - target[nearest])


def moving_vertices(head: MorphableModel, count: int, rng: np.random.Generator) -> np.ndarray:
    """Indices of `count` vertices without repetition, those that expressions move more often than those they do not."""
    travel = np.linalg.norm(np.asarray(head.exp_basis), axis=-1).max(axis=0)
    probability = np.minimum(travel / FLOOR, 1.0) + 0.1
    count = min(count, len(travel))
    return np.sort(rng.choice(len(travel), count, replace=False, p=probability / probability.sum()))


def sample_expressions(key: Array, count: int, seen: Float[Array, "n e"], sparsity: float = 0.1) -> Float[Array, "b e"]:
    """Blendshape weights: half of them rows of `seen`, the others each shape on by `sparsity`, uniform in [0, 1]."""
    key_row, key_on, key_value, key_choice = jax.random.split(key, 4)
    rows = seen[jax.random.randint(key_row, (count,), 0, seen.shape[0])]
    shape = (count, seen.shape[1])
    sparse = jax.random.uniform(key_value, shape) * jax.random.bernoulli(key_on, sparsity, shape)
    return jnp.where(jax.random.bernoulli(key_choice, 0.5, (count, 1)), rows, sparse)


class WarmStart:
    """Draws training examples of the displacement field of `head`, in world units."""

    def __init__(
        self,
        head: MorphableModel,
        seen: Float[np.ndarray, "n e"],
        vertices: int,
        reach: float,
        id_scale: float,
        seed: int,
    ) -> None:
        chosen = moving_vertices(head, vertices, np.random.default_rng(seed))
        self.mean = jnp.asarray(head.mean[chosen])
        self.id_basis = jnp.asarray(head.id_basis[:, chosen])
        self.exp_basis = jnp.asarray(head.exp_basis[:, chosen])
        self.canonical_exp = jnp.asarray(head.canonical_exp)
        self.penalty = jnp.asarray(np.where(head.part(*INNER_PARTS)[chosen], HIDDEN**2, 0.0), jnp.float32)
        self.seen = jnp.asarray(seen)
        self.reach, self.id_scale = reach, id_scale

    def draw(
        self, key: Array, heads: int, points: int
    ) -> tuple[Float[Array, "b n 3"], Float[Array, "b i"], Float[Array, "b e"], Float[Array, "b n 3"]]:
        """(points, alpha, beta, displacement): most points near the surface, an eighth anywhere in the box."""
        keys = jax.random.split(key, 6)
        alpha = self.id_scale * jnp.clip(jax.random.normal(keys[0], (heads, self.id_basis.shape[0])), -2.5, 2.5)
        beta = sample_expressions(keys[1], heads, self.seen)
        neutral = self.mean[None] + jnp.einsum("bi,ivc->bvc", alpha, self.id_basis)
        target = neutral + jnp.einsum("be,evc->bvc", beta, self.exp_basis)
        canonical = neutral + jnp.einsum("e,evc->vc", self.canonical_exp, self.exp_basis)[None]
        anywhere = points // 8
        index = jax.random.randint(keys[2], (heads, points - anywhere), 0, target.shape[1])
        near = jnp.take_along_axis(target, index[..., None], axis=1)
        spread = 0.5 * self.reach * jax.random.uniform(keys[5], (*near.shape[:2], 1)) ** 2  # dense at the surface
        near = near + spread * jax.random.normal(keys[3], near.shape)
        far = jax.random.uniform(keys[4], (heads, anywhere, 3), minval=-0.5, maxval=0.5)
        x = jnp.concatenate([near, far], axis=1)
        moved = jax.vmap(displacement, in_axes=(0, 0, 0, None, None))(x, target, canonical, self.penalty, self.reach)
        return x, alpha, beta, moved


def warm_start(
    deformation: Deformation,
    params: PyTree,
    head: MorphableModel,
    seen: Float[np.ndarray, "n e"],
    options: Mapping,
    seed: int,
) -> tuple[PyTree, dict[str, float]]:
    """Trains D's `params` for options["steps"]; returns them with the errors before and after.

    seen: expressions of the data set (labels, not images), so that those which occur together are learned together.

    The error is the root mean square of x_c over that of the true displacement: 1 is what the identity scores.
    """
    source = WarmStart(head, seen, options["vertices"], options["reach"], options["id_scale"], seed)
    schedule = optax.cosine_decay_schedule(options["learning_rate"], options["steps"], alpha=0.05)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adam(schedule, b2=0.99))
    key = jax.random.key(seed)

    def error(params: PyTree, example: tuple) -> Array:
        x, alpha, beta, moved = example
        warped = deformation.apply({"params": params}, x, alpha, beta).x_canonical
        squared = jnp.sum((warped - x - moved) ** 2, axis=-1)
        return jnp.mean(squared / (jnp.sum(moved**2, axis=-1) + FLOOR**2))

    @jax.jit
    def step(params: PyTree, opt_state: PyTree, i: Array) -> tuple[PyTree, PyTree, Array]:
        example = source.draw(jax.random.fold_in(key, i), options["heads"], options["points"])
        value, grads = jax.value_and_grad(error)(params, example)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), opt_state, value

    held_out = source.draw(jax.random.fold_in(key, options["steps"]), 64, 512)
    measure = jax.jit(lambda p: jnp.sqrt(error(p, held_out)))
    before = float(measure(params))
    opt_state = optimizer.init(params)
    with Progress(options["steps"], "warm start of D on the morphable model") as progress:
        for i in range(options["steps"]):
            params, opt_state, value = step(params, opt_state, jnp.asarray(i))
            if i % 20 == 19:
                progress.update(20, error=float(value) ** 0.5)
    return params, {"before": before, "after": float(measure(params))}
