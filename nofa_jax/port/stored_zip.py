"""The directory of a zip archive whose members are stored uncompressed, as PyTorch writes it; read, never extracted."""

import struct
import zlib
from dataclasses import dataclass
from mmap import mmap

from nofa_jax.port.pickle_vm import PickleError, quoted

MAX_MEMBERS = 65_536
_END, _END64, _LOCATOR64 = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07"
_CENTRAL, _LOCAL = b"PK\x01\x02", b"PK\x03\x04"
_BIG = 0xFFFFFFFF


@dataclass(frozen=True)
class Member:
    """One stored file: where its bytes start, how many, and their checksum."""

    header: int
    start: int
    size: int
    crc: int

    def read(self, data: bytes | mmap) -> bytes:
        content = data[self.start : self.start + self.size]
        if zlib.crc32(content) != self.crc:
            raise PickleError("a member's checksum is wrong (damaged)")
        return content


def members(data: bytes | mmap) -> dict[str, Member]:
    """All members by name.

    Raises:
      PickleError: no or a damaged directory; compressed, encrypted, duplicate or overlapping members; odd names.
    """
    try:
        found = _read_directory(data)
    except (struct.error, UnicodeDecodeError, OverflowError):
        raise PickleError("the zip directory is damaged") from None
    free = 0
    for name, member in sorted(found.items(), key=lambda item: item[1].header):
        if member.header < free:
            raise PickleError(f"zip member {quoted(name)} overlaps another")
        free = member.start + member.size
    return found


def _read_directory(data: bytes | mmap) -> dict[str, Member]:
    position, count, limit = _find_directory(data)
    if count > MAX_MEMBERS:
        raise PickleError(f"{count} zip members")
    found: dict[str, Member] = {}
    for _ in range(count):
        name, member, position = _entry(data, position, limit)
        if name in found:
            raise PickleError(f"two zip members are called {quoted(name)}")
        found[name] = member
    return found


def _find_directory(data: bytes | mmap) -> tuple[int, int, int]:
    """Start of the central directory, its number of entries, and where it must end."""
    end = data.rfind(_END, max(0, len(data) - (1 << 16) - 22))
    if end < 0:
        raise PickleError("the zip directory is missing (truncated)")
    count, size, start = struct.unpack_from("<HII", data, end + 10)
    locator = end - 20
    if locator >= 0 and data[locator : locator + 4] == _LOCATOR64:
        record = struct.unpack_from("<Q", data, locator + 8)[0]
        if record > locator or data[record : record + 4] != _END64:
            raise PickleError("the zip directory is damaged")
        count, size, start = struct.unpack_from("<QQQ", data, record + 32)
    if start + size > end:
        raise PickleError("the zip directory lies outside the file (truncated)")
    return start, count, start + size


def _entry(data: bytes | mmap, position: int, limit: int) -> tuple[str, Member, int]:
    """One entry of the central directory, checked against the member's own header."""
    signature, flags, method, crc, packed, size, name_length, extra_length, comment_length = struct.unpack_from(
        "<4s4xHH4xIIIHHH", data, position
    )
    header = struct.unpack_from("<I", data, position + 42)[0]
    after_name = position + 46 + name_length
    following = after_name + extra_length + comment_length
    if signature != _CENTRAL or following > limit:
        raise PickleError("the zip directory is damaged")
    raw_name = data[position + 46 : after_name]
    name = raw_name.decode("utf-8")
    size, packed, header = _widened(data[after_name : after_name + extra_length], size, packed, header)
    if method or flags & 1 or size != packed:
        raise PickleError(f"zip member {quoted(name)} is compressed or encrypted (PyTorch stores its members plainly)")
    if "\\" in name or any(part in ("", ".", "..") for part in name.split("/")):
        raise PickleError(f"zip member with the name {quoted(name)}")
    local, local_name, local_extra = struct.unpack_from("<4s22xHH", data, header)
    start = header + 30 + local_name + local_extra
    if local != _LOCAL or data[header + 30 : header + 30 + local_name] != raw_name or start + size > len(data):
        raise PickleError(f"zip member {quoted(name)} is not where the directory says (damaged or truncated)")
    return name, Member(header, start, size, crc), following


def _widened(extra: bytes, size: int, packed: int, header: int) -> tuple[int, int, int]:
    """Sizes and offset with their 64-bit values, which an extra field holds where the 32-bit ones are all ones."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, position)
        if kind == 1:
            wide = iter(struct.unpack_from(f"<{length // 8}Q", extra, position + 4))
            size, packed, header = (next(wide, v) if v == _BIG else v for v in (size, packed, header))
            return size, packed, header
        position += 4 + length
    return size, packed, header
