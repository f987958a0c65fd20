"""Training batches and evaluation pairs from the clips of a data set (paper Sec. 3.3: source and target of one clip).

The order of clips and the choice of frames are functions of (seed, position in one global stream), so a run resumes
exactly, and P processes read together the very samples that one process with the whole batch would read.
"""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grain
import numpy as np

from nofa_jax.data.records import Clip, Dataset
from nofa_jax.errors import UserError
from nofa_jax.types import Batch, Frame

STATE_VERSION = 1


class PairLoader(Iterator[Batch]):
    """Endless iterator of Batch (numpy arrays). Made by `pair_loader`.

    `get_state` gives a JSON-able dict that, handed to `set_state` of a loader made from the same data and options (in
    this process or another), continues with the batch after the last one taken.
    """

    def __init__(self, batches: grain.MapDataset, read_options: grain.ReadOptions, config: dict[str, Any]) -> None:
        self._iterator = iter(batches.to_iter_dataset(read_options))
        self.config = config

    def __next__(self) -> Batch:
        return next(self._iterator)

    def get_state(self) -> dict[str, Any]:
        """Position and the options it belongs to; the hash is for logs and file names."""
        return {
            "version": STATE_VERSION,
            "next_batch": int(self._iterator.get_state()["next_index"]),
            "config": self.config,
            "config_hash": _hash(self.config),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Continues where `state` was taken. Raises UserError, naming what differs, when it belongs to other options:
        grain itself would go on silently, somewhere else in the data."""
        if state.get("version") != STATE_VERSION or not {"next_batch", "config"} <= state.keys():
            raise UserError(f"the saved data position is of version {state.get('version')}, not {STATE_VERSION}")
        saved = state["config"]
        names = [name for name in {**self.config, **saved} if self.config.get(name) != saved.get(name)]
        if names:
            changes = ", ".join(f"{name} was {saved.get(name)!r}, is {self.config.get(name)!r}" for name in names)
            raise UserError(
                f"cannot resume: the data options changed since the checkpoint ({changes}). "
                "Resume with the old options, or start in a new workdir"
            )
        self._iterator.set_state({"next_index": int(state["next_batch"])})


def pair_loader(
    dataset: Dataset,
    split: str,
    batch_size: int,
    targets_per_source: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    start_state: dict[str, Any] | None = None,
    threads: int = 2,
    prefetch: int = 4,
) -> PairLoader:
    """Loader of training batches: sources [b,…] and `targets_per_source` other frames [b,t,…] of the same clip.

    Every epoch passes once over the split's clips in a new order; each visit draws a new source and new targets, all
    distinct. Clips with too few frames are left out. With 0 targets, data sets of single images will do.

    Args:
      batch_size: sources per global step, over all processes; this process gets batch_size / process_count of them.
      start_state: what `get_state` returned, to resume.
      threads: reading threads; they decode `prefetch` batches ahead. 0 reads in the caller's thread.

    Raises:
      UserError: unknown split, no clip with enough frames, indivisible batch, state of other options.
    """
    if batch_size < 1 or targets_per_source < 0 or batch_size % process_count or not 0 <= process_index < process_count:
        raise UserError(
            f"batch_size {batch_size} with {targets_per_source} targets cannot be shared by {process_count} processes"
        )
    needed = targets_per_source + 1
    clips = [clip for clip in dataset.clips(split) if len(clip.records) >= needed]
    if not clips:
        raise UserError(f"{dataset.path}: no clip of split {split!r} has the {needed} frames that a sample takes")

    def choose(clip: Clip, rng: np.random.Generator) -> tuple[int, np.ndarray]:
        return clip.clip, rng.choice(clip.records, needed, replace=False)

    def load(chosen: list[tuple[int, np.ndarray]]) -> Batch:
        return _load_batch(dataset, split, chosen)

    stream = grain.MapDataset.source(clips).shuffle(seed=_derived(seed, "order")).repeat()
    samples = stream.random_map(choose, seed=_derived(seed, "frames"))
    share = batch_size // process_count
    mine = slice(process_index * share, (process_index + 1) * share)
    batches = samples.batch(batch_size, batch_fn=lambda chosen: list(chosen)[mine]).map(load)
    config = {
        "dataset": dataset.fingerprint,
        "split": split,
        "batch_size": batch_size,
        "targets_per_source": targets_per_source,
        "seed": seed,
    }
    loader = PairLoader(batches, grain.ReadOptions(num_threads=threads, prefetch_buffer_size=max(prefetch, 1)), config)
    if start_state is not None:
        loader.set_state(start_state)
    return loader


def _load_batch(dataset: Dataset, split: str, chosen: list[tuple[int, np.ndarray]]) -> Batch:
    """Reads the records of a batch; the first of each sample is its source."""
    records = np.stack([records for _, records in chosen])
    b, t = records.shape[0], records.shape[1] - 1
    source = dataset.frames(split, records[:, 0])
    target = dataset.frames(split, records[:, 1:].reshape(-1)) if t else source.replace(**_no_rows(source))
    shaped: dict[str, Any] = {name: value.reshape(b, t, *value.shape[1:]) for name, value in vars(target).items()}
    clip: Any = np.array([clip for clip, _ in chosen])
    return Batch(source=source, target=Frame(**shaped), clip=clip)


def _no_rows(frame: Frame) -> dict[str, Any]:
    return {name: value[:0] for name, value in vars(frame).items()}


def _derived(seed: int, use: str) -> int:
    """A 32-bit seed for one use. Hashed, because grain shuffles epoch n with seed + n: plain seeds 0 and 1 would read
    the same epochs, one behind the other. Ours rather than grain's derivation, which may change with its version."""
    return int.from_bytes(hashlib.sha256(f"{use} {seed}".encode()).digest()[:4], "little")


def _hash(config: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class EvalPair:
    """Record numbers of one split: reenact `source` with `target`; `wrong_source` shows another identity."""

    source: int
    target: int
    wrong_source: int


def fixed_pairs(dataset: Dataset, split: str, count: int, seed: int, cross_clip: bool = False) -> list[EvalPair]:
    """`count` evaluation pairs, spread evenly over the split's identities; equal arguments give equal pairs.

    No pair repeats and source and target differ. They are of one clip, or with `cross_clip` of two clips of one person.

    Raises:
      UserError: fewer than two identities, or not enough different pairs.
    """
    rng = np.random.default_rng([seed, count])
    queues = {}
    for identity, clips in _by_identity(dataset.clips(split)).items():
        pairs = _possible_pairs(clips, cross_clip)
        if len(pairs):
            queues[identity] = rng.permutation(pairs)
    available = sum(map(len, queues.values()))
    if len(queues) < 2 or available < count:
        kind = "two clips of one person" if cross_clip else "one clip"
        raise UserError(
            f"{dataset.path}: split {split!r} has {available} different pairs of frames from {kind} of {len(queues)} "
            f"identities, but {count} pairs of at least two identities are needed"
        )
    records = {identity: np.unique(queue) for identity, queue in queues.items()}
    order = rng.permutation(list(queues))
    pairs: list[EvalPair] = []
    for turn in range(max(map(len, queues.values()))):
        for identity in order:
            if turn < len(queues[identity]) and len(pairs) < count:
                others = [other for other in order if other != identity]
                wrong = rng.choice(records[rng.choice(others)])
                source, target = queues[identity][turn]
                pairs.append(EvalPair(int(source), int(target), int(wrong)))
    return pairs


def _by_identity(clips: list[Clip]) -> dict[int, list[Clip]]:
    groups: dict[int, list[Clip]] = {}
    for clip in clips:
        groups.setdefault(clip.identity, []).append(clip)
    return groups


def _possible_pairs(clips: list[Clip], cross_clip: bool) -> np.ndarray:
    """All ordered (source, target) record pairs of one identity, int [n,2]."""
    records = np.concatenate([clip.records for clip in clips])
    clip_of = np.concatenate([np.full(len(clip.records), clip.clip) for clip in clips])
    same_clip = clip_of[:, None] == clip_of[None, :]
    allowed = ~same_clip if cross_clip else same_clip & ~np.eye(len(records), dtype=bool)
    source, target = np.nonzero(allowed)
    return np.stack([records[source], records[target]], axis=1)
