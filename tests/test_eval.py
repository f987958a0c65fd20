"""eval.py from flags to files, on a toy world whose model and regressor are known."""

import importlib.util
import json
from pathlib import Path
from types import SimpleNamespace

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from ml_collections import ConfigDict

from nofa_jax import build
from nofa_jax.cli import exit_code
from nofa_jax.data.records import open_dataset
from nofa_jax.data.writer import encode_record, write_dataset
from nofa_jax.errors import UserError
from nofa_jax.metrics.expression import Regressor, to_uint8
from nofa_jax.metrics.protocol import METHODS
from nofa_jax.train import checkpoint
from nofa_jax.train.step import Rendering
from tests.metrics.fakes import EXP_NAMES, SIZE, frames, read

ROOT = Path(__file__).parents[1]


class ToyModel(nn.Module):
    """Draws the toy world as `fakes.draw` does, off by `params/error`: E reads the colour, D moves the expression."""

    def apply(self, variables, *inputs, method, **options):
        if method == "volume":
            colour = inputs[0][:, 2, 2, :]
            return SimpleNamespace(planes=colour, ws=colour)
        colour, _, cam2world, _, _, exp_coeff = inputs
        n, e = exp_coeff.shape
        exp_coeff = exp_coeff if options["deform"] else jnp.full((n, e), 0.25)
        image = jnp.broadcast_to(colour[:, None, None, :], (n, SIZE, SIZE, 3)) + variables["params"]["error"]
        bands = jnp.repeat(2.0 * exp_coeff - 1.0, SIZE // e, axis=1)
        image = image.at[:, 8:16].set(jnp.broadcast_to(bands[:, None, :, None], (n, 8, SIZE, 3)))
        toward = cam2world[:, :3, 3] - jnp.array([[0.0, 0.0, 0.2]])
        yaw, pitch = jnp.arctan2(toward[:, 0], toward[:, 2]), jnp.arcsin(toward[:, 1] / 2.7)
        for rows, angle in ((slice(16, 20), yaw), (slice(20, 24), pitch)):
            image = image.at[:, rows].set(jnp.broadcast_to(angle[:, None, None, None], (n, 4, SIZE, 3)))
        return SimpleNamespace(image=image)


def toy_records(identities: range) -> list[dict]:
    identity = np.repeat(np.array(identities), 6)
    world = frames(identity, seed=3)
    return [
        encode_record(
            {
                **{k: getattr(world, k)[i] for k in ("id_coeff", "exp_coeff", "cam2world", "intrinsics")},
                "landmarks": world.landmarks[i],
                "image": to_uint8(world.image[i]),
                "mask": np.full((SIZE, SIZE), 255, np.uint8),
                "depth": np.ones((SIZE, SIZE), np.float32),
                "identity": identity[i],
                "clip": identity[i],
                "frame": i % 6,
                "time": 0.1 * i,
                "source": "toy",
                "licence": "none",
            },
            "png",
        )
        for i in range(len(identity))
    ]


@pytest.fixture(scope="module")
def script():
    """eval.py as a module; its flags live as long as the tests of this file (other scripts have some of the same)."""
    others = {name: flags.FLAGS[name] for name in flags.FLAGS}
    for name in {"workdir"} & others.keys():
        delattr(flags.FLAGS, name)
    spec = importlib.util.spec_from_file_location("eval_script", ROOT / "eval.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    for name in set(flags.FLAGS) - others.keys() | {"workdir"}:
        delattr(flags.FLAGS, name)
    if "workdir" in others:
        flags.FLAGS["workdir"] = others["workdir"]


@pytest.fixture
def evaluated(script, tmp_path, monkeypatch):
    """Runs eval.py on the toy world; `run(**flags)` returns the directory of its results."""
    metadata = {"head": "toy", "background": "white", "settings": {"seed": 3}, "exp_names": list(EXP_NAMES)}
    splits = {"train": iter(toy_records(range(2))), "test": iter(toy_records(range(4, 10)))}
    path = write_dataset(tmp_path / "data", splits, metadata, n_id=3, n_exp=len(EXP_NAMES), coding="png")
    config = ConfigDict({"model": {"output_size": SIZE}})
    variables = {"params": {"error": np.float32(0.2)}}

    class ToyRegressor(Regressor):
        fingerprint = "toy"
        __call__ = staticmethod(read)  # ty: ignore[incompatible-attribute-override]

    def finetuner(variables, photo, steps, show_progress):
        assert photo.image.shape[0] == 1
        assert steps == 30
        return SimpleNamespace(variables={"params": {"error": np.float32(0.02)}})

    monkeypatch.setattr(checkpoint, "load", lambda workdir, items, step=None: SimpleNamespace(step=70))
    monkeypatch.setattr(build, "load", lambda workdir, step=None: (config, ToyModel(), variables))
    monkeypatch.setattr(build, "dataset", lambda config: open_dataset(path))
    monkeypatch.setattr(build, "rendering", lambda config: Rendering(resolution=SIZE, output_size=SIZE))
    monkeypatch.setattr(build, "finetuner", lambda config, model: finetuner, raising=False)
    monkeypatch.setattr(
        script, "cached_regressor", lambda dataset: ToyRegressor({}, {}, EXP_NAMES, {"accuracy": {"aed": 0.0}})
    )

    def run(**options) -> Path:
        options = {"workdir": tmp_path / "run", "pairs": 24, "finetune_identities": 3, "finetune_steps": 30} | options
        with flagsaver.flagsaver():
            flags.FLAGS(["eval.py", *(f"--{name}={value}" for name, value in options.items())])
            assert script.main() == 0
        return Path(options.get("out", tmp_path / "run" / "eval"))

    return run


def test_metrics_of_a_known_model(evaluated):
    out = evaluated()
    metrics = json.loads((out / "metrics.json").read_text())
    results, protocol = metrics["results"], metrics["protocol"]
    assert set(results) == {*METHODS, "finetuned"}
    assert results["model"]["corr"]["jawOpen"] > 0.999
    assert results["no_deformation"]["corr"]["jawOpen"] is None
    assert results["model"]["aed"] < 0.01 < results["source_expression"]["aed"]
    assert results["wrong_source"]["psnr"] < results["model"]["psnr"] < 30.0
    assert results["target"]["psnr"] is None
    assert results["finetuned"]["source_gain"] == pytest.approx(20.0, abs=1.5)  # a tenth of the error
    assert results["finetuned"]["other_gain"] == pytest.approx(20.0, abs=1.5)
    assert results["finetuned"]["n"] == 3
    assert protocol["n"] == 24
    assert protocol["resolution"] == SIZE
    assert protocol["background"] == "white"
    assert protocol["seeds"] == {"pairs": 0, "finetuning": 0}
    assert protocol["checkpoint"]["step"] == 70
    assert len(protocol["checkpoint"]["params_sha256"]) == 64
    assert protocol["regressor"] == {"fingerprint": "toy", "accuracy": {"aed": 0.0}}
    assert {"git", "date", "ssim", "crop", "value_range"} <= protocol.keys()

    rows = [json.loads(line) for line in (out / "pairs.jsonl").read_text().splitlines()]
    assert len(rows) == 24 * len(METHODS) + 3
    mean = np.mean([row["psnr"] for row in rows if row["method"] == "model"])
    assert mean == pytest.approx(results["model"]["psnr"])
    text = (out / "report.md").read_text()
    assert "| **model** |" in text
    assert all((out / name).is_file() for name in ("grid_0.png", "grid_1.png"))


def test_numbers_repeat_and_do_not_depend_on_the_batch_size(evaluated, tmp_path):
    outs = [
        evaluated(out=tmp_path / name, batch_size=size, finetune_identities=0)
        for name, size in (("a", 8), ("b", 8), ("c", 5))
    ]
    first, second, third = (json.loads((out / "metrics.json").read_text())["results"] for out in outs)
    assert "finetuned" not in first
    assert first == second
    for method in METHODS:
        assert first[method]["psnr"] == pytest.approx(third[method]["psnr"])
        assert first[method]["corr"] == pytest.approx(third[method]["corr"])
    assert (outs[0] / "pairs.jsonl").read_bytes() == (outs[1] / "pairs.jsonl").read_bytes()


def test_too_many_pairs_or_people_is_a_users_error(evaluated):
    with pytest.raises(UserError, match="different pairs"):
        evaluated(pairs=1000)
    with pytest.raises(UserError, match="identities to fine-tune on, not 7"):
        evaluated(finetune_identities=7)


def test_missing_run_is_one_line_and_exit_code_2(script, tmp_path, capsys):
    with flagsaver.flagsaver():
        flags.FLAGS(["eval.py", f"--workdir={tmp_path / 'nothing'}"])
        assert exit_code(script.main) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("error: ")
    assert "nothing" in lines[0]
