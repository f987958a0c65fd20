"""Makes clips of embedded heads as a data set: procedural heads (no files needed) or ICT FaceKit's, rendered here.

Each clip shows one person (identity coefficients, colours) whose expression and camera move smoothly; its frames are
samples of that motion. Labels are exact. The same settings make the same records on any number of workers, and a set
that is there already is not made again.
"""

import argparse
import dataclasses
import hashlib
import json
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from data_prep import heads, motion
from data_prep.heads import BACKGROUNDS, ClipTask, HeadFile
from data_prep.lock import exclusive
from data_prep.workers import ordered_map
from nofa_jax.compile_cache import cache_dir
from nofa_jax.data import coding as images
from nofa_jax.data.records import open_dataset
from nofa_jax.data.writer import write_dataset
from nofa_jax.errors import UserError
from nofa_jax.face3d import model
from nofa_jax.face3d.model import DRAWN_HEADS
from nofa_jax.progress import Progress, log

EXAMPLE = "python -m data_prep.synthesize --head=procedural --out=data/heads128 --identities=600 --frames=8 --size=128"

# In nofa_jax/face3d: what decides how a head looks. Tracking and fitting are not among it.
GENERATOR_CODE = (
    *("model.py", "ict.py", "npz.py", "mediapipe.py", "procedural/*.py"),
    *("appearance.py", "paint.py", "hair.py", "raster.py", "scene.py"),
)
SPLITS = ("train", "val", "test")
MIN_CLIPS_FOR_WORKERS = 16  # below, starting a worker takes longer than rendering


@dataclass(frozen=True)
class Settings:
    """What decides the content of a set, besides the generator's code and the head's file."""

    head: str = "procedural"
    size: int = 128  # pixels
    identities: int = 600
    clips_per_identity: int = 1
    frames: int = 8  # of a clip, evenly spread over its seconds
    seconds: float = 2.0
    seed: int = 0  # sets of one seed share their people: test with another seed than you train with
    background: str = "white"
    image_coding: str = "png"
    fractions: tuple[float, float, float] = (0.9, 0.05, 0.05)  # of the identities: train, val, test

    def __post_init__(self) -> None:
        images.check_coding(self.image_coding)
        least = {"size": (16, 2048), "identities": (3, 10**6), "clips_per_identity": (1, 1000), "frames": (1, 10**5)}
        for name, (low, high) in least.items():
            if not low <= getattr(self, name) <= high:
                raise UserError(f"{name} must be between {low} and {high}, not {getattr(self, name)}")
        if not 0.1 <= self.seconds <= 3600:
            raise UserError(f"seconds must be between 0.1 and 3600, not {self.seconds}")
        if self.seed < 0:
            raise UserError(f"seed must not be negative, is {self.seed}")
        if self.background not in BACKGROUNDS:
            raise UserError(f"unknown background {self.background!r}: choose one of {', '.join(BACKGROUNDS)}")
        if self.head not in DRAWN_HEADS:
            raise UserError(f"unknown head {self.head!r}: choose one of {', '.join(DRAWN_HEADS)}")
        if len(self.fractions) != 3 or min(self.fractions) <= 0 or abs(sum(self.fractions) - 1) > 1e-6:
            raise UserError(f"fractions of train, val and test must be positive and sum to 1, not {self.fractions}")

    def split_identities(self) -> dict[str, range]:
        """Which identities each split holds: at least one each."""
        held_out = [max(1, round(fraction * self.identities)) for fraction in self.fractions[1:]]
        bounds = [0, self.identities - sum(held_out), self.identities - held_out[1], self.identities]
        return {name: range(bounds[k], bounds[k + 1]) for k, name in enumerate(SPLITS)}

    def clips(self, split: str) -> list[ClipTask]:
        return [
            ClipTask(identity, identity * self.clips_per_identity + k)
            for identity in self.split_identities()[split]
            for k in range(self.clips_per_identity)
        ]


def make_dataset(
    root: str | Path | None = None, ict_path: str | Path | None = None, workers: int = 2, **settings: Any
) -> Path:
    """The data set of these settings (fields of Settings), made under `root` unless it is there already.

    Its directory is named after a hash of the settings, the head's file and the generator's code. `root` defaults to
    $NOFA_CACHE/data or ~/.cache/nofa_jax/data. A damaged set is made again. Raises UserError for settings that make
    no sense and for a bad or missing ICT file.
    """
    chosen, head = _resolve(settings, ict_path)
    key = _key(chosen, head)
    parent = Path(root).expanduser() if root is not None else cache_dir("data")
    path = parent / f"{chosen.head}-{chosen.size}-{key[:12]}"
    with exclusive(path):
        if path.exists():
            try:
                open_dataset(path)
                return path
            except UserError as error:
                log(f"making it again: {error}")
                shutil.rmtree(path)
        return _write(path, chosen, head, key, workers)


