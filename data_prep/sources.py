"""The media files of a folder: what they are, whose face they show, and which split that person belongs to."""

import hashlib
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nofa_jax.errors import UserError

PHOTOS = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp", ".gif", ".ppm")
VIDEOS = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".flv", ".wmv", ".3gp")
SPLITS = ("train", "val", "test")
SEQUENCE_RATE = 25  # frames a second of a sequence, which does not say
SPLIT_VERSION = 1  # of the rule below; raised when the same identity would land elsewhere


@dataclass(frozen=True)
class Source:
    """A media file, a part of one, or a folder of a video's frames."""

    path: Path
    name: str  # unique; of a file its path below the folder, with forward slashes
    identity: str
    licence: str = ""  # of this file; empty: what the command says of all
    start: float = 0.0  # seconds, of a video
    end: float = math.inf
    box: tuple[float, float, float, float] | None = None  # left, top, right, bottom as fractions; nothing else is seen

    @property
    def sequence(self) -> bool:
        """Frames as photos in one folder, in order of their names."""
        return self.path.is_dir()

    @property
    def video(self) -> bool:
        return self.sequence or self.path.suffix.lower() in VIDEOS

    def pictures(self) -> list[Path]:
        """The photos of a sequence."""
        return sorted(path for path in self.path.iterdir() if path.suffix.lower() in PHOTOS)

    def part(self) -> list[Any]:
        """What of the file is used, as JSON."""
        return [self.start, None if math.isinf(self.end) else self.end, self.box]

    @property
    def key(self) -> str:
        """Name of its folder of intermediate results: readable, and its own whatever the file is called."""
        readable = "".join(c if c.isalnum() or c in "-_" else "_" for c in self.name)[:60]
        return f"{readable}-{hashlib.sha256(self.name.encode(errors='surrogateescape')).hexdigest()[:8]}"


def find_sources(folder: str | Path, identity_of: str = "file") -> tuple[list[Source], list[str]]:
    """(media files in order of their names, names of files of other kinds), with all folders below.

    Args:
      identity_of: "file": every file shows a person of its own; "folder": files of one folder show the same person.

    Raises:
      UserError: no such folder, or nothing in it that is a photo or a video by its name.
    """
    root = Path(folder).expanduser()
    if not root.is_dir():
        raise UserError(f"{root}: no such folder")
    found, others = [], []
    for base, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for file in sorted(name for name in files if not name.startswith(".")):
            path = Path(base, file)
            name = path.relative_to(root).as_posix()
            if path.suffix.lower() in PHOTOS + VIDEOS:
                owner = path.parent.relative_to(root).as_posix() if identity_of == "folder" else name
                found.append(Source(path, name, owner))
            else:
                others.append(name)
    if not found:
        raise UserError(f"{root}: no photo or video in it (by their names: {', '.join(PHOTOS + VIDEOS)})")
    return sorted(found, key=lambda source: source.name), sorted(others)


def split_of(identity: str, fractions: Sequence[float]) -> str:
    """The split of a person: a hash of the name decides, so adding or removing others changes nothing."""
    digest = hashlib.sha256(f"{SPLIT_VERSION}/{identity}".encode(errors="surrogateescape")).digest()
    place = int.from_bytes(digest[:8], "big") / 2**64
    for name, fraction in zip(SPLITS, fractions, strict=True):
        if place < fraction:
            return name
        place -= fraction
    return SPLITS[0]  # the fractions' rounding
