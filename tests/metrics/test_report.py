"""The report says what the numbers say, also where numbers are missing."""

import json

import numpy as np
import pytest
from PIL import Image

from nofa_jax.metrics.report import bars_table, check_bars, picture_grid, report, results_table, write_report


def scores(psnr: float | None, aed: float, jaw: float | None, **more: float) -> dict:
    base = {"n": 144, "psnr": psnr, "ssim": 0.7, "psnr_mouth": 20.0, "aed": aed, "aed_estimated": aed, "apd": 0.02}
    return base | more | {"corr": {"jawOpen": jaw, "mouthSmile": 0.41}}


@pytest.fixture
def metrics() -> dict:
    results = {
        "model": scores(22.75, 0.243, 0.801),
        "source_expression": scores(22.4, 0.264, 0.01, psnr_mouth=19.7),
        "no_deformation": scores(22.0, 0.243, None),
        "wrong_source": scores(17.9, 0.245, 0.76),
        "copy_source": scores(17.8, 0.299, -0.06),
        "target": scores(None, 0.125, 0.96, psnr_mouth=float("inf")),
        "finetuned": {"n": 8, "source_gain": 5.5, "other_gain": 0.4, "steps": 100, "seconds": 12.0},
    }
    return {"protocol": {"n": 144, "resolution": 64, "ssim": "gaussian 11x11"}, "results": results}


def test_bars_are_judged_by_the_numbers(metrics):
    judged = {(b["group"], b["name"]): b for b in check_bars(metrics["results"])}
    assert judged["quickstart", "PSNR"]["reached"] is True
    assert judged["quickstart", "PSNR above copy_source"]["value"] == pytest.approx(4.95)
    assert judged["quickstart", "PSNR above wrong_source"]["reached"] is False
    assert judged["quickstart", "mouth PSNR above source_expression"]["value"] == pytest.approx(0.3)
    assert judged["quickstart", "mouth PSNR above source_expression"]["reached"] is False
    assert judged["quickstart", "jawOpen r"]["reached"] is True
    assert judged["quickstart", "jawOpen r of source_expression"]["reached"] is True
    assert judged["quickstart", "AED above source_expression"]["reached"] is True
    assert judged["quickstart", "AED above no_deformation"]["reached"] is False  # equal is not below
    assert judged["quickstart", "fine-tuning, other views, dB"]["reached"] is False
    assert judged["further", "mouthSmile r"]["reached"] is False
    assert judged["further", "eyeBlink r"]["reached"] is None  # not in the results
    assert judged["long run", "PSNR"]["reached"] is False


def test_bars_of_methods_that_did_not_run_are_not_measured(metrics):
    del metrics["results"]["finetuned"], metrics["results"]["copy_source"]
    judged = {b["name"]: b for b in check_bars(metrics["results"]) if b["group"] == "quickstart"}
    assert judged["PSNR above copy_source"]["reached"] is None
    assert judged["fine-tuning, source view, dB"]["reached"] is None
    assert "| not measured |" in bars_table(list(judged.values()))


def test_table_shows_each_method_once_and_marks_what_is_undefined(metrics):
    lines = results_table(metrics["results"]).splitlines()
    assert lines[0].count("|") == lines[1].count("|") == lines[2].count("|")
    assert [line.split("|")[1].strip() for line in lines[2:]] == [
        "**model**", "source_expression", "no_deformation", "wrong_source", "copy_source", "target",
    ]  # fmt: skip
    assert "| 22.75 | 0.700 | 20.00 | 0.243 |" in lines[2]
    assert "| – | 0.41 |" in lines[4]  # a correlation with a constant
    assert "| ∞ |" in lines[7]


def test_report_contains_table_bars_pictures_and_protocol(metrics):
    text = report(metrics | {"bars": check_bars(metrics["results"])}, ["grid_0.png"])
    assert "n = 144 pairs" in text
    assert "![grid_0](grid_0.png)" in text
    assert "the photo itself +5.50 dB, other views +0.40 dB" in text
    assert "- ssim: gaussian 11x11" in text
    assert "**no**" in text


def test_grid_places_pictures_under_their_names():
    red = np.full((2, 32, 32, 3), (255, 0, 0), np.uint8)
    blue = np.full((2, 256, 256, 3), (0, 0, 255), np.uint8)
    grid = picture_grid({"source": red, "target": blue}, cell=64)
    assert grid.shape == (16 + 64 + 2 + 64, 64 + 2 + 64, 3)
    assert np.all(grid[16:80, :64] == (255, 0, 0))
    assert np.all(grid[82:, 66:] == (0, 0, 255))
    assert np.all(grid[80:82] == 255)
    assert grid[:16, :64].min() < 128  # the name


def test_files_are_written_and_json_is_strict(metrics, tmp_path):
    rows = [{"method": "model", "pair": 0, "psnr": float("inf"), "exp": [0.1, 0.2]}]
    pictures = {"source": np.zeros((8, 16, 16, 3), np.uint8), "model": np.ones((8, 16, 16, 3), np.uint8)}
    files = write_report(tmp_path / "eval", metrics, rows, pictures, rows_per_grid=6)
    assert sorted(f.name for f in files) == ["grid_0.png", "grid_1.png", "metrics.json", "pairs.jsonl", "report.md"]
    assert sorted(f.name for f in (tmp_path / "eval").iterdir()) == sorted(f.name for f in files)

    def no_constants(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    stored = json.loads((tmp_path / "eval" / "metrics.json").read_text(), parse_constant=no_constants)
    assert stored["results"]["model"] == metrics["results"]["model"]
    assert stored["results"]["target"]["psnr_mouth"] is None
    assert len(stored["bars"]) == len(check_bars(metrics["results"]))
    row = json.loads((tmp_path / "eval" / "pairs.jsonl").read_text(), parse_constant=no_constants)
    assert row["psnr"] is None
    assert np.asarray(Image.open(tmp_path / "eval" / "grid_1.png")).shape[0] == 16 + 2 * 130 - 2
