"""`nofa weights`: the table says everything, fetch downloads what it may and tells what to do otherwise."""

import dataclasses
import hashlib
from pathlib import Path

import numpy as np
import pytest

from nofa_jax import weights
from nofa_jax.__main__ import main
from nofa_jax.port.files import save_ported
from nofa_jax.port.kinds import KINDS
from nofa_jax.weights import WEIGHTS, find, missing_message, published_path, weight_path
from tests.test_download import CONTENT, SHA256, Server, server

__all__ = ["server"]  # a fixture


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NOFA_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("NOFA_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("NOFA_LANDMARKER", raising=False)
    return tmp_path / "weights"


def nofa(*words: str) -> int:
    with pytest.raises(SystemExit) as end:
        main(["weights", *words])
    return int(end.value.code or 0)


def test_the_table_says_all_about_each(capsys: pytest.CaptureFixture[str], folder: Path) -> None:
    assert nofa() == 0
    text = capsys.readouterr().out
    for name, entry in WEIGHTS.items():
        assert f"{name}: " in text
        assert entry.used_for in text
        assert entry.needed_by in text
        assert entry.url in text
        assert entry.licence in text
        assert entry.sha256 in text
    assert text.count("commercial use:") == len(WEIGHTS)
    assert text.count("looked for:") == len(WEIGHTS)
    assert str(folder / "eg3d.safetensors") in text


def test_entries_are_sound() -> None:
    for name, entry in WEIGHTS.items():
        assert not entry.kind or entry.kind in KINDS, name
        assert not entry.heads or entry.heads in WEIGHTS, name
        assert entry.url.startswith("https://"), name
        assert not entry.sha256 or len(bytes.fromhex(entry.sha256)) == 32, name
        assert entry.download or entry.how, name
        stem = entry.source.rsplit(".", 1)[0].rsplit("-", 1)[-1]
        if len(stem) == 8 and entry.sha256:  # torchvision and pytorch-fid put its beginning into the name
            assert entry.sha256.startswith(stem), name
    assert {entry.kind for entry in WEIGHTS.values()} >= KINDS.keys() - {"ir_se50"}


def test_fetch(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    entry = dataclasses.replace(WEIGHTS["inception"], url=server.url, size=len(CONTENT), sha256=SHA256)
    monkeypatch.setitem(weights.WEIGHTS, "inception", entry)
    assert nofa("fetch", "inception") == 0
    path = folder / "published" / "inception" / entry.source
    assert hashlib.sha256(path.read_bytes()).hexdigest() == SHA256
    printed = capsys.readouterr().out
    assert "sha256 as published" in printed
    assert f"nofa port inception {path} {folder / 'inception.safetensors'}" in printed
    assert nofa("fetch", "inception") == 0
    assert "is here already" in capsys.readouterr().out
    assert len(server.asked) == 1
    assert nofa() == 0
    assert f"inception: here: {path}, to be ported" in capsys.readouterr().out


def test_fetch_from_a_mirror(server: Server, folder: Path, capsys) -> None:
    """Size and checksum stay the published ones, so a mirror that serves something else is refused."""
    assert nofa("fetch", "face_landmarker", f"--url={server.url}") == 2
    assert "offers 512000 bytes, the published file has 3758596" in capsys.readouterr().err
    assert nofa("fetch", "e4e", f"--url={server.url}") == 0
    assert published_path("e4e").read_bytes() == CONTENT
    assert "sha256 not published" in capsys.readouterr().out


@pytest.mark.parametrize("name", [name for name, entry in WEIGHTS.items() if not entry.download])
def test_gated_files_come_with_instructions(name: str, folder: Path, capsys) -> None:
    assert nofa("fetch", name) == 0
    printed = capsys.readouterr().out
    entry = WEIGHTS[name]
    assert entry.url in printed
    assert entry.how in printed
    assert str(published_path(name)) in printed
    assert f"nofa port {entry.kind} " in printed
    assert not folder.exists()


def test_mistakes(capsys) -> None:
    assert nofa("fetch", "incepton") == 2
    assert "unknown weights 'incepton'; did you mean inception?" in capsys.readouterr().err
    assert nofa("fetch") == 2
    assert nofa("get", "inception") == 2
    assert capsys.readouterr().err.count("wanted `fetch NAME`") == 2


def test_where_things_are_looked_for(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert weight_path("eg3d") == folder / "eg3d.safetensors"
    assert weight_path("/some/where.safetensors") == Path("/some/where.safetensors")
    assert weight_path("face_landmarker") == tmp_path / "cache" / "face_landmarker.task"
    monkeypatch.setenv("NOFA_LANDMARKER", "/my/face.task")
    assert weight_path("face_landmarker") == Path("/my/face.task")
    assert find("eg3d") is None
    save_ported(
        folder / "eg3d.safetensors", {"params": {"a": np.zeros(2, np.float32)}}, {"kind": "eg3d", "options": {}}
    )
    assert find("eg3d") == folder / "eg3d.safetensors"


def test_what_is_missing_comes_with_its_commands(folder: Path) -> None:
    message = missing_message("eg3d")
    assert "nofa weights fetch eg3d" in message
    assert f"nofa port eg3d {folder}/published/eg3d/ffhqrebalanced512-128.pkl {folder}/eg3d.safetensors" in message
    assert "drive.google.com" in missing_message("ir_se50")
    assert f"--heads={folder}/published/lpips-vgg-heads/vgg.pth" in missing_message("lpips-vgg")
    assert missing_message("/x/y.safetensors") == "/x/y.safetensors, which the config names"
