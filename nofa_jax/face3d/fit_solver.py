"""The numerical half of the fit: one damped Gauss-Newton step on all frames of a batch, in JAX.

Unknowns of a frame, scaled so that the normal equations are well conditioned in float32: a rotation vector in the
camera's axes, the translation, beta. fit.py states the energy; here are its derivatives and the two block structures:
`arrow_step` (frames coupled by a shared alpha) and `chain_step` (frames coupled to their neighbours in time).
"""

import functools
import typing
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Float

from nofa_jax.face3d.crop import FOCAL, RADIUS

# Natural sizes of the six pose unknowns (radians, world units), the unit they are solved in.
POSE_UNIT = (0.02, 0.02, 0.02, 0.01, 0.01, 0.05)
# Upper and lower lid, upper and lower inner lip: their distances are residuals of their own, since a detector's and a
# model's idea of where a lid runs differ more than their ideas of how far it is open.
GAPS = ((37, 41), (38, 40), (43, 47), (44, 46), (61, 67), (62, 66), (63, 65))
HUBER = 1.5  # steps beyond this many deviations count linearly
FLOOR = 1e-3  # added to every diagonal: padded frames have no information at all
DAMPING_DOWN, DAMPING_UP = 0.3, 5.0


@typing.no_type_check
class Shape(struct.PyTreeNode):
    """The morphable model restricted to the 68 landmarks."""

    mean: Float[Any, "68 3"]
    id_basis: Float[Any, "i 68 3"]
    exp_basis: Float[Any, "e 68 3"]


@typing.no_type_check
class Observation(struct.PyTreeNode):
    """What is known about each frame of a batch. Padded frames have root 0 and real 0."""

    points: Float[Any, "f 68 2"]  # crop fractions, finite everywhere
    root: Float[Any, "f m 2 2"]  # square roots of the information of the 68 points, then of the GAPS
    beta: Float[Any, "f e"]  # prior mean
    beta_weight: Float[Any, " e"]  # 1 / prior deviation
    beta_bounds: Float[Any, " 2"]  # least and greatest; infinite where there are none
    alpha_weight: Float[Any, ""]  # 1 / prior deviation
    distance_weight: Float[Any, ""]  # 1 / deviation of the camera's distance
    step_weight: Float[Any, "f d"]  # 1 / deviation of each unknown's change to the next frame; 0: not linked
    real: Float[Any, " f"]


@typing.no_type_check
class State(struct.PyTreeNode):
    """x_camera = rotation @ X(alpha, beta) + translation, camera axes OpenCV's."""

    rotation: Float[Any, "f 3 3"]
    translation: Float[Any, "f 3"]
    beta: Float[Any, "f e"]
    alpha: Float[Any, " i"]


def landmarks3d(shape: Shape, state: State) -> Float[Array, "f 68 3"]:
    """World-space landmarks X(alpha, beta) of every frame."""
    neutral = shape.mean + jnp.einsum("i,inc->nc", state.alpha, shape.id_basis)
    return neutral[None] + jnp.einsum("fe,enc->fnc", state.beta, shape.exp_basis)


def project(shape: Shape, state: State) -> Float[Array, "f 68 2"]:
    """Landmarks in crop fractions."""
    local = jnp.einsum("fij,fnj->fni", state.rotation, landmarks3d(shape, state)) + state.translation[:, None]
    return FOCAL * local[..., :2] / jnp.maximum(local[..., 2:], 0.1) + 0.5


def energy(shape: Shape, obs: Observation, state: State, outlier: Float[Array, ""]) -> Float[Array, ""]:
    """The sum that the steps decrease."""
    residual = jnp.einsum("fmij,fmj->fmi", obs.root, _with_gaps(project(shape, state) - obs.points))
    data = jnp.sum(outlier**2 * jnp.log1p(jnp.sum(residual**2, axis=-1) / outlier**2))
    prior = jnp.sum(obs.real[:, None] * ((state.beta - obs.beta) * obs.beta_weight[None]) ** 2)
    # The errors of a detector repeat in every frame of a person, so frames do not outvote the prior.
    prior += jnp.sum(obs.real) * jnp.sum((state.alpha * obs.alpha_weight) ** 2)
    prior += jnp.sum(obs.real * ((state.translation[:, 2] - RADIUS) * obs.distance_weight) ** 2)
    size = jnp.abs(_changes(state) * obs.step_weight)
    return data + prior + jnp.sum(jnp.where(size < HUBER, size**2, HUBER * (2 * size - HUBER)))


