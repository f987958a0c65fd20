"""The steps of one file, from its bytes to cropped and encoded frames in its work folder."""

import dataclasses
import functools
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from data_prep import align, detect
from data_prep.heads import HeadFile
from data_prep.sources import Source
from data_prep.steps import Rejected, Steps, content_hash
from data_prep.takes import Gates, Take, fit_takes
from nofa_jax import compile_cache
from nofa_jax.data import coding as images
from nofa_jax.errors import UserError
from nofa_jax.face3d.deep3d import load_deep3d
from nofa_jax.face3d.model import tracker_for
from nofa_jax.face3d.npz import read_npz

COEFFICIENTS = "coefficients.npz"
VERSION = 2  # of the steps; raised when the same settings give other results


@functools.cache
def head_key(head: HeadFile) -> list[str]:
    """What decides the model and its coefficients: its name, the hash of its file, the tracker if not the usual one."""
    chosen = [head.tracker] if head.tracker not in ("", tracker_for(head.head)) else []
    return [head.head, *(content_hash(path) for path in head.files()), *chosen]


@functools.cache
def network_key(path: str) -> str:
    return content_hash(Path(path))


@dataclass(frozen=True)
class Preparation:
    """How one file is worked on; picklable, for processes of their own."""

    work: Path
    landmarker: str
    head: HeadFile
    size: int
    background: str
    image_coding: str
    licence: str
    every: int
    gates: Gates
    strict: bool
    network: str | None = None  # Deep3DFaceRecon's file: the tracker deep3d; None: landmarks

    def __call__(self, source: Source) -> dict[str, Any]:
        """{"frames": n} and "partly", reasons why some takes were left out; or {"step", "reason"} of a rejection."""
        compile_cache.enable()
        step = "read"
        try:
            content = content_hash(source.path)
            steps = Steps(self.work / source.key, content, self.strict)
            step = "detect"
            steps(step, {"version": VERSION, "part": source.part()}, lambda: self._detect(source))
            if self.network is not None:
                step = "coefficients"
                steps(step, {"network": network_key(self.network)}, lambda: self._coefficients(source))
            step = "track"
            gates = dataclasses.asdict(self.gates)
            fitted = steps(step, {"gates": gates, "model": head_key(self.head)}, lambda: self._track(source)[1])
            step = "align"
            pixels = [self.size, self.background, self.image_coding, source.licence or self.licence, self.every]
            done = steps(step, pixels, lambda: self._align(source))
        except Rejected as error:
            return {"step": step, "reason": str(error).removeprefix(f"{source.path}: ")}
        except UserError as error:
            if self.strict:
                raise
            return {"step": step, "reason": str(error).removeprefix(f"{source.path}: ")}
        except OSError as error:  # a full disk is no file's fault
            raise UserError(
                f"{self.work}: {step} of {source.name} cannot be kept ({error.strerror or error})"
            ) from error
        return {"frames": done["frames"], "hash": done["hash"], "content": content, "partly": fitted["reasons"]}

    def _detect(self, source: Source) -> dict[str, Any]:
        found = detect.detect(source, self.landmarker)
        detect.save(self.work / source.key, found)
        return {"frames": len(found.landmarks), "seen": int(found.landmarks.valid.sum())}

    def _coefficients(self, source: Source) -> dict[str, Any]:
        folder = self.work / source.key
        seen = detect.load(folder).landmarks
        coeffs = detect.find_coefficients(source, seen, load_deep3d(self.network))
        part = folder / "coefficients.part.npz"
        np.savez(part, coeffs=coeffs)
        part.replace(folder / COEFFICIENTS)
        return {"frames": int(seen.valid.sum())}

    def _track(self, source: Source) -> tuple[list[Take], dict[str, Any]]:
        """Done again by `_align`: the fit gives the same numbers and takes a hundredth of aligning (docs/data.md)."""
        found = detect.load(self.work / source.key)
        if self.network is not None:
            coeffs = read_npz(self.work / source.key / COEFFICIENTS, ("coeffs",), "coefficients")["coeffs"]
            found = dataclasses.replace(found, coeffs=coeffs)
        takes, reasons = fit_takes(found, self.head.load(), self.gates, source.video)
        if not takes:
            raise UserError(f"{source.path}: {'; '.join(reasons)}")
        return takes, {"reasons": reasons, "takes": len(takes)}

    def _align(self, source: Source) -> dict[str, Any]:
        takes = [take.thinned(self.every) for take in self._track(source)[0]]
        settings = (self.size, self.background, self.image_coding, self.licence)
        path = self.work / source.key / "frames.zip"
        count = align.write_frames(path, align.align(source, takes, self.head.load(), *settings))
        first = next(align.read_frames(path))
        return {"frames": count, "hash": picture_hash(images.decode_image(first["image"]))}


def picture_hash(image: np.ndarray) -> str:
    """64 bits as hex: whether each of 8 × 8 areas is brighter than its right neighbour (dHash)."""
    import cv2

    grey = cv2.resize(image, (9, 8), interpolation=cv2.INTER_AREA).astype(np.float32).mean(axis=-1)
    return np.packbits(grey[:, 1:] > grey[:, :-1]).tobytes().hex()
