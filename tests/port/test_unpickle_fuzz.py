"""Mutated files of every layout: each is read or refused with a UserError, quickly, and nothing else happens.

A thousand cases by default, 20,000 with --slow, any number with NOFA_FUZZ_CASES.
"""

import io
import os
import pickle
import random
import struct
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.port.pickle_values import opaque
from nofa_jax.port.unpickle import load_checkpoint
from tests.port.torch_files import Call, Name, Stored, legacy_bytes, tensor, zip_bytes

SECONDS = 5.0  # of CPU for one case of a few kilobytes; they take a few milliseconds
NAMES = {"training.triplane.Decoder": opaque("training.triplane.Decoder")}
# What a mutation may write: opcodes that act, lengths that are extreme.
TOKENS = [
    b"R",
    b"b",
    b"\x81",
    b"c",
    b"\x93",
    b"Q",
    b"h\x00",
    b"r\xff\xff\xff\xff",
    b"\x8e" + b"\xff" * 8,
    b"2" * 40,
    b"(",
]
TOKENS += [b"\xff\xff\xff\x7f", bytes(4), b"cos\nsystem\n", b"PK\x01\x02", b"PK\x05\x06", b"\x80\x04", b"."]


def seeds() -> dict[str, bytes]:
    """Small files with the layouts of published ones."""
    rng = np.random.default_rng(0)
    weight = rng.normal(size=(3, 2, 2)).astype(np.float32)
    state = {"conv.weight": weight, "bn.num_batches_tracked": np.array(3), "half": weight.astype(np.float16)}
    wrapped = Call(Name("torch._utils", "_rebuild_parameter"), tensor(weight, "p"), True, {})
    tree = {"state_dict": state | {"p": wrapped}, "epoch": 7, "opts": {"lr": 0.1, "names": ["a", "b"]}}
    storage = Call(Name("torch.storage", "_load_from_bytes"), legacy_bytes(Stored(weight.ravel(), "17")))
    rebuilt = Call(Name("torch._utils", "_rebuild_tensor_v2"), storage, 0, (3, 4), (4, 1), False, {})
    network = {"G_ema": Call(Name("training.triplane", "Decoder"), {"weight": rebuilt})}
    with zipfile.ZipFile(io.BytesIO(zip_bytes(network))) as archive:
        plain = archive.read("archive/data.pkl")
    arrays = {"kernel": weight, "gain": np.float64(2), "nested": {"bias": rng.normal(size=4), "also": weight}}
    return {
        "zip": zip_bytes(tree),
        "legacy": legacy_bytes(tree),
        "network": plain,
        **{f"plain{protocol}": pickle.dumps(arrays, protocol) for protocol in (0, 2, 4, 5)},
    }


def mutated(content: bytes, random_: random.Random, donors: list[bytes]) -> bytes:
    data = bytearray(content)
    for _ in range(random_.choice([1, 1, 1, 2, 4, 16])):
        place = random_.randrange(len(data) + 1)
        length = random_.choice([1, 1, 2, 4, 8, 64])
        kind = random_.randrange(8)
        if kind <= 1 and place < len(data):
            data[place] ^= 1 << random_.randrange(8)
        elif kind == 2:
            data[place : place + length] = random_.randbytes(length)
        elif kind == 3:
            token = random_.choice(TOKENS)
            data[place : place + random_.choice([0, len(token)])] = token
        elif kind == 4:
            del data[place : place + length]
        elif kind == 5:
            data[place:place] = data[place : place + length] * random_.choice([1, 2, 50])
        elif kind == 6:
            donor = random_.choice(donors)
            start = random_.randrange(len(donor))
            data[place : place + length] = donor[start : start + length]
        else:
            del data[place:]
    return bytes(data)


