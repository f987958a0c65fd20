"""What a person looks like beyond shape: colours, hair, beard and the light they stand in, drawn per identity.

The morphable models have no colour basis, so colours are painted: a `Canvas` (paint.py) says where things are, an
`Appearance` what they look like, `paint` gives the colour of every point. All colours are linear RGB in [0, 1].
"""

import dataclasses

import numpy as np

from nofa_jax.face3d.model import MorphableModel
from nofa_jax.face3d.paint import Canvas, canvas
from nofa_jax.face3d.ramp import smoothstep

# sRGB 0..255; skin from light to dark, interpolated
SKIN = ((250, 222, 205), (241, 200, 175), (224, 172, 140), (198, 142, 108), (160, 105, 75), (115, 74, 52), (80, 52, 40))
HAIR = ((28, 24, 22), (48, 34, 26), (78, 52, 34), (112, 76, 46), (150, 112, 70), (196, 160, 104), (120, 50, 28))
GREY_HAIR = (150, 148, 146)
IRIS = ((60, 36, 20), (88, 56, 30), (110, 92, 50), (84, 110, 78), (84, 120, 150), (70, 100, 140), (110, 125, 132))
TEETH, GUM, MOUTH, SCLERA = (226, 218, 198), (186, 92, 92), (120, 42, 44), (226, 220, 214)

# Height of the hairline over the eyes (cm) at these azimuths (degrees from the front).
HAIRLINE_AZIMUTH = (0.0, 20.0, 38.0, 55.0, 68.0, 80.0, 95.0, 112.0, 130.0, 155.0, 180.0)
HAIRLINE = (6.6, 6.7, 6.0, 4.4, 1.2, 0.2, 2.4, -0.2, -4.0, -6.6, -7.2)
HAIRLINE_LONG = (6.6, 6.7, 6.0, 4.0, 0.2, -3.5, -8.0, -13.0, -15.0, -16.0, -16.0)


@dataclasses.dataclass(frozen=True)
class Appearance:
    """Everything that is drawn at random per identity. Colours are linear RGB."""

    skin: np.ndarray  # [3]
    hair: np.ndarray  # [3]
    brow: np.ndarray  # [3]
    lip: np.ndarray  # [3]
    iris: np.ndarray  # [3]
    blush: float  # redness of cheeks, nose and ears
    beard: float  # 0 none .. 1 full
    moustache: float
    brow_width: float  # half width in cm
    brow_raise: float  # cm over the landmarks
    liner: float  # darkness of the lids' edges
    hairline: np.ndarray  # [len(HAIRLINE_AZIMUTH)] cm over the eyes
    hair_volume: float  # cm on the sides
    hair_top: float  # cm on the crown
    hair_wave: float  # unevenness of the hair's surface, cm
    bald: float  # 0 hair, 1 none
    pattern: int  # seed of skin and hair pattern
    spots: float  # strength of the skin's pattern
    light: np.ndarray  # [3] unit vector to the key light, world frame
    light_strength: float
    ambient: float
    gloss: float  # of the skin


def linear(srgb: tuple[int, ...] | np.ndarray) -> np.ndarray:
    """Linear RGB in [0,1] of sRGB 0..255."""
    return (np.asarray(srgb, np.float32) / 255.0) ** 2.2


def _along(table: tuple[tuple[int, int, int], ...], t: float) -> np.ndarray:
    """Colour at t in [0,1] along a table of sRGB colours."""
    x = np.clip(t, 0.0, 1.0) * (len(table) - 1)
    rows = np.asarray(table, float)
    return linear(np.array([np.interp(x, np.arange(len(table)), rows[:, c]) for c in range(3)]))


