"""The tracker deep3d: pictures and five points in; alpha, beta and cameras out whose projections lie on the face."""

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from nofa_jax.avatar import frame_of
from nofa_jax.errors import UserError
from nofa_jax.face3d.alignment import DEEP3D, STANDARD_FACE, align
from nofa_jax.face3d.bfm_head import bfm_head, load_bfm_head
from nofa_jax.face3d.camera_label import camera_label
from nofa_jax.face3d.crop import Framing, to_crop
from nofa_jax.face3d.deep3d import BATCH, Deep3D, five_points, load_deep3d
from nofa_jax.face3d.landmarker import Face, detect_photo
from nofa_jax.face3d.landmarks import LandmarkTrack, save_track
from nofa_jax.face3d.model import MorphableModel, load_morphable_model
from nofa_jax.face3d.scene import project
from nofa_jax.face3d.track import Track, faces_of, fit_clip, track_clip, track_photo
from nofa_jax.media.photo import load_photo
from nofa_jax.media.video import VideoReader
from nofa_jax.media.video_writer import VideoWriter
from nofa_jax.port.deep3d import port_deep3d
from nofa_jax.port.files import save_ported
from tests import golden
from tests.face3d.deep3d_fakes import (
    ANGLE,
    MOVE,
    Telling,
    as_seen,
    basel,
    in_cut,
    in_picture,
    made_up_coeffs,
    plain_picture,
)
from tests.face3d.test_track import check_dtypes
from tests.fakes import tiny_config
from tests.shared import shared_path

SIZE = (640, 480)


@pytest.fixture(scope="module")
def head() -> MorphableModel:
    return bfm_head(basel())


def truth(coeffs: np.ndarray, seen: LandmarkTrack) -> np.ndarray:
    """[f,68,2]: the coefficients' landmarks in the picture, by the cut that the network was shown."""
    five = five_points(seen.landmarks, seen.width, seen.height)
    cuts = [align(points - 0.5, seen.width, seen.height, STANDARD_FACE, **DEEP3D) for points in five]
    step = np.array([(seen.width / a.resized[0], seen.height / a.resized[1]) for a in cuts])
    return (in_cut(coeffs) + np.array([a.box[:2] for a in cuts])[:, None]) * step[:, None]


def projected(track: Track, head: MorphableModel) -> np.ndarray:
    """[f,68,2]: the record's landmarks in the picture, by its camera and crop."""
    points = head.landmarks(track.id_coeff, track.exp_coeff)
    inside = [project(*row) for row in zip(points, track.cam2world, track.intrinsics, strict=True)]
    return to_crop(np.array(inside), np.linalg.inv(track.crop))


def test_a_frame_by_itself_has_eg3ds_crop_and_camera(head: MorphableModel) -> None:
    rng = np.random.default_rng(0)
    coeffs = made_up_coeffs(5, rng)
    centre, zoom = rng.uniform(200, 300, (5, 2)), rng.uniform(0.5, 1.6, 5)
    seen = as_seen(in_picture(coeffs, centre, zoom), SIZE)
    wanted = truth(coeffs, seen)
    label = camera_label(coeffs[:, ANGLE], coeffs[:, MOVE])
    for f in range(5):
        one = as_seen(seen.points68()[f : f + 1], SIZE)
        track = fit_clip(head, one, coeffs=coeffs[f : f + 1])
        # Truncated sizes make the cut's two scales differ by up to a thousandth.
        np.testing.assert_allclose(projected(track, head)[0], wanted[f], atol=0.15 * zoom[f])
        assert track.error[0] < 0.03  # the cut's truncation, up to a pixel of 62 between the eyes
        pose, away = label[f, :16].reshape(4, 4), np.linalg.norm(track.cam2world[0, :3, 3])
        np.testing.assert_allclose(track.cam2world[0, :3, :3], pose[:3, :3], atol=1e-6)
        np.testing.assert_allclose(track.cam2world[0, :3, 3] / away, pose[:3, 3] / 2.7, atol=0.002)
        assert abs(away - 2.7) < 0.27
        # EG3D's crop: 700 of the 1024 pixels in which a model unit is 300, around the standard face's origin.
        full = align(five_points(one.landmarks, *SIZE)[0] - 0.5, *SIZE, STANDARD_FACE, size=1024, factor=300.0)
        np.testing.assert_allclose(1 / track.crop[0, 0, 0], 700 / full.scale, rtol=0.004)
        middle = to_crop(np.array([[0.5, 0.5]]), np.linalg.inv(track.crop[0]))[0]
        np.testing.assert_allclose(middle, centre[f], atol=2 * zoom[f])


