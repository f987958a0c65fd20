"""How an embedded head moves: smooth, sparse, plausible expressions and camera paths as functions of time.

A path is a row of key poses at random times: it rests in each for a while, then moves to the next by a smoothstep, so
its speed is bounded: |d path / dt| <= STEEPEST |step| / gap. Mouth, lids, brows and gaze have poses and times of their
own.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from nofa_jax.face3d.mediapipe import arkit_name

Path = Callable[[np.ndarray], np.ndarray]  # times [t] in seconds → values [t, n]
Recipe = dict[str, tuple[float, float]]  # ARKit shape → range of its weight; without a side it means both sides

REST = 0.3  # of the time between two key poses is spent in the first
STEEPEST = 1.5 / (1.0 - REST)  # a smoothstep's slope is at most 1.5
EXPRESSION_GAPS = (0.35, 0.9)  # seconds between key poses of one part of the face
CAMERA_GAPS = (2.0, 4.0)  # people who talk turn their heads several times slower than they move their mouths
FOCAL = 4.2647  # of the image size: EG3D's crop of FFHQ
RADIUS = 2.7

# How often each key pose of the mouth comes, and the range of its shapes' weights.
MOUTH: list[tuple[float, Recipe]] = [
    (2.0, {}),
    (1.8, {"jawOpen": (0.15, 0.7)}),
    (1.8, {"jawOpen": (0.6, 1.0)}),
    (2.5, {"mouthSmile": (0.3, 1.0), "cheekSquint": (0.0, 0.6)}),
    (2.0, {"mouthSmile": (0.4, 1.0), "jawOpen": (0.1, 0.7), "cheekSquint": (0.0, 0.8)}),
    (1.0, {"mouthPucker": (0.3, 1.0), "jawOpen": (0.0, 0.15)}),
    (1.0, {"mouthFunnel": (0.3, 1.0), "jawOpen": (0.05, 0.5)}),
    (1.0, {"mouthFrown": (0.3, 1.0), "mouthShrugLower": (0.0, 0.6)}),
    (0.8, {"mouthStretch": (0.3, 0.9), "jawOpen": (0.0, 0.4)}),
    (0.8, {"mouthLowerDown": (0.3, 0.9), "mouthUpperUp": (0.0, 0.7), "jawOpen": (0.0, 0.3)}),
    (0.6, {"mouthUpperUp": (0.3, 0.9), "noseSneer": (0.2, 0.9)}),
    (0.5, {"mouthPress": (0.3, 1.0), "mouthDimple": (0.0, 0.8)}),
    (0.5, {"mouthRollLower": (0.3, 0.9), "mouthRollUpper": (0.3, 0.9)}),
    (0.3, {"mouthLeft": (0.3, 0.9)}),
    (0.3, {"mouthRight": (0.3, 0.9)}),
    (0.3, {"jawLeft": (0.3, 0.9), "jawOpen": (0.0, 0.4)}),
    (0.3, {"jawRight": (0.3, 0.9), "jawOpen": (0.0, 0.4)}),
    (0.3, {"jawOpen": (0.4, 0.9), "mouthClose": (0.2, 0.4)}),
    (0.3, {"cheekPuff": (0.4, 1.0), "mouthPress": (0.0, 0.5)}),
    (0.3, {"mouthShrugUpper": (0.3, 0.9), "mouthShrugLower": (0.3, 0.9)}),
]
LIDS: list[tuple[float, Recipe]] = [
    (4.0, {}),
    (2.0, {"eyeBlink": (0.8, 1.0)}),
    (0.8, {"eyeBlink": (0.2, 0.7)}),
    (1.0, {"eyeWide": (0.3, 1.0)}),
    (1.0, {"eyeSquint": (0.3, 1.0)}),
    (0.4, {"eyeBlinkLeft": (0.7, 1.0)}),
    (0.4, {"eyeBlinkRight": (0.7, 1.0)}),
]
BROWS: list[tuple[float, Recipe]] = [
    (3.0, {}),
    (1.5, {"browInnerUp": (0.3, 1.0)}),
    (1.5, {"browInnerUp": (0.3, 1.0), "browOuterUp": (0.3, 1.0)}),
    (1.5, {"browDown": (0.3, 1.0)}),
    (0.4, {"browOuterUpLeft": (0.3, 1.0)}),
    (0.4, {"browOuterUpRight": (0.3, 1.0)}),
]
GAZE: list[tuple[float, Recipe]] = [
    (3.0, {}),
    (1.0, {"eyeLookOutLeft": (0.2, 1.0), "eyeLookInRight": (0.2, 1.0)}),
    (1.0, {"eyeLookInLeft": (0.2, 1.0), "eyeLookOutRight": (0.2, 1.0)}),
    (1.0, {"eyeLookUpLeft": (0.2, 1.0), "eyeLookUpRight": (0.2, 1.0)}),
    (1.0, {"eyeLookDownLeft": (0.2, 1.0), "eyeLookDownRight": (0.2, 1.0)}),
]
EXTRA_SHAPE = 0.15  # chance that a mouth key pose adds any one shape of the model: none goes unseen

# Range of each camera parameter, and how far it may go from one key pose to the next.
CAMERA_RANGE = {"yaw": 30.0, "pitch": 15.0, "roll": 4.0, "radius": 0.06, "x": 0.015, "y": 0.015}  # degrees; world units
CAMERA_STEP = {"yaw": 40.0, "pitch": 20.0, "roll": 5.0, "radius": 0.06, "x": 0.015, "y": 0.015}


@dataclass(frozen=True)
class ExpressionSampler:
    """Key poses and paths of the expression for one head's list of shapes."""

    names: tuple[str, ...]  # the head's exp_names; ARKit's or ICT's spelling

    def pose(self, recipes: Sequence[tuple[float, Recipe]], rng: np.random.Generator) -> np.ndarray:
        """β [e] of one key pose drawn from weighted recipes; shapes that the head lacks are left out."""
        weights = np.array([weight for weight, _ in recipes])
        recipe = recipes[rng.choice(len(recipes), p=weights / weights.sum())][1]
        beta = np.zeros(len(self.names))
        for shape, (low, high) in recipe.items():
            strength = rng.uniform(low, high)
            for i, name in enumerate(self.names):
                if arkit_name(name) == shape:
                    beta[i] = strength
                elif arkit_name(name) in (f"{shape}Left", f"{shape}Right"):
                    beta[i] = strength * rng.uniform(0.8, 1.0)  # faces are not quite symmetric
        return beta

    def path(self, duration: float, rng: np.random.Generator) -> Path:
        """A smooth β(t) for 0 <= t <= duration, in [0, 1]."""
        parts = [
            key_pose_path(poses, EXPRESSION_GAPS, duration, rng)
            for poses in (self._mouth, self._lids, self._brows, self._gaze)
        ]
        return lambda times: np.clip(sum(part(times) for part in parts), 0.0, 1.0)

    def _mouth(self, rng: np.random.Generator) -> np.ndarray:
        beta = self.pose(MOUTH, rng)
        if rng.random() < EXTRA_SHAPE:
            beta[rng.integers(len(beta))] = rng.uniform(0.3, 1.0)
        arkit = [arkit_name(name) for name in self.names]
        if "mouthClose" in arkit and "jawOpen" in arkit:  # it closes what the jaw opens; beyond that, lips cross
            beta[arkit.index("mouthClose")] = min(beta[arkit.index("mouthClose")], beta[arkit.index("jawOpen")])
        return beta

    def _lids(self, rng: np.random.Generator) -> np.ndarray:
        return self.pose(LIDS, rng)

    def _brows(self, rng: np.random.Generator) -> np.ndarray:
        return self.pose(BROWS, rng)

    def _gaze(self, rng: np.random.Generator) -> np.ndarray:
        return self.pose(GAZE, rng)


