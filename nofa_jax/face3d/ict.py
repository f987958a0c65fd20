"""ICT FaceKit (Li et al., "Learning Formation of Physically-Based Face Attributes", CVPR 2020; MIT licence) as a
MorphableModel, from the npz conversion named in docs (ict_face_small.npz or ict_facekit.npz).

Changed on loading: centimetres become world units about EG3D's origin; transparent shader helpers (tear film, occlusion
shells, lashes) and everything below the neck that falls outside the box are left out; the eyeLook shapes, which in ICT
move only the lids, also turn the eyeballs.
"""

from pathlib import Path

import numpy as np

from nofa_jax.errors import UserError
from nofa_jax.face3d.mediapipe import arkit_name
from nofa_jax.face3d.model import (
    CANONICAL_JAW_OPEN,
    PARTS,
    WORLD_PER_CM,
    MorphableModel,
    check_model,
    mediapipe_matrix,
)
from nofa_jax.face3d.npz import check_finite, read_npz, require

FILES = ("ict_face_small.npz", "ict_facekit.npz")
WHAT = "morphable model"
# Where EG3D's origin lies in ICT's axes (cm): eyes, nose tip and mouth corners of the mean then fall where those of the
# BFM mean do in EG3D's cameras; z is 1.6 behind that, which leaves room for hair inside the box.
ORIGIN_CM = (0.0, 0.75, 6.0)
NECK_CUT_CM = -16.5  # triangles reaching below are shoulders: out of every picture, partly out of the box
GAZE_YAW_DEG, GAZE_PITCH_DEG = 30.0, 25.0  # eyeball turn of a full eyeLook shape
GAZE = {
    "eyeLookOutLeft": (0, 1, 0),
    "eyeLookInLeft": (0, -1, 0),
    "eyeLookUpLeft": (0, 0, 1),
    "eyeLookDownLeft": (0, 0, -1),
    "eyeLookOutRight": (1, -1, 0),
    "eyeLookInRight": (1, 1, 0),
    "eyeLookUpRight": (1, 0, 1),
    "eyeLookDownRight": (1, 0, -1),
}  # eye (0 left), sign of yaw towards +x, sign of pitch towards +y
EAR_CM = ((0.95, 0.7), (3.1, 2.6), 7.0)  # centre and radii in (y, z), least |x|: ICT has no part for the ears
INNER_IRIS_SHELL = 4  # vertex_area hidden behind the cornea


def load_ict(path: str | Path) -> MorphableModel:
    """Load ICT FaceKit from its npz file or from the folder that holds one (the small one is preferred).

    Raises:
      UserError: no such file, not an ICT model, NaN, disagreeing shapes, indices out of range, object arrays.
    """
    path = _find(Path(path))
    data = read_npz(path, ("vertices", "id_deltas", "expr_deltas", "expr_names", "triangles"), WHAT)
    _check_geometry(path, data)
    require(path, data, ("landmarks68", "vertex_part", "part_names", "vertex_area", "eye_centers", "eye_axes"), WHAT)
    names = tuple(str(n) for n in data["expr_names"])
    keep_vertex, keep_triangle, part = _select(path, data)
    row = np.cumsum(keep_vertex) - 1
    scale = np.float32(WORLD_PER_CM)
    origin = np.asarray(ORIGIN_CM, np.float32)
    mean = (data["vertices"].astype(np.float32)[keep_vertex] - origin) * scale
    eye_centers = (data["eye_centers"].astype(np.float32) - origin) * scale
    exp_basis = data["expr_deltas"][:, keep_vertex].astype(np.float32) * scale
    eyeballs = [part[keep_vertex] == PARTS.index(f"eyeball_{side}") for side in ("left", "right")]
    turn_eyeballs(exp_basis, names, mean, eyeballs, eye_centers)
    model = MorphableModel(
        mean=mean,
        id_basis=data["id_deltas"][:, keep_vertex].astype(np.float32) * scale,
        exp_basis=exp_basis,
        triangles=row[data["triangles"][keep_triangle]],
        landmark_index=_landmarks(path, data["landmarks68"], keep_vertex, row),
        vertex_part=part[keep_vertex],
        canonical_exp=np.where(np.array(names) == "jawOpen", CANONICAL_JAW_OPEN, 0.0),
        mediapipe_to_exp=mediapipe_matrix(names),
        eye_centers=eye_centers,
        eye_axes=data["eye_axes"],
        name="ict",
        exp_names=names,
    )
    return check_model(model, str(path))


