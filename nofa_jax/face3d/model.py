"""Linear morphable head models: the morphable-model box of the paper's figure (Sec. 3.2: alpha, beta -> geometry).

    vertices = mean + sum_i alpha_i id_basis_i + sum_j beta_j exp_basis_j

One class for every model (procedural, ICT FaceKit, BFM). World frame and unit are EG3D's: y up, the face looks along
+z, the subject's left is +x; the box is [-0.5, 0.5], the camera sits at 2.7 from the origin with focal length 4.2647
image widths. One centimetre of a head is 0.027, and the origin lies behind the bridge of the nose, so that the eyes'
outer corners span 0.38 of the image as in EG3D's crop of FFHQ.
"""

import dataclasses
import difflib
import functools
import typing
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import struct
from jaxtyping import Array, Float

from nofa_jax.errors import UserError
from nofa_jax.face3d.mediapipe import MEDIAPIPE_68, MEDIAPIPE_BLENDSHAPES, arkit_name

__all__ = [
    "DRAWN_HEADS",
    "HEADS",
    "MEDIAPIPE_68",
    "TRACKERS",
    "WORLD_PER_CM",
    "MorphableModel",
    "load_morphable_model",
    "mediapipe_matrix",
]

HEADS = ("procedural", "ict", "bfm")
TRACKERS = ("landmarks", "deep3d")  # a fit to landmarks (fit.py); Deep3DFaceRecon's network, bfm alone (deep3d.py)
DRAWN_HEADS = ("procedural", "ict")  # those with a skull, hair, eyes and teeth that can be painted and rendered
WORLD_PER_CM = 0.027  # EG3D's normalisation: camera distance 10 (BFM units of 10 cm) becomes 2.7
CANONICAL_JAW_OPEN = 0.25  # beta of the canonical pose: lips apart, so D's backward field never tears the mouth
PARTS = (
    "face",
    "head_and_neck",
    "mouth_socket",
    "eye_socket_left",
    "eye_socket_right",
    "gums_and_tongue",
    "teeth",
    "eyeball_left",
    "eyeball_right",
    "ear_left",
    "ear_right",
)

AnyArray = Array | np.ndarray


@typing.no_type_check
@struct.dataclass
class MorphableModel:
    """A linear 3D morphable head. Fields are numpy arrays until the model is passed through jit.

    alpha is N(0,1) per axis; beta are blendshape weights in [0,1], or where the model is `signed` (BFM) N(0,1) as well.
    """

    mean: Float[AnyArray, "v 3"]
    id_basis: Float[AnyArray, "i v 3"]
    exp_basis: Float[AnyArray, "e v 3"]
    triangles: AnyArray  # int32 [t,3], counter-clockwise seen from outside
    landmark_index: AnyArray  # int32 [68], iBUG/Multi-PIE order
    vertex_part: AnyArray  # int32 [v], index into part_names
    canonical_exp: Float[AnyArray, " e"]  # slightly open mouth: the shape of the canonical volume
    mediapipe_to_exp: Float[AnyArray, "52 e"]  # beta = scores @ mediapipe_to_exp
    eye_centers: Float[AnyArray, "2 3"]  # of the mean's eyeballs, subject's left first
    eye_axes: Float[AnyArray, "2 3"]  # optical axes, unit length
    name: str = struct.field(pytree_node=False)
    exp_names: tuple[str, ...] = struct.field(pytree_node=False)
    part_names: tuple[str, ...] = struct.field(pytree_node=False, default=PARTS)
    signed: bool = struct.field(pytree_node=False, default=False)
    tracker: str = struct.field(pytree_node=False, default="landmarks")  # how pictures get alpha and beta (track.py)

    @property
    def num_id(self) -> int:
        return self.id_basis.shape[0]

    @property
    def num_exp(self) -> int:
        return self.exp_basis.shape[0]

    def vertices(self, id_coeff, exp_coeff) -> Float[AnyArray, "... v 3"]:
        """World-space vertices; the leading axes of alpha and beta broadcast. numpy in, numpy out; else jax."""
        return _combine(self.mean, self.id_basis, self.exp_basis, id_coeff, exp_coeff)

    def landmarks(self, id_coeff, exp_coeff) -> Float[AnyArray, "... 68 3"]:
        """World-space 68 landmarks, without computing the other vertices."""
        k = self.landmark_index
        return _combine(self.mean[k], self.id_basis[:, k], self.exp_basis[:, k], id_coeff, exp_coeff)

    def part(self, *names: str) -> np.ndarray:
        """Boolean mask [v] of the vertices of the named parts."""
        return np.isin(np.asarray(self.vertex_part), [self.part_names.index(n) for n in names])

    def expression_index(self, name: str) -> tuple[int, ...]:
        """Indices into beta of an expression. ARKit's spelling works for every head and "mouthSmile" means both sides.

        Raises:
          UserError: no such expression; the message lists the nearest names.
        """
        index = {arkit_name(n): i for i, n in enumerate(self.exp_names)}
        wanted = arkit_name(name)
        if wanted in index:
            return (index[wanted],)
        # mouthLeft and jawLeft are directions, not the left half of a shape
        found = (
            [] if wanted in ("jaw", "mouth") else [index[n] for n in (f"{wanted}Left", f"{wanted}Right") if n in index]
        )
        if not found:
            near = difflib.get_close_matches(name, self.exp_names, n=3, cutoff=0.3) or self.exp_names
            raise UserError(f"unknown expression {name!r} for the {self.name} head; did you mean {', '.join(near)}?")
        return tuple(found)

    def expression(self, **weights: float) -> np.ndarray:
        """Beta [e] with the named expressions set: model.expression(jawOpen=0.8, mouthSmile=0.5)."""
        beta = np.zeros(self.num_exp, np.float32)
        for name, weight in weights.items():
            beta[list(self.expression_index(name))] = weight
        return beta

    def sample_id(self, rng: np.random.Generator, strength: float = 0.8) -> np.ndarray:
        """Alpha [i] of a random person: N(0, strength^2) truncated at 2 strengths (the tails are caricatures)."""
        return (strength * np.clip(rng.standard_normal(self.num_id), -2.0, 2.0)).astype(np.float32)


