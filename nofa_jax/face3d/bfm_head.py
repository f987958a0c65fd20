"""The Basel Face Model as a MorphableModel: the paper's alpha (80) and beta (64), in EG3D's world."""

import functools
from pathlib import Path

import numpy as np

from nofa_jax.errors import UserError
from nofa_jax.face3d.bfm import BaselFaceModel
from nofa_jax.face3d.camera_label import SHIFT, UNIT
from nofa_jax.face3d.mediapipe import MEDIAPIPE_BLENDSHAPES
from nofa_jax.face3d.model import MorphableModel, check_model
from nofa_jax.weights import find_file

NAME = "bfm"
EYES = (slice(42, 48), slice(36, 42))  # of the 68 landmarks, the subject's left first


def load_bfm_head(path: str | Path | None = None) -> MorphableModel:
    """The model from its ported or published file; None: where `nofa weights` looks for it.

    Raises:
      UserError: no such file (the message says how to make it), or another one.
    """
    file = find_file(NAME, path)
    return _load(file, file.stat().st_mtime_ns)


@functools.lru_cache(maxsize=2)
def _load(path: Path, modified_ns: int) -> MorphableModel:
    from nofa_jax.port.run import load_network  # deferred: it imports every network

    return bfm_head(BaselFaceModel(**load_network(NAME, path)[1]["buffers"]), str(path))


def bfm_head(model: BaselFaceModel, source: str = NAME) -> MorphableModel:
    """World coordinates are those of EG3D's labels: UNIT world units to one of the model, its origin at SHIFT.

    It is a face without skull, neck, eyeballs and mouth, so its one part is the face and the eyes are marked by the
    middles of their landmarks; what it calls canonical is its mean expression. beta has no names and no bounds.
    """
    mean = (np.asarray(model.mean, np.float64) * UNIT + SHIFT).astype(np.float32)
    keypoints, num_exp = np.asarray(model.keypoints), len(model.exp_basis)
    if len(keypoints) != 68:
        raise UserError(f"{source} marks {len(keypoints)} landmarks, 68 are needed")
    landmarks = mean[keypoints]
    head = MorphableModel(
        mean=mean,
        id_basis=np.asarray(model.id_basis) * np.float32(UNIT),
        exp_basis=np.asarray(model.exp_basis) * np.float32(UNIT),
        triangles=np.asarray(model.triangles),
        landmark_index=keypoints,
        vertex_part=np.zeros(len(mean), np.int32),
        canonical_exp=np.zeros(num_exp),
        mediapipe_to_exp=np.zeros((len(MEDIAPIPE_BLENDSHAPES), num_exp)),
        eye_centers=np.stack([landmarks[eye].mean(axis=0) for eye in EYES]),
        eye_axes=np.tile([0.0, 0.0, 1.0], (2, 1)),
        name=NAME,
        exp_names=tuple(f"exp{i:02d}" for i in range(num_exp)),
        signed=True,
        tracker="deep3d",
    )
    return check_model(head, source)
