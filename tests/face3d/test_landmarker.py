"""MediaPipe's landmarker: where its model is looked for, what it sees, and what it says when something is missing."""

import sys
from pathlib import Path

import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.face3d import landmarker as module
from nofa_jax.face3d.landmarker import Landmarker, detect_photo, find_landmarker
from nofa_jax.media.photo import load_photo
from tests.shared import shared_path

MODEL = "faces/models/face_landmarker.task"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("NOFA_LANDMARKER", raising=False)
    monkeypatch.setenv("NOFA_CACHE", str(tmp_path / "cache"))


def test_missing_model_says_where_to_get_and_put_it(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        find_landmarker()
    for part in (module.URL, str(tmp_path / "cache" / "face_landmarker.task"), "NOFA_LANDMARKER", "--landmarker="):
        assert part in str(error.value)


def test_the_model_is_found_by_argument_environment_and_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = shared_path(MODEL)
    cached = tmp_path / "cache" / "face_landmarker.task"
    cached.parent.mkdir()
    cached.write_bytes(model.read_bytes())
    assert find_landmarker() == cached
    monkeypatch.setenv("NOFA_LANDMARKER", str(tmp_path / "named"))
    with pytest.raises(UserError, match="named"):  # a setting that is wrong is not passed over in silence
        find_landmarker()
    assert find_landmarker(model) == model


def test_broken_models(tmp_path: Path) -> None:
    (tmp_path / "text.task").write_text("hello")
    np.savez(tmp_path / "other.task.npz", a=np.zeros(3))
    truncated = shared_path("faces_bad/landmarker_truncated.task")
    for path in (tmp_path / "text.task", tmp_path / "other.task.npz", truncated):
        with pytest.raises(UserError) as error:
            Landmarker(path)
        assert str(path) in str(error.value)


def test_without_mediapipe(monkeypatch: pytest.MonkeyPatch) -> None:
    model = shared_path(MODEL)
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    with pytest.raises(UserError, match="pip install mediapipe"):
        Landmarker(model)


def test_photo_as_recorded_and_quiet(capfd: pytest.CaptureFixture[str]) -> None:
    recorded = np.load(shared_path("faces/tracks/photos.npz"))
    row = [str(f) for f in recorded["files"]].index("photos/woman_512.jpg")
    image = load_photo(shared_path("faces/photos/woman_512.jpg"))
    face = detect_photo(image, shared_path(MODEL))
    np.testing.assert_allclose(face.landmarks, recorded["landmarks"][row], atol=1e-4)
    np.testing.assert_allclose(face.blendshapes, recorded["blendshapes"][row], atol=1e-3)
    np.testing.assert_allclose(face.matrix, recorded["matrix"][row], atol=1e-2)
    assert capfd.readouterr().err == ""


def test_several_faces() -> None:
    image = load_photo(shared_path("faces/photos/three_faces_1200x500.jpg"))
    model = shared_path(MODEL)
    with Landmarker(model) as landmarker:
        faces = landmarker.detect(image)
        # A view that is not contiguous must give the same.
        wide = np.zeros((500, 2400, 3), np.uint8)
        wide[:, ::2] = image
        again = landmarker.detect(wide[:, ::2])
    assert len(faces) == 3
    np.testing.assert_array_equal(faces[0].landmarks, again[0].landmarks)
    areas = [face.area() for face in faces]
    assert areas == sorted(areas, reverse=True)
    np.testing.assert_array_equal(detect_photo(image, model).landmarks, faces[0].landmarks)
    centres = [float(detect_photo(image, model, face=k).landmarks[:, 0].mean()) for k in (1, 2, 3)]
    assert centres == sorted(centres)
    for k in (0, 4):
        with pytest.raises(UserError, match=r"group.jpg.*3 found"):
            detect_photo(image, model, face=k, name="group.jpg")


def test_no_face() -> None:
    image = load_photo(shared_path("faces/photos/no_face_landscape_604.png"))
    with pytest.raises(UserError, match=r"hills\.png: no face found"):
        detect_photo(image, shared_path(MODEL), name="hills.png")
