"""Fits a morphable head to 68 landmarks: one alpha for the clip, beta and camera for every frame.

Maximum a posteriori by Levenberg-Marquardt, all frames of a batch at once under jit:

    sum_fl rho(|S_l (project(R_f X_l(alpha, beta_f) + t_f) - y_fl)|^2)           landmarks, robust (Cauchy)
    + |alpha|^2 / s_a^2 + sum_f |(beta_f - scores_f) / s_b|^2,  0 <= beta <= 1   priors and bounds (signed beta: none)
    + sum_f huber((x_f+1 - x_f) / s_xf),  x = rotation, translation, beta        smoothness in time

The focal length is EG3D's (4.2647 crop widths, principal point in the middle). alpha is found together with everything
else on up to KEYFRAMES frames spread over the clip (arrow-shaped normal equations, Schur complement). With alpha fixed,
all frames are solved jointly with the smoothness (block-tridiagonal normal equations), in windows of WINDOW frames that
overlap, so memory is bounded for any length. How much an unknown may change from frame to frame, s_xf, follows its own
speed around the frame, as found by a first solution without smoothness: what rests is held still, what moves is not
held back. The numbers are in FitOptions, the numerics in fit_solver.py.

The 17 jaw points are no fixed points of a head: detectors put them on the silhouette and slide them along it. Of their
residual only the part across the contour counts, and on the side turned away nothing does.
"""

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from nofa_jax.face3d.calibration import EXACT, Calibration
from nofa_jax.face3d.crop import FOCAL
from nofa_jax.face3d.fit_solver import Observation, Shape, State, arrow_step, chain_step, project, rotation_vector
from nofa_jax.face3d.model import MorphableModel
from nofa_jax.face3d.pose import RIGID_68, weak_perspective

KEYFRAMES = 48  # for alpha
WINDOW, OVERLAP = 192, 16  # frames solved jointly; frames shared by neighbouring windows
BATCHES = (1, 8, KEYFRAMES, 96, WINDOW)  # batches are padded to one of these, so that few programs are compiled
CONVERGED = 1e-4  # relative fall of the energy at which a stage ends
GAP = 0.5  # seconds; frames farther apart are not linked in time
JAW = 17
JAW_HIDDEN_DEG = 25.0  # of yaw, from which on the far jaw line does not count


@dataclasses.dataclass(frozen=True)
class FitOptions:
    """Standard deviations of what the fit expects; those of landmarks and scores are the calibration's."""

    outlier: float = 3.0  # residuals beyond this many deviations lose influence
    alpha: float = 1.0
    beta_floor: float = 0.05  # no weight is taken to be known better from a score alone
    beta_signed: float = 1.0  # of a signed model's beta, about 0
    distance: float = 0.03  # world units, of the camera's distance about EG3D's 2.7
    # Change of what rests within 1/25 s; grows with the root of time.
    rotation_step: float = 0.0005
    translation_step: tuple[float, float, float] = (0.0003, 0.0003, 0.002)
    beta_step: float = 0.01
    speed_sigma: float = 0.16  # seconds over which the speed of what moves is averaged
    iterations: int = 10  # at most, of each of the three stages


@dataclasses.dataclass(frozen=True)
class FitResult:
    """One row per frame, alpha for the clip. x_camera = rotation @ x_world + translation, OpenCV axes."""

    alpha: Float[np.ndarray, " i"]
    beta: Float[np.ndarray, "f e"]
    rotation: Float[np.ndarray, "f 3 3"]
    translation: Float[np.ndarray, "f 3"]
    landmarks: Float[np.ndarray, "f 68 2"]  # the fitted model's, crop fractions
    detector: Float[np.ndarray, "f 68 2"]  # the same as the detector would see them (calibration's offsets)


def fit_landmarks(
    model: MorphableModel,
    points: Float[np.ndarray, "f 68 2"],
    timestamps: Float[np.ndarray, " f"],
    scores: Float[np.ndarray, "f 52"] | None = None,
    alpha: Float[np.ndarray, " i"] | None = None,
    calibration: Calibration | None = None,
    options: FitOptions | None = None,
) -> FitResult:
    """Fits every frame; all must hold a face (leave the others out, their time gap is honoured).

    Args:
        points: landmarks as crop fractions, finite.
        timestamps: seconds, increasing.
        scores: MediaPipe's blendshape scores; without them beta's prior mean is 0.
        alpha: the identity, when it is known already; else it is estimated.
        calibration: how the detector's points and scores relate to the model (calibration.py); None for points that
            are the model's own up to noise.
    """
    options = options or FitOptions()
    calibration = calibration or EXACT
    shape = _shape(model, calibration)
    frames = len(points)
    obs = _observe(model, np.asarray(points), scores, calibration, options)
    known = np.zeros(len(shape.id_basis), np.float32)
    if alpha is not None:
        known[: len(alpha)] = alpha
    state = _start(shape, obs, known)
    if alpha is None:
        key = np.unique(np.linspace(0, frames - 1, min(frames, KEYFRAMES)).round().astype(int))
        solved = _iterate(arrow_step, shape, _take(obs, key), _take_state(state, key), options)
        if frames == 1:
            return _result(shape, solved, calibration)
        state = _put(state, key, solved)
    parts = []
    for start, stop, keep in _windows(frames):
        rows = np.arange(start, stop)
        seen = _take(obs, rows)
        single = _iterate(chain_step, shape, seen, _take_state(state, rows), options)
        seen = seen.replace(step_weight=_step_weights(single, np.asarray(timestamps)[rows], options))
        parts.append(_take_state(_iterate(chain_step, shape, seen, single, options), keep - start))
    joined = state.replace(
        **{n: np.concatenate([getattr(p, n) for p in parts]) for n in ("rotation", "translation", "beta")}
    )
    return _result(shape, joined, calibration)


