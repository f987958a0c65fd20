"""Pair loader and evaluation pairs: what is drawn, exact resume, disjoint shards, fixed pairs."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from nofa_jax.data.records import Dataset, open_dataset
from nofa_jax.data.sampler import fixed_pairs, pair_loader
from nofa_jax.errors import UserError
from nofa_jax.types import Batch
from tests.data.fake import N_EXP, SIZE, write_fake


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return open_dataset(write_fake(tmp_path_factory.mktemp("sampler") / "set"))


def drawn(batch: Batch) -> list[list[int]]:
    """[clip, source frame, target frames…] of every sample, as spelled out by the images' first pixels."""
    first = np.concatenate([batch.source.image[:, None, 0, 0], batch.target.image[:, :, 0, 0]], axis=1)
    pixels = np.rint((first + 1) * 127.5).astype(int)
    assert (pixels[:, :, 1] == pixels[:, :1, 1]).all(), "source and targets are of one clip"
    np.testing.assert_array_equal(pixels[:, 0, 1], batch.clip)
    return np.concatenate([pixels[:, :1, 1], pixels[:, :, 2]], axis=1).tolist()


def take(loader, n: int) -> list[list[list[int]]]:
    return [drawn(next(loader)) for _ in range(n)]


def test_batches_have_the_contract_shapes(dataset: Dataset):
    batch = next(pair_loader(dataset, "train", 6, 2, seed=0))
    assert batch.source.image.shape == (6, SIZE, SIZE, 3)
    assert batch.target.image.shape == (6, 2, SIZE, SIZE, 3)
    assert batch.target.mask.shape == (6, 2, SIZE, SIZE)
    assert batch.target.exp_coeff.shape == (6, 2, N_EXP)
    assert batch.target.cam2world.shape == (6, 2, 4, 4)
    assert batch.clip.shape == (6,)
    for name, array in {**vars(batch.source), **vars(batch.target)}.items():
        assert isinstance(array, np.ndarray), name
        assert array.dtype == np.float32, name
    assert batch.target.image.min() >= -1
    assert batch.target.image.max() <= 1


def test_without_targets_a_batch_is_its_sources(dataset: Dataset):
    """The compensation stage: the source is its own target."""
    batch = next(pair_loader(dataset, "train", 6, 0, seed=0))
    assert batch.source.image.shape == (6, SIZE, SIZE, 3)
    assert batch.target.image.shape == (6, 0, SIZE, SIZE, 3)
    assert batch.target.exp_coeff.shape == (6, 0, N_EXP)
    assert len(drawn(batch)[0]) == 2


def test_fields_of_a_sample_belong_together(dataset: Dataset):
    batch = next(pair_loader(dataset, "train", 4, 3, seed=5))
    for row, (clip, source, *targets) in enumerate(drawn(batch)):
        for frame, i in [(batch.source, (row,)), *((batch.target, (row, k)) for k in range(3))]:
            number = source if len(i) == 1 else targets[i[1]]
            record = dataset.record("train", clip * 4 + number)
            np.testing.assert_array_equal(frame.exp_coeff[i], record["exp_coeff"])
            np.testing.assert_array_equal(frame.cam2world[i], record["cam2world"])


def test_an_epoch_visits_every_clip_once_in_a_new_order(dataset: Dataset):
    epochs = [[s[0] for batch in take_epoch for s in batch] for take_epoch in epochs_of(dataset, 3)]
    assert all(sorted(order) == list(range(24)) for order in epochs)
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


def epochs_of(dataset: Dataset, count: int) -> list:
    loader = pair_loader(dataset, "train", 6, 2, seed=3)
    return [take(loader, 4) for _ in range(count)]


def test_frames_are_distinct_and_redrawn(dataset: Dataset):
    samples = [s for epoch in epochs_of(dataset, 8) for batch in epoch for s in batch]
    assert all(len(set(frames)) == 3 for _, *frames in samples)
    sources = {clip: {s[1] for s in samples if s[0] == clip} for clip in range(24)}
    assert np.mean([len(seen) for seen in sources.values()]) > 2.5, "a clip shows different sources over the epochs"


