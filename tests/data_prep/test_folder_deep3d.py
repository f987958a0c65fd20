"""The tracker deep3d in `python -m data_prep folder`: records, resuming, gates, and what it refuses."""

from pathlib import Path

import numpy as np
import pytest

from data_prep.__main__ import run
from nofa_jax import build
from nofa_jax.data.check import check_dataset
from nofa_jax.data.records import open_dataset
from nofa_jax.errors import UserError
from nofa_jax.face3d.deep3d import Deep3D
from nofa_jax.face3d.model import load_morphable_model
from nofa_jax.face3d.scene import project
from nofa_jax.port.files import save_ported
from tests.face3d.deep3d_fakes import Telling, basel, made_up_coeffs
from tests.fakes import tiny_config
from tests.shared import shared_path

FRAMES = 5


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """in/clip.mp4, bfm.safetensors, and something in place of the network's file."""
    folder = tmp_path_factory.mktemp("deep3d")
    (folder / "in").mkdir()
    run(["portrait", f"--video={folder}/in/clip.mp4", "--size=256", f"--seconds={FRAMES / 25}", "--seed=3"])
    model = basel()
    arrays = {name: np.asarray(getattr(model, name)) for name in model.__dataclass_fields__}
    v, f = len(model.mean), len(model.triangles)
    options = {"vertices": v, "triangles": f, "id": 80, "exp": 64, "tex": 80, "keypoints": 68}
    save_ported(
        folder / "bfm.safetensors", {"buffers": arrays}, {"kind": "bfm", "options": options, "porter_version": "0"}
    )
    (folder / "deep3d.pth").write_bytes(b"one")
    return folder


@pytest.fixture
def network(monkeypatch: pytest.MonkeyPatch) -> Deep3D:
    """The stand-in answers to every picture of the rendered head the same."""
    answers = np.tile(made_up_coeffs(1, np.random.default_rng(5)), (26, 1))
    fake = Deep3D(Telling(), answers)
    monkeypatch.setattr("nofa_jax.compile_cache.enable", lambda: None)
    for module in ("data_prep.preparation", "data_prep.tracker"):
        monkeypatch.setattr(f"{module}.load_deep3d", lambda path=None: fake)
    return fake


def command(media: Path, out: Path, *options: str) -> list[str]:
    landmarker = shared_path("faces") / "models/face_landmarker.task"
    files = [f"--deep3d={media}/deep3d.pth", f"--bfm={media}/bfm.safetensors"]
    settings = ["--tracker=deep3d", "--size=64", "--workers=0", "--split=time", "--min_frames=3"]
    return ["folder", f"{media}/in", f"--out={out}", f"--landmarker={landmarker}", *files, *settings, *options]


def test_records_are_those_of_the_network_and_nothing_is_done_twice(
    media: Path, tmp_path: Path, network: Deep3D, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "set"
    assert run(command(media, out, "--max_error=1")) == 0
    assert check_dataset(out).problems == []
    dataset = open_dataset(out)
    told = {name: dataset.metadata[name] for name in ("head", "tracker", "background", "n_id", "n_exp")}
    assert told == {"head": "bfm", "tracker": "deep3d", "background": "keep", "n_id": 80, "n_exp": 64}
    head = load_morphable_model("bfm", media / "bfm.safetensors")
    assert dataset.num_frames("train") == FRAMES
    for i in range(FRAMES):
        record = dataset.record("train", i)
        np.testing.assert_array_equal(record["exp_coeff"], network.variables[0, 80:144])
        np.testing.assert_allclose(record["id_coeff"], network.variables[0, :80], atol=1e-6)
        points = head.landmarks(record["id_coeff"], record["exp_coeff"])
        off = project(points, record["cam2world"], record["intrinsics"]) - record["landmarks"]
        assert np.median(np.linalg.norm(off, axis=1)) < 0.1  # in the picture, though the answers know nothing of it
    assert "exp" in (out / "report.html").read_text()

    def forbidden(*unused: object) -> None:
        raise AssertionError("done before")

    with monkeypatch.context() as patch:
        patch.setattr(Deep3D, "coefficients", forbidden)
        again = command(media, tmp_path / "small", "--max_error=1", "--size=32", f"--work={out}.work")
        assert run(again) == 0
        patch.setattr("data_prep.preparation.network_key", lambda path: "of another file")
        with pytest.raises(AssertionError, match="done before"):
            run(command(media, tmp_path / "new", "--max_error=1", f"--work={out}.work"))


@pytest.mark.usefixtures("network")
def test_gates_hold_for_this_tracker_too(media: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"the fit is off by more than 0\.001 eye distances"):
        run(command(media, tmp_path / "set", "--max_error=0.001"))


def test_a_face_that_the_network_makes_nothing_of_is_left_out(media: Path, tmp_path: Path, network: Deep3D) -> None:
    """Such a record would fail the check of the whole set."""
    network.variables[:, 80] = 11
    with pytest.raises(UserError, match="coefficients beyond 10 "):
        run(command(media, tmp_path / "set", "--max_error=1"))


def test_heads_and_trackers_that_do_not_fit(media: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="there is no tracker 'deep3d' for the head ict: take landmarks"):
        run(["folder", str(media), f"--out={tmp_path}/out", "--tracker=deep3d", "--head=ict"])
    monkeypatch.setenv("NOFA_WEIGHTS", str(tmp_path))
    with pytest.raises(UserError, match="nofa port bfm"):
        run(["folder", str(media), f"--out={tmp_path}/out", "--tracker=deep3d"])
    with pytest.raises(UserError, match="nofa port deep3d"):
        run(["folder", str(media), f"--out={tmp_path}/out", "--head=bfm", f"--bfm={media}/bfm.safetensors"])


@pytest.mark.slow
def test_the_fit_gives_basel_coefficients_without_the_network(media: Path, tmp_path: Path) -> None:
    out = tmp_path / "set"
    assert run(command(media, out, "--head=bfm", "--tracker=landmarks", "--max_error=1")) == 0
    assert check_dataset(out).problems == []
    dataset = open_dataset(out)
    assert (dataset.metadata["head"], dataset.metadata["tracker"]) == ("bfm", "landmarks")
    beta = np.stack([dataset.record("train", i)["exp_coeff"] for i in range(FRAMES)])
    assert beta.min() < 0 < beta.max()
    head = load_morphable_model("bfm", media / "bfm.safetensors", "landmarks")
    for i in range(FRAMES):
        record = dataset.record("train", i)
        points = head.landmarks(record["id_coeff"], record["exp_coeff"])
        off = project(points, record["cam2world"], record["intrinsics"]) - record["landmarks"]
        assert np.median(np.linalg.norm(off, axis=1)) < 0.02


def test_training_takes_the_head_and_the_tracker_that_the_data_has() -> None:
    config = tiny_config()
    made = {"n_id": 80, "n_exp": 64, "head": "bfm"}
    with pytest.raises(UserError, match=r"config\.data\.head is procedural, .*--config\.data\.head=bfm"):
        build.coefficient_counts(config, made)
    with config.unlocked():
        config.data.head = "bfm"
    assert build.coefficient_counts(config, made) == (80, 64)
    with pytest.raises(UserError, match=r"of the tracker landmarks, not of deep3d: give --config\.data\.tracker=landm"):
        build.coefficient_counts(config, made | {"tracker": "landmarks"})
    with config.unlocked():
        config.data.tracker = "landmarks"
    assert build.coefficient_counts(config, made | {"tracker": "landmarks"}) == (80, 64)
