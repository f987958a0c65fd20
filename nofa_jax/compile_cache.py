"""XLA's persistent compilation cache, on unless told otherwise: the second start of a run skips the compiles.

$NOFA_CACHE names the directory that holds all caches of the project (default ~/.cache/nofa_jax).
"""

import os
from pathlib import Path

import jax

from nofa_jax.progress import log

MIN_COMPILE_SECONDS = 0.5  # smaller programs compile about as fast as they are looked up


def cache_dir(name: str) -> Path:
    """Where the cache of that name belongs; not created."""
    root = os.environ.get("NOFA_CACHE")
    return (Path(root).expanduser() if root else Path.home() / ".cache" / "nofa_jax") / name


def enable(directory: str | Path | None = None) -> Path | None:
    """Turns the cache on and returns its directory (default `cache_dir("xla")`), or None when it stays off.

    `directory="off"` turns it off; a directory that cannot be written is named in the log and the cache stays off. A
    cache that the user chose with JAX_COMPILATION_CACHE_DIR is left as it is.
    """
    chosen = jax.config.values["jax_compilation_cache_dir"]
    if directory is None and chosen:
        return Path(chosen)
    if directory == "off":
        jax.config.update("jax_compilation_cache_dir", None)
        return None
    path = Path(directory).expanduser().absolute() if directory else cache_dir("xla")
    probe = path / f".writable-{os.getpid()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        log(f"compilation cache off: cannot write to {path} ({error.strerror})")
        return None
    jax.config.update("jax_compilation_cache_dir", str(path))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", MIN_COMPILE_SECONDS)
    return path