def key_pose_path(
    draw: Callable[[np.random.Generator], np.ndarray],
    gaps: tuple[float, float],
    duration: float,
    rng: np.random.Generator,
) -> Path:
    """Key poses from `draw`, `gaps` seconds apart, resting and moving in turn; covers 0 to `duration`."""
    times = [-rng.uniform(0.0, gaps[0])]  # a clip starts anywhere between two poses
    while times[-1] < duration or len(times) < 2:
        times.append(times[-1] + rng.uniform(*gaps))
    poses, knots = np.stack([draw(rng) for _ in times]), np.array(times)

    def path(at: np.ndarray) -> np.ndarray:
        i = np.clip(np.searchsorted(knots, at, side="right") - 1, 0, len(knots) - 2)
        u = (at - knots[i]) / (knots[i + 1] - knots[i])
        u = np.clip((u - REST) / (1.0 - REST), 0.0, 1.0)
        blend = (u * u * (3.0 - 2.0 * u))[:, None]
        return (1.0 - blend) * poses[i] + blend * poses[i + 1]

    return path


def camera_path(duration: float, rng: np.random.Generator) -> Callable[[np.ndarray], np.ndarray]:
    """A smooth camera: times [t] → cam2world [t,4,4]. Ranges and steps are CAMERA_RANGE and CAMERA_STEP."""
    reach, step = (np.array(list(table.values())) for table in (CAMERA_RANGE, CAMERA_STEP))
    current = rng.uniform(-reach, reach)

    def draw(rng: np.random.Generator) -> np.ndarray:
        nonlocal current
        current = rng.uniform(np.maximum(-reach, current - step), np.minimum(reach, current + step))
        return current

    path = key_pose_path(draw, CAMERA_GAPS, duration, rng)

    def cameras(times: np.ndarray) -> np.ndarray:
        return np.stack([_camera(dict(zip(CAMERA_RANGE, row, strict=True))) for row in path(times)])

    return cameras


def _camera(p: dict[str, float]) -> np.ndarray:
    """cam2world [4,4] on a sphere around a point near the origin. yaw > 0: at the subject's left; pitch > 0: above."""
    yaw, pitch, roll = np.radians([p["yaw"], p["pitch"], p["roll"]])
    outward = np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)])
    forward = -outward
    right = np.array([np.cos(yaw), 0.0, -np.sin(yaw)])
    down = np.cross(forward, right)
    turned_right = np.cos(roll) * right + np.sin(roll) * down
    turned_down = np.cos(roll) * down - np.sin(roll) * right
    pose = np.eye(4)
    pose[:3, :3] = np.stack([turned_right, turned_down, forward], axis=1)
    pose[:3, 3] = p["x"] * right - p["y"] * down + (RADIUS + p["radius"]) * outward
    return pose


def intrinsics() -> np.ndarray:
    """EG3D's normalised intrinsics [3,3]."""
    return np.array([[FOCAL, 0.0, 0.5], [0.0, FOCAL, 0.5], [0.0, 0.0, 1.0]])
