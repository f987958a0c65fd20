"""Does training wait for its data? Examples per second of the loader alone, and what a run's steps spent on data.

    python benchmarks/input_pipeline.py --config=configs/quickstart.py --batches=200
    python benchmarks/input_pipeline.py --workdir=runs/quickstart          the split of an existing run, besides

The second epoch and later ones come from memory where the decoded frames fit (data/records.py).
"""

import argparse
import itertools
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from nofa_jax import build
from nofa_jax.cli import load_config
from nofa_jax.data.sampler import pair_loader
from nofa_jax.train.log import read_rows
from nofa_jax.train.provenance import read_config

WARM_UP = 10  # batches that fill the prefetch queue


def rate(config, batches: int, threads: int) -> float:
    """Sources per second, each with its targets."""
    t = config.train
    loader = pair_loader(
        build.dataset(config), "train", t.batch_size, t.targets_per_source, config.seed, threads=threads
    )
    for _ in itertools.islice(loader, WARM_UP):
        pass
    begin = time.perf_counter()
    for _ in itertools.islice(loader, batches):
        pass
    return batches * t.batch_size / (time.perf_counter() - begin)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/quickstart.py")
    parser.add_argument("--workdir", help="a run: takes its config, and reports what its steps spent")
    parser.add_argument("--batches", type=int, default=200)
    args = parser.parse_args()
    config = read_config(args.workdir) if args.workdir else load_config(args.config)
    for threads in sorted({0, config.data.threads}):
        print(f"loader alone, {threads} threads: {rate(config, args.batches, threads):.0f} examples/s", flush=True)
    if args.workdir:
        rows = [row for row in read_rows(args.workdir) if "seconds/data" in row][1:]  # the first compiles
        data, step = (sorted(row[f"seconds/{part}"] for row in rows)[len(rows) // 2] for part in ("data", "step"))
        print(f"in training (median): data {1e3 * data:.1f} ms a step, step {1e3 * step:.1f} ms: {data / step:.2%}")
        print(f"training takes {config.train.batch_size / (data + step):.0f} examples/s")


if __name__ == "__main__":
    main()
