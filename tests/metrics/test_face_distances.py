"""CSIM, AED, APD and AKD in the variants that the literature reports."""

import json
from typing import Any

import numpy as np
import pytest

from nofa_jax.metrics.face import aed, akd, apd, coefficient_distance
from nofa_jax.metrics.identity import csim
from tests import tolerances as tol
from tests.shared import shared_path


def golden() -> tuple[Any, dict]:
    folder = shared_path("golden/metrics")
    return np.load(folder / "metrics.npz"), json.loads((folder / "metrics.json").read_text())


def close(got: Any, wanted: Any) -> None:
    np.testing.assert_allclose(got, wanted, rtol=tol.METRIC_RTOL)


def test_expression_and_pose() -> None:
    """Deep3DFaceRecon: 80 identity, 64 expression, 80 texture, 3 angles, 27 illumination, 3 translation."""
    data, record = golden()
    a, b, wanted = data["coeff_a"], data["coeff_b"], record["coeff"]
    exp, angle = (a[:, 80:144], b[:, 80:144]), (a[:, 224:227], b[:, 224:227])
    pose = tuple(np.concatenate([x[:, 224:227], x[:, 254:257]], axis=1) for x in (a, b))
    close(aed(*exp), wanted["per_frame_aed"])
    close(aed(*exp).mean(), wanted["aed_mean_l1_exp64"])
    close(apd(*angle), wanted["per_frame_apd_angle3"])
    close(apd(*angle).mean(), wanted["apd_mean_l1_angle3"])
    close(apd(*pose).mean(), wanted["apd_mean_l1_angle3_trans3"])
    close(coefficient_distance(*exp, "sum_l1").mean(), wanted["aed_sum_over_dims_mean_over_frames"])
    close(coefficient_distance(*angle, "l2").mean(), wanted["apd_angle3_l2_norm_mean_over_frames"])
    close(coefficient_distance(*exp, "l2").mean(), wanted["aed_l2_norm_mean_over_frames"])
    close(np.sqrt(coefficient_distance(*exp, "mean_square").mean()), wanted["aed_rmse_exp64"])
    close(np.sqrt(coefficient_distance(*angle, "mean_square").mean()), wanted["apd_rmse_angle3"])


def test_embeddings() -> None:
    data, record = golden()
    close(csim(data["emb_a"], data["emb_b"]), record["csim"]["per_frame"])
    close(csim(3 * data["emb_a"], data["emb_b"]).mean(), record["csim"]["mean"])
    assert np.isnan(csim(np.zeros(4), np.ones(4)))


def test_landmarks() -> None:
    data, record = golden()
    per_coordinate, per_point = akd(data["lm_a"], data["lm_b"])
    assert per_point.shape == (6,)
    close(per_coordinate.mean(), record["akd"]["mean_l1_per_coordinate"])
    close(per_point.mean(), record["akd"]["mean_euclid_per_point"])


def test_unknown_variant() -> None:
    with pytest.raises(ValueError, match="unknown variant 'rmse'"):
        coefficient_distance(np.zeros(3), np.zeros(3), "rmse")