@pytest.mark.parametrize("follow", [False, True])
def test_a_clip_moves_as_its_head_does(head: MorphableModel, follow: bool) -> None:
    """Sec. 4.1, "Modeling Head Translation": 40 pixels to the right and 12 down are just that in the projections."""
    frames = 9
    coeffs = np.tile(made_up_coeffs(1, np.random.default_rng(1)), (frames, 1))
    path = np.linspace(0, 1, frames)[:, None] * np.array([40.0, 12.0])
    zoom = np.linspace(1.0, 1.1, frames)
    seen = as_seen(in_picture(coeffs, np.array([250.0, 220.0]) + path, zoom), SIZE)
    track = fit_clip(head, seen, coeffs=coeffs, framing=Framing(follow))
    found, wanted = projected(track, head), truth(coeffs, seen)
    # A moved camera sees the face from a little aside, a moved picture does not: near points shift by more.
    assert np.abs(found - wanted)[:, 17:].max() < 1.0
    assert np.median(np.abs(found - wanted)) < 0.2
    moved = (found[-1] - found[0]).mean(axis=0)
    np.testing.assert_allclose(moved, [40.0, 12.0], atol=1.5)  # the cut is placed to whole pixels
    assert (np.ptp(track.crop, axis=0).max() == 0) != follow
    assert len({track.cam2world[f, :3, :3].tobytes() for f in range(frames)}) == 1


def test_what_a_track_holds_is_what_the_other_tracker_gives(head: MorphableModel) -> None:
    coeffs = made_up_coeffs(12, np.random.default_rng(2))
    points = in_picture(coeffs, np.tile([[260.0, 230.0]], (12, 1)), np.ones(12))
    valid = np.arange(12) % 5 != 3
    seen = as_seen(points, SIZE, valid)
    ours = fit_clip(head, seen, coeffs=coeffs[valid])
    assert ours.id_coeff.shape == (80,)
    assert ours.exp_coeff.shape == (12, 64)
    np.testing.assert_array_equal(ours.exp_coeff[valid], coeffs[valid, 80:144])
    np.testing.assert_allclose(ours.id_coeff, coeffs[valid, :80].mean(axis=0), rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.isnan(ours.error), ~valid)
    check_dtypes(ours)
    with pytest.raises(ValueError, match="bfm head is tracked by deep3d"):
        fit_clip(head, seen)
    with pytest.raises(ValueError, match="procedural head is tracked by landmarks"):
        fit_clip(load_morphable_model("procedural"), seen, coeffs=coeffs[valid])


def test_frames_go_through_in_batches_of_one_size() -> None:
    frames, network = BATCH + 3, Telling()
    answers = np.random.default_rng(3).normal(size=(frames, 257)).astype(np.float32)
    points = in_picture(made_up_coeffs(1, np.random.default_rng(3)), np.array([[320.0, 240.0]]), np.ones(1))
    valid = np.arange(frames) != 4
    seen = as_seen(np.tile(points, (frames, 1, 1)), SIZE, valid)
    pictures = (plain_picture(i, SIZE) for i in range(frames))
    found = Deep3D(network, answers).coefficients(faces_of(seen, pictures))
    np.testing.assert_array_equal(found, answers[valid])
    assert network.batches == [BATCH]
    assert Deep3D(network, answers).coefficients(iter([])).shape == (0, 257)


def test_missing_files_say_where_they_come_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOFA_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match=r"epoch_20\.pth from https://drive.*nofa port deep3d .*deep3d\.safetensors"):
        load_deep3d()
    with pytest.raises(UserError, match=r"BFM_model_front\.mat from https://faces\.dmi.*nofa port bfm "):
        load_morphable_model("bfm")
    with pytest.raises(UserError, match=r"none\.pth does not exist; wanted epoch_20\.pth"):
        load_deep3d(tmp_path / "none.pth")
    save_ported(
        tmp_path / "bfm.safetensors", {"buffers": {}}, {"kind": "lpips-vgg", "options": {}, "porter_version": "0"}
    )
    with pytest.raises(UserError, match="was ported as lpips-vgg, not as bfm"):
        load_morphable_model("bfm")