def test_seed_decides_everything(dataset: Dataset):
    one, again, other = (take(pair_loader(dataset, "train", 6, 2, seed=s), 6) for s in (0, 0, 1))
    assert one == again
    assert one != other
    later = take(pair_loader(dataset, "train", 6, 2, seed=1), 4)
    assert [s[0] for b in one[4:] for s in b] != [s[0] for b in later[:2] for s in b], (
        "seed 1 is not seed 0 an epoch on"
    )


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_threads_change_nothing(dataset: Dataset, threads: int):
    assert take(pair_loader(dataset, "train", 5, 2, seed=2, threads=threads), 8) == take(
        pair_loader(dataset, "train", 5, 2, seed=2), 8
    )


@pytest.mark.parametrize("threads", [0, 2])
@pytest.mark.parametrize("position", [0, 3, 4, 11])  # before, inside and at the edge of epochs
def test_resume_is_exact(dataset: Dataset, position: int, threads: int):
    straight = pair_loader(dataset, "train", 5, 2, seed=7, threads=threads)
    take(straight, position)
    state = json.loads(json.dumps(straight.get_state()))  # it goes through a checkpoint's JSON
    expected = take(straight, 6)
    fresh = open_dataset(dataset.path)
    assert take(pair_loader(fresh, "train", 5, 2, seed=7, start_state=state, threads=threads), 6) == expected
    rewound = pair_loader(fresh, "train", 5, 2, seed=7, threads=threads)
    take(rewound, 2)
    rewound.set_state(state)
    assert take(rewound, 6) == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 8}, "batch_size was 6, is 8"),
        ({"seed": 1}, "seed was 0, is 1"),
        ({"targets_per_source": 1}, "targets_per_source was 2, is 1"),
        ({"split": "val"}, "split was 'train', is 'val'"),
    ],
)
def test_resume_with_other_options_is_refused(dataset: Dataset, change: dict, message: str):
    options = {"split": "train", "batch_size": 6, "targets_per_source": 2, "seed": 0}
    state = pair_loader(dataset, **options).get_state()
    with pytest.raises(UserError, match=message):
        pair_loader(dataset, **options | change, start_state=state)