def _shape(model: MorphableModel, calibration: Calibration) -> Shape:
    """The 68 points of the model, where the detector sees them; personal offsets follow the identity's axes."""
    index = np.asarray(model.landmark_index)
    return Shape(
        mean=(np.asarray(model.mean)[index] + calibration.offset).astype(np.float32),
        id_basis=np.concatenate([np.asarray(model.id_basis)[:, index], calibration.personal]).astype(np.float32),
        exp_basis=np.asarray(model.exp_basis)[:, index],
    )


def _observe(
    model: MorphableModel,
    points: np.ndarray,
    scores: np.ndarray | None,
    calibration: Calibration,
    options: FitOptions,
) -> Observation:
    """Weights and priors of all frames, numpy float32."""
    frames, num_exp = len(points), model.num_exp
    to_exp = np.asarray(model.mediapipe_to_exp)
    weights = calibration.intercept + calibration.slope * (0.0 if scores is None else np.asarray(scores))
    prior = np.zeros((frames, num_exp)) if scores is None else np.clip(weights, 0, 1) @ to_exp
    known = to_exp.sum(axis=0) > 0
    unknown = options.beta_signed if model.signed else EXACT.score_deviation[0]
    deviation = np.where(known, calibration.score_deviation @ to_exp, unknown)
    bounds = (-np.inf, np.inf) if model.signed else (0.0, 1.0)
    fields = {
        "points": points,
        "root": _information_roots(points, model, calibration),
        "beta": np.clip(prior, *bounds),
        "beta_weight": 1 / np.maximum(deviation, options.beta_floor),
        "beta_bounds": bounds,
        "alpha_weight": 1 / options.alpha,
        "distance_weight": 1 / options.distance,
        "step_weight": np.zeros((frames, 6 + num_exp)),
        "real": np.ones(frames),
    }
    return Observation(**{name: np.asarray(value, np.float32) for name, value in fields.items()})


def _step_weights(state: State, times: np.ndarray, options: FitOptions) -> np.ndarray:
    """[f,d]: 1 / expected change of each unknown to the next frame; 0 where the next frame is none or far away."""
    frames, num_exp = state.beta.shape
    since = np.append(np.diff(times), np.inf)
    linked = since <= GAP
    since = np.where(linked, since, 1 / 25)
    turn = np.einsum("fij,fkj->fik", np.roll(state.rotation, -1, axis=0), state.rotation)
    others = np.concatenate([state.translation, state.beta], axis=1)
    change = np.concatenate(
        [np.asarray(rotation_vector(jnp.asarray(turn))), np.roll(others, -1, axis=0) - others], axis=1
    )
    velocity = np.where(linked[:, None], change / since[:, None], 0.0)
    spread = max(1, round(3 * options.speed_sigma / np.median(since)))  # frames
    near = np.clip(np.arange(frames)[:, None] + np.arange(-spread, spread + 1), 0, frames - 1)
    bell = np.exp(-0.5 * (np.linspace(-3, 3, 2 * spread + 1)) ** 2)
    speed = np.abs(np.einsum("k,fkd->fd", bell / bell.sum(), velocity[near]))
    speed[:, :3] = np.linalg.norm(speed[:, :3], axis=1, keepdims=True)
    speed = speed[near].max(axis=1)  # a turning point, where the speed is zero, moves as well
    rest = np.concatenate([[options.rotation_step] * 3, options.translation_step, [options.beta_step] * num_exp])
    step = np.hypot(rest * np.sqrt(since * 25)[:, None], speed * since[:, None])
    return (linked[:, None] / step).astype(np.float32)


