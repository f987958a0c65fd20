"""Frechet distance: reference values, closed forms, near-singular covariances."""

import json

import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.metrics.fid import frechet_distance, statistics
from tests import tolerances as tol
from tests.shared import shared_path

PAIRS = ["A|B", "A|A", "few1|few2", "few1|A", "lowrank|A", "lowrank|lowrank", "tiny|few1", "dup|A", "const|A"]


@pytest.mark.parametrize("pair", [*PAIRS, "const|const"])
def test_reference_values(pair: str) -> None:
    folder = shared_path("golden/inception")
    data, record = np.load(folder / "frechet.npz"), json.loads((folder / "frechet.json").read_text())
    sets = [statistics(data[f"features_{name}"]) for name in pair.split("|")]
    for name, (mu, sigma) in zip(pair.split("|"), sets, strict=True):
        np.testing.assert_allclose(mu, data[f"mu_{name}"], rtol=tol.METRIC_RTOL, atol=1e-6)
        np.testing.assert_allclose(sigma, data[f"sigma_{name}"], rtol=tol.METRIC_RTOL, atol=1e-9)
    got = frechet_distance(*sets)
    np.testing.assert_allclose(got, record["pairs"][pair]["torch_fidelity"], rtol=tol.METRIC_RTOL, atol=tol.FID_ATOL)
    np.testing.assert_allclose(got, frechet_distance(*sets[::-1]), rtol=1e-9, atol=1e-9)


def test_diagonal_closed_form() -> None:
    folder = shared_path("golden/inception")
    data, record = np.load(folder / "frechet.npz"), json.loads((folder / "frechet.json").read_text())
    sets = [(data[f"diag_mu{i}"], np.diag(data[f"diag_var{i}"])) for i in (1, 2)]
    np.testing.assert_allclose(frechet_distance(*sets), record["diagonal_closed_form"]["exact"], rtol=1e-10)


def test_shift_of_a_set_is_its_square() -> None:
    features = np.random.default_rng(0).normal(size=(5, 12))  # rank 4 in 12 dimensions
    shift = np.linspace(-1, 1, 12)
    distance = frechet_distance(statistics(features), statistics(features + shift))
    np.testing.assert_allclose(distance, shift @ shift, rtol=1e-9)


def test_one_dimension_and_bad_input() -> None:
    a, b = np.array([[0.0], [2.0]]), np.array([[1.0], [7.0]])  # variances 2 and 18: 16 - ... = 9 + (sqrt 18 - sqrt 2)^2
    np.testing.assert_allclose(frechet_distance(statistics(a), statistics(b)), 9 + 8, rtol=1e-12)
    with pytest.raises(UserError, match="at least two samples a side, got 1"):
        statistics(a[:1])
    with pytest.raises(UserError, match="not finite"):
        statistics(np.array([[np.nan], [1.0]]))