def synthesize(out: str | Path, ict_path: str | Path | None = None, workers: int = 2, **settings: Any) -> Path:
    """Makes the data set at the very directory `out`, unless exactly this set is there.

    Raises UserError when something else is there, besides the reasons of `make_dataset`.
    """
    chosen, head = _resolve(settings, ict_path)
    key, path = _key(chosen, head), Path(out).expanduser()
    with exclusive(path):
        if not path.exists():
            return _write(path, chosen, head, key, workers)
        if path.is_dir() and open_dataset(path).metadata.get("key") == key:
            log(f"{path} is there already")
            return path
    raise UserError(f"{path} exists and was made with other settings or another version: remove it or choose another")


def _resolve(settings: dict[str, Any], ict_path: str | Path | None) -> tuple[Settings, HeadFile]:
    chosen = Settings(**settings)
    return chosen, HeadFile(chosen.head, str(ict_path) if chosen.head == "ict" and ict_path is not None else None)


def _key(settings: Settings, head: HeadFile) -> str:
    """Hash of everything that the records depend on."""
    digest = hashlib.sha256(json.dumps(dataclasses.asdict(settings), sort_keys=True).encode())
    sources = [Path(module.__file__ or "") for module in (images, motion, heads)]
    face3d = Path(model.__file__ or "").parent
    sources += [file for pattern in GENERATOR_CODE for file in sorted(face3d.glob(pattern))]
    for file in [*sources, *head.files()]:
        digest.update(hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def _write(path: Path, settings: Settings, head: HeadFile, key: str, workers: int) -> Path:
    shapes = head.load()  # complains about a bad file now rather than in a worker
    tasks = {split: settings.clips(split) for split in SPLITS}
    total = sum(map(len, tasks.values()))
    render = heads.ClipRenderer(
        head=head,
        size=settings.size,
        frames=settings.frames,
        seconds=settings.seconds,
        seed=settings.seed,
        background=settings.background,
        image_coding=settings.image_coding,
    )
    metadata = {
        "size": settings.size,
        "head": settings.head,
        "exp_names": list(shapes.exp_names),
        "background": settings.background,
        "settings": dataclasses.asdict(settings),
        "key": key,
    }
    workers = workers if total >= MIN_CLIPS_FOR_WORKERS else 0
    progress = Progress(total * settings.frames, f"{settings.head} heads")
    with progress, ordered_map(render, [task for split in SPLITS for task in tasks[split]], workers) as clips:

        def records(split: str) -> Iterator[dict[str, Any]]:
            for _ in tasks[split]:
                for record in next(clips):
                    yield record
                    progress.update()

        splits = {split: records(split) for split in SPLITS}
        return write_dataset(path, splits, metadata, shapes.num_id, shapes.num_exp, settings.image_coding)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    default = Settings()
    parser.add_argument("--out", help="directory of the new data set (default: in the cache; its path is printed)")
    parser.add_argument("--head", default=default.head, choices=DRAWN_HEADS)
    parser.add_argument("--ict", metavar="PATH", help="ICT FaceKit file or its folder, for --head=ict")
    parser.add_argument("--size", type=int, default=default.size, help="pixels (default %(default)s)")
    parser.add_argument("--identities", type=int, default=default.identities, help="people (default %(default)s)")
    parser.add_argument("--clips_per_identity", type=int, default=default.clips_per_identity)
    parser.add_argument("--frames", type=int, default=default.frames, help="of a clip (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=default.seconds, help="that the frames of a clip span")
    parser.add_argument(
        "--seed", type=int, default=default.seed, help="decides people and motion (default %(default)s)"
    )
    parser.add_argument("--background", default=default.background, choices=BACKGROUNDS)
    parser.add_argument("--image_coding", default=default.image_coding, choices=images.CODINGS)
    parser.add_argument("--workers", type=int, default=2, help="processes (default %(default)s; 0: this one)")


def run(args: argparse.Namespace) -> int:
    options = vars(args)
    out, ict_path, workers = options.pop("out"), options.pop("ict"), options.pop("workers")
    if out is None:
        path = make_dataset(None, ict_path, workers, **options)
    else:
        path = synthesize(out, ict_path, workers, **options)
    splits = open_dataset(path).metadata["splits"]
    counts = [f"{name} {split['frames']} frames of {split['clips']} clips" for name, split in splits.items()]
    log(f"{path}: {', '.join(counts)}")
    return 0


if __name__ == "__main__":
    from nofa_jax.__main__ import run_command
    from nofa_jax.cli import exit_code

    module = sys.modules["__main__"]
    sys.exit(exit_code(lambda: run_command(module, "python -m data_prep.synthesize", sys.argv[1:])))