def _information_roots(points: np.ndarray, model: MorphableModel, calibration: Calibration) -> np.ndarray:
    """[f,m,2,2]: 1 / deviation of points and gaps; of jaw points only across the contour (module's docstring)."""
    deviation = np.concatenate([calibration.deviation, calibration.gap_deviation])
    roots = np.tile(np.eye(2) / deviation[:, None, None], (len(points), 1, 1, 1))
    along = np.gradient(points[:, :JAW], axis=1)
    along /= np.maximum(np.linalg.norm(along, axis=2, keepdims=True), 1e-9)
    across = np.stack([-along[..., 1], along[..., 0]], axis=-1)
    rigid = list(RIGID_68)
    template = np.asarray(model.mean)[np.asarray(model.landmark_index)[rigid]]
    rotation = weak_perspective(points[:, rigid], template).rotation
    yaw = np.degrees(np.arctan2(-rotation[:, 2, 0], -rotation[:, 2, 2]))  # > 0: seen from the subject's left
    side = np.sign(np.arange(JAW) - JAW // 2)  # -1 the subject's right half of the jaw line
    visible = np.clip(1 + side[None] * yaw[:, None] / JAW_HIDDEN_DEG, 0, 1)
    normal = across[..., :, None] * across[..., None, :]
    roots[:, :JAW] = normal * (visible / deviation[:JAW])[..., None, None]
    return roots


def _start(shape: Shape, obs: Observation, alpha: np.ndarray) -> State:
    """Closed-form pose of the mean head; beta from its prior."""
    rigid = list(RIGID_68)
    template = (shape.mean + np.einsum("i,inc->nc", alpha, shape.id_basis))[rigid]
    pose = weak_perspective(obs.points[:, rigid], template)
    depth = FOCAL / pose.scale - pose.rotation[:, 2] @ template.mean(axis=0)
    sideways = (pose.origin - 0.5) / pose.scale[:, None]
    return State(
        rotation=pose.rotation.astype(np.float32),
        translation=np.concatenate([sideways, depth[:, None]], axis=1).astype(np.float32),
        beta=obs.beta,
        alpha=np.asarray(alpha, np.float32),
    )


def _iterate(step: Callable, shape: Shape, obs: Observation, state: State, options: FitOptions) -> State:
    """Runs a solver step to convergence on a batch padded to one of BATCHES; numpy in, numpy out."""
    frames = len(obs.real)
    size = next(b for b in BATCHES if b >= frames)
    rows = np.minimum(np.arange(size), frames - 1)  # padding repeats the last frame and has no weight
    padded = _take(obs, rows)
    real = (np.arange(size) < frames).astype(np.float32)
    padded = padded.replace(real=real, root=padded.root * real[:, None, None, None])
    # The frames at the ends of a batch have no neighbour beyond.
    linked = (np.arange(size) < frames - 1).astype(np.float32)
    padded = padded.replace(step_weight=padded.step_weight * linked[:, None])
    shape, padded, moving = jax.device_put((shape, padded, _take_state(state, rows)))
    damping, before = jnp.float32(1e-3), np.inf
    for i in range(options.iterations):
        # Far from the solution every residual is large, so none is treated as an outlier at first.
        tolerance = max(1.0, 8.0 * 0.5**i)
        moving, damping, energy = step(shape, padded, moving, damping, jnp.float32(options.outlier * tolerance))
        if tolerance == 1.0 and before - float(energy) < CONVERGED * before:
            break
        before = float(energy) if tolerance == 1.0 else np.inf
    return _take_state(jax.device_get(moving), np.arange(frames))


def _windows(frames: int) -> list[tuple[int, int, np.ndarray]]:
    """(start, stop, frames to keep) of overlapping windows; an overlap is shared half and half."""
    if frames <= WINDOW:
        return [(0, frames, np.arange(frames))]
    hop = WINDOW - 2 * OVERLAP
    starts = list(range(0, frames - 2 * OVERLAP, hop))
    windows = []
    for i, start in enumerate(starts):
        stop = min(start + WINDOW, frames)
        first = start if i == 0 else start + OVERLAP
        last = stop if i == len(starts) - 1 else start + WINDOW - OVERLAP
        windows.append((start, stop, np.arange(first, last)))
    return windows


def _take(obs: Observation, rows: np.ndarray) -> Observation:
    per_frame = ("points", "root", "beta", "step_weight", "real")
    return obs.replace(**{name: getattr(obs, name)[rows] for name in per_frame})


def _take_state(state: State, rows: np.ndarray) -> State:
    return state.replace(rotation=state.rotation[rows], translation=state.translation[rows], beta=state.beta[rows])


def _put(state: State, rows: np.ndarray, solved: State) -> State:
    """`state` with alpha and some frames replaced by solved ones."""
    fields = {name: np.array(getattr(state, name)) for name in ("rotation", "translation", "beta")}
    for name, array in fields.items():
        array[rows] = getattr(solved, name)
    return state.replace(alpha=solved.alpha, **fields)


def _result(shape: Shape, state: State, calibration: Calibration) -> FitResult:
    u, _, vt = np.linalg.svd(np.asarray(state.rotation, np.float64))  # float32 products drift by 1e-6
    personal = len(calibration.personal)
    alpha = np.asarray(state.alpha)[: len(state.alpha) - personal]
    own = shape.replace(mean=(shape.mean - calibration.offset).astype(np.float32), id_basis=shape.id_basis[:-personal])
    return FitResult(
        alpha=alpha,
        beta=np.asarray(state.beta),
        rotation=u @ vt,
        translation=np.asarray(state.translation, np.float64),
        landmarks=np.asarray(project(own, state.replace(alpha=alpha))),
        detector=np.asarray(project(shape, state)),
    )
