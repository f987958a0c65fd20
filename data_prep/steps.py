"""Resumable work on one file: each step leaves its result and, last of all, a note that says with what it was made.

A step whose note is there and still true is not done again; everything else is. So a killed run goes on where it was,
a changed setting repeats the steps that depend on it, and nothing half-written is taken for done.
"""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nofa_jax.errors import UserError


class Rejected(UserError):
    """A file that a step cannot use; the message is the reason."""


class Steps:
    """The steps of one file, in order. `folder` is its own; a step's note is folder/STEP.json."""

    def __init__(self, folder: Path, content: str, strict: bool = False) -> None:
        self.folder, self.strict = folder, strict
        self._key = content  # of everything that led here; each step adds its settings
        folder.mkdir(parents=True, exist_ok=True)

    def __call__(self, name: str, settings: Any, work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """What `work` returned (JSON), now or when it was done before.

        Raises:
          Rejected: the step found, now or before, that the file cannot be used.
        """
        self._key = hashlib.sha256(json.dumps([self._key, name, settings], sort_keys=True).encode()).hexdigest()
        note = self.folder / f"{name}.json"
        done = self._read(note)
        if done is None:
            done = dict[str, Any](key=self._key, rejected=None, result={})
            try:
                done["result"] = work()
            except UserError as error:
                if self.strict:
                    raise
                done["rejected"] = str(error)
            part = note.with_suffix(".part")
            part.write_text(json.dumps(done))
            part.replace(note)
        if done["rejected"] is not None:
            raise Rejected(done["rejected"])
        return done["result"]

    def _read(self, note: Path) -> dict[str, Any] | None:
        try:
            done = json.loads(note.read_text())
            if done["key"] != self._key or (self.strict and done["rejected"] is not None):
                return None
            return done if {"rejected", "result"} <= done.keys() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None


def content_hash(path: Path) -> str:
    """sha256 of a file's bytes; of a folder, of its files' names and hashes.

    Raises:
      UserError: it cannot be read.
    """
    digest = hashlib.sha256()
    try:
        if path.is_dir():
            files = sorted(file for file in path.iterdir() if file.is_file())
            digest.update("".join(f"{file.name}\0{content_hash(file)}\n" for file in files).encode())
            return digest.hexdigest()
        with path.open("rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
    return digest.hexdigest()