def repacked(content: bytes, random_: random.Random, donors: list[bytes]) -> bytes:
    """A sound archive around a mutated pickle: mutations of the archive itself are mostly caught by checksums."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as good, zipfile.ZipFile(file, "w") as bad:
        for name in good.namelist():
            member = good.read(name)
            bad.writestr(name, mutated(member, random_, donors) if name.endswith(".pkl") else member)
    return file.getvalue()


def touch(value: Any, size: int) -> None:
    """Reads every array, which would crash if a view left its memory; none is larger than the file."""
    if isinstance(value, np.ndarray):
        assert value.nbytes <= size
        value.tobytes()
    elif isinstance(value, dict):
        for child in value.values():
            touch(child, size)
    elif isinstance(value, list | tuple | set | frozenset):
        for child in value:
            touch(child, size)
    elif hasattr(value, "children"):
        touch(value.children(), size)


def outcome(path: Path) -> str:
    """The message with which the file is refused, or "" when it is read (and all its arrays can be)."""
    try:
        touch(load_checkpoint(path, NAMES), path.stat().st_size)
    except UserError as error:
        return str(error)
    return ""


def run(cases: int, seed: int, path: Path) -> dict[str, int]:
    """Counts how the cases end; raises on anything but a tree or a UserError."""
    files = seeds()
    donors = list(files.values())
    counts = {"read": 0, "refused": 0}
    for case in range(cases):
        random_ = random.Random(f"{seed} {case}")
        name = random_.choice(list(files))
        change = repacked if name == "zip" and random_.random() < 0.7 else mutated
        content = change(files[name], random_, donors)
        path.write_bytes(content)
        start = time.process_time()
        try:
            message = outcome(path)
        except Exception as error:
            raise AssertionError(f"case {case} of seed {seed} ({name})") from error
        counts["refused" if message else "read"] += 1
        assert message.startswith(str(path) if message else ""), (name, case)
        assert "\n" not in message, (name, case)
        assert time.process_time() - start < SECONDS, (name, case)
    return counts


def forbid(name: str) -> Any:
    def call(*args: Any, **kwargs: Any) -> None:
        raise AssertionError(f"{name} was called")

    return call


def check(cases: int, seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = set(tmp_path.iterdir())
    for module, name in ((os, "system"), (os, "popen"), (pickle, "load"), (pickle, "loads")):
        monkeypatch.setattr(module, name, forbid(name))
    counts = run(cases, seed, tmp_path / "case.pth")
    assert counts["refused"] > cases // 2  # the mutations hit something
    assert counts["read"] > cases // 100  # and do not destroy everything
    assert set(tmp_path.iterdir()) - before == {tmp_path / "case.pth"}


def test_the_files_themselves_are_read(tmp_path: Path) -> None:
    for name, content in seeds().items():
        (tmp_path / name).write_bytes(content)
        touch(load_checkpoint(tmp_path / name, NAMES), len(content))


def test_mutations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(int(os.environ.get("NOFA_FUZZ_CASES", "1000")), 0, tmp_path, monkeypatch)


@pytest.mark.slow
def test_many_mutations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check(20_000, 1, tmp_path, monkeypatch)


def test_every_cut(tmp_path: Path) -> None:
    """Each proper beginning of a PyTorch file is refused."""
    for content in (seeds()["zip"], seeds()["legacy"]):
        for length in range(0, len(content), 17):
            (tmp_path / "cut.pth").write_bytes(content[:length])
            with pytest.raises(UserError, match="refused"):
                load_checkpoint(tmp_path / "cut.pth")


def test_every_length_field_of_the_archive(tmp_path: Path) -> None:
    """Extreme values in every 16-, 32- and 64-bit place of the zip directory."""
    content = seeds()["zip"]
    start = content.index(b"PK\x01\x02")
    for place in range(start, len(content) - 8, 2):
        for field in (struct.pack("<H", 0xFFFF), struct.pack("<I", 0xFFFFFFFF), struct.pack("<Q", 1 << 63)):
            changed = content[:place] + field + content[place + len(field) :]
            (tmp_path / "x.pth").write_bytes(changed)
            message = outcome(tmp_path / "x.pth")
            assert not message or "refused" in message
