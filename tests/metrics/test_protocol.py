"""The controls must tell a good model from models that cheat in known ways."""

import numpy as np
import pytest

from nofa_jax.metrics.expression import head_angles, to_uint8
from nofa_jax.metrics.protocol import (
    METHODS,
    Pairs,
    Views,
    evaluate,
    evaluate_finetuning,
    rows_of,
    summarize,
    summarize_finetuning,
)
from nofa_jax.types import Frame
from tests.metrics.fakes import EXP_NAMES, draw, frames, read
from tests.tolerances import METRIC_RTOL

IDENTITY = np.repeat(np.arange(4), 6)


@pytest.fixture(scope="module")
def pairs() -> Pairs:
    return Pairs(frames(IDENTITY, seed=1), frames(IDENTITY, seed=2), frames(IDENTITY[::-1], seed=3), IDENTITY)


def perfect(source: Frame, drive: Frame, deform: bool) -> np.ndarray:
    exp = drive.exp_coeff if deform else np.full_like(drive.exp_coeff, 0.25)
    return draw(source.id_coeff, exp, head_angles(drive.cam2world)[:, :2])


def copies_source(source: Frame, drive: Frame, deform: bool) -> np.ndarray:
    return source.image


def ignores_expression(source: Frame, drive: Frame, deform: bool) -> np.ndarray:
    return draw(source.id_coeff, source.exp_coeff, head_angles(drive.cam2world)[:, :2])


def ignores_photo(source: Frame, drive: Frame, deform: bool) -> np.ndarray:
    return perfect(source.replace(id_coeff=np.zeros_like(source.id_coeff)), drive, deform)


def results_of(avatar, pairs: Pairs, **options) -> dict:
    return summarize(evaluate(avatar, read, pairs, **options)[0], EXP_NAMES)


def test_perfect_model_reaches_the_targets_own_scores_and_beats_every_control(pairs):
    results = results_of(perfect, pairs)
    assert list(results) == list(METHODS)
    assert results["model"] == results["target"]
    assert results["model"]["psnr"] is None  # every picture identical: infinite
    assert results["model"]["ssim"] == pytest.approx(1.0)
    assert results["model"]["aed"] < 0.003  # what rounding to 8 bits leaves
    assert results["model"]["apd"] < 0.003
    assert results["model"]["corr"]["jawOpen"] > 0.999
    assert results["wrong_source"]["corr"]["jawOpen"] > 0.999  # a stranger's face, the right expression
    for control in ("source_expression", "no_deformation", "copy_source"):
        assert results[control]["aed"] > 0.2
        assert abs(results[control]["corr"]["jawOpen"] or 0.0) < 0.5
    assert results["no_deformation"]["corr"]["jawOpen"] is None  # never moves
    assert results["source_expression"]["apd"] < 0.003 < results["copy_source"]["apd"]
    assert all(results[control]["psnr"] < 25 for control in results if control not in ("model", "target"))


def test_model_that_copies_gets_exactly_the_copy_controls_numbers(pairs):
    results = results_of(copies_source, pairs)
    assert results["model"] == results["copy_source"]
    assert results["wrong_source"]["psnr"] < results["model"]["psnr"]


def test_model_that_ignores_the_expression_equals_its_source_expression_control(pairs):
    results = results_of(ignores_expression, pairs)
    assert results["model"] == results["source_expression"] == results["no_deformation"]
    assert abs(results["model"]["corr"]["jawOpen"]) < 0.5


def test_model_that_ignores_the_photo_equals_its_wrong_source_control(pairs):
    results = results_of(ignores_photo, pairs)
    assert results["model"] == results["wrong_source"]


def test_scores_do_not_depend_on_the_batch_size_and_repeat_exactly(pairs):
    rows, pictures = evaluate(perfect, read, pairs, batch_size=24, keep=(0, 7, 23))
    again, again_pictures = evaluate(perfect, read, pairs, batch_size=24, keep=(0, 7, 23))
    assert rows == again
    others, other_pictures = evaluate(perfect, read, pairs, batch_size=7, keep=(0, 7, 23))
    for a, b in zip(rows, others, strict=True):
        assert a.keys() == b.keys()
        for key in a.keys() - {"method"}:
            assert a[key] == pytest.approx(b[key], rel=METRIC_RTOL), key
    for name in METHODS:
        np.testing.assert_array_equal(pictures[name], other_pictures[name])
        np.testing.assert_array_equal(pictures[name], again_pictures[name])
    np.testing.assert_array_equal(pictures["target"], to_uint8(pairs.target.image[[0, 7, 23]]))


def test_every_row_is_of_its_own_pair(pairs):
    rows, _ = evaluate(perfect, read, pairs, batch_size=5)
    assert [(r["method"], r["pair"]) for r in rows] == [(m, i) for m in METHODS for i in range(len(pairs))]
    assert [r["identity"] for r in rows[: len(pairs)]] == IDENTITY.tolist()
    one = summarize([r for r in rows if r["pair"] == 3], EXP_NAMES)["source_expression"]
    expected = np.abs(pairs.source.exp_coeff[3] - pairs.target.exp_coeff[3]).mean()
    assert one["aed"] == pytest.approx(expected, abs=0.003)
    assert one["n"] == 1


def test_the_model_never_sees_the_targets_picture(pairs):
    seen: list[Frame] = []

    def spy(source: Frame, drive: Frame, deform: bool) -> np.ndarray:
        seen.append(drive)
        return perfect(source, drive, deform)

    results_of(spy, pairs)
    assert len(seen) > 0
    for drive in seen:
        assert not drive.image.any()
        assert not drive.mask.any()
        assert not drive.landmarks.any()


def test_finetuning_gains_are_differences_in_db_of_the_right_views():
    """Fine-tuning that halves the error everywhere but on the photo, where it takes nine tenths away."""

    def noisy(level_photo: float, level_other: float):
        def avatar(source: Frame, drive: Frame, deform: bool) -> np.ndarray:
            is_photo = np.all(drive.cam2world == people[0].source.cam2world, axis=(1, 2))[:, None, None, None]
            error = np.where(is_photo, level_photo, level_other)
            truth = perfect(source, drive, deform)
            return np.where(truth > 0, truth - error, truth + error)

        return avatar

    identity = np.zeros(4, int)
    all_frames = frames(identity, seed=5)
    people = [Views(9, rows_of(all_frames, np.array([0])), rows_of(all_frames, np.arange(1, 4)))]
    rows = evaluate_finetuning(noisy(0.4, 0.4), lambda photo: noisy(0.04, 0.2), people)
    summary = summarize_finetuning(rows, steps=100)
    assert rows[0]["identity"] == 9
    assert summary["source_gain"] == pytest.approx(20.0, abs=0.6)
    assert summary["other_gain"] == pytest.approx(6.02, abs=0.1)
    assert (summary["n"], summary["steps"]) == (1, 100)
