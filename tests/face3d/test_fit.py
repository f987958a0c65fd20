"""The fit against clips whose truth is known: landmarks of the procedural head, projected, with a pixel of noise."""

import functools
import itertools

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from nofa_jax.face3d.calibration import calibration_for, mirror68
from nofa_jax.face3d.fit import OVERLAP, WINDOW, FitResult, _windows, fit_landmarks
from nofa_jax.face3d.fit_solver import _solve_chain, _solve_lower, rotation_matrix, rotation_vector
from nofa_jax.face3d.mediapipe import MEDIAPIPE_BLENDSHAPES
from nofa_jax.face3d.model import MorphableModel, load_morphable_model
from nofa_jax.face3d.pose import cam2world_of, rotation_angle_deg
from nofa_jax.rendering.camera import project
from tests.shared import shared_path

FRAMES, RATE = 48, 25.0
NOISE = 1 / 512  # one pixel of 512
ACTIVE = ("jawOpen", "mouthSmile", "eyeBlink", "browInnerUp", "mouthPucker")


@functools.cache
def head(name: str) -> MorphableModel:
    return load_morphable_model(name, shared_path("ict_facekit") if name == "ict" else None)


class Clip:
    """A person who talks, smiles, blinks and turns, or sits still; seen near EG3D's camera."""

    def __init__(self, name: str, seed: int = 0, still: bool = False, frames: int = FRAMES) -> None:
        rng = np.random.default_rng(seed)
        self.model = head(name)
        self.times = np.arange(frames) / RATE
        moving = np.zeros(frames) if still else self.times
        self.alpha = self.model.sample_id(rng)
        self.beta = np.zeros((frames, self.model.num_exp), np.float32)
        for shape, speed in zip(ACTIVE, (6.0, 2.5, 9.0, 2.0, 4.0), strict=True):
            weight = 0.8 * np.clip(np.sin(speed * moving + rng.uniform(0, 6)), 0, 1)
            self.beta[:, list(self.model.expression_index(shape))] = weight[:, None]
        angles = np.stack([0.5 * np.sin(1.7 * moving + 1), 0.2 * np.sin(2.3 * moving + 2), 0.05 * np.sin(moving)], 1)
        self.rotation = np.diag([1, -1, -1]) @ Rotation.from_euler("yxz", angles).as_matrix()
        path = [0.02 * np.sin(1.1 * moving), 0.01 * np.cos(moving), 2.7 + 0.03 * np.sin(0.7 * moving)]
        self.translation = np.stack(path, axis=1)
        world = np.asarray(self.model.landmarks(self.alpha, self.beta))
        local = np.einsum("fij,fnj->fni", self.rotation, world) + self.translation[:, None]
        self.points = 4.2647 * local[..., :2] / local[..., 2:] + 0.5
        self.seen = self.points + NOISE * rng.standard_normal(self.points.shape)

    def fit(self, **options: object) -> FitResult:
        return fit_landmarks(self.model, self.seen, self.times, **options)  # ty: ignore[invalid-argument-type]


def test_beta_of_either_sign() -> None:
    """A model like Basel's: beta N(0,1) on axes without bounds."""
    drawn, rng = head("procedural"), np.random.default_rng(3)
    axes = np.asarray(drawn.exp_basis)[:, np.asarray(drawn.landmark_index)].reshape(drawn.num_exp, -1)
    mix = np.linalg.svd(axes, full_matrices=False)[0].T[:6]
    model = drawn.replace(
        exp_basis=np.tensordot(mix, np.asarray(drawn.exp_basis), 1).astype(np.float32),
        mediapipe_to_exp=np.zeros((52, 6), np.float32),
        exp_names=tuple("abcdef"),
        signed=True,
    )
    times = np.arange(FRAMES) / RATE
    beta = 0.8 * np.sin(times[:, None] * np.arange(2, 8) + rng.uniform(0, 6, 6))
    alpha = model.sample_id(rng)
    rotation = np.diag([1, -1, -1]) @ Rotation.from_euler("y", 0.4 * np.sin(times)[:, None]).as_matrix()
    local = np.einsum("fij,fnj->fni", rotation, np.asarray(model.landmarks(alpha, beta))) + np.array([0.0, 0.0, 2.7])
    seen = 4.2647 * local[..., :2] / local[..., 2:] + 0.5 + NOISE * rng.standard_normal((FRAMES, 68, 2))
    fit = fit_landmarks(model, seen, times)
    assert np.median(rotation_angle_deg(fit.rotation, rotation)) < 1.0
    correlation = [np.corrcoef(fit.beta[:, k], beta[:, k])[0, 1] for k in range(3)]
    assert min(correlation) > 0.9, correlation
    assert fit.beta.min() < -0.5
    assert fit.beta.max() > 0.5


@functools.cache
def moving() -> tuple[Clip, FitResult]:
    clip = Clip("procedural")
    return clip, clip.fit()


