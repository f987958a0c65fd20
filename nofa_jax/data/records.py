"""Frame records on disk: what a data set is, opening one, random access to its frames and clips.

A data set is a directory (layout and one record shown in data_prep/README.md). Every producer writes the same
records, so whatever trains on synthetic heads trains on real clips too. Conventions: docs/conventions.md.
"""

import hashlib
import json
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from nofa_jax.data import coding as images
from nofa_jax.errors import UserError
from nofa_jax.types import Frame

FORMAT = "nofa-frames"
FORMAT_VERSION = 1  # raised when a reader of the older version would misread the files

INDEX_FIELDS = ("clip", "frame", "identity")  # integers, also kept in index.npz
PIXEL_FIELDS = ("image", "mask", "depth")  # stored as encoded images
FRAME_FIELDS = ("id_coeff", "exp_coeff", "cam2world", "intrinsics", "landmarks")  # float32 arrays
OPTIONAL_FIELDS = {"gaze": (2, 2)}  # float32 arrays that all records of a set have, or none
SPLIT_FIELDS = (*FRAME_FIELDS, *INDEX_FIELDS, "time", "source", "licence")  # what a producer gives besides pixels

CACHE_BYTES = 1 << 30  # decoded frames kept in memory by default: 16,000 frames of 128²
REMAKE = "make it again, e.g. with `python -m data_prep.synthesize --out=DIR`"


@dataclass(frozen=True)
class Clip:
    """Frames of one continuous take of one person, as record numbers of a split in order of time."""

    clip: int
    identity: int
    records: np.ndarray


class Dataset:
    """An opened data set. Reading is thread safe; decoded frames stay in memory up to `cache_bytes`.

    `metadata` is metadata.json: format_version, n_id, n_exp, image_coding, splits {name: {frames, clips, identities,
    content_sha256}} and what the producer added (head, size, exp_names, background, settings, …).
    `fingerprint` identifies the content: equal for equal data wherever the directory lies; `split_hash` (see the
    function) who and what is in which split.
    """

    def __init__(
        self,
        path: Path,
        metadata: dict[str, Any],
        sources: dict[str, Any],
        index: dict[str, np.ndarray],
        cache_bytes: int,
    ) -> None:
        self.path, self.metadata = path, metadata
        # Content only. Not the files: protobuf orders the fields of a record differently in every process.
        content = [metadata[name] for name in ("format_version", "n_id", "n_exp", "splits")]
        canonical = json.dumps(content, sort_keys=True).encode()
        self.fingerprint = hashlib.sha256(canonical).hexdigest()[:16]
        self.split_hash = split_hash(index, metadata.get("identity_names", ()))
        self._sources, self._index = sources, index
        self._cache: dict[tuple[str, int], dict[str, Any]] = {}
        self._cache_left, self._lock = cache_bytes, threading.Lock()

    @property
    def splits(self) -> tuple[str, ...]:
        return tuple(self._sources)

    def num_frames(self, split: str) -> int:
        return len(self._source(split))

    def index(self, split: str, name: str) -> np.ndarray:
        """One of INDEX_FIELDS of every record of a split, int64 [frames]."""
        self._source(split)
        return self._index[f"{split}/{name}"]

    def clips(self, split: str) -> list[Clip]:
        """The clips of a split in order of their ids, each with its records in order of `frame`."""
        clip, frame = self.index(split, "clip"), self.index(split, "frame")
        order = np.lexsort((frame, clip))
        starts = np.flatnonzero(np.diff(clip[order], prepend=-1))
        groups = np.split(order, starts[1:]) if len(order) else []
        identity = self.index(split, "identity")
        return [Clip(int(clip[g[0]]), int(identity[g[0]]), g) for g in groups]

    def stored(self, split: str, i: int) -> dict[str, Any]:
        """Record `i` as it lies in the file: encoded images, text as str. Raises UserError when it cannot be read."""
        source = self._source(split)
        if not 0 <= i < len(source):
            raise UserError(f"{self.path}: split {split!r} has records 0 to {len(source) - 1}, not {i}")
        try:
            record = dict(source[i])
        except Exception as error:  # the C++ reader raises RuntimeError, ValueError, protobuf's DecodeError, …
            raise self._corrupt(split, i, error) from error
        return {k: v.decode() if k in ("source", "licence") else v for k, v in record.items()}

    def record(self, split: str, i: int) -> dict[str, Any]:
        """Record `i` decoded: image uint8 [h,w,3], mask uint8 [h,w], depth float32 [h,w] world units, and the rest."""
        stored = self.stored(split, i)
        try:
            return decode(stored)
        except ValueError as error:
            raise self._corrupt(split, i, error) from error

    def frames(self, split: str, records: Sequence[int] | np.ndarray) -> Frame:
        """Records stacked as one Frame of numpy arrays: image float32 [n,h,w,3] in [-1,1], mask [n,h,w] in [0,1]."""
        found = [self._decoded(split, int(i)) for i in records]
        fields: dict[str, Any] = {name: np.stack([f[name] for f in found]) for name in FRAME_FIELDS}
        image = _scaled([f["image"] for f in found], 1 / 127.5)
        image -= np.float32(1)
        return Frame(**fields, image=image, mask=_scaled([f["mask"] for f in found], 1 / 255))

    def frame(self, split: str, i: int) -> Frame:
        """Record `i` as a Frame without leading axes."""
        frames = self.frames(split, [i])
        return Frame(**{name: getattr(frames, name)[0] for name in (*FRAME_FIELDS, "image", "mask")})

    def _decoded(self, split: str, i: int) -> dict[str, Any]:
        """Image, mask and FRAME_FIELDS of a record, from memory when it was read before and there was room."""
        kept = self._cache.get((split, i))
        if kept is not None:
            return kept
        stored = self.stored(split, i)
        try:
            new = {"image": images.decode_image(stored["image"]), "mask": images.decode_mask(stored["mask"])}
        except ValueError as error:
            raise self._corrupt(split, i, error) from error
        new.update({name: stored[name] for name in FRAME_FIELDS})
        size = sum(array.nbytes for array in new.values())
        with self._lock:
            # Draws are uniform over the whole set, so evicting one frame for another would gain nothing.
            if size <= self._cache_left and (split, i) not in self._cache:
                self._cache_left -= size
                self._cache[split, i] = new
        return new

    def _source(self, split: str) -> Any:
        if split not in self._sources:
            raise UserError(f"{self.path} has no split {split!r}; it has {', '.join(self._sources)}")
        return self._sources[split]

    def _corrupt(self, split: str, i: int, error: Exception) -> UserError:
        reason = " ".join(str(error).split())[:200]
        return UserError(f"{self.path}: record {i} of split {split!r} cannot be read ({reason}): {REMAKE}")