def test_the_published_file_is_a_head_in_eg3ds_world() -> None:
    path = shared_path("golden/face3d/made_up_BFM_model_front.mat")
    head = load_morphable_model("bfm", path)
    assert head is load_bfm_head(path)
    stored = golden.arrays("face3d", "face_model")
    coeffs = stored["coeff"]
    np.testing.assert_allclose(
        (head.vertices(coeffs[:, :80], coeffs[:, 80:144]) - [0, 0.006, 0.161]) / 0.27, stored["shape"], atol=2e-6
    )
    assert (head.name, head.num_id, head.num_exp, len(head.exp_names)) == ("bfm", 80, 64, 64)


def test_five_points_align_as_the_releases_detections_do() -> None:
    """On its example photos: measured rms 3 % in scale, 2.7 pixels of the cut in place, no bias in scale."""
    folder = shared_path("faces/deep3d")
    off = []
    for path in sorted(folder.glob("*.??g")):
        image = load_photo(path)
        size = image.shape[1::-1]
        face = detect_photo(image, shared_path("faces/models/face_landmarker.task"), name=path.name)
        theirs = np.loadtxt(folder / "detections" / f"{path.stem}.txt")
        a, b = (align(p, *size, STANDARD_FACE, **DEEP3D) for p in (five_points(face.landmarks, *size), theirs))
        off.append([np.log(a.scale / b.scale), *(a.offset - b.offset) * b.scale])
    assert len(off) == 13
    scale, x, y = np.sqrt(np.mean(np.square(off), axis=0))
    assert scale < 0.04
    assert max(x, y) < 3.5
    assert abs(np.mean(off, axis=0)[0]) < 0.015


def test_a_photo_and_a_clip_go_through_the_whole_chain(
    head: MorphableModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files in, tracks out; the network's answers follow the pictures it was shown."""
    network = Telling()
    answers = made_up_coeffs(7, np.random.default_rng(4))
    monkeypatch.setattr("nofa_jax.face3d.track.load_deep3d", lambda path=None: Deep3D(network, answers))
    points = in_picture(answers[:1], np.array([[80.0, 80.0]]), np.full(1, 0.4))
    valid = np.array([True, True, False, True, True, True])
    seen = as_seen(np.tile(points, (6, 1, 1)), (160, 160), valid)
    save_track(tmp_path / "a.npz", seen)
    with VideoWriter(tmp_path / "a.mp4", Fraction(25)) as writer:
        for i in range(6):
            writer.write(plain_picture(i + 1, (160, 160)))
    track = track_clip(VideoReader(tmp_path / "a.mp4"), head, track_file=tmp_path / "a.npz")
    np.testing.assert_array_equal(track.exp_coeff[valid], answers[[1, 2, 4, 5, 6], 80:144])
    np.testing.assert_allclose(track.exp_coeff[2], (answers[2, 80:144] + answers[4, 80:144]) / 2, atol=1e-6)
    face = Face(seen.landmarks[0], seen.blendshapes[0], seen.matrix[0])
    monkeypatch.setattr("nofa_jax.face3d.track.detect_photo", lambda *unused: face)
    photo = track_photo(plain_picture(3, (160, 160)), head)
    np.testing.assert_array_equal(photo.exp_coeff[0], answers[3, 80:144])
    frame = frame_of(plain_picture(3, (160, 160)), photo, tiny_config(), head)  # what an avatar is made from
    assert (frame.id_coeff.shape, frame.exp_coeff.shape) == ((1, 80), (1, 64))
    assert 0.2 < np.asarray(frame.mask).mean() < 0.8


@pytest.mark.slow
def test_the_networks_file_gives_its_coefficients(tmp_path: Path) -> None:
    """Rule-made weights, ported and read again, on a photo that is already aligned."""
    state = golden.make_state("face3d", golden.manifest("face3d", "recon")["weights"])
    facts = {"kind": "deep3d", "options": {}, "porter_version": "0"}
    save_ported(tmp_path / "deep3d.safetensors", port_deep3d({"net_recon": state})[1], facts)
    stored = golden.arrays("face3d", "recon")
    network = load_deep3d(tmp_path / "deep3d.safetensors")
    # Five points that the alignment leaves where they are.
    five = STANDARD_FACE[:, :2] * 101.9999 * np.array([1, -1]) + np.array([112.0, 111.0]) + 0.5
    found = network.coefficients((image, five) for image in stored["image_u8"])
    golden.assert_parity(found, stored["coeff"])