@jax.jit
def arrow_step(
    shape: Shape, obs: Observation, state: State, damping: Float[Array, ""], outlier: Float[Array, ""]
) -> tuple[State, Float[Array, ""], Float[Array, ""]]:
    """One step on the frames and the alpha they share; smoothness is ignored. Returns state, damping, energy."""
    obs = obs.replace(step_weight=jnp.zeros_like(obs.step_weight))
    residual, by_frame, by_alpha = _linearise(shape, obs, state, outlier)
    hessian, gradient = _frame_equations(obs, state, residual, by_frame)
    free = _free(obs, state, gradient)
    mixed = jnp.einsum("frd,fri->fdi", by_frame, by_alpha) * free[:, :, None]
    count = jnp.sum(obs.real)
    alpha_hessian = jnp.einsum("fri,frj->ij", by_alpha, by_alpha)
    alpha_hessian += jnp.diag(jnp.full(len(state.alpha), count * obs.alpha_weight**2))
    alpha_gradient = -jnp.einsum("fri,fr->i", by_alpha, residual) - count * obs.alpha_weight**2 * state.alpha

    factor = jnp.linalg.cholesky(_damped(_restrict(hessian, free), damping))
    half = _solve_lower(factor, jnp.concatenate([mixed, (gradient * free)[..., None]], axis=-1))
    mixed, alone = half[..., :-1], half[..., -1]
    schur = _damped(alpha_hessian, damping) - jnp.einsum("fdi,fdj->ij", mixed, mixed)
    reduced = alpha_gradient - jnp.einsum("fdi,fd->i", mixed, alone)
    alpha_change = jax.scipy.linalg.solve(schur, reduced, assume_a="pos")
    change = alone - jnp.einsum("fdi,i->fd", mixed, alpha_change)
    change = (
        jax.vmap(functools.partial(jax.scipy.linalg.solve_triangular, lower=True, trans="T"))(factor, change) * free
    )
    return _accept(shape, obs, state, _moved(obs, state, change, alpha_change), damping, outlier)


@jax.jit
def chain_step(
    shape: Shape, obs: Observation, state: State, damping: Float[Array, ""], outlier: Float[Array, ""]
) -> tuple[State, Float[Array, ""], Float[Array, ""]]:
    """One step on frames linked in time, alpha fixed. Returns state, damping, energy."""
    residual, by_frame, _ = _linearise(shape, obs, state, outlier)
    hessian, gradient = _frame_equations(obs, state, residual, by_frame)
    unit = _units(state)
    change = _changes(state)
    size = jnp.abs(change * obs.step_weight)
    link = jnp.minimum(1.0, HUBER / jnp.maximum(size, 1e-12)) * obs.step_weight**2  # iteratively reweighted Huber
    pull = link * change * unit[None]  # in units of the unknowns
    link = link * unit[None] ** 2
    gradient = gradient + pull - jnp.roll(pull, 1, axis=0)
    diagonal = link + jnp.roll(link, 1, axis=0)
    free = _free(obs, state, gradient)
    hessian = _restrict(hessian + jax.vmap(jnp.diag)(diagonal), free)
    coupling = link * free * jnp.roll(free, -1, axis=0)
    step = _solve_chain(_damped(hessian, damping), coupling, gradient * free) * free
    return _accept(shape, obs, state, _moved(obs, state, step, jnp.zeros_like(state.alpha)), damping, outlier)


def _linearise(
    shape: Shape, obs: Observation, state: State, outlier: Float[Array, ""]
) -> tuple[Float[Array, "f r"], Float[Array, "f r d"], Float[Array, "f r i"]]:
    """Robustly weighted residuals and their derivatives by the frame's unknowns and by alpha."""
    turned = jnp.einsum("fij,fnj->fni", state.rotation, landmarks3d(shape, state))
    local = turned + state.translation[:, None]
    x, y, z = local[..., 0], local[..., 1], jnp.maximum(local[..., 2], 0.1)
    zero = jnp.zeros_like(z)
    camera = jnp.stack([jnp.stack([1 / z, zero, -x / z**2], -1), jnp.stack([zero, 1 / z, -y / z**2], -1)], -2)
    camera = FOCAL * camera  # [f,68,2,3] derivative of the picture by the camera-space point
    residual = _with_gaps(FOCAL * local[..., :2] / z[..., None] + 0.5 - obs.points)
    residual = jnp.einsum("fmij,fmj->fmi", obs.root, residual)
    cauchy = jax.lax.rsqrt(1 + jnp.sum(residual**2, axis=-1) / outlier**2)  # square root of the weight
    root = obs.root * cauchy[..., None, None]
    by_rotation = jnp.cross(turned[:, :, None, :], camera)  # camera @ (omega x turned) = omega . (turned x camera)
    by_world = jnp.einsum("fnij,fjk->fnik", camera, state.rotation)
    by_beta = jnp.einsum("fnij,enj->fnie", by_world, shape.exp_basis)
    by_alpha = jnp.einsum("fnij,anj->fnia", by_world, shape.id_basis)
    by_frame = jnp.concatenate([by_rotation, camera, by_beta], axis=-1) * _units(state)[None, None, None]
    by_frame, by_alpha = (jnp.einsum("fmij,fmjd->fmid", root, _with_gaps(d)) for d in (by_frame, by_alpha))
    residual = residual * cauchy[..., None]
    flat = (residual.shape[0], -1)
    return (
        residual.reshape(flat),
        by_frame.reshape(*flat, by_frame.shape[-1]),
        by_alpha.reshape(*flat, by_alpha.shape[-1]),
    )