def test_resume_with_other_data_or_no_state_is_refused(dataset: Dataset, tmp_path: Path):
    state = pair_loader(dataset, "train", 6, 2, seed=0).get_state()
    other = open_dataset(write_fake(tmp_path / "other", frames=5))
    with pytest.raises(UserError, match="dataset was"):
        pair_loader(other, "train", 6, 2, seed=0, start_state=state)
    with pytest.raises(UserError, match="version None"):
        pair_loader(dataset, "train", 6, 2, seed=0, start_state={"next_index": 3})


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_global_stream(dataset: Dataset, processes: int):
    whole = take(pair_loader(dataset, "train", 6, 2, seed=4), 10)
    shards = [take(pair_loader(dataset, "train", 6, 2, 4, k, processes), 10) for k in range(processes)]
    for step, batch in enumerate(whole):
        parts = [shard[step] for shard in shards]
        assert all(len(part) == 6 // processes for part in parts)
        assert [s for part in parts for s in part] == batch, "one after the other they are the whole"


def records_read(batches: list[list[list[int]]]) -> list[tuple[int, int]]:
    """(clip, frame) of every record."""
    return [(clip, frame) for batch in batches for clip, *frames in batch for frame in frames]


def assert_an_epoch_shared_out(shards: list[list[list[list[int]]]]) -> None:
    """Of 24 clips with 3 frames, read as a source and two targets: no record is read twice, and every one is."""
    read = [records_read(shard) for shard in shards]
    assert [len(records) for records in read] == [36, 36]
    assert sorted(read[0] + read[1]) == [(clip, frame) for clip in range(24) for frame in range(3)]


def test_two_processes_read_disjoint_shards_of_an_epoch(tmp_path: Path):
    dataset = open_dataset(write_fake(tmp_path / "set", frames=3))
    assert_an_epoch_shared_out([take(pair_loader(dataset, "train", 6, 2, 4, k, 2), 4) for k in range(2)])


READER = """
import json, sys
from nofa_jax.data.records import open_dataset
from nofa_jax.data.sampler import pair_loader
from tests.data.test_sampler import take
path, index, batches, state = sys.argv[1], *map(json.loads, sys.argv[2:])
loader = pair_loader(open_dataset(path), "train", 6, 2, 4, index, 2, start_state=state, threads=2)
print(json.dumps([take(loader, batches), loader.get_state()]))
"""


@pytest.mark.slow
def test_two_real_processes_read_disjoint_shards_and_go_on_exactly(tmp_path: Path):
    path = write_fake(tmp_path / "set", frames=3)

    def read(batches: int, states: list) -> list:
        """[what was drawn, state after it] of two processes at the same time."""
        words = [(str(path), str(k), str(batches), json.dumps(state)) for k, state in enumerate(states)]
        runs = [subprocess.Popen([sys.executable, "-c", READER, *w], stdout=subprocess.PIPE, text=True) for w in words]
        return [json.loads(run.communicate(timeout=300)[0]) for run in runs]

    whole = [drawn for drawn, _ in read(4, [None, None])]
    assert_an_epoch_shared_out(whole)
    begun = read(1, [None, None])
    rest = read(3, [state for _, state in begun])
    assert [first + later for (first, _), (later, _) in zip(begun, rest, strict=True)] == whole


def test_resume_on_another_number_of_processes(dataset: Dataset):
    one = pair_loader(dataset, "train", 6, 2, seed=4)
    take(one, 5)
    state, expected = one.get_state(), take(one, 3)
    shards = [take(pair_loader(dataset, "train", 6, 2, 4, k, 2, start_state=state), 3) for k in range(2)]
    for step, batch in enumerate(expected):
        assert shards[0][step] + shards[1][step] == batch


def test_impossible_requests_are_refused(dataset: Dataset):
    with pytest.raises(UserError, match="no clip of split 'train' has the 5 frames"):
        pair_loader(dataset, "train", 6, 4, seed=0)
    with pytest.raises(UserError, match="cannot be shared by 4 processes"):
        pair_loader(dataset, "train", 6, 2, 0, 0, 4)
    with pytest.raises(UserError, match="no split 'test'"):
        pair_loader(dataset, "test", 6, 2, seed=0)


def test_fixed_pairs_are_fixed_spread_and_honest(dataset: Dataset):
    pairs = fixed_pairs(dataset, "val", 18, seed=0)
    assert pairs == fixed_pairs(open_dataset(dataset.path), "val", 18, seed=0)
    assert pairs != fixed_pairs(dataset, "val", 18, seed=1)
    assert len({(p.source, p.target) for p in pairs}) == 18
    clip, identity = dataset.index("val", "clip"), dataset.index("val", "identity")
    for pair in pairs:
        assert pair.source != pair.target
        assert clip[pair.source] == clip[pair.target]
        assert identity[pair.wrong_source] != identity[pair.source]
    assert np.bincount(identity[[p.source for p in pairs]])[24:].tolist() == [3] * 6


def test_cross_clip_pairs(tmp_path: Path):
    dataset = open_dataset(write_fake(tmp_path / "set", clips_per_identity=2, frames=2))
    pairs = fixed_pairs(dataset, "val", 12, seed=0, cross_clip=True)
    clip, identity = dataset.index("val", "clip"), dataset.index("val", "identity")
    for pair in pairs:
        assert clip[pair.source] != clip[pair.target]
        assert identity[pair.source] == identity[pair.target]
        assert identity[pair.wrong_source] != identity[pair.source]


def test_too_few_pairs_are_refused(dataset: Dataset):
    with pytest.raises(UserError, match=r"has 72 different pairs .* but 73 pairs"):
        fixed_pairs(dataset, "val", 73, seed=0)
    with pytest.raises(UserError, match="two clips of one person"):
        fixed_pairs(dataset, "val", 1, seed=0, cross_clip=True)
