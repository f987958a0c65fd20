"""One person through a clip: faces made up of points, landmarkers that answer as told, and two people side by side."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.face3d import follow
from nofa_jax.face3d.fit import GAP
from nofa_jax.face3d.follow import CUT, SAME_SHAPE, Person, PersonLandmarker, shape_distance, shape_of, track_video
from nofa_jax.face3d.landmarker import Face
from nofa_jax.face3d.landmarks import load_track
from nofa_jax.face3d.pose import turned
from nofa_jax.media.video import VideoReader
from tests.shared import shared_path

MODEL = "faces/models/face_landmarker.task"
SIZE = (200, 100)
STEP = 1 / 25


def person(seed: int) -> np.ndarray:
    """Points [478,3] of somebody; people differ by a twentieth of the eyes' distance."""
    mean, own = np.random.default_rng(99).uniform(-0.5, 0.5, (478, 3)), np.random.default_rng(seed)
    mean[33], mean[263] = [-0.3, 0.2, 0], [0.3, 0.2, 0]
    return mean + 0.03 * own.standard_normal((478, 3))


A, B = person(1), person(2)


def face(points: np.ndarray, x: float, size: float, y: float = 50, yaw: float = 0.0, roll: float = 0.0) -> Face:
    """Somebody at a place in the picture, in pixels, turned by radians; z in lengths along the eyes, as MediaPipe's."""
    pixels = size * points @ turned(yaw, 0, roll).T + [x, y, 0]
    across = pixels[263, :2] - pixels[33, :2]
    depth = np.linalg.norm(across) / np.linalg.norm(across / SIZE)
    return Face((pixels / [*SIZE, depth]).astype(np.float32), np.zeros(52, np.float32), np.eye(4))


def followed(frames: list[list[Face]]) -> list[int | None]:
    """Which face of each frame is the first one's of the first frame."""
    who = Person(frames[0][0], 0.0, SIZE)
    found = [who.find(faces, i * STEP) for i, faces in enumerate(frames)]
    where = [[f is faces[k] for k in range(len(faces))] for f, faces in zip(found, frames, strict=True)]
    return [row.index(True) if any(row) else None for row in where]


def test_shapes_do_not_depend_on_place_size_and_pose() -> None:
    here, there = shape_of(face(A, 50, 20), SIZE), shape_of(face(A, 120, 45, yaw=0.5, roll=0.6), SIZE)
    assert shape_distance(there, here) < 1e-5
    assert shape_distance(shape_of(face(B, 50, 20), SIZE), here) > 2 * SAME_SHAPE


def test_two_faces_cross_in_size_and_the_list_follows_the_larger() -> None:
    sizes = [(30 - 20 * t, 10 + 20 * t) for t in np.linspace(0, 1, 40)]
    frames = [sorted([face(A, 50, a), face(B, 140, b)], key=Face.area, reverse=True) for a, b in sizes]
    assert followed(frames) == [0] * 20 + [1] * 20


def test_two_faces_cross_in_place() -> None:
    xs = np.linspace(40, 160, 40)
    assert followed([[face(A, x, 30), face(B, 200 - x, 30)] for x in xs]) == [0] * 40


def test_one_leaves_and_nobody_takes_its_place() -> None:
    both = [face(A, 60, 30), face(B, 90, 30)]
    shortly = [both] * 5 + [both[1:]] * 5 + [both[::-1]] * 5
    assert followed(shortly) == [0] * 5 + [None] * 5 + [1] * 5
    long = round(2 * GAP / STEP)
    elsewhere = [face(B, 60, 30), face(A, 150, 15)]  # only the shape tells who is who
    assert followed([both] * 5 + [both[1:]] * long + [elsewhere]) == [0] * 5 + [None] * long + [1]


def test_a_face_does_not_jump_or_change_its_size_at_once() -> None:
    assert followed([[face(A, 50, 30)], [face(A, 90, 30)]]) == [0, None]
    assert followed([[face(A, 50, 30)], [face(A, 50, 60)]]) == [0, None]


class Picture(NamedTuple):
    """What stands for a frame: who is in it, and whether it follows a cut."""

    faces: dict[str, Face]
    cut: bool
    shape: tuple[int, ...] = (SIZE[1], SIZE[0], 3)


class Scripted:
    """A landmarker that sees the faces of a Picture; for video it clings to one of them."""

    def __init__(self, path: object = None, video: bool = False) -> None:
        self._video, self._held = video, None

    def detect(self, image: Picture, time: float = 0) -> list[Face]:
        faces = image.faces
        if not self._video:
            return sorted(faces.values(), key=Face.area, reverse=True)
        if self._held not in faces:
            self._held = next(iter(faces), None)
        return [faces[self._held]] if self._held else []

    def close(self) -> None:
        pass


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """Runs a PersonLandmarker over frames of {name: face}, `cuts` being frame numbers; gives a name for each frame."""
    monkeypatch.setattr(follow, "Landmarker", Scripted)
    monkeypatch.setattr(PersonLandmarker, "_change", lambda self, image: 2 * CUT * image.cut)

    def play(frames: list[dict[str, Face]], cuts: tuple[int, ...] = (), **options: Any) -> str:
        names = ""
        with PersonLandmarker(**options) as landmarker:
            for i, faces in enumerate(frames):
                found = landmarker.detect(Picture(faces, i in cuts), i * STEP).face
                names += next((name for name, f in faces.items() if f is found), "-")
        return names

    return play


