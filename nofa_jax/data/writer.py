"""Writes a set of frame records: a tensorflow-datasets builder (ArrayRecord files, no TensorFlow) and our metadata.

The finished directory holds the builder's files (`dataset_info.json`, `features.json`, `*.array_record-…`) so that
`tfds.builder_from_directory` opens it, and beside them `metadata.json` and `index.npz`, which data/records.py reads.
"""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import tensorflow_datasets as tfds
from tensorflow_datasets.core.utils import tqdm_utils

from nofa_jax.data import coding as images
from nofa_jax.data.records import (
    FORMAT,
    FORMAT_VERSION,
    FRAME_FIELDS,
    INDEX_FIELDS,
    OPTIONAL_FIELDS,
    SPLIT_FIELDS,
    split_hash,
)
from nofa_jax.errors import UserError

Record = dict[str, Any]


def features(n_id: int, n_exp: int, coding: str, optional: Iterable[str] = ()) -> tfds.features.FeaturesDict:
    """The schema of one record, as stored; `optional`: those of OPTIONAL_FIELDS that it has."""
    feature, float32 = tfds.features, np.float32
    image = feature.Image(shape=(None, None, 3), encoding_format="png" if coding == "png" else "jpeg")
    return feature.FeaturesDict(
        {
            "image": image,
            "mask": feature.Image(shape=(None, None, 1), encoding_format="png"),
            "depth": feature.Image(shape=(None, None, 1), dtype=np.uint16, encoding_format="png"),
            "depth_scale": feature.Scalar(float32),  # world units per level of `depth`
            "id_coeff": feature.Tensor(shape=(n_id,), dtype=float32),
            "exp_coeff": feature.Tensor(shape=(n_exp,), dtype=float32),
            "cam2world": feature.Tensor(shape=(4, 4), dtype=float32),
            "intrinsics": feature.Tensor(shape=(3, 3), dtype=float32),
            "landmarks": feature.Tensor(shape=(68, 2), dtype=float32),
            "identity": feature.Scalar(np.int64),
            "clip": feature.Scalar(np.int64),
            "frame": feature.Scalar(np.int64),
            "time": feature.Scalar(float32),  # seconds since the start of the source clip
            "source": feature.Text(),  # file or generator the frame came from
            "licence": feature.Text(),
            **{name: feature.Tensor(shape=OPTIONAL_FIELDS[name], dtype=float32) for name in optional},
        }
    )


def encode_record(record: Record, coding: str) -> Record:
    """Arrays (image uint8 [h,w,3], mask uint8 [h,w], depth float [h,w] world units, …) → the record as stored.

    Raises ValueError for a field that is missing, unknown or not what the schema says.
    """
    missing = {*SPLIT_FIELDS, "image", "mask", "depth"} ^ (record.keys() - OPTIONAL_FIELDS)
    if missing:
        raise ValueError(f"record has missing or unknown fields: {', '.join(sorted(missing))}")
    stored = {name: record[name] for name in SPLIT_FIELDS}
    stored["image"] = images.encode_image(record["image"], coding)
    stored["mask"] = images.encode_mask(record["mask"])
    stored["depth"] = images.encode_depth(record["depth"])
    stored["depth_scale"] = np.float32(images.DEPTH_SCALE)
    for name in (*FRAME_FIELDS, *(OPTIONAL_FIELDS.keys() & record.keys())):
        stored[name] = np.asarray(record[name], np.float32)
    return stored


class FrameRecords(tfds.core.GeneratorBasedBuilder, skip_registration=True):
    """The builder. `splits` are iterators of stored records; their order is kept, so equal input gives equal files."""

    name = "frame_records"
    url_infos: ClassVar[dict] = {}  # nothing is downloaded; the library's own look-up needs importlib_resources
    VERSION = tfds.core.Version(f"{FORMAT_VERSION}.0.0")

    def __init__(
        self, data_dir: Path, splits: Mapping[str, Iterable[Record]], schema: tfds.features.FeaturesDict
    ) -> None:
        self._splits, self._features = splits, schema
        super().__init__(data_dir=os.fspath(data_dir), file_format="array_record")

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(builder=self, description=FORMAT, features=self._features, disable_shuffling=True)

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, Record]]]:
        return {name: enumerate(records) for name, records in self._splits.items()}

    def _generate_examples(self) -> None:
        """Not used: the splits bring their own iterators."""

    def _log_download_bytes(self) -> None:
        """Nothing is downloaded, so nothing is announced."""

    def _log_download_done(self) -> None:
        """The caller reports."""