def _combine(mean, id_basis, exp_basis, id_coeff, exp_coeff):
    xp = np if all(isinstance(a, np.ndarray) for a in (mean, id_coeff, exp_coeff)) else jnp
    flat = mean.size
    by_id = xp.matmul(id_coeff, xp.reshape(id_basis, (-1, flat)))
    by_exp = xp.matmul(exp_coeff, xp.reshape(exp_basis, (-1, flat)))
    lead = np.broadcast_shapes(by_id.shape[:-1], by_exp.shape[:-1])
    shape = (*lead, flat)
    total = xp.broadcast_to(xp.reshape(mean, (-1,)), shape)
    total = total + xp.broadcast_to(by_id, shape) + xp.broadcast_to(by_exp, shape)
    return xp.reshape(total, (*lead, *mean.shape))


def mediapipe_matrix(exp_names: tuple[str, ...]) -> np.ndarray:
    """[52, e] 0/1 matrix from MediaPipe's scores to beta, by ARKit name; a one-sided name takes the unsided score."""
    rows = {name: i for i, name in enumerate(MEDIAPIPE_BLENDSHAPES)}
    matrix = np.zeros((len(rows), len(exp_names)), np.float32)
    for j, name in enumerate(exp_names):
        arkit = arkit_name(name)
        source = arkit if arkit in rows else arkit.removesuffix("Left").removesuffix("Right")
        if source in rows:
            matrix[rows[source], j] = 1.0
    return matrix


def check_model(model: MorphableModel, source: str) -> MorphableModel:
    """The model itself, in float32 and int32, after checking that its arrays fit together.

    Raises:
      UserError: disagreeing shapes, non-finite values or indices out of range; says which, naming `source`.
    """
    v, e = model.mean.shape[0], len(model.exp_names)
    shapes = {
        "mean": (v, 3),
        "id_basis": (model.id_basis.shape[0], v, 3),
        "exp_basis": (e, v, 3),
        "triangles": (model.triangles.shape[0], 3),
        "landmark_index": (68,),
        "vertex_part": (v,),
        "canonical_exp": (e,),
        "mediapipe_to_exp": (52, e),
        "eye_centers": (2, 3),
        "eye_axes": (2, 3),
    }
    indices = {"triangles": v, "landmark_index": v, "vertex_part": len(model.part_names)}
    fields = {}
    for name, shape in shapes.items():
        array = np.asarray(getattr(model, name))
        if array.shape != shape:
            raise UserError(f"{source}: {name} has shape {array.shape}, expected {shape}")
        if name in indices:
            if array.size and not (array.min() >= 0 and array.max() < indices[name]):
                raise UserError(f"{source}: {name} holds index {int(array.max())}, allowed are 0..{indices[name] - 1}")
            fields[name] = np.ascontiguousarray(array, np.int32)
        elif not np.isfinite(array).all():
            raise UserError(f"{source}: {name} holds non-finite values")
        else:
            fields[name] = np.ascontiguousarray(array, np.float32)  # rows in order: reshapes must not copy
    return dataclasses.replace(model, **fields)


def load_morphable_model(head: str, path: str | Path | None = None, tracker: str = "") -> MorphableModel:
    """The morphable model of a head.

    Args:
      head: "procedural" (built in, no file), "ict" (ICT FaceKit) or "bfm" (Basel Face Model).
      path: for "ict": ict_face_small.npz, ict_facekit.npz, or the folder that holds one of them. For "bfm": the file as
        published or ported; None: where `nofa weights` looks for it.
      tracker: see `tracker_for`.

    Raises:
      UserError: unknown head, missing or bad file, a tracker that does not know the head.
    """
    model = _load(head, path)
    return dataclasses.replace(model, tracker=tracker_for(head, tracker)) if tracker else model


def tracker_for(head: str, tracker: str = "") -> str:
    """Which of TRACKERS gives the coefficients of a head: `tracker`; "": the network where it knows the head.

    Raises:
      UserError: no such tracker, or one that does not know the head.
    """
    known = TRACKERS if head == "bfm" else TRACKERS[:1]
    if tracker and tracker not in known:
        raise UserError(f"there is no tracker {tracker!r} for the head {head}: take {' or '.join(known)}")
    return tracker or known[-1]


def _load(head: str, path: str | Path | None) -> MorphableModel:
    if head == "procedural":
        from nofa_jax.face3d.procedural import procedural_head

        return procedural_head()
    if head == "ict":
        if path is None:
            raise UserError("head 'ict' needs the ICT FaceKit file: --ict=PATH (ict_face_small.npz or its folder)")
        path = Path(path).expanduser().resolve()
        return _load_ict(path, path.stat().st_mtime_ns if path.exists() else 0)
    if head == "bfm":
        from nofa_jax.face3d.bfm_head import load_bfm_head

        return load_bfm_head(path)
    raise UserError(f"unknown head {head!r}; available are {', '.join(HEADS)}")


@functools.lru_cache(maxsize=4)
def _load_ict(path: Path, modified_ns: int) -> MorphableModel:
    from nofa_jax.face3d.ict import load_ict  # deferred: ict.py builds on this module

    return load_ict(path)
