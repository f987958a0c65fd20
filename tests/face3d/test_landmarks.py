"""Track files: round trip, and everything that can be wrong with one."""

import dataclasses
import zipfile
from pathlib import Path

import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.face3d.landmarks import LandmarkTrack, load_track, save_track
from nofa_jax.face3d.mediapipe import MEDIAPIPE_68, MEDIAPIPE_BLENDSHAPES
from tests.shared import shared_path


@pytest.fixture
def track() -> LandmarkTrack:
    rng = np.random.default_rng(0)
    valid = np.array([True, False, True, True])
    landmarks = rng.uniform(0, 1, (4, 478, 3)).astype(np.float32)
    scores = rng.uniform(0, 1, (4, 52)).astype(np.float32)
    matrix = np.tile(np.eye(4, dtype=np.float32), (4, 1, 1))
    for array in (landmarks, scores, matrix):
        array[~valid] = np.nan
    return LandmarkTrack(landmarks, scores, matrix, valid, np.array([0.0, 0.04, 0.08, 0.2]), 640, 360, 25.0)


def write(path: Path, track: LandmarkTrack, **changed: object) -> Path:
    arrays = {f.name: np.asarray(getattr(track, f.name)) for f in dataclasses.fields(track)} | changed
    np.savez(path, **{k: v for k, v in arrays.items() if v is not None})  # ty: ignore[invalid-argument-type]
    return path


def test_round_trip(tmp_path: Path, track: LandmarkTrack) -> None:
    save_track(tmp_path / "a.npz", track)
    back = load_track(tmp_path / "a.npz")
    for field in dataclasses.fields(track):
        np.testing.assert_array_equal(getattr(back, field.name), getattr(track, field.name))
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_points_in_pixels(track: LandmarkTrack) -> None:
    nose_tip = track.landmarks[0, MEDIAPIPE_68[30]]
    np.testing.assert_allclose(track.points68()[0, 30], [640 * nose_tip[0], 360 * nose_tip[1]], rtol=1e-6)
    assert np.isnan(track.points68()[1]).all()


def test_what_is_wrong_is_said(tmp_path: Path, track: LandmarkTrack) -> None:
    scaled = track.matrix.copy()
    scaled[2, :3, :3] *= 1.1
    mirrored = track.matrix.copy()
    mirrored[3, 0, 0] = -1
    far = track.landmarks.copy()
    far[0, 7, 1] = 1e6
    cases: list[tuple[dict[str, object], str]] = [
        ({"matrix": None}, "lacks matrix"),
        ({"matrix": scaled}, "rigid"),
        ({"matrix": mirrored}, "rigid"),
        ({"landmarks": far}, "picture sizes away"),
        ({"landmarks": track.landmarks[:, :468]}, r"landmarks is float32 of shape \(4, 468, 3\)"),
        ({"blendshapes": track.blendshapes + 2}, "expected 0 to 1"),
        ({"valid": np.ones(4, bool)}, "frame 1 is marked valid"),
        ({"valid": np.ones(4)}, "expected bool"),
        ({"valid": np.ones(0, bool)}, "0 frames"),
        ({"timestamps": np.array([0.0, 0.1, 0.1, 0.2])}, "increase"),
        ({"timestamps": np.array([0.0, np.nan, 0.1, 0.2])}, "finite"),
        ({"width": np.array(0)}, "not possible"),
        ({"fps": np.array(0.0)}, "positive"),
        ({"width": np.array("wide")}, "expected integer"),
        ({"surprise": np.zeros(3)}, "unknown arrays surprise"),
        ({"blendshape_names": np.array(MEDIAPIPE_BLENDSHAPES[::-1])}, "in their order"),
    ]
    for changed, reason in cases:
        path = write(tmp_path / "bad.npz", track, **changed)
        with pytest.raises(UserError, match=reason) as error:
            load_track(path)
        assert str(path) in str(error.value)


def test_no_npz_at_all(tmp_path: Path, track: LandmarkTrack) -> None:
    with pytest.raises(UserError, match="no such track"):
        load_track(tmp_path / "none.npz")
    (tmp_path / "text.npz").write_text("not a zip")
    whole = write(tmp_path / "whole.npz", track).read_bytes()
    (tmp_path / "cut.npz").write_bytes(whole[: len(whole) // 2])
    for name in ("text.npz", "cut.npz"):
        with pytest.raises(UserError, match=name):
            load_track(tmp_path / name)


def test_pickled_objects_are_never_run(tmp_path: Path, track: LandmarkTrack) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return Path.touch, (tmp_path / "sprung",)  # ty: ignore[invalid-return-type]

    trap = np.empty(1, object)
    trap[0] = Trap()
    write(tmp_path / "bad.npz", track, landmarks=trap)
    with pytest.raises(UserError, match=r"bad\.npz"):
        load_track(tmp_path / "bad.npz")
    assert not (tmp_path / "sprung").exists()


def test_members_with_paths_are_refused(tmp_path: Path, track: LandmarkTrack) -> None:
    path = write(tmp_path / "bad.npz", track)
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("../escaped.npy", b"x")
    with pytest.raises(UserError, match="escaped"):
        load_track(path)
    assert not (tmp_path.parent / "escaped.npy").exists()


def test_headers_that_claim_terabytes(tmp_path: Path, track: LandmarkTrack) -> None:
    path = write(tmp_path / "bad.npz", track, matrix=None)
    header = np.lib.format.header_data_from_array_1_0(np.zeros((1, 1)))
    header["shape"] = (10**7, 10**6)
    with zipfile.ZipFile(path, "a") as archive, archive.open("matrix.npy", "w") as file:
        np.lib.format.write_array_header_1_0(file, header)
    with pytest.raises(UserError, match=r"bad\.npz"):
        load_track(path)


def test_every_bad_track() -> None:
    paths = sorted([*shared_path("faces_bad").glob("track_*.npz"), shared_path("faces_bad/zip_slip.npz")])
    assert len(paths) == 5
    for path in paths:
        with pytest.raises(UserError) as error:
            load_track(path)
        assert str(path) in str(error.value)
    assert not Path("/tmp/nofa_zip_slip.npy").exists()


def test_every_shared_track() -> None:
    for path in shared_path("faces/tracks").glob("*fps.npz"):
        track = load_track(path)
        assert np.isfinite(track.points68()[track.valid]).all()