class _Tally:
    """Watches the records of a split go by: their index columns and a hash of their whole content."""

    def __init__(self) -> None:
        self.index: dict[str, list[int]] = {name: [] for name in INDEX_FIELDS}
        self._hash = hashlib.sha256()

    def watch(self, records: Iterable[Record]) -> Iterator[Record]:
        for record in records:
            for name in INDEX_FIELDS:
                self.index[name].append(int(record[name]))
            update_content_hash(self._hash, record)
            yield record
        if not self.index["clip"]:
            raise UserError("a split without any record cannot be written: leave it out or give it some")

    def summary(self) -> dict[str, Any]:
        """What metadata.json says of the split."""
        clips, identities = sorted(set(self.index["clip"])), sorted(set(self.index["identity"]))
        return {
            "frames": len(self.index["clip"]),
            "clips": len(clips),
            "identities": identities,
            "content_sha256": self._hash.hexdigest(),
        }


def update_content_hash(digest: Any, record: Record) -> None:
    """Adds every field of a stored record to a hashlib object, in name order."""
    for name in sorted(record):
        value = record[name]
        data = value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else None
        if data is None:
            dtype = np.int64 if name in INDEX_FIELDS else np.float32
            data = np.ascontiguousarray(value, dtype).tobytes()
        digest.update(name.encode() + len(data).to_bytes(8, "little") + data)


def write_dataset(
    path: Path,
    splits: Mapping[str, Iterable[Record]],
    metadata: dict[str, Any],
    n_id: int,
    n_exp: int,
    coding: str,
    extras: Callable[[Path], None] = lambda folder: None,
    optional: Iterable[str] = (),
) -> Path:
    """Writes `splits` of stored records (see `encode_record`) as a new data set at `path`, all or nothing.

    The files are made in a hidden directory beside `path` and renamed at the end: what stands under `path` is whole.
    Splits are read one after the other, each once; then `extras` may write files of its own into the folder.
    `optional` names those of OPTIONAL_FIELDS that the records have. Raises UserError when `path` exists or a split
    yields nothing.
    """
    images.check_coding(coding)
    if path.exists():
        raise UserError(f"{path} exists already: remove it or choose another place for the data set")
    path.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent))
    try:
        work.chmod(0o755)
        tallies = _build(work, splits, features(n_id, n_exp, coding, optional))
        columns: dict[str, Any] = {
            f"{split}/{name}": np.array(t.index[name]) for split, t in tallies.items() for name in INDEX_FIELDS
        }
        full = {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "n_id": n_id,
            "n_exp": n_exp,
            "image_coding": coding,
            "splits": {name: tally.summary() for name, tally in tallies.items()},
            "split_hash": split_hash(columns, metadata.get("identity_names", ())),
            "files": {file.name: file.stat().st_size for file in sorted(work.glob("*.array_record-*"))},
            **metadata,
        }
        np.savez_compressed(work / "index.npz", **columns)
        (work / "metadata.json").write_text(json.dumps(full, indent=1) + "\n")
        extras(work)
        work.rename(path)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return path


def _build(work: Path, splits: Mapping[str, Iterable[Record]], schema: tfds.features.FeaturesDict) -> dict[str, _Tally]:
    """Runs the builder in a subdirectory of `work` and moves its files up into `work`."""
    tallies = {name: _Tally() for name in splits}
    watched = {name: tallies[name].watch(records) for name, records in splits.items()}
    builder = FrameRecords(work / "build", watched, schema)
    bars = tqdm_utils._active
    tfds.display_progress_bar(False)  # the caller shows progress
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    finally:
        tfds.display_progress_bar(bars)
    for file in Path(builder.data_dir).iterdir():
        file.rename(work / file.name)
    shutil.rmtree(work / "build")
    return tallies
