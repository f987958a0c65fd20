"""The 68 iBUG/Multi-PIE landmarks of the procedural head: the vertex nearest to each place, in centimetres."""

import numpy as np
from scipy.spatial import KDTree

from nofa_jax.face3d.model import PARTS
from nofa_jax.face3d.procedural.anatomy import Anatomy

# The subject's right half, from the image's left: jaw 0-8, brow 17-21, nose 27-33, as (x, y, z) with x <= 0.
JAW = (
    *((-6.6, 2.7, -2.0), (-6.5, 0.7, -1.7), (-6.3, -1.3, -1.3), (-5.9, -3.2, -0.8)),
    *((-5.2, -5.1, 0.0), (-4.2, -6.6, 1.3), (-2.9, -7.6, 2.9), (-1.5, -8.0, 4.0), (0.0, -8.2, 4.3)),
)
BROW = ((-5.6, 4.2, 2.0), (-4.7, 4.9, 3.2), (-3.6, 5.2, 3.9), (-2.4, 5.1, 4.3), (-1.2, 4.8, 4.5))
BRIDGE = ((0.0, 3.0, 4.4), (0.0, 1.9, 5.1), (0.0, 0.8, 5.8), (0.0, -0.4, 6.9))
BASE = ((-1.3, -1.4, 4.6), (-0.65, -1.6, 5.2), (0.0, -1.7, 5.4))
EYE_ANGLES = (0.0, 1.05, 2.09, np.pi, 4.19, 5.24)  # of the left eye, from the outer corner over the top
OUTER_LIP = (0.0, 0.9, 1.26, np.pi / 2)  # angles on the rings of the mouth, corner to middle
INNER_LIP = (0.0, 1.19, np.pi / 2)


def landmark_index(a: Anatomy) -> np.ndarray:
    """Vertex of each landmark [68]."""
    outside = np.flatnonzero(a.skin & np.isin(a.part, [PARTS.index("face"), PARTS.index("head_and_neck")]))
    tree = KDTree(a.points[outside])

    def nearest(*places: tuple[float, float, float]) -> list[int]:
        return [int(outside[i]) for i in tree.query(np.array(places))[1]]

    def mirrored(places: tuple[tuple[float, float, float], ...]) -> list[tuple[float, float, float]]:
        return [(-x, y, z) for x, y, z in places]

    def on_ring(ring: np.ndarray, number: int, angle: float, side: float, eye: int) -> int:
        among = np.flatnonzero((ring == number) & (a.eye == eye) & (a.points[:, 0] * side > -1e-6))
        away = np.abs((a.angle[among] - angle + np.pi) % (2.0 * np.pi) - np.pi)
        return int(among[np.argmin(away)])

    eyes = [
        *(on_ring(a.eye_ring, 0, t, -1.0, 1) for t in EYE_ANGLES),
        *(on_ring(a.eye_ring, 0, t, 1.0, 0) for t in (EYE_ANGLES[k] for k in (3, 2, 1, 0, 5, 4))),
    ]
    lips = []
    for number, steps in ((2, OUTER_LIP), (0, INNER_LIP)):
        half = [on_ring(a.mouth_ring, number, t, -1.0, -1) for t in steps]
        half += [on_ring(a.mouth_ring, number, t, 1.0, -1) for t in steps[-2::-1]]
        lips += half + [on_ring(a.mouth_ring, number, -t, 1.0, -1) for t in steps[1:]]
        lips += [on_ring(a.mouth_ring, number, -t, -1.0, -1) for t in steps[-2:0:-1]]
    return np.array(
        [
            *nearest(*JAW, *mirrored(JAW[-2::-1])),
            *nearest(*BROW, *mirrored(BROW[::-1])),
            *nearest(*BRIDGE, *BASE, *mirrored(BASE[-2::-1])),
            *eyes,
            *lips,
        ]
    )