def _with_gaps(of_points: Float[Array, "f 68 *rest"]) -> Float[Array, "f m *rest"]:
    """Appends the differences over the GAPS."""
    upper, lower = (jnp.array(i) for i in zip(*GAPS, strict=True))
    return jnp.concatenate([of_points, of_points[:, upper] - of_points[:, lower]], axis=1)


def _frame_equations(
    obs: Observation, state: State, residual: Float[Array, "f r"], by_frame: Float[Array, "f r d"]
) -> tuple[Float[Array, "f d d"], Float[Array, "f d"]]:
    """Normal equations of each frame by itself: landmarks and priors. The gradient points downhill."""
    hessian = jnp.einsum("frd,fre->fde", by_frame, by_frame)
    gradient = -jnp.einsum("frd,fr->fd", by_frame, residual)
    depth = POSE_UNIT[5] * obs.distance_weight
    pose = jnp.zeros((len(obs.real), 6)).at[:, 5].set(depth * (state.translation[:, 2] - RADIUS) * obs.distance_weight)
    beta = (state.beta - obs.beta) * obs.beta_weight[None] ** 2
    gradient = gradient - obs.real[:, None] * jnp.concatenate([pose, beta], axis=1)
    prior = jnp.concatenate([jnp.zeros(5), depth[None] ** 2, obs.beta_weight**2])
    return hessian + obs.real[:, None, None] * jnp.diag(prior)[None], gradient


def _solve_chain(
    hessian: Float[Array, "f d d"], coupling: Float[Array, "f d"], gradient: Float[Array, "f d"]
) -> Float[Array, "f d"]:
    """Block-tridiagonal system with diagonal blocks `hessian` and off-diagonal blocks -diag(coupling)."""

    # With L L^T the Schur complement of everything before a frame, W = L^-1 diag(coupling) carries it to the next.

    def forward(carry, row):
        carried, half = carry
        block, right, link = row
        factor = jnp.linalg.cholesky(block - carried.T @ carried)
        sides = jnp.concatenate([jnp.diag(link), (right + carried.T @ half)[:, None]], axis=1)
        solved = _solve_lower(factor, sides)
        carry = (solved[:, :-1], solved[:, -1])
        return carry, (factor, *carry)

    def backward(later, row):
        factor, carried, half = row
        x = jax.scipy.linalg.solve_triangular(factor, half + carried @ later, lower=True, trans="T")
        return x, x

    zero = jnp.zeros_like(gradient[0])
    _, rows = jax.lax.scan(forward, (jnp.zeros_like(hessian[0]), zero), (hessian, gradient, coupling))
    _, x = jax.lax.scan(backward, zero, rows, reverse=True)
    return x


