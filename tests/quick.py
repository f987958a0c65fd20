"""Cheap compilation for tests that run a program once."""

from collections.abc import Generator
from contextlib import contextmanager

import jax


@contextmanager
def fast_compile() -> Generator[None]:
    """Compiles without XLA's optimisations: a toy network's random init takes 3 s of CPU instead of 16."""
    jax.config.update("jax_disable_most_optimizations", True)
    try:
        yield
    finally:
        jax.config.update("jax_disable_most_optimizations", False)


def init(module, *inputs, seed: int = 0) -> dict:
    """Variables of a Linen module."""
    with fast_compile():
        return jax.jit(module.init)(jax.random.key(seed), *inputs)
