"""What every command line of the project shares: errors as one line, exit codes, and configs that explain themselves.

Exit codes: 0 done; 2 a mistake the user can mend (one line `error: …` on stderr); 130 Ctrl-C; 143 SIGTERM (see
train/signals.py); 1 with a traceback is a bug of ours.
"""

import difflib
import importlib.util
import os
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NoReturn

from absl import flags
from ml_collections import ConfigDict

from nofa_jax.errors import UserError

EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141


def exit_code(run: Callable[[], int | None]) -> int:
    """Runs `run` and turns its result, a `UserError` or Ctrl-C into the exit code to leave with."""
    try:
        return run() or 0
    except UserError as error:
        print("error: " + " ".join(str(error).split("\n")), file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read our output (`| head`) has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """`; did you mean X?` with the candidate nearest to `name`, or an empty string when none is near."""
    near = difflib.get_close_matches(name, list(candidates), n=1, cutoff=0.7)
    return f"; did you mean {near[0]}?" if near else ""


def run_main(main: Callable[[], int | None], example: str) -> NoReturn:
    """Parses the absl flags of a script, runs `main` and exits: what train.py and eval.py call for `absl.app.run`.

    A flag named `config` (ml_collections.config_flags) gets its file and overrides checked first, so that a missing
    file, an unknown key or a wrong type is one line that names it. `--help` shows the script's docstring, its flags,
    `example`, and with a config its fields.
    """
    sys.exit(exit_code(lambda: _parse_and_run(main, example, sys.argv)))


def load_config(source: str) -> ConfigDict:
    """The locked config of `path/file.py` or `path/file.py:argument` (the argument goes to its `get_config`)."""
    path, _, argument = source.partition(":")
    if not Path(path).is_file():
        near = sorted(str(p) for p in Path(path).parent.glob("*.py") if p.name != "__init__.py")
        raise UserError(f"config file {path!r} does not exist{did_you_mean(path, near)}{_listing(near)}")
    spec = importlib.util.spec_from_file_location("config_" + re.sub(r"\W", "_", path), path)
    if spec is None or spec.loader is None:
        raise UserError(f"config file {path!r} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(argument) if argument else module.get_config()
    except UserError:
        raise
    except Exception as error:
        kind = "" if type(error) is ValueError else f"{type(error).__name__}: "
        raise UserError(f"config file {source!r}: {kind}{error}") from error
    return config.lock()


GENERAL_STAGE = {"paper": "general.py", "small": "general.py:small", "quickstart": "quickstart.py"}


def load_sibling(beside: str, source: str) -> ConfigDict:
    """The config `source` from the folder of the file `beside`, unlocked: for configs that are made of another."""
    return load_config(str(Path(beside).with_name(source))).unlock()


def general_config(beside: str, size: str) -> ConfigDict:
    """The general stage of a size, as `load_sibling`: what the other stages' configs are made of. Raises ValueError for
    an unknown size.
    """
    if size not in GENERAL_STAGE:
        raise ValueError(f"size is {', '.join(GENERAL_STAGE)}, not {size!r}")
    return load_sibling(beside, GENERAL_STAGE[size])


def config_fields(config: ConfigDict, prefix: str = "") -> dict[str, object]:
    """Every leaf of a config as `a.b.c` → value; an empty ConfigDict counts as a leaf."""
    fields: dict[str, object] = {}
    for key, value in config.items():
        if isinstance(value, ConfigDict) and len(value):
            fields |= config_fields(value, f"{prefix}{key}.")
        else:
            fields[prefix + key] = value
    return fields


def _listing(names: list[str]) -> str:
    return f" (there are: {', '.join(names)})" if names else ""


def _parse_and_run(main: Callable[[], int | None], example: str, argv: list[str]) -> int | None:
    config = _checked_config(argv) if "config" in flags.FLAGS else None
    if any(arg in ("--help", "-h", "-help") for arg in argv[1:]):
        _print_help(example, config)
        return 0
    try:
        rest = flags.FLAGS(argv)
    except flags.Error as error:
        raise UserError(_plain(str(error), config) + f" (see python {argv[0]} --help)") from error
    if len(rest) > 1:
        raise UserError(f"unexpected argument {rest[1]!r}: options are written --name=value")
    return main()


def _checked_config(argv: list[str]) -> ConfigDict | None:
    """Loads the config that `argv` names and checks the names of its overrides."""
    sources = _values(argv, "config")
    overrides = [m.group(1) for arg in argv[1:] if (m := re.match(r"--?(?:no)?config\.([^=]+)", arg))]
    if not sources:
        if overrides:
            raise UserError(f"--config.{overrides[0]} needs --config=FILE before it")
        return None
    config = load_config(sources[-1])
    fields = config_fields(config)
    groups = {key.rpartition(".")[0] for key in fields}
    for name in overrides:
        if name in groups:
            inside = sorted(key for key in fields if key.startswith(name + "."))
            raise UserError(f"--config.{name} is a group of fields; set one of {', '.join(inside)}")
        if name not in fields:
            hint = did_you_mean(name, fields) or f"; its fields are {', '.join(sorted(fields))}"
            raise UserError(f"{sources[-1]} has no field {name!r}{hint}")
    return config


def _values(argv: list[str], name: str) -> list[str]:
    """The values given to flag `name`, as --name=value or --name value."""
    values = [arg.partition("=")[2] for arg in argv[1:] if re.match(rf"--?{name}=", arg)]
    after = [argv[i + 1] for i, arg in enumerate(argv[:-1]) if i and arg in (f"--{name}", f"-{name}")]
    return values + after


def _plain(message: str, config: ConfigDict | None) -> str:
    """absl's message in our words, on one line."""
    if missing := re.search(r"Flag --(\w+) must have a value other than None", message):
        return f"--{missing.group(1)} is required"
    fields = config_fields(config) if config is not None else {}
    if (wrong := re.match(r"flag --config\.([^=\s]+)=(\S*): ", message)) and wrong.group(1) in fields:
        name, value = wrong.group(1), fields[wrong.group(1)]
        return f"--config.{name} takes {type(value).__name__} (in the file: {value!r}), not {wrong.group(2)!r}"
    if fixed := re.match(r"Type .* of field config\.(\S+) is not supported", message):
        return f"--config.{fixed.group(1)} can only be set in the file"
    return re.sub(r"\s+", " ", message).strip()


def _print_help(example: str, config: ConfigDict | None) -> None:
    doc = getattr(sys.modules["__main__"], "__doc__", None) or ""
    print(f"{doc.strip()}\n\nexample:\n  {example}\n{flags.FLAGS.main_module_help()}")
    if config is None:
        print("\nAdd --config=FILE to list the fields that --config.NAME=VALUE can set.")
        return
    print("\nfields of the config (set with --config.NAME=VALUE):")
    for key, value in sorted(config_fields(config).items()):
        print(f"  {key} = {value!r}")