def _solve_lower(factor: Float[Array, "*f d d"], sides: Float[Array, "*f d k"]) -> Float[Array, "*f d k"]:
    """L^-1 @ sides, a few columns at a time.

    XLA's CPU solver is OpenBLAS', which starts threads from 1024 entries on; for matrices this small they only wait
    for each other (measured: 20 to 100 times slower on busy cores).
    """
    d, k = sides.shape[-2:]
    columns = max(1, 1000 // d)
    groups = -(-k // columns)
    padded = jnp.pad(sides, [(0, 0)] * (sides.ndim - 1) + [(0, groups * columns - k)])
    split = jnp.moveaxis(padded.reshape(*sides.shape[:-1], groups, columns), -2, 0)
    factors = jnp.broadcast_to(factor[None], (groups, *factor.shape))
    solved = jax.scipy.linalg.solve_triangular(factors, split, lower=True)
    return jnp.moveaxis(solved, 0, -2).reshape(padded.shape)[..., :k]


def _units(state: State) -> Float[Array, " d"]:
    return jnp.concatenate([jnp.asarray(POSE_UNIT, jnp.float32), jnp.ones(state.beta.shape[1])])


def _changes(state: State) -> Float[Array, "f d"]:
    """Each unknown's change to the next frame (the last row wraps round and has weight 0)."""
    following = jnp.roll(state.rotation, -1, axis=0)
    rotation = rotation_vector(jnp.einsum("fij,fkj->fik", following, state.rotation))
    others = jnp.concatenate([state.translation, state.beta], axis=1)
    return jnp.concatenate([rotation, jnp.roll(others, -1, axis=0) - others], axis=1)


def _free(obs: Observation, state: State, gradient: Float[Array, "f d"]) -> Float[Array, "f d"]:
    """0 for a beta that sits at a bound and would leave it (two-metric projection, Bertsekas 1982), else 1."""
    push = gradient[:, 6:]
    low, high = obs.beta_bounds
    stuck = ((state.beta <= low) & (push < 0)) | ((state.beta >= high) & (push > 0))
    return jnp.concatenate([jnp.ones_like(gradient[:, :6]), 1.0 - stuck], axis=1)


def _restrict(hessian: Float[Array, "f d d"], free: Float[Array, "f d"]) -> Float[Array, "f d d"]:
    return hessian * free[:, :, None] * free[:, None, :] + jax.vmap(jnp.diag)(1 - free)


def _damped(hessian: Float[Array, "*f d d"], damping: Float[Array, ""]) -> Float[Array, "*f d d"]:
    """Marquardt: each diagonal entry grows in proportion."""
    eye = jnp.broadcast_to(jnp.eye(hessian.shape[-1]), hessian.shape)
    return hessian + eye * (damping * jnp.abs(hessian) + FLOOR)


def _moved(obs: Observation, state: State, change: Float[Array, "f d"], alpha_change: Float[Array, " i"]) -> State:
    change = change * _units(state)[None]
    return State(
        rotation=jnp.einsum("fij,fjk->fik", rotation_matrix(change[:, :3]), state.rotation),
        translation=state.translation + change[:, 3:6],
        beta=jnp.clip(state.beta + change[:, 6:], *obs.beta_bounds),
        alpha=state.alpha + alpha_change,
    )


def _accept(
    shape: Shape,
    obs: Observation,
    state: State,
    moved: State,
    damping: Float[Array, ""],
    outlier: Float[Array, ""],
) -> tuple[State, Float[Array, ""], Float[Array, ""]]:
    """The new state if the energy falls, else the old one with more damping."""
    before, after = (energy(shape, obs, s, outlier) for s in (state, moved))
    better = after <= before  # False for a NaN
    kept = jax.tree.map(functools.partial(jnp.where, better), moved, state)
    damping = jnp.clip(damping * jnp.where(better, DAMPING_DOWN, DAMPING_UP), 1e-6, 1e6)
    return kept, damping, jnp.where(better, after, before)


def rotation_matrix(vector: Float[Array, "f 3"]) -> Float[Array, "f 3 3"]:
    """Rodrigues' formula; safe at zero."""
    square = jnp.sum(vector**2, axis=-1)
    small = square < 1e-8
    angle = jnp.sqrt(jnp.where(small, 1.0, square))
    a = jnp.where(small, 1 - square / 6, jnp.sin(angle) / angle)
    b = jnp.where(small, 0.5 - square / 24, (1 - jnp.cos(angle)) / angle**2)
    x, y, z = vector[..., 0], vector[..., 1], vector[..., 2]
    zero = jnp.zeros_like(x)
    k = jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(-1, 3, 3)
    return jnp.eye(3)[None] + a[:, None, None] * k + b[:, None, None] * (k @ k)


def rotation_vector(matrix: Float[Array, "f 3 3"]) -> Float[Array, "f 3"]:
    """Inverse of rotation_matrix for angles well below pi, as between neighbouring frames."""
    skew = jnp.stack(
        [matrix[:, 2, 1] - matrix[:, 1, 2], matrix[:, 0, 2] - matrix[:, 2, 0], matrix[:, 1, 0] - matrix[:, 0, 1]], -1
    )
    sine = 0.5 * jnp.sqrt(jnp.maximum(jnp.sum(skew**2, axis=-1), 1e-16))
    cosine = 0.5 * (jnp.trace(matrix, axis1=1, axis2=2) - 1)
    return skew * (jnp.arctan2(sine, cosine) / (2 * sine))[:, None]