def sample_appearance(rng: np.random.Generator) -> Appearance:
    """A random person. Hair and eyes of dark skins are dark more often; everything else is independent."""
    tone = rng.beta(1.1, 1.2)
    skin = _along(SKIN, tone) * rng.normal(1.0, [0.03, 0.04, 0.06])
    dark = rng.random() < 0.25 + 0.9 * tone
    hair = linear(HAIR[rng.integers(0, 3)]) if dark else linear(HAIR[rng.integers(2, len(HAIR))])
    hair = hair * rng.uniform(0.8, 1.25)
    grey = rng.random() < 0.14
    if grey:
        hair = hair + (linear(GREY_HAIR) - hair) * rng.uniform(0.5, 1.0)
    iris = _along(IRIS, rng.uniform(0.0, 0.35) if dark else rng.uniform(0.2, 1.0))
    masculine = rng.random() < 0.5
    long_hair = rng.random() < (0.1 if masculine else 0.65)
    beard = rng.uniform(0.35, 1.0) if masculine and rng.random() < 0.45 else 0.0
    painted = 0.0 if masculine else float(rng.random() < 0.4)
    lip_tint = np.array([0.62, 0.3, 0.3]) if not painted else np.array([0.75, 0.12, 0.15])
    lip = skin * np.array([0.85, 0.55, 0.55]) + (0.15 + 0.45 * painted) * (lip_tint * 0.6 - 0.3 * skin)
    yaw, pitch = rng.normal(0.0, 0.6), rng.uniform(0.0, 0.9)
    return Appearance(
        skin=np.clip(skin, 0.01, 1.0).astype(np.float32),
        hair=np.clip(hair, 0.004, 1.0).astype(np.float32),
        brow=np.clip(hair * rng.uniform(0.45, 0.9), 0.004, 0.4).astype(np.float32),
        lip=np.clip(lip, 0.01, 1.0).astype(np.float32),
        iris=iris.astype(np.float32),
        blush=float(rng.uniform(0.05, 0.45) * (1.1 - tone)),
        beard=float(beard),
        moustache=float(beard * (rng.random() < 0.85) if beard else masculine * 0.7 * (rng.random() < 0.1)),
        brow_width=float(rng.uniform(0.27, 0.42) if masculine else rng.uniform(0.19, 0.32)),
        brow_raise=float(rng.normal(0.0, 0.12)),
        liner=float(rng.uniform(0.45, 0.75) if masculine else rng.uniform(0.65, 1.0)),
        hairline=_sample_hairline(rng, long_hair, masculine),
        hair_volume=float(rng.uniform(0.25, 0.9) if not long_hair else rng.uniform(0.7, 1.7)),
        hair_top=float(rng.uniform(0.35, 1.6)),
        hair_wave=float(rng.uniform(0.0, 0.35)),
        bald=float(masculine and rng.random() < 0.12),
        pattern=int(rng.integers(1 << 31)),
        spots=float(rng.uniform(0.03, 0.12)),
        light=np.array([np.sin(yaw) * np.cos(pitch), np.sin(pitch), np.cos(yaw) * np.cos(pitch)], np.float32),
        light_strength=float(rng.uniform(0.55, 0.95)),
        ambient=float(rng.uniform(0.38, 0.62)),
        gloss=float(rng.uniform(0.02, 0.09)),
    )


def _sample_hairline(rng: np.random.Generator, long_hair: bool, masculine: bool) -> np.ndarray:
    azimuth, line = np.array(HAIRLINE_AZIMUTH), np.array(HAIRLINE_LONG if long_hair else HAIRLINE)
    line = line + rng.normal(0.0, 0.45)
    fringe = rng.random() < 0.25
    if fringe:
        line = line - rng.uniform(1.0, 2.8) * smoothstep(50.0, 25.0, azimuth)
    elif masculine and rng.random() < 0.35:
        line = line + rng.uniform(0.8, 3.0) * np.exp(-(((azimuth - 28.0) / 18.0) ** 2))  # receding temples
    length = rng.uniform(0.3, 1.0) if long_hair else rng.uniform(-0.4, 0.4)
    if long_hair:
        short = np.array(HAIRLINE)
        line = line + (1.0 - length) * np.where(azimuth > 75.0, 0.6 * (short - np.array(HAIRLINE_LONG)), 0.0)
    else:
        line = line - length * 1.5 * smoothstep(60.0, 75.0, azimuth)
    return line.astype(np.float32)


def hair_depth(a: Appearance, azimuth: np.ndarray, height: np.ndarray) -> np.ndarray:
    """Centimetres above the hairline (negative: below it, on bare skin)."""
    if a.bald:
        return np.full_like(azimuth, -9.0)
    return height - np.interp(azimuth, HAIRLINE_AZIMUTH, a.hairline).astype(np.float32)


def paint(model: MorphableModel, a: Appearance, points: np.ndarray | None = None) -> np.ndarray:
    """Linear colours [n,3] of points of the model's canvas, by their indices; of all t * POINTS without."""
    c = canvas(model) if points is None else canvas(model).rows(points)
    colour = _skin(c, a)
    _hair_on_skin(c, a, colour)
    parts = {name: c.part == i for i, name in enumerate(model.part_names)}
    mix(colour, c.lip * (parts["face"]), a.lip * _grain(c, a, 3.0, 0.1))
    mix(colour, 0.75 * c.lip_line, a.lip * 0.12)
    mix(colour, 0.9 * a.liner * c.lash, np.array([0.02, 0.014, 0.012], np.float32))
    inside = parts["mouth_socket"]
    colour[inside] = linear(MOUTH) * (0.12 + 0.88 * smoothstep(6.5, 1.0, c.behind_lips[inside]))[:, None]
    for name, srgb in (("gums_and_tongue", GUM), ("teeth", TEETH)):
        here = parts[name]
        colour[here] = linear(srgb) * (0.2 + 0.8 * smoothstep(4.5, 1.0, c.behind_lips[here]))[:, None]
    for side in ("left", "right"):
        colour[parts[f"eye_socket_{side}"]] = a.skin * np.array([0.45, 0.25, 0.22], np.float32)
        ball = parts[f"eyeball_{side}"]
        colour[ball] = _eyeball(c.gaze_angle[ball], a)
    return colour


