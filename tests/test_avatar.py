"""Avatar: from a photo to pictures, with a random model and a rendered head in place of a person."""

import dataclasses
from fractions import Fraction
from pathlib import Path

import jax
import numpy as np
import pytest

from nofa_jax import avatar as avatar_module
from nofa_jax import build
from nofa_jax.avatar import BATCH, Avatar, camera_for_pose
from nofa_jax.errors import UserError
from nofa_jax.face3d.crop import FRAMINGS, Framing
from nofa_jax.face3d.model import load_morphable_model
from nofa_jax.face3d.pose import rotation_angle_deg
from nofa_jax.face3d.scene import project
from nofa_jax.face3d.track import fit_clip, fit_photo, intrinsics
from nofa_jax.media.video import VideoReader
from nofa_jax.media.video_writer import VideoWriter
from nofa_jax.train.finetune import Finetuned
from tests.quick import fast_compile
from tests.tiny_run import SIZE, Clip, render_clip, save_tiny_run


@pytest.fixture(scope="module")
def clip() -> Clip:
    return render_clip(1)


@pytest.fixture(scope="module")
def avatar(clip: Clip, tmp_path_factory: pytest.TempPathFactory) -> Avatar:
    """Of the clip's only picture; its known landmarks take the detector's place."""
    run = save_tiny_run(tmp_path_factory.mktemp("run"))
    with pytest.MonkeyPatch.context() as patch, fast_compile():
        patch.setattr(avatar_module, "find_landmarker", lambda path: path)
        patch.setattr(avatar_module, "track_photo", lambda pixels, head, *a, **k: fit_photo(head, clip.points[0]))
        return Avatar.from_image(clip.images[0], run, finetune_steps=0)


def test_the_photo_is_aligned_cut_out_and_fitted(avatar: Avatar, clip: Clip) -> None:
    photo = avatar.photo
    assert photo.image.shape == (1, 32, 32, 3)
    mask = np.asarray(photo.mask[0])
    np.testing.assert_allclose(np.asarray(photo.image[0])[mask < 0.01], 1.0, atol=0.02)  # white around the head
    assert 0.4 < mask.mean() < 0.9
    turned_by = rotation_angle_deg(np.asarray(photo.cam2world)[:, :3, :3], clip.cam2world[:1, :3, :3])[0]
    assert turned_by < 3.0
    seen = project(
        avatar.head.landmarks(np.asarray(photo.id_coeff[0]), np.asarray(photo.exp_coeff[0])),
        np.asarray(photo.cam2world[0]),
        intrinsics(),
    )
    assert np.median(np.linalg.norm(seen - np.asarray(photo.landmarks[0]), axis=1)) < 0.01


@pytest.mark.parametrize(
    ("angles", "moved"),
    [
        ({"yaw": 20.0}, (1, 0)),  # the nose to the picture's right
        ({"yaw": -20.0}, (-1, 0)),
        ({"pitch": 20.0}, (0, -1)),  # and up
        ({"pitch": -20.0}, (0, 1)),
    ],
)
def test_the_head_turns_where_the_angles_say(angles: dict[str, float], moved: tuple[int, int]) -> None:
    head = load_morphable_model("procedural")
    points = head.landmarks(np.zeros(head.num_id), np.zeros(head.num_exp))

    def nose(**angles: float) -> np.ndarray:
        """Of the nose's tip, seen from the middle of the jaw line's ends."""
        seen = project(points, camera_for_pose(*(angles.get(n, 0.0) for n in ("yaw", "pitch", "roll"))), intrinsics())
        return seen[30] - seen[[0, 16]].mean(axis=0)

    change = nose(**angles) - nose()
    assert change @ np.array(moved) > 0.03
    assert abs(change @ np.array(moved)[::-1]) < 0.01


def test_roll_is_clockwise_and_in_place() -> None:
    head = load_morphable_model("procedural")
    points = head.landmarks(np.zeros(head.num_id), np.zeros(head.num_exp))
    straight, rolled = (project(points, camera_for_pose(0.0, 0.0, roll), intrinsics()) - 0.5 for roll in (0.0, 30.0))
    c, s = np.cos(np.radians(30)), np.sin(np.radians(30))
    np.testing.assert_allclose(rolled, straight @ np.array([[c, s], [-s, c]]), atol=1e-5)


@pytest.mark.parametrize("wrong", [{"yaw": 91.0}, {"pitch": -61.0}, {"roll": float("nan")}])
def test_angles_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        camera_for_pose(**({"yaw": 0.0, "pitch": 0.0, "roll": 0.0} | wrong))


def test_pictures_do_not_depend_on_how_many_are_asked_for(avatar: Avatar) -> None:
    angles = np.linspace(-20, 20, BATCH + 2)
    cameras = np.stack([camera_for_pose(angle, 0.0, 0.0) for angle in angles])
    betas = np.tile(avatar.beta({"jawOpen": 0.5}), (len(angles), 1))
    with fast_compile():
        together = avatar.render_frames(cameras, betas)
        assert together.shape == (BATCH + 2, 32, 32, 3)
        assert together.dtype == np.uint8
        for i in (0, BATCH - 1, BATCH + 1):
            alone = avatar.render(yaw=angles[i], expression={"jawOpen": 0.5})
            assert np.abs(alone.astype(int) - together[i]).max() <= 1  # a rounding