def test_begins_with_the_largest_or_the_chosen_one(script: Callable[..., str]) -> None:
    """MediaPipe clings to B, which comes first in its list; A is larger."""
    frames = [{}, *[{"B": face(B, 140, 20), "A": face(A, 50, 30)}] * 5, *[{"B": face(B, 140, 40)}] * 20]
    assert script(frames) == "-" + "A" * 5 + "-" * 20
    assert script(frames, face=1) == "-" + "A" * 5 + "-" * 20
    away = round(GAP / STEP)  # for so long, who grows at once is taken for somebody else
    assert script(frames, face=2) == "-" + "B" * 5 + "-" * away + "B" * (20 - away)
    with pytest.raises(UserError, match=r"clip: there is no face number 3: 2 found"):
        script(frames, face=3)


def test_others_are_followed_from_a_cut_or_a_long_gap_on_only_if_wanted(script: Callable[..., str]) -> None:
    a, b = {"A": face(A, 50, 30)}, {"B": face(B, 50, 30)}
    cut = [a] * 5 + [b] * 5 + [a] * 5
    assert script(cut, cuts=(5, 10)) == "A" * 5 + "-" * 5 + "A" * 5
    assert script(cut, cuts=(5, 10), restart=True) == "A" * 5 + "B" * 5 + "A" * 5
    gone = [a] * 5 + [b] * 20
    assert script(gone) == "A" * 5 + "-" * 20
    assert script(gone, restart=True) == "A" * 5 + "-" * round(GAP / STEP) + "B" * (20 - round(GAP / STEP))
    both = [{"B": face(B, 50, 40), "A": face(A, 150, 20)}] * 3
    assert script([a] * 5 + both, cuts=(5,), restart=True) == "A" * 8  # the same person elsewhere, before the largest


@pytest.mark.parametrize("chosen", [1, 2])
def test_two_people_side_by_side(chosen: int) -> None:
    """Each of two real clips is followed while the other is there, and lost while its face is covered."""
    names = ("man_green_512x512_25fps", "woman_talk_512x512_25fps")
    readers = [iter(VideoReader(shared_path(f"faces/videos/{name}.mp4"))) for name in names]
    known = load_track(shared_path(f"faces/tracks/{names[chosen - 1]}.npz"))
    with PersonLandmarker(shared_path(MODEL), face=chosen) as landmarker:
        for i in range(20):
            halves = [next(reader).image for reader in readers]
            covered = 6 <= i < 12
            if covered:
                low, high = (np.array([f(known.landmarks[i, :, :2], axis=0) for f in (np.min, np.max)]) * 512).astype(
                    int
                )
                halves[chosen - 1][low[1] : high[1], low[0] : high[0]] = 128
            found = landmarker.detect(np.concatenate(halves, axis=1), i * STEP).face
            assert (found is None) == covered, i
            if found is not None:
                points = 2 * found.landmarks[:, :2] * [1, 0.5] - [chosen - 1, 0]
                off = np.linalg.norm(points - known.landmarks[i, :, :2], axis=1)
                assert np.median(off) < 0.01, i


def test_lost_face_is_marked() -> None:
    track = track_video(VideoReader(shared_path("faces_bad/face_disappears.mp4")), shared_path(MODEL))
    absent = np.zeros(90, bool)
    absent[30:50] = absent[60:65] = True
    np.testing.assert_array_equal(track.valid, ~absent)
    assert np.isnan(track.landmarks[absent]).all()
    assert np.isfinite(track.landmarks[~absent]).all()


def test_clip_as_recorded() -> None:
    """The file whose width is no multiple of 16 and whose rate is low."""
    path = shared_path("faces/videos/man_outdoor_360x270_12fps.mp4")
    track = track_video(VideoReader(path), shared_path(MODEL))
    recorded = load_track(shared_path("faces/tracks/man_outdoor_360x270_12fps.npz"))
    np.testing.assert_array_equal(track.valid, recorded.valid)
    np.testing.assert_allclose(track.timestamps, recorded.timestamps, atol=1e-6)
    np.testing.assert_allclose(track.landmarks, recorded.landmarks, atol=1e-3)


@pytest.mark.slow
def test_clip_without_any_face() -> None:
    path = shared_path("faces/videos/woman_fullbody_720x1080_25fps.mp4")
    with pytest.raises(UserError, match="any of 103 frames") as error:
        track_video(VideoReader(path), shared_path(MODEL))
    assert str(path) in str(error.value)