def test_pose_of_a_moving_head() -> None:
    clip, fit = moving()
    error = rotation_angle_deg(fit.rotation, clip.rotation)
    assert np.median(error) < 0.8
    assert error.max() < 1.5
    np.testing.assert_allclose(fit.translation[:, :2], clip.translation[:, :2], atol=0.012)
    np.testing.assert_allclose(fit.translation[:, 2], clip.translation[:, 2], atol=0.1)
    np.testing.assert_allclose(
        fit.rotation @ np.swapaxes(fit.rotation, 1, 2), np.tile(np.eye(3), (FRAMES, 1, 1)), atol=1e-12
    )


def test_expression_follows() -> None:
    clip, fit = moving()
    assert fit.beta.min() >= 0
    assert fit.beta.max() <= 1
    for shape in ACTIVE:
        k = clip.model.expression_index(shape)[0]
        assert np.corrcoef(fit.beta[:, k], clip.beta[:, k])[0, 1] > 0.9, shape
    moved = np.linalg.norm(np.asarray(clip.model.exp_basis)[:, clip.model.landmark_index], axis=(1, 2)) > 0.05
    assert np.abs(fit.beta - clip.beta)[:, moved].mean() < 0.05


def test_landmarks_are_those_of_the_public_camera() -> None:
    """What the fit reports is the projection of the model through cam2world; noise is averaged, not followed."""
    clip, fit = moving()
    cam2world = jnp.asarray(cam2world_of(fit.rotation, fit.translation), jnp.float32)
    intrinsics = jnp.tile(jnp.array([[4.2647, 0, 0.5], [0, 4.2647, 0.5], [0, 0, 1]]), (FRAMES, 1, 1))
    projected, _ = project(jnp.asarray(clip.model.landmarks(fit.alpha, fit.beta)), cam2world, intrinsics)
    np.testing.assert_allclose(fit.landmarks, projected, atol=2e-5)
    np.testing.assert_array_equal(fit.detector, fit.landmarks)
    distance = np.linalg.norm(fit.landmarks - clip.points, axis=-1)[:, 17:]
    assert distance.mean() < np.linalg.norm(clip.seen - clip.points, axis=-1)[:, 17:].mean()


def test_scores_decide_what_landmarks_do_not_show() -> None:
    """The gaze hardly moves the lids' landmarks."""
    clip, without = moving()
    gaze, jaw = (clip.model.expression_index(n)[0] for n in ("eyeLookOutLeft", "jawOpen"))
    scores = np.zeros((FRAMES, 52))
    scores[:, MEDIAPIPE_BLENDSHAPES.index("eyeLookOutLeft")] = 0.7
    fit = clip.fit(scores=scores)
    np.testing.assert_allclose(fit.beta[:, gaze], 0.7, atol=0.2)
    np.testing.assert_allclose(fit.beta[:, jaw], without.beta[:, jaw], atol=0.05)


def test_a_still_head_is_still() -> None:
    clip = Clip("procedural", seed=1, still=True)
    fit = clip.fit()
    steps = rotation_angle_deg(fit.rotation[1:], fit.rotation[:-1])
    u, _, vt = np.linalg.svd(fit.rotation.mean(axis=0))
    wander = rotation_angle_deg(fit.rotation, np.repeat((u @ vt)[None], FRAMES, axis=0))
    assert steps.mean() < 0.1
    assert wander.mean() < 0.15  # slow, hence not seen as trembling; single frames alone give 0.4
    assert 512 * np.linalg.norm(np.diff(fit.landmarks, axis=0), axis=-1).mean() < 0.3


def test_known_identity_is_kept_and_a_single_frame_is_fitted() -> None:
    clip = Clip("procedural", seed=2)
    known = clip.fit(alpha=clip.alpha)
    np.testing.assert_array_equal(known.alpha, clip.alpha)
    one = fit_landmarks(clip.model, clip.seen[:1], clip.times[:1])
    assert one.beta.shape == (1, clip.model.num_exp)
    assert rotation_angle_deg(one.rotation, clip.rotation[:1])[0] < 4


def test_gross_errors_in_single_landmarks_do_not_matter() -> None:
    clip, clean = moving()
    spoilt = clip.seen.copy()
    rng = np.random.default_rng(5)
    for f in range(FRAMES):
        spoilt[f, rng.choice(np.arange(17, 68), 3, replace=False)] += rng.uniform(-0.15, 0.15, (3, 2))
    fit = fit_landmarks(clip.model, spoilt, clip.times)
    assert np.median(rotation_angle_deg(fit.rotation, clean.rotation)) < 0.6


def test_time_gaps_are_honoured() -> None:
    """Two still poses with a pause between: each stays where it is, however the smoothness pulls."""
    first, second = Clip("procedural", still=True, frames=24), Clip("procedural", still=True, frames=24)
    turn = Rotation.from_euler("y", 0.4).as_matrix()
    world = np.asarray(second.model.landmarks(second.alpha, second.beta)) @ turn.T
    local = np.einsum("fij,fnj->fni", second.rotation, world) + second.translation[:, None]
    rng = np.random.default_rng(3)
    seen = 4.2647 * local[..., :2] / local[..., 2:] + 0.5
    seen = np.concatenate([first.seen, seen + NOISE * rng.standard_normal(seen.shape)])
    fit = fit_landmarks(first.model, seen, np.concatenate([first.times, first.times + 3.0]))
    turned = rotation_angle_deg(fit.rotation[24:], fit.rotation[:24])
    np.testing.assert_allclose(turned, np.degrees(0.4), atol=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["procedural", "ict"])