def _find(path: Path) -> Path:
    if not path.is_dir():
        return path
    for name in FILES:
        if (path / name).is_file():
            return path / name
    raise UserError(f"{path}: the folder holds neither {' nor '.join(FILES)}")


def _check_geometry(path: Path, data: dict[str, np.ndarray]) -> None:
    vertices, triangles = data["vertices"], data["triangles"]
    if vertices.ndim != 2 or vertices.shape[1] != 3:
        raise UserError(f"{path}: vertices has shape {vertices.shape}, expected (V, 3)")
    v = len(vertices)
    for name, rows in (("id_deltas", "n"), ("expr_deltas", len(data["expr_names"]))):
        got = data[name].shape
        if len(got) != 3 or got[1:] != (v, 3) or (rows != "n" and got[0] != rows):
            raise UserError(f"{path}: {name} has shape {got}, expected ({rows}, {v}, 3) as for vertices")
    for name in ("vertices", "id_deltas", "expr_deltas"):
        if data[name].dtype.kind != "f":
            raise UserError(f"{path}: {name} has type {data[name].dtype}, expected floating point")
        check_finite(path, name, data[name])
    if triangles.ndim != 2 or triangles.shape[1] != 3 or triangles.dtype.kind not in "iu":
        raise UserError(f"{path}: triangles is {triangles.dtype}{triangles.shape}, expected integers of shape (T, 3)")
    if triangles.size == 0 or triangles.min() < 0 or triangles.max() >= v:
        raise UserError(f"{path}: triangles points to vertex {triangles.max(initial=-1)}, but there are only {v}")


def _select(path: Path, data: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which vertices and triangles stay, and the part of every vertex as an index into PARTS."""
    v = len(data["vertices"])
    for name in ("vertex_part", "vertex_area"):
        if data[name].shape != (v,):
            raise UserError(f"{path}: {name} has shape {data[name].shape}, expected ({v},)")
    theirs = [str(n) for n in data["part_names"]]
    table = np.array([PARTS.index(n) if n in PARTS else -1 for n in theirs])
    if data["vertex_part"].min() < 0 or data["vertex_part"].max() >= len(theirs):
        raise UserError(f"{path}: vertex_part points outside part_names ({len(theirs)} parts)")
    part = table[data["vertex_part"]]
    x, y, z = data["vertices"].T
    (cy, cz), (ry, rz), least = EAR_CM
    ear = (
        (((y - cy) / ry) ** 2 + ((z - cz) / rz) ** 2 < 1.0)
        & (np.abs(x) > least)
        & (part <= PARTS.index("head_and_neck"))
    )
    part = np.where(ear & (part >= 0), np.where(x > 0, PARTS.index("ear_left"), PARTS.index("ear_right")), part)
    wanted = (part >= 0) & (data["vertex_area"] != INNER_IRIS_SHELL) & (data["vertices"][:, 1] > NECK_CUT_CM)
    keep_triangle = wanted[data["triangles"]].all(1)
    keep_vertex = np.zeros(v, bool)
    keep_vertex[data["triangles"][keep_triangle]] = True
    return keep_vertex, keep_triangle, part


def _landmarks(path: Path, index: np.ndarray, keep_vertex: np.ndarray, row: np.ndarray) -> np.ndarray:
    if index.shape != (68,) or index.min() < 0 or index.max() >= len(keep_vertex) or not keep_vertex[index].all():
        raise UserError(f"{path}: landmarks68 must be 68 vertices of the face, got {index.dtype}{index.shape}")
    return row[index]


def turn_eyeballs(
    exp_basis: np.ndarray,
    names: tuple[str, ...],
    mean: np.ndarray,
    eyeballs: list[np.ndarray],
    eye_centers: np.ndarray,
) -> None:
    """Make the eyeLook shapes turn the eyeballs too, in place: exact at weights 0 and 1, a chord between."""
    for j, name in enumerate(names):
        if arkit_name(name) not in GAZE:
            continue
        eye, yaw_sign, pitch_sign = GAZE[arkit_name(name)]
        ball = eyeballs[eye]
        yaw, pitch = np.radians(yaw_sign * GAZE_YAW_DEG), np.radians(pitch_sign * GAZE_PITCH_DEG)
        around_y = np.array([[np.cos(yaw), 0, np.sin(yaw)], [0, 1, 0], [-np.sin(yaw), 0, np.cos(yaw)]])
        around_x = np.array([[1, 0, 0], [0, np.cos(pitch), np.sin(pitch)], [0, -np.sin(pitch), np.cos(pitch)]])
        relative = mean[ball] - eye_centers[eye]
        exp_basis[j, ball] = relative @ (around_y @ around_x - np.eye(3)).T