def split_hash(index: Mapping[str, np.ndarray], identity_names: Sequence[str]) -> str:
    """The version of a split, 16 hexadecimal digits: which frames of which clips of whom are in which part.

    Pixels, labels and image coding do not count, so that numbers from the same folder packed at two sizes can be
    compared.

    Args:
      index: "SPLIT/FIELD" → integers [records], as in index.npz.
      identity_names: who the identities are; empty where they have only numbers.
    """
    digest = hashlib.sha256(json.dumps(list(identity_names)).encode())
    for name in sorted(index):
        digest.update(name.encode() + np.ascontiguousarray(index[name], "<i8").tobytes())
    return digest.hexdigest()[:16]


def _scaled(pictures: list[np.ndarray], factor: float) -> np.ndarray:
    """uint8 arrays of one shape, times `factor`, as one float32 array; in one pass: each takes milliseconds at 512²."""
    batch = np.empty((len(pictures), *pictures[0].shape), np.float32)
    for row, picture in zip(batch, pictures, strict=True):
        np.multiply(picture, np.float32(factor), out=row)
    return batch


def decode(stored: dict[str, Any]) -> dict[str, Any]:
    """A stored record with its pixels decoded. Raises ValueError when they are no images."""
    record = dict(stored)
    record["image"] = images.decode_image(stored["image"])
    record["mask"] = images.decode_mask(stored["mask"])
    record["depth"] = images.decode_depth(stored["depth"], record.pop("depth_scale"))
    return record


def open_dataset(path: str | Path, cache_bytes: int = CACHE_BYTES) -> Dataset:
    """Opens the data set in directory `path`.

    Raises UserError when it is missing, half-written, damaged or of another format version.
    """
    path = Path(path)
    metadata = _read_metadata(path)
    try:
        _check_files(path, metadata["files"])
        builder: Any = tfds.builder_from_directory(path)
        skip = {name: tfds.decode.SkipDecoding() for name in PIXEL_FIELDS}
        sources = {name: builder.as_data_source(split=name, decoders=skip) for name in metadata["splits"]}
        index = _read_index(path / "index.npz")
        _check_counts(path, metadata, {name: len(source) for name, source in sources.items()}, index)
    except UserError:
        raise
    except Exception as error:  # whatever a damaged builder directory makes the library say
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is a damaged data set ({type(error).__name__}: {reason}): {REMAKE}") from error
    return Dataset(path, metadata, sources, index, cache_bytes)


def _read_metadata(path: Path) -> dict[str, Any]:
    if not path.is_dir():
        raise UserError(f"no data set at {path}: {REMAKE}")
    file = path / "metadata.json"
    if not file.is_file():
        raise UserError(f"{path} is not a data set, or a half-written one (it has no metadata.json): {REMAKE}")
    try:
        metadata = json.loads(file.read_text())
        found = metadata["format"], int(metadata["format_version"])
        complete = all(name in metadata for name in ("n_id", "n_exp", "image_coding", "files", "splits"))
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file} is damaged ({error}): {REMAKE}") from error
    if found != (FORMAT, FORMAT_VERSION):
        wanted = f"{FORMAT} version {FORMAT_VERSION}"
        raise UserError(f"{path} is in format {found[0]} version {found[1]}, this program reads {wanted}: {REMAKE}")
    if not complete:
        raise UserError(f"{file} is damaged (fields are missing): {REMAKE}")
    return metadata


def _check_files(path: Path, sizes: dict[str, int]) -> None:
    """Raises UserError unless every data file is there in full: a cut file would fail only when its end is read."""
    for name, size in sizes.items():
        file = path / name
        found = file.stat().st_size if file.is_file() else None
        if found != size:
            state = "is missing" if found is None else f"has {found} bytes instead of {size}"
            raise UserError(f"{path}: data file {name} {state}: {REMAKE}")


def _read_index(file: Path) -> dict[str, np.ndarray]:
    if not file.is_file():
        raise UserError(f"{file} is missing: {REMAKE}")
    with np.load(file, allow_pickle=False) as arrays:
        return {name: arrays[name].astype(np.int64) for name in arrays.files}


def _check_counts(path: Path, metadata: dict[str, Any], counts: dict[str, int], index: dict[str, np.ndarray]) -> None:
    """Raises UserError unless metadata.json, index.npz and the data files speak of the same number of records."""
    for split, count in counts.items():
        said = {"metadata.json": metadata["splits"][split]["frames"]}
        for name in INDEX_FIELDS:
            said["index.npz"] = len(index[f"{split}/{name}"])
            wrong = [f"{file} says {n}" for file, n in said.items() if n != count]
            if wrong:
                raise UserError(f"{path}: split {split!r} holds {count} records, but {wrong[0]}: {REMAKE}")