def test_several_people_and_long_clips(name: str) -> None:
    """Longer than one window: no seam where windows meet."""
    errors, betas = [], []
    for seed in range(4):
        clip = Clip(name, seed, frames=WINDOW + 60)
        fit = clip.fit()
        errors.append(rotation_angle_deg(fit.rotation, clip.rotation))
        betas.append(np.abs(fit.beta - clip.beta))
        extra = rotation_angle_deg(fit.rotation[1:], fit.rotation[:-1])
        true = rotation_angle_deg(clip.rotation[1:], clip.rotation[:-1])
        assert np.abs(extra - true).max() < 1.0
    assert np.median(errors) < 0.6
    assert np.mean(np.array(errors) < 1.0) > 0.8
    assert np.mean(betas) < 0.05


def test_windows_cover_every_frame_once() -> None:
    for frames in (1, 2, WINDOW, WINDOW + 1, WINDOW + OVERLAP, 2 * WINDOW - 2 * OVERLAP, 1000, 3001):
        windows = _windows(frames)
        np.testing.assert_array_equal(np.concatenate([keep for *_, keep in windows]), np.arange(frames))
        for start, stop, keep in windows:
            assert 0 < stop - start <= WINDOW
            assert start <= keep[0] <= keep[-1] < stop
        for (_, stop, keep), (start, _, later) in itertools.pairwise(windows):
            assert stop - keep[-1] - 1 >= OVERLAP
            assert later[0] - start >= OVERLAP


def test_chain_solver_against_a_dense_one() -> None:
    rng = np.random.default_rng(0)
    f, d = 6, 5
    blocks = rng.standard_normal((f, d, 2 * d))
    hessian = (np.einsum("fij,fkj->fik", blocks, blocks) + 3 * np.eye(d)).astype(np.float32)
    coupling = rng.uniform(0, 1, (f, d)).astype(np.float32)
    coupling[-1] = 0
    gradient = rng.standard_normal((f, d)).astype(np.float32)
    dense = np.zeros((f * d, f * d))
    for i in range(f):
        dense[i * d : (i + 1) * d, i * d : (i + 1) * d] = hessian[i]
    for i in range(f - 1):
        link = -np.diag(coupling[i])
        dense[i * d : (i + 1) * d, (i + 1) * d : (i + 2) * d] = link
        dense[(i + 1) * d : (i + 2) * d, i * d : (i + 1) * d] = link
    solved = _solve_chain(jnp.asarray(hessian), jnp.asarray(coupling), jnp.asarray(gradient))
    np.testing.assert_allclose(solved, np.linalg.solve(dense, gradient.ravel()).reshape(f, d), atol=1e-5)


@pytest.mark.parametrize(("d", "k"), [(3, 1), (59, 60), (59, 17), (200, 7)])
def test_split_triangular_solve(d: int, k: int) -> None:
    rng = np.random.default_rng(0)
    factor = (np.tril(rng.standard_normal((2, d, d))) / d + np.eye(d)).astype(np.float32)
    sides = rng.standard_normal((2, d, k)).astype(np.float32)
    np.testing.assert_allclose(
        _solve_lower(jnp.asarray(factor), jnp.asarray(sides)), np.linalg.solve(factor, sides), atol=1e-4
    )


def test_rotation_vectors_against_scipy() -> None:
    rng = np.random.default_rng(0)
    vectors = np.concatenate([np.zeros((1, 3)), 1e-5 * rng.standard_normal((3, 3)), rng.uniform(-1.5, 1.5, (20, 3))])
    matrices = rotation_matrix(jnp.asarray(vectors, jnp.float32))
    np.testing.assert_allclose(matrices, Rotation.from_rotvec(vectors).as_matrix(), atol=1e-6)
    np.testing.assert_allclose(rotation_vector(matrices), vectors, atol=2e-6)


def test_calibration_is_complete_and_symmetric() -> None:
    mirror = mirror68()
    np.testing.assert_array_equal(mirror[mirror], np.arange(68))
    points = np.asarray(head("procedural").mean)[np.asarray(head("procedural").landmark_index)]
    np.testing.assert_allclose(points[mirror] * [-1, 1, 1], points, atol=0.02)
    row = calibration_for(head("procedural"))
    np.testing.assert_allclose(row.offset[mirror] * [-1, 1, 1], row.offset, atol=1e-4)
    assert np.abs(row.offset).max() < 0.05  # two centimetres: anything larger is another point
    assert (row.deviation > 0.001).all()
    assert (row.deviation < 0.03).all()
    assert row.slope[MEDIAPIPE_BLENDSHAPES.index("jawOpen")] > 0.8
    assert ((row.slope >= 0) & (row.slope <= 1)).all()
    unknown = calibration_for(head("procedural").replace(name="bfm"))
    np.testing.assert_array_equal(unknown.offset, np.zeros((68, 3)))