def mix(colour: np.ndarray, weight: np.ndarray, other: np.ndarray) -> None:
    """colour moves towards other by weight, in place."""
    colour += weight[:, None] * (other - colour)


def waves(points: np.ndarray, seed: int, length: float, count: int = 5) -> np.ndarray:
    """Smooth random field [n] in about [-1, 1] with features of `length` cm: a sum of plane waves."""
    rng = np.random.default_rng(seed)
    k = rng.standard_normal((3, count)).astype(np.float32) * np.float32(2.0 / length)
    phase = rng.uniform(0.0, 2.0 * np.pi, count).astype(np.float32)
    return np.cos(k.T @ points.T + phase[:, None]).sum(0) * np.float32(1.4 / count)  # long rows: three times faster


def _grain(c: Canvas, a: Appearance, length: float, strength: float) -> np.ndarray:
    return (1.0 + strength * waves(c.points, a.pattern + 11, length))[:, None].astype(np.float32)


def _skin(c: Canvas, a: Appearance) -> np.ndarray:
    patches = waves(c.points, a.pattern, 5.0)
    fine = waves(c.points, a.pattern + 1, 0.8, count=7)
    tone = 1.0 + a.spots * (patches + 0.5 * fine)
    red = waves(c.points, a.pattern + 2, 3.0) * 0.5 * a.spots + a.blush * (c.cheek + 0.4 * c.ear)
    colour = a.skin * tone[:, None].astype(np.float32)
    colour = colour * np.stack([1.0 + 0.1 * red, 1.0 - 0.35 * red, 1.0 - 0.3 * red], axis=1).astype(np.float32)
    colour *= ((1.0 - 0.1 * c.lid - 0.85 * c.nostril) * (0.42 + 0.58 * c.openness))[:, None]
    return colour.astype(np.float32)


def _hair_on_skin(c: Canvas, a: Appearance, colour: np.ndarray) -> None:
    """Brows, beard and the roots of the hair."""
    hairs = 0.8 + 0.2 * waves(c.points * np.array([2.0, 1.0, 1.0], np.float32), a.pattern + 5, 0.9, count=6)
    raised = np.abs(c.brow_distance)
    taper = a.brow_width * (1.0 - 0.6 * smoothstep(0.35, 1.0, c.brow_along)) * smoothstep(-0.12, 0.1, c.brow_along)
    mix(colour, np.clip(hairs, 0.0, 1.0) * smoothstep(1.4, 0.5, raised / np.maximum(taper, 1e-3)), a.brow)
    beard = np.maximum(a.beard * c.beard, a.moustache * c.moustache) * (1.0 - c.lip)
    mix(colour, np.clip(beard * (0.62 + 0.38 * hairs), 0.0, 1.0), a.brow * 1.1)
    depth = hair_depth(a, c.azimuth, c.height) + 0.25 * waves(c.points, a.pattern + 6, 0.7)
    scalp = smoothstep(-0.35, 0.5, depth) * (1.0 - c.ear) * (c.part <= 1)
    mix(colour, scalp, a.hair * (0.55 + 0.25 * hairs)[:, None])


def _eyeball(angle: np.ndarray, a: Appearance) -> np.ndarray:
    pupil, iris, limbus = 0.16, 0.385, 0.05
    colour = np.tile(linear(SCLERA), (len(angle), 1))
    colour *= (1.0 - 0.35 * smoothstep(0.5, 1.1, angle))[:, None] * np.array([1.0, 0.97, 0.96], np.float32)
    ring = a.iris * (0.75 + 0.55 * smoothstep(iris, pupil, angle))[:, None]
    mix(colour, smoothstep(iris + 0.03, iris - 0.02, angle), ring)
    mix(colour, 0.75 * smoothstep(limbus, 0.0, np.abs(angle - iris)), a.iris * 0.2)
    mix(colour, smoothstep(pupil + 0.03, pupil - 0.02, angle), np.array([0.006, 0.005, 0.005], np.float32))
    return colour
