"""Reads the numeric arrays of a MATLAB 5 file (`.mat`, as MATLAB's -v6 and -v7 and scipy write it), numpy only.

Every size in the file is checked before anything is allocated, and what zlib unpacks is bounded, so that a file cannot
ask for more than `MAX_BYTES`. Text, structures, objects and functions are left out: they are never looked into.
"""

import math
import mmap
import struct
import zlib
from pathlib import Path

import numpy as np

from nofa_jax.errors import UserError

MAGIC = b"MATLAB 5.0 MAT-file"
MAX_BYTES = 1 << 30  # unpacked, over all variables; the Basel Face Model's file needs 100 to 200 MB
MAX_DIMS = 8
_MATRIX, _COMPRESSED = 14, 15
_NUMERIC_CLASSES = range(6, 16)  # double, single, and the integers of 8 to 64 bits
_NUMBERS = {  # code of a stored number -> numpy's
    **{1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4"},
    **{7: "f4", 9: "f8", 12: "i8", 13: "u8"},
}
_CLASS_DTYPES = dict(zip(_NUMERIC_CLASSES, ("f8", "f4", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8"), strict=True))


class _Damaged(Exception):
    """The message says what is wrong."""


def load_mat(path: str | Path) -> dict[str, np.ndarray]:
    """The real numeric arrays by name.

    Raises:
      UserError: names the file and the reason: not there, damaged, too large, or another version of the format.
    """
    path = Path(path)
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _read(data)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from error
    except (ValueError, _Damaged, zlib.error, struct.error) as error:
        raise UserError(f"{path}: refused: {error}") from error


def _read(data: mmap.mmap) -> dict[str, np.ndarray]:
    head = data[:128]
    if not head.startswith(MAGIC):
        kind = "a MATLAB 7.3 file (HDF5); save it with -v7" if head.startswith(b"MATLAB 7.3") else "not a MATLAB 5 file"
        raise _Damaged(kind)
    if head[126:128] != b"IM":
        raise _Damaged("written on a big-endian machine, or its header is damaged")
    arrays: dict[str, np.ndarray] = {}
    position, budget = 128, MAX_BYTES
    while position < len(data):
        kind, size = struct.unpack("<II", data[position : position + 8])
        start, end = position + 8, position + 8 + size
        if end > len(data):
            raise _Damaged(f"it announces {size} bytes where {len(data) - start} are left (truncated)")
        content = data[start:end]
        if kind == _COMPRESSED:
            kind, content = _unpacked(content, budget)
        if kind == _MATRIX and (found := _matrix(content, budget)) is not None:
            name, values = found
            if name in arrays:
                raise _Damaged(f"two variables are called {name!a}")
            arrays[name] = values
            budget -= values.nbytes
        position = end
    return arrays


def _unpacked(packed: bytes, budget: int) -> tuple[int, bytes]:
    """Type and content of the one element in a compressed one."""
    stream = zlib.decompressobj()
    tag = stream.decompress(packed, 8)
    if len(tag) != 8:
        raise _Damaged("a compressed variable ends too early (truncated)")
    kind, size = struct.unpack("<II", tag)
    if size > budget:
        raise _Damaged(f"more than {MAX_BYTES >> 20} MiB unpacked")
    content = stream.decompress(stream.unconsumed_tail, size) if size else b""
    if stream.decompress(stream.unconsumed_tail, 1):  # reaches the checksum too
        raise _Damaged("a compressed variable is longer than it says")
    if len(content) != size or not stream.eof:
        raise _Damaged("a compressed variable ends too early (truncated)")
    return kind, content


def _matrix(content: bytes, budget: int) -> tuple[str, np.ndarray] | None:
    """Name and values of a variable, or None when it is not a real numeric array."""
    elements, position = [], 0
    for _ in range(4):  # flags, dimensions, name, values
        kind, value, position = _element(content, position)
        elements.append((kind, value))
        if len(elements) == 1:
            if kind != 6 or len(value) != 8:
                raise _Damaged("a variable without flags")
            class_code, flags = value[0], value[1]
            if class_code not in _NUMERIC_CLASSES or flags & 8:  # 8: complex
                return None
    (_, (dims_kind, dims), (name_kind, name), (number, values)) = elements
    if dims_kind != 5 or len(dims) % 4 or not 2 <= len(dims) // 4 <= MAX_DIMS or name_kind != 1 or len(name) > 63:
        raise _Damaged("a variable without proper dimensions or name")
    shape = struct.unpack(f"<{len(dims) // 4}i", dims)
    text = name.decode("ascii", "replace")
    if number not in _NUMBERS:
        raise _Damaged(f"{text!a} holds numbers of unknown type {number}")
    stored = np.dtype("<" + _NUMBERS[number])
    if min(shape) < 0 or math.prod(shape) * stored.itemsize != len(values):
        raise _Damaged(f"{text!a} has dimensions {shape} but {len(values)} bytes of {stored}")
    wanted = np.dtype("<" + _CLASS_DTYPES[class_code])
    if stored.itemsize > wanted.itemsize:
        raise _Damaged(f"{text!a} is stored in a wider type than its own")
    if math.prod(shape) * wanted.itemsize > budget:
        raise _Damaged(f"more than {MAX_BYTES >> 20} MiB unpacked")
    return text, np.frombuffer(values, stored).reshape(shape, order="F").astype(wanted, order="F")


def _element(content: bytes, position: int) -> tuple[int, bytes, int]:
    """Type and bytes of the element at `position`, and where the next one starts."""
    first, size = struct.unpack_from("<II", content, position)
    if first >> 16:  # the short form: type and size in one word, up to four bytes of content in the other
        kind, size = first & 0xFFFF, first >> 16
        if size > 4:
            raise _Damaged("a short element of more than four bytes")
        return kind, content[position + 4 : position + 4 + size], position + 8
    start = position + 8
    if start + size > len(content):
        raise _Damaged("a variable is truncated")
    return first, content[start : start + size], start + size + (-size) % 8
