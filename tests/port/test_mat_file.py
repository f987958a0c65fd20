"""Our reader of MATLAB files against scipy's, and what it refuses."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import scipy.io

from nofa_jax.errors import UserError
from nofa_jax.port.mat_file import load_mat
from tests.shared import shared_path


@pytest.mark.parametrize("packed", [False, True])
def test_numbers_as_scipy_reads_them(tmp_path: Path, packed: bool) -> None:
    rng = np.random.default_rng(0)
    numeric = {
        "single": rng.normal(size=(4, 3)).astype(np.float32),
        "double": rng.normal(size=(2, 3, 4)),
        "whole": np.array([[1.0, 2.0]]),  # kept as bytes in the file
        "empty": np.zeros((0, 3)),
        **{f"i{bits}": np.array([[-1, 7]]).astype(f"i{bits}") for bits in (1, 2, 4, 8)},
        **{f"u{bits}": np.array([[1, 7]]).astype(f"u{bits}") for bits in (1, 2, 4, 8)},
    }
    other = {"text": "BFM", "complex": np.array([1j]), "cell": np.array([1, "a"], object), "struct": {"field": 1.0}}
    path = tmp_path / "x.mat"
    scipy.io.savemat(path, numeric | other, do_compression=packed)
    read, theirs = load_mat(path), scipy.io.loadmat(path)
    assert read.keys() == numeric.keys()
    for name, value in read.items():
        np.testing.assert_array_equal(value, theirs[name])
        assert value.dtype == theirs[name].dtype


def test_face_model_file() -> None:
    path = shared_path("golden/face3d/made_up_BFM_model_front.mat")
    theirs = {name: value for name, value in scipy.io.loadmat(path).items() if not name.startswith("__")}
    read = load_mat(path)
    assert read.keys() == theirs.keys()
    assert all(np.array_equal(read[name], value) for name, value in theirs.items())


def variable(name: bytes, shape: tuple[int, int], values: bytes, number: int = 9, class_code: int = 6) -> bytes:
    def element(kind: int, content: bytes) -> bytes:
        return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)

    body = element(6, bytes([class_code, 0, 0, 0, 0, 0, 0, 0])) + element(5, struct.pack("<2i", *shape))
    return element(14, body + element(1, name) + element(number, values))


def packed(content: bytes) -> bytes:
    squeezed = zlib.compress(content)
    return struct.pack("<II", 15, len(squeezed)) + squeezed


HEADER = b"MATLAB 5.0 MAT-file, made up".ljust(124) + struct.pack("<H", 0x0100) + b"IM"
ONE = variable(b"x", (1, 2), bytes(16))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "cannot be read|refused"),
        (b"MATLAB 7.3 MAT-file".ljust(128), "HDF5"),
        (HEADER[:-2] + b"MI" + ONE, "big-endian"),
        (HEADER + ONE[:-8], "announces 72 bytes where 64 are left"),
        (HEADER + ONE + ONE, "two variables are called 'x'"),
        (HEADER + variable(b"x", (1 << 30, 1 << 30), bytes(16)), "dimensions .* but 16 bytes"),
        (HEADER + variable(b"x", (-1, -2), bytes(16)), "dimensions"),
        (HEADER + variable(b"x", (1, 2), bytes(16), number=77), "unknown type 77"),
        (HEADER + variable(b"x", (1, 2), bytes(16), class_code=7), "wider type"),
        (HEADER + packed(ONE)[:-4], "announces"),
        (HEADER + packed(ONE[:-8]), "ends too early"),
        (HEADER + packed(ONE + b"more"), "longer than it says"),
        (HEADER + packed(struct.pack("<II", 14, 1 << 31)), "more than 1024 MiB"),
        (HEADER + struct.pack("<II", 15, 6) + b"rubble", "refused"),
    ],
)
def test_damaged_and_hostile_files(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "evil.mat"
    path.write_bytes(content)
    with pytest.raises(UserError, match=reason) as error:
        load_mat(path)
    assert str(error.value).startswith(str(path))


def test_a_bomb_costs_no_more_than_it_claims(tmp_path: Path) -> None:
    """16 MiB of zeros in 16 KiB, announced as one variable of 16 bytes."""
    bomb = zlib.compress(ONE[:8] + bytes(1 << 24))
    path = tmp_path / "bomb.mat"
    path.write_bytes(HEADER + struct.pack("<II", 15, len(bomb)) + bomb)
    with pytest.raises(UserError, match="longer than it says"):
        load_mat(path)
