"""How fast pairs come off the disk: sources and targets as training gets them, on 0, 1 and 2 reading threads.

    python benchmarks/reading.py                        embedded heads at 512², made once and kept in the cache
    python benchmarks/reading.py --data=DIR             a packed set of yours

A pair is two records of one clip: read, both images and masks decoded, to float32, stacked into batches; nothing else
is done to them (training does not augment). No decoded frame is kept in memory, as in a set that is larger. Every row
is a process of its own; CPU time is that of all its threads, memory its peak.
"""

import argparse
import itertools
import multiprocessing
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from data_prep.synthesize import make_dataset
from nofa_jax.cli import exit_code
from nofa_jax.data.records import open_dataset
from nofa_jax.data.sampler import pair_loader

THREADS = (0, 1, 2)
WARM_UP = 4  # batches, which fill the prefetch queue
EMBEDDED = {"head": "procedural", "identities": 18, "frames": 8, "seed": 1}  # 144 records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="a packed set (default: embedded heads)")
    parser.add_argument("--size", type=int, default=512, help="pixels of the embedded heads")
    parser.add_argument("--coding", default="jpeg95", help="of the embedded heads' images")
    parser.add_argument("--batch", type=int, default=8, help="pairs in a batch")
    parser.add_argument("--batches", type=int, default=40)
    args = parser.parse_args()

    path = args.data or make_dataset(**EMBEDDED, size=args.size, image_coding=args.coding)
    dataset = open_dataset(path)
    stored = [len(dataset.stored("train", i)["image"]) for i in range(min(64, dataset.num_frames("train")))]
    pixels = dataset.record("train", 0)["image"].shape[0]
    print(f"{pixels}² {dataset.metadata['image_coding']}, {sum(stored) / len(stored) / 1000:.0f} kB an image")
    print("| threads | pairs/s | CPU time a pair | memory | of which the batches |\n|---|---|---|---|---|")
    for threads in THREADS:
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
            rate, cpu, peak, before = process.submit(measure, path, threads, args.batch, args.batches).result()
        print(f"| {threads} | {rate:.0f} | {1000 * cpu:.1f} ms | {peak:.0f} MB | {peak - before:.0f} MB |", flush=True)


def measure(path: str | Path, threads: int, batch: int, batches: int) -> tuple[float, float, float, float]:
    """(pairs a second, CPU seconds a pair, peak MB of this process, MB before the first batch)."""
    loader = pair_loader(open_dataset(path, cache_bytes=0), "train", batch, 1, seed=0, threads=threads)
    before = _peak()
    for _ in itertools.islice(loader, WARM_UP):
        pass
    wall, cpu = time.perf_counter(), time.process_time()
    for _ in itertools.islice(loader, batches):
        pass
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return batches * batch / wall, cpu / (batches * batch), _peak(), before


def _peak() -> float:
    """MB. Not getrusage's: of a process just started that is its parent's."""
    found = re.search(r"VmHWM:\s*(\d+)", Path("/proc/self/status").read_text())
    return int(found[1]) / 1000 if found else float("nan")


if __name__ == "__main__":
    sys.exit(exit_code(main))
