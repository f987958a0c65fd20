"""Mutated network files of EG3D's and MATLAB files: read or refused with a UserError, quickly, and nothing else.

Four hundred cases by default, 20,000 with --slow, any number with NOFA_FUZZ_CASES. PyTorch files have a test of theirs.
"""

import os
import pickle
import random
import time
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from nofa_jax.errors import UserError
from nofa_jax.port.eg3d import generator_config_from
from nofa_jax.port.eg3d_file import is_network_file, read_generator
from nofa_jax.port.mat_file import MAX_BYTES
from nofa_jax.port.source import looks_like, read_source
from tests.port.eg3d_files import network_file
from tests.port.test_eg3d_file import KWARGS, toy_tensors
from tests.port.test_unpickle_fuzz import SECONDS, forbid, mutated


def seeds(folder: Path) -> dict[str, bytes]:
    """Small files of both formats; the MATLAB file once packed, once plain."""
    files = {"network": network_file(toy_tensors(), KWARGS, 64)}
    rng = np.random.default_rng(0)
    arrays = {"meanshape": rng.normal(size=(1, 9)).astype(np.float32), "tri": np.array([[1.0, 2, 3]]), "name": "x"}
    for packed in (False, True):
        scipy.io.savemat(folder / "seed.mat", {**arrays, "idBase": rng.normal(size=(9, 2))}, do_compression=packed)
        files[f"matlab-{packed}"] = (folder / "seed.mat").read_bytes()
    (folder / "seed.mat").unlink()
    return files


def outcome(path: Path) -> str:
    """The message with which a file is refused, or "" when it is read."""
    try:
        source = read_source(path)
        looks_like(source.tree)
        if is_network_file(source.tree):
            file = read_generator(source.tree, path)
            total = sum(value.nbytes for value in file.state.values())
            generator_config_from(file.init_kwargs, file.rendering_kwargs, file.state, file.rendering_resolution)
        else:
            total = sum(value.nbytes for value in source.state.values())
        assert total <= MAX_BYTES
    except UserError as error:
        return str(error)
    return ""


def check(cases: int, seed: int, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = seeds(folder)
    for module, name in ((os, "system"), (os, "popen"), (pickle, "load"), (pickle, "loads")):
        monkeypatch.setattr(module, name, forbid(name))
    refused = 0
    for case in range(cases):
        random_ = random.Random(f"{seed} {case}")
        name = random_.choice(list(files))
        path = folder / "case"
        path.write_bytes(mutated(files[name], random_, list(files.values())))
        start = time.process_time()
        try:
            message = outcome(path)
        except Exception as error:
            raise AssertionError(f"case {case} of seed {seed} ({name})") from error
        assert time.process_time() - start < SECONDS, (name, case)
        assert "\n" not in message, (name, case)
        refused += bool(message)
    assert cases // 3 < refused < cases
    assert {p.name for p in folder.iterdir()} == {"case"}


def test_mutations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(int(os.environ.get("NOFA_FUZZ_CASES", "400")), 0, tmp_path, monkeypatch)


@pytest.mark.slow
def test_many_mutations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(20_000, 1, tmp_path, monkeypatch)
