"""The arrays that `nofa port run` takes: names, shapes, dtypes."""

from pathlib import Path

import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.port.kinds import KINDS
from nofa_jax.port.run import checked, describe, run

FACE = np.zeros((2, 112, 112, 3), np.float32)
CAMERA = np.zeros((2, 25), np.float32)
CODES = np.zeros((2, 14, 512), np.float32)


@pytest.mark.parametrize(
    ("kind", "arrays", "reason"),
    [
        ("arcface-iresnet50", {"images": FACE}, "unknown array 'images'; did you mean image.; it takes image "),
        ("arcface-iresnet50", {}, r"in\.npz lacks image; it takes image \[n, 112, 112, 3\] in \[-1, 1\]"),
        ("arcface-iresnet50", {"image": FACE[0]}, r"image has shape \[112, 112, 3\], wanted \[n, 112, 112, 3\]"),
        ("arcface-iresnet50", {"image": FACE[:, 1:]}, r"image has shape \[2, 111, 112, 3\]"),
        ("arcface-iresnet50", {"image": FACE[:0]}, "image is empty"),
        (
            "arcface-iresnet50",
            {"image": FACE.astype(np.uint8)},
            "image is uint8, wanted floating point",
        ),
        ("arcface-iresnet50", {"image": FACE + np.float32(np.nan)}, "image holds 75264 non-finite values"),
        ("inception", {"image": FACE}, "image is float32, wanted uint8"),
        ("inception", {"image": FACE.astype(np.int64)}, "image is int64, wanted uint8"),
        ("lpips-vgg", {"image_a": FACE}, "lacks image_b"),
        ("lpips-vgg", {"image_a": FACE, "image_b": FACE[:1]}, r"image_b has shape .* \(n is 2 in an earlier array\)"),
        ("lpips-vgg", {"image_a": FACE, "image_b": FACE[:, :, 1:]}, r"\(w is 112 in an earlier array\)"),
        ("eg3d", {"camera": CAMERA}, "needs either ws or z"),
        ("eg3d", {"camera": CAMERA, "ws": CODES, "z": CODES[:, 0]}, "needs either ws or z"),
        ("eg3d", {"ws": CODES}, "lacks camera"),
        ("eg3d", {"ws": CODES, "camera": CAMERA[:, :16]}, r"camera has shape \[2, 16\], wanted \[n, 25\]"),
        (
            "eg3d",
            {"ws": CODES, "camera": CAMERA, "neural_rendering_resolution": np.array(64.5)},
            "neural_rendering_resolution is float64, wanted integer",
        ),
    ],
)
def test_what_is_refused(kind: str, arrays: dict, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        checked(KINDS[kind], arrays, "in.npz")


def test_what_is_taken() -> None:
    """Any floating point, and single numbers with or without an axis."""
    arrays = {
        "z": np.zeros((2, 64), np.float16),
        "camera": CAMERA.astype(np.float64),
        "truncation_psi": np.array([0.7]),
        "neural_rendering_resolution": np.array(64),
    }
    found = checked(KINDS["eg3d"], arrays, "in.npz")
    assert {name: (value.dtype.name, value.shape) for name, value in found.items()} == {
        "z": ("float32", (2, 64)),
        "camera": ("float32", (2, 25)),
        "truncation_psi": ("float32", ()),
        "neural_rendering_resolution": ("int64", ()),
    }


def test_single_numbers_may_be_whole_or_not() -> None:
    arrays = {"z": np.zeros((2, 64)), "camera": CAMERA, "truncation_psi": 1, "neural_rendering_resolution": 64.0}
    found = checked(KINDS["eg3d"], {name: np.asarray(value) for name, value in arrays.items()}, "in.npz")
    assert found["truncation_psi"].dtype == np.float32
    assert int(found["neural_rendering_resolution"]) == 64


def test_every_kind_describes_its_inputs() -> None:
    for kind in KINDS.values():
        assert describe(kind)
    assert describe(KINDS["deep3d"]) == "image [n, 224, 224, 3] in [0, 1]"
    assert "truncation_psi? default 1" in describe(KINDS["eg3d"])


def test_an_input_that_is_no_npz(tmp_path: Path) -> None:
    (tmp_path / "in.npz").write_bytes(b"rubble")
    with pytest.raises(UserError, match=r"in\.npz: not a readable input of port run"):
        run("bfm", tmp_path / "file", tmp_path / "in.npz", tmp_path / "out.npz")
    with pytest.raises(UserError, match="no such input of port run"):
        run("bfm", tmp_path / "file", tmp_path / "none.npz", tmp_path / "out.npz")