def test_expressions_by_name(avatar: Avatar) -> None:
    own = np.asarray(avatar.photo.exp_coeff[0])
    np.testing.assert_array_equal(avatar.beta(), own)
    jaw = avatar.head.expression_index("jawOpen")[0]
    beta = avatar.beta({"jawOpen": 0.7, "mouthSmile": 0.2})
    assert beta[jaw] == np.float32(0.7)
    assert np.count_nonzero(beta) == 3  # both corners of the mouth
    kept = avatar.beta({"jawOpen": 0.7}, own + np.float32(0.1))
    np.testing.assert_array_equal(np.delete(kept, jaw), np.delete(own + np.float32(0.1), jaw))
    with pytest.raises(UserError, match=r"jawOpne.*did you mean jawOpen"):
        avatar.beta({"jawOpne": 0.5})
    with pytest.raises(UserError, match="jawOpen=1.5"):
        avatar.beta({"jawOpen": 1.5})
    with pytest.raises(UserError, match="exp_coeff has shape"):
        avatar.beta(None, np.zeros(3))


def test_finetuning_changes_c_alone_and_brings_the_photo_nearer(avatar: Avatar) -> None:
    with fast_compile():
        tuned = avatar.finetuned(30)
        own = np.asarray(avatar.photo.cam2world[0])
        pictures = [one.render(cam2world=own).astype(float) / 127.5 - 1 for one in (avatar, tuned)]
    errors = [np.mean((picture - np.asarray(avatar.photo.image[0])) ** 2) for picture in pictures]
    assert errors[1] < 0.7 * errors[0]
    before, after = avatar.variables["params"], tuned.variables["params"]
    for name in before:
        same = jax.tree.all(jax.tree.map(lambda a, b: np.array_equal(a, b), before[name], after[name]))
        assert same == (name != "compensation"), name
    assert avatar.finetuned(0) is avatar


def test_a_photo_is_fine_tuned_once(avatar: Avatar, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second time, the cache answers; another number of steps is another avatar."""
    asked = []

    def fake(config, model):
        def tune(variables, photo, steps):
            asked.append(steps)
            c = jax.tree.map(lambda x: x + len(asked), variables["params"]["compensation"])
            params = {**variables["params"], "compensation": c}
            return Finetuned({**variables, "params": params}, 1, 0.0, {}, [], "steps")

        return tune

    monkeypatch.setattr(build, "finetuner", fake)
    with fast_compile():
        one, again, other, default = (avatar.finetuned(steps) for steps in (3, 3, 4, None))
    assert asked == [3, 4, None]
    bias = [np.asarray(a.variables["params"]["compensation"]["to_planes"]["bias"]) for a in (one, again, other)]
    np.testing.assert_array_equal(bias[0], bias[1])
    np.testing.assert_allclose(bias[2] - bias[0], 1.0)
    assert default.volume.planes.shape == avatar.volume.planes.shape


def test_turntable_swings_and_comes_back(avatar: Avatar, tmp_path: Path) -> None:
    with fast_compile():
        avatar.turntable(tmp_path / "turn.mp4", {"jawOpen": 0.5}, seconds=0.5, rate=20)
    reader = VideoReader(tmp_path / "turn.mp4")
    frames = [frame.image.astype(int) for frame in reader]
    assert (len(frames), reader.info.rate) == (10, 20)
    assert np.abs(frames[0] - frames[5]).mean() < np.abs(frames[0] - frames[2]).mean()


def test_a_folder_without_a_run(tmp_path: Path, clip: Clip, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(avatar_module, "find_landmarker", lambda path: path)
    with pytest.raises(UserError, match="is not a training run"):
        Avatar.from_image(clip.images[0], tmp_path)


def test_the_drivers_place_against_the_photos_moves_the_head(avatar: Avatar, clip: Clip, tmp_path: Path) -> None:
    """Sec. 4.1, "Modeling Head Translation": the same head in a video of twice the size, moved by known pixels."""
    with VideoWriter(tmp_path / "a.mp4", Fraction(25)) as writer:
        writer.write(np.kron(clip.images[0], np.ones((2, 2, 1), np.uint8)))
    reader = VideoReader(tmp_path / "a.mp4")
    square = avatar.framing("source", reader)
    for shift in ((0.0, 0.0), (40.0, -16.0)):
        seen = dataclasses.replace(clip, points=2 * clip.points + shift).landmark_track(size=2 * SIZE)
        with fast_compile():
            track = fit_clip(avatar.head, seen, framing=square)
        points = avatar.head.landmarks(track.id_coeff, track.exp_coeff[0])
        moved = project(points, track.cam2world[0], track.intrinsics[0]) - np.asarray(avatar.photo.landmarks[0])
        side = 1 / track.crop[0, 0, 0]
        np.testing.assert_allclose(side * np.median(moved, axis=0), shift, atol=0.01 * side)
    assert [avatar.framing(name, reader) for name in FRAMINGS[:3]] == [Framing(None), Framing(False), Framing(True)]
