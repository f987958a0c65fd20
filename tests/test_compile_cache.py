"""The persistent compilation cache: where it is, that it is used, and that it never stands in the way."""

from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from nofa_jax import compile_cache


@pytest.fixture(autouse=True)
def _restore_settings() -> Iterator[None]:
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    jax.clear_caches()


def test_default_place_follows_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOFA_CACHE", str(tmp_path / "cache"))
    assert compile_cache.enable() == tmp_path / "cache" / "xla"
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "cache" / "xla")
    monkeypatch.delenv("NOFA_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compile_cache.cache_dir("xla") == tmp_path / ".cache" / "nofa_jax" / "xla"


def test_programs_are_written_and_read_again(tmp_path: Path) -> None:
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()  # jax opens the directory once per process
    compile_cache.enable(tmp_path)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    first = jax.jit(lambda x: jnp.sin(x) * 3.0 + 1.25)(jnp.arange(7.0))
    files = {path.name for path in tmp_path.iterdir() if path.name.endswith("-cache")}
    assert files
    jax.clear_caches()
    again = jax.jit(lambda x: jnp.sin(x) * 3.0 + 1.25)(jnp.arange(7.0))
    assert {path.name for path in tmp_path.iterdir() if path.name.endswith("-cache")} == files
    assert (first == again).all()
    compilation_cache.reset_cache()


def test_off_and_the_users_own_cache(tmp_path: Path) -> None:
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "mine"))
    assert compile_cache.enable() == tmp_path / "mine"
    assert compile_cache.enable("off") is None
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_unwritable_place_leaves_it_off_and_says_so(tmp_path: Path, capfd: pytest.CaptureFixture) -> None:
    (tmp_path / "file").touch()
    assert compile_cache.enable(tmp_path / "file" / "xla") is None
    assert jax.config.values["jax_compilation_cache_dir"] is None
    assert "compilation cache off: cannot write to" in capfd.readouterr().out
