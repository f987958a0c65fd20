"""Work spread over processes, with results in order and nothing left behind."""

import collections
import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

AHEAD = 4  # tasks in flight per worker: enough to keep it busy, few enough to bound the memory of waiting results


@contextlib.contextmanager
def ordered_map(function: Callable[[T], R], tasks: Iterable[T], workers: int) -> Generator[Iterator[R]]:
    """`map(function, tasks)` on `workers` processes (0: in this one), as a context that ends them.

    Processes are spawned, not forked: JAX may have started threads. They end with this process, kill -9 included. A
    script that gets here needs the usual `if __name__ == "__main__"` guard.
    """
    if workers <= 0:
        yield map(function, tasks)
        return
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_start_worker)
    try:
        with _one_thread_each():
            yield _results(pool, function, tasks, workers * AHEAD)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


@contextlib.contextmanager
def _one_thread_each() -> Generator[None]:
    """Workers started meanwhile do matrix products on one thread each: on two cores, two each took 3× the time."""
    names = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _results(pool: ProcessPoolExecutor, function: Callable[[T], R], tasks: Iterable[T], ahead: int) -> Iterator[R]:
    waiting: collections.deque[Future[R]] = collections.deque()
    for task in tasks:
        waiting.append(pool.submit(function, task))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _start_worker() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the parent, which ends the workers
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """A worker waiting for tasks does not notice that its parent was killed: its siblings keep the pipe open."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
