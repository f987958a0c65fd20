"""A morphable head made of formulas: no file, no licence, no network. Same interface as every other head.

sculpt.py says what the skin's surface is, rings.py and topology.py mesh it, parts.py adds what is not skin, anatomy.py
joins them, identity.py and expressions.py are the two bases. Built once per process.
"""

import functools

import numpy as np

from nofa_jax.face3d.ict import turn_eyeballs
from nofa_jax.face3d.model import (
    CANONICAL_JAW_OPEN,
    PARTS,
    WORLD_PER_CM,
    MorphableModel,
    check_model,
    mediapipe_matrix,
)
from nofa_jax.face3d.procedural.anatomy import build_anatomy
from nofa_jax.face3d.procedural.expressions import expression_basis
from nofa_jax.face3d.procedural.identity import identity_basis
from nofa_jax.face3d.procedural.landmarks import landmark_index
from nofa_jax.face3d.procedural.parts import EYE_AXIS
from nofa_jax.face3d.procedural.sculpt import EYE_CENTER

__all__ = ["procedural_head"]


@functools.cache
def procedural_head() -> MorphableModel:
    """The procedural head, deterministic."""
    anatomy = build_anatomy()
    names, exp_basis = expression_basis(anatomy)
    mirror = np.array([[1.0, 1.0, 1.0], [-1.0, 1.0, 1.0]])
    eye_centers = EYE_CENTER * mirror
    eyeballs = [anatomy.part == PARTS.index(f"eyeball_{side}") for side in ("left", "right")]
    turn_eyeballs(exp_basis, names, anatomy.points, eyeballs, eye_centers)
    model = MorphableModel(
        mean=anatomy.points * WORLD_PER_CM,
        id_basis=identity_basis(anatomy) * WORLD_PER_CM,
        exp_basis=exp_basis * WORLD_PER_CM,
        triangles=anatomy.triangles,
        landmark_index=landmark_index(anatomy),
        vertex_part=anatomy.part,
        canonical_exp=np.where(np.array(names) == "jawOpen", CANONICAL_JAW_OPEN, 0.0),
        mediapipe_to_exp=mediapipe_matrix(names),
        eye_centers=eye_centers * WORLD_PER_CM,
        eye_axes=EYE_AXIS * mirror,
        name="procedural",
        exp_names=names,
    )
    return check_model(model, "procedural head")
