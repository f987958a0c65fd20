"""Hostile and damaged files end as one clear error, in bounded time and memory, and execute nothing."""

import io
import os
import pickle
import re
import struct
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nofa_jax.errors import UserError
from nofa_jax.port.unpickle import load_checkpoint
from tests.port.torch_files import Call, Name, Stored, legacy_bytes, tensor, zip_bytes

WEIGHT = np.arange(12, dtype=np.float32).reshape(3, 4)


def refuse(tmp_path: Path, content: bytes, reason: str) -> None:
    """Reading `content` raises a one-line UserError that names the file and matches `reason`."""
    path = tmp_path / "evil.pth"
    path.write_bytes(content)
    with pytest.raises(UserError, match=reason) as error:
        load_checkpoint(path)
    message = str(error.value)
    assert message.startswith(str(path))
    assert "\n" not in message
    assert len(message) < 400


def proto(body: bytes) -> bytes:
    return b"\x80\x04" + body


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value)]) + value.encode()


def stack_global(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


@pytest.mark.parametrize("layout", [zip_bytes, legacy_bytes, lambda tree: pickle.dumps(tree, 2)])
def test_a_call_is_refused_by_name_and_not_made(tmp_path: Path, layout) -> None:
    marker = tmp_path / "executed"

    class Evil:
        def __reduce__(self) -> tuple:
            return os.system, (f"touch {marker}",)

    content = layout({"weight": Evil(), "b": 1})
    refuse(tmp_path, content, r"evil.pth: refused: it asks for '(posix|nt).system', which is not on the list")
    assert not marker.exists()


NAMES = [
    ("builtins", "eval"),
    ("builtins", "getattr"),
    ("torch._utils", "_rebuild_tensor_v2.__globals__"),
    ("collections", "OrderedDict.fromkeys"),
    ("numpy", "load"),
    ("numpy.core.multiarray", "fromstring"),
    ("torch.hub", "load_state_dict_from_url"),
    ("a\nb" + "c" * 80, "\x1b[31m"),
]


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_names_beyond_the_list(tmp_path: Path, module: str, name: str) -> None:
    refuse(tmp_path, proto(stack_global(module, name) + b")R."), "which is not on the list of allowed names")


CALLS = {
    "a mention is called": (stack_global("numpy", "ndarray") + b")R.", "may be named but not called"),
    "a number is called": (b"K\x01)R.", "a call of something that is not a global"),
    "wrong arguments": (stack_global("torch._utils", "_rebuild_tensor_v2") + b"(K\x01t\x81.", "TypeError"),
    "attributes of text": (text("a") + b"}b.", "a state for something that takes none"),
    "INST": (b"(ios\nsystem\n.", "unsupported opcode b'i'"),
    "OBJ": (b"(" + stack_global("collections", "OrderedDict") + b"o.", "unsupported opcode b'o'"),
    "extension": (b"\x82\x01.", "unsupported opcode"),
    "outside buffer": (b"\x97.", "unsupported opcode"),
    "external reference": (text("x") + b"Q.", "an external reference"),
    "text reference": (b"Px\n.", "an external reference"),
}


@pytest.mark.parametrize("case", CALLS)
def test_other_ways_to_act(tmp_path: Path, case: str) -> None:
    body, reason = CALLS[case]
    refuse(tmp_path, proto(body), reason)


ENCODE = stack_global("_codecs", "encode") + b"\x94X" + struct.pack("<I", 10**6) + b"a" * 10**6 + b"\x85\x94"
ORDERED = stack_global("collections", "OrderedDict") + b"\x94]\x94(" + b"K\x01K\x02\x86" * 10**5 + b"e\x85\x94"
PAIRS = b"".join(b"h" + bytes([i]) + b"h" + bytes([i]) + b"\x86\x94" for i in range(60))  # (x, x) sixty times over
BOMBS = {
    "exponential tuple": (b")\x94" + PAIRS + b".", "nested too deeply or contain themselves"),
    "exponential key": (b")\x94" + PAIRS + b"}h\x3cNs.", "a key of type tuple"),
    "deep lists": (b"]" * 300_000 + b"a" * 299_999 + b".", "nested too deeply"),
    "deep tuples": (b")" + b"\x85" * 500_000 + b".", "nested too deeply"),
    "deep tuple as a key": (b"})" + b"\x85" * 200_000 + b"Ns.", "a key of type tuple"),
    "list of itself": (b"]\x94h\x00a.", "nested too deeply or contain themselves"),
    "endless opcodes": (b"N" * 2_000_000 + b".", "more than 1000000 opcodes"),
    "huge integer": (b"\x8b\xff\xff\xff\x7f1.", "an integer of"),
    "long decimal": (b"I" + b"9" * 60_000 + b"\n.", "malformed integer"),
    "huge bytes": (b"\x8e" + struct.pack("<Q", 1 << 62) + b".", "announces .* bytes"),
    "huge text": (b"\x8d" + struct.pack("<Q", 1 << 40) + b".", "a text of"),
    "one text encoded over and over": (ENCODE + b"h\x00h\x01R0" * 1000 + b"N.", "over and over"),
    "one list copied over and over": (ORDERED + b"h\x00h\x02R0" * 1000 + b"N.", "over and over"),
}


READ_ALL = """
import resource
import sys
from nofa_jax.errors import UserError
from nofa_jax.port.unpickle import load_checkpoint
resource.setrlimit(resource.RLIMIT_AS, (1 << 30, 1 << 30))
resource.setrlimit(resource.RLIMIT_CPU, (60, 60))
for path in sys.argv[1:]:
    try:
        print("accepted", type(load_checkpoint(path)))
    except UserError as error:
        print(error)
"""


def test_bombs(tmp_path: Path) -> None:
    """Read one after the other by a process that has a gigabyte of address space and 60 seconds of CPU for them all."""
    paths = []
    for i, (body, _) in enumerate(BOMBS.values()):
        paths.append(tmp_path / f"{i}.pth")
        paths[-1].write_bytes(proto(body))

    environment = os.environ | {"OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", READ_ALL, *map(str, paths)]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    for path, line, (case, (_, reason)) in zip(paths, result.stdout.splitlines(), BOMBS.items(), strict=True):
        assert re.search(f"^{re.escape(str(path))}: refused: .*{reason}", line), (case, line)


def test_a_memo_index_costs_nothing(tmp_path: Path) -> None:
    """CPython's own unpickler allocates 32 GB for this."""
    path = tmp_path / "memo.pkl"
    path.write_bytes(proto(b"K\x07r\xff\xff\xff\xffj\xff\xff\xff\xff."))
    assert load_checkpoint(path) == 7


DAMAGED = {
    "no end": (b"]", "truncated"),
    "argument cut": (b"X\x10\x00\x00\x00abc", "announces 16 bytes where 3 are left"),
    "empty stack": (b".", "the stack is empty"),
    "no mark": (b"Nt.", "a mark is missing"),
    "missing memo": (b"h\x05.", "memo entry 5 does not exist"),
    "items of a number": (b"K\x01NNs.", "wrong type"),
    "odd items": (b"}(Nu.", "a key without a value"),
    "list as a key": (b"}]Ns.", "a key of type list"),
    "bad utf-8": (b"\x8c\x02\xff\xff.", "damaged or malformed"),
    "newer protocol": (b"\x80\x09N.", "pickle protocol 9"),
    "text file": (b"<!DOCTYPE html><html>404</html>", "refused"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_damaged_pickles(tmp_path: Path, case: str) -> None:
    body, reason = DAMAGED[case]
    refuse(tmp_path, body if body.startswith(b"<") else proto(body), reason)


def rebuilt(**changes: Any) -> dict[str, Any]:
    return {"weight": tensor(WEIGHT, "0", **changes)}


TENSORS = {
    "offset beyond": (rebuilt(offset=1), "reaches element 12 of a storage of 12"),
    "stride beyond": (rebuilt(strides=(5, 1)), "reaches element 13"),
    "negative stride": (rebuilt(strides=(-4, 1)), "not a sensible integer"),
    "negative size": (rebuilt(shape=(-3, 4)), "not a sensible integer"),
    "huge size": (rebuilt(shape=(1 << 50, 4)), "not a sensible integer"),
    "huge product": (rebuilt(shape=(1 << 39, 1 << 39), strides=(1 << 39, 1)), "reaches element"),
    "expanded": (rebuilt(shape=(1000, 12), strides=(0, 1)), "overlapping"),
    "overlapping": (rebuilt(shape=(3, 6), strides=(3, 1)), "overlapping"),
    "shape of floats": (rebuilt(shape=(3.0, 4)), "not a sensible integer"),
    "shape of booleans": (rebuilt(shape=(True, 12)), "not a sensible integer"),
    "ranks differ": (rebuilt(strides=(1,)), "differ in length"),
    "many axes": (rebuilt(shape=(1,) * 40, strides=(1,) * 40), "not a short tuple"),
    "unknown type": (rebuilt(kind="QUInt8Storage"), "'torch.QUInt8Storage', which is not on the list"),
    "not a storage": ({"weight": Call(Name("torch._utils", "_rebuild_tensor_v2"), 5, 0, (), ())}, "without a storage"),
    "two types": (
        {"a": tensor(WEIGHT, "0"), "b": tensor(WEIGHT, "0", kind="DoubleStorage", count=6)},
        "used with two types or sizes",
    ),
}


@pytest.mark.parametrize("layout", [zip_bytes, legacy_bytes])
@pytest.mark.parametrize("case", TENSORS)
def test_tensors_that_do_not_fit(tmp_path: Path, case: str, layout) -> None:
    tree, reason = TENSORS[case]
    refuse(tmp_path, layout(tree), reason)


def test_zip_storage_of_another_size(tmp_path: Path) -> None:
    refuse(tmp_path, zip_bytes(rebuilt(count=24, shape=(6, 4))), "storage '0' holds 48 bytes, 96 wanted")
    refuse(tmp_path, zip_bytes(rebuilt(kind="DoubleStorage")), "storage '0' holds 48 bytes, 96 wanted")


def test_legacy_storage_of_another_size(tmp_path: Path) -> None:
    refuse(tmp_path, legacy_bytes(rebuilt(count=24, shape=(6, 4))), "truncated or of another size")
    refuse(tmp_path, legacy_bytes(rebuilt())[:-1], "truncated or of another size")
    refuse(tmp_path, legacy_bytes({"a": tensor(WEIGHT, "0", view=("v", 4, 9))}), "a storage view that leaves")


def test_legacy_key_list(tmp_path: Path) -> None:
    content = legacy_bytes(rebuilt())
    keys = pickle.dumps(["0"], 2)
    assert content.count(keys) == 1
    for other in (["1"], ["0", "0"], [], "0", [[]], None):
        refuse(tmp_path, content.replace(keys, pickle.dumps(other, 2)), "list of storages does not fit")


def test_big_endian(tmp_path: Path) -> None:
    content = legacy_bytes(rebuilt()).replace(b"little_endianq\x02\x88", b"little_endianq\x02\x89")
    refuse(tmp_path, content, "big-endian")


def repacked(changes: dict[str, bytes | None], compression: int = zipfile.ZIP_STORED) -> bytes:
    """The archive of a good file with some members replaced, added or left out."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(zip_bytes(rebuilt()))) as good, zipfile.ZipFile(file, "w", compression) as bad:
        for name in dict.fromkeys([*good.namelist(), *changes]):
            content = changes[name] if name in changes else good.read(name)
            if content is not None:
                bad.writestr(name, content)
    return file.getvalue()


ARCHIVES = {
    "compressed": (repacked({}, zipfile.ZIP_DEFLATED), "compressed or encrypted"),
    "bomb": (repacked({"archive/data/0": bytes(10**8)}, zipfile.ZIP_DEFLATED), "compressed or encrypted"),
    "parent path": (repacked({"../../etc/passwd": b""}), "zip member with the name"),
    "absolute path": (repacked({"/archive/data/1": b""}), "zip member with the name"),
    "backslash": (repacked({"archive\\data\\1": b""}), "zip member with the name"),
    "no pickle": (repacked({"archive/data.pkl": None}), "without the data.pkl"),
    "two pickles": (repacked({"other/data.pkl": b""}), "without the data.pkl"),
    "no storage": (repacked({"archive/data/0": None}), "storage '0' is missing"),
    "short storage": (repacked({"archive/data/0": bytes(47)}), "storage '0' holds 47 bytes, 48 wanted"),
    "big-endian": (repacked({"archive/byteorder": b"big"}), "big-endian"),
    "cut": (zip_bytes(rebuilt())[:-40], "truncated"),
    "cut in the middle": (zip_bytes(rebuilt())[:300], "truncated"),
}


@pytest.mark.parametrize("case", ARCHIVES)
def test_archives(tmp_path: Path, case: str) -> None:
    refuse(tmp_path, *ARCHIVES[case])


def test_changed_weights_are_noticed(tmp_path: Path) -> None:
    content = zip_bytes(rebuilt())
    assert content.count(WEIGHT.tobytes()) == 1
    refuse(tmp_path, content.replace(WEIGHT.tobytes(), WEIGHT[::-1].tobytes()), "checksum")


def test_members_that_share_bytes(tmp_path: Path) -> None:
    """Many directory entries for the same bytes: a bomb without compression."""
    content = zip_bytes({"a": tensor(WEIGHT, "0"), "b": tensor(WEIGHT, "1")})
    offsets = [i for i in range(len(content)) if content.startswith(b"PK\x01\x02", i)]
    entries = {content[i + 46 : i + 46 + struct.unpack_from("<H", content, i + 28)[0]]: i for i in offsets}
    first, second = entries[b"archive/data/0"], entries[b"archive/data/1"]
    changed = bytearray(content)
    changed[second + 42 : second + 46] = content[first + 42 : first + 46]
    refuse(tmp_path, bytes(changed), "not where the directory says")
    start = struct.unpack_from("<I", content, first + 42)[0]
    changed[start + 30 : start + 44] = b"archive/data/1"
    changed[first + 46 : first + 60] = b"archive/data/1"
    refuse(tmp_path, bytes(changed), "two zip members are called")


ARRAYS = {
    "objects": (np.array([{}, 1], object), "numpy dtype 'O8'"),
    "records": (np.zeros(2, [("a", "f4")]), "numpy dtype 'V4'"),
    "text": (np.array(["a"]), "numpy dtype 'U1'"),
    "big-endian": (np.zeros(2, ">f4"), "little-endian"),
    "object scalar": (np.array(None, object), "numpy dtype 'O8'"),
}


@pytest.mark.parametrize("case", ARRAYS)
def test_arrays_other_than_numbers(tmp_path: Path, case: str) -> None:
    value, reason = ARRAYS[case]
    refuse(tmp_path, pickle.dumps({"a": value}, 4), reason)


def test_array_state_that_does_not_fit(tmp_path: Path) -> None:
    content = pickle.dumps(np.arange(5, dtype=np.uint8), 2)
    refuse(tmp_path, content.replace(b"K\x05\x85", b"K\x06\x85"), r"an array of shape \(6,\) and type uint8 in 5 bytes")
    refuse(tmp_path, content.replace(b"K\x05\x85", b"J\xff\xff\xff\xff\x85"), "not a sensible integer")


def test_files_within_files(tmp_path: Path) -> None:
    """A tensor kept as bytes may not itself hold tensors kept as bytes: each level would double the work."""
    inner = legacy_bytes(Stored(WEIGHT.ravel(), "0"))
    nested = legacy_bytes(Call(Name("torch.storage", "_load_from_bytes"), inner))
    refuse(
        tmp_path, proto(stack_global("torch.storage", "_load_from_bytes") + as_bytes(nested) + b"\x85R."), "not on the"
    )
    refuse(tmp_path, proto(stack_global("torch.storage", "_load_from_bytes") + b"K\x01\x85R."), "not bytes")
    refuse(
        tmp_path, proto(stack_global("torch.storage", "_load_from_bytes") + as_bytes(inner[:-9]) + b"\x85R."), "trunc"
    )


def as_bytes(content: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(content)) + content
