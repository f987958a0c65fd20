"""Memory settings for XLA on CPU.

Each jitted step asks the C library for the same large buffers again. By default glibc maps and unmaps them each time,
and the kernel zeroes every page anew: a third of the CPU time of a training step here.
"""

import ctypes
import sys

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_MAX, _ARENA_MAX = -1, -2, -4, -8


def keep_freed_memory() -> bool:
    """Makes the process reuse freed memory instead of giving it back; resident memory then stays at its peak.

    For the start of a program, before JAX computes anything. Changes nothing and returns False without glibc.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    settings = {_ARENA_MAX: 1, _MMAP_MAX: 0, _TRIM_THRESHOLD: -1, _TOP_PAD: 64 << 20}
    return all(mallopt(name, value) == 1 for name, value in settings.items())
