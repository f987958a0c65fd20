"""What a run was made of: workdir/config.json (the resolved config) and workdir/provenance.jsonl (one row per start).

Written before step 0, so that eval.py and inference need nothing but the workdir, and checked on every later start: a
run that goes on under another config is neither the old experiment nor a new one.
"""

import fnmatch
import importlib.metadata
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

import nofa_jax
from nofa_jax.errors import UserError
from nofa_jax.progress import log

CONFIG_FILE, PROVENANCE_FILE = "config.json", "provenance.jsonl"
_PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy", "grain", "ml-collections")
# Fields that change how long a run is, how often it reports or where it runs, not what a step computes.
FREE_TO_CHANGE = (
    "train.steps",
    "*_every",
    "*.keep",
    "*.keep_best",
    "train.skip_nonfinite",
    "data.threads",
    "data.workers",
    "profile",
    "profile.*",
    "mesh.*",
    "compile_cache",
)


def record_run(
    workdir: str | Path,
    config: ConfigDict,
    resuming: bool,
    free: Sequence[str] = FREE_TO_CHANGE,
    accept_changes: bool = False,
) -> None:
    """Writes config.json and appends this start to provenance.jsonl; call before the first step.

    When `resuming` (there are checkpoints), raises UserError showing every field that differs from the config on disk,
    except those that match a pattern of `free` (`*` matches dots too), unless `accept_changes`. Of several
    processes the first writes, all of them check.
    """
    path = Path(workdir)
    now = plain(config)
    if resuming and (path / CONFIG_FILE).is_file():
        changes = config_changes(_read_json(path / CONFIG_FILE), now)
        refused = {k: v for k, v in changes.items() if not any(fnmatch.fnmatchcase(k, p) for p in free)}
        if refused and not accept_changes:
            raise UserError(
                f"the config differs from the one this run began with in {path}: {'; '.join(refused.values())}. Choose "
                "another --workdir, undo the change, or pass --accept_config_changes"
            )
        for change in changes.values():
            log(f"config changed on resume: {change}")
    if jax.process_index() > 0:
        return
    try:
        path.mkdir(parents=True, exist_ok=True)
        _replace(path / CONFIG_FILE, json.dumps(now, indent=2, sort_keys=True) + "\n")
        with open(path / PROVENANCE_FILE, "a", encoding="utf-8") as file:
            file.write(json.dumps(describe_run() | {"resuming": resuming}) + "\n")
    except OSError as error:
        raise UserError(f"cannot write to {path}: {error.strerror}") from error


def read_config(workdir: str | Path) -> ConfigDict:
    """The config that `record_run` wrote, locked; sequences come back as tuples. UserError if there is none."""
    path = Path(workdir) / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{path} does not exist: {workdir} is not a training run (train.py writes one)")
    return ConfigDict(_tuples(_read_json(path))).lock()


def plain(config: ConfigDict) -> dict[str, Any]:
    """The config as JSON holds it: dicts, lists, numbers, strings, booleans and None. Raises TypeError for the rest."""
    return json.loads(json.dumps(config.to_dict()))


def config_changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """The fields that differ, as `a.b` → `a.b: old -> new`; numbers that are equal are equal (1 and 1.0)."""
    changes: dict[str, str] = {}
    for key in sorted(old.keys() | new.keys()):
        a, b = old.get(key, _MISSING), new.get(key, _MISSING)
        if isinstance(a, Mapping) and isinstance(b, Mapping):
            changes |= config_changes(a, b, f"{prefix}{key}.")
        elif a != b:
            changes[prefix + key] = f"{prefix}{key}: {_show(a)} -> {_show(b)}"
    return changes


def describe_run() -> dict[str, Any]:
    """Time, command line, code and library versions, devices."""
    return {
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "git": git_hash(),
        "versions": {"python": sys.version.split()[0], "nofa_jax": nofa_jax.__version__} | _versions(),
        "devices": f"{jax.device_count()} x {jax.devices()[0].device_kind}, {jax.process_count()} process(es)",
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }


def git_hash() -> str | None:
    """Commit of this code, with `+changes` when the working tree differs from it; None outside a checkout."""
    here = Path(nofa_jax.__file__).parent
    if _git(here, "ls-files", "--error-unmatch", "__init__.py") is None:  # installed below somebody else's repository
        return None
    commit = _git(here, "rev-parse", "HEAD")
    changes = _git(here, "status", "--porcelain", "--untracked-files=no")
    return commit and commit + ("+changes" if changes else "")


_MISSING = object()


def _show(value: Any) -> str:
    return "absent" if value is _MISSING else json.dumps(value)


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def _tuples(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(map(_tuples, value)) if isinstance(value, list) else value


def _read_json(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read ({error}); restore it or start in another --workdir") from error


def _replace(path: Path, text: str) -> None:
    new = path.with_name(path.name + ".new")
    new.write_text(text, encoding="utf-8")
    os.replace(new, path)
