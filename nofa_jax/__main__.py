"""NOFA: one portrait photo in, a drivable 3D head avatar out. Training and evaluation: train.py and eval.py.

`nofa` is installed for `python -m nofa_jax`.
"""

# A command is a module with `EXAMPLE` (one command line), `add_arguments(parser)` and `run(args) -> int | None`; a
# group of commands is one with `EXAMPLE` and `COMMANDS`, as this. The docstring is the help. Modules are imported only
# when their command is called, and import what is heavy inside `run`, so that --help is quick.

import argparse
import importlib
import importlib.util
import sys
from types import ModuleType
from typing import NoReturn

from nofa_jax.cli import did_you_mean, exit_code
from nofa_jax.errors import UserError

EXAMPLE = "nofa reenact --workdir=runs/quickstart --source=photo.jpg --driving=clip.mp4 --out=avatar.mp4"
COMMANDS = {  # name: (module, what it does)
    "reenact": ("nofa_jax.commands.reenact", "a photo and a driving video in, an avatar video out"),
    "render": ("nofa_jax.commands.render", "an avatar from a photo, in a pose and expression of your choice"),
    "port": ("nofa_jax.commands.port", "published weights in, weights for this package out; run them on arrays"),
    "weights": ("nofa_jax.commands.weights", "external weights: what for, where from, licence; fetch them"),
    "estimate": ("nofa_jax.commands.estimate", "what a training run takes: FLOPs, memory, checkpoint, hours"),
    "data": ("data_prep.__main__", "data sets: make them of photos and videos, check them, look into them"),
}


class _Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are `UserError`s, hence one line."""

    def error(self, message: str) -> NoReturn:
        hint = ""
        if message.startswith("unrecognized arguments: "):
            name = message.removeprefix("unrecognized arguments: ").split()[0].partition("=")[0]
            hint = did_you_mean(name, self._option_string_actions)
        raise UserError(f"{message}{hint} (see {self.prog} --help)")


def main(argv: list[str] | None = None) -> NoReturn:
    """Entry point of the console script."""
    sys.exit(exit_code(lambda: dispatch(sys.argv[1:] if argv is None else argv)))


def dispatch(argv: list[str]) -> int | None:
    """Runs the command that `argv` names; raises `UserError` for an unknown command or option."""
    if argv and argv[0] == "--version":
        from nofa_jax import __version__

        print(f"nofa {__version__}")
        return 0
    return run_group(sys.modules[__name__], "nofa", argv)


def run_group(module: ModuleType, prog: str, argv: list[str]) -> int | None:
    """Runs the command of a group's module that `argv` names; `prog` is how its help calls the group."""
    commands = available(module.COMMANDS)
    if not argv or argv[0] in ("-h", "--help", "help"):
        print(_overview(module, prog, commands))
        return 0
    name, *rest = argv
    if name not in commands:
        raise UserError(f"unknown command {name!r}{did_you_mean(name, commands)} (see {prog} --help)")
    chosen = importlib.import_module(commands[name][0])
    return (run_group if hasattr(chosen, "COMMANDS") else run_command)(chosen, f"{prog} {name}", rest)


def run_command(module: ModuleType, prog: str, argv: list[str]) -> int | None:
    """Parses `argv` with the arguments of a command's module and runs it; `prog` is how its help calls it."""
    parser = _Parser(
        prog=prog,
        description=(module.__doc__ or "").strip(),
        epilog=f"example:\n  {module.EXAMPLE}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    module.add_arguments(parser)
    return module.run(parser.parse_intermixed_args(argv))  # options may stand between a command's words


def available(commands: dict[str, tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """The commands whose module is there: data_prep may be left out of an installation."""
    return {name: entry for name, entry in commands.items() if _exists(entry[0])}


def _exists(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the parent package is missing
        return False


def _overview(module: ModuleType, prog: str, commands: dict[str, tuple[str, str]]) -> str:
    rows = "\n".join(f"  {name:<11} {summary}" for name, (_, summary) in commands.items())
    return f"""usage: {prog} COMMAND [options]

{(module.__doc__ or "").strip()}

commands:
{rows}

{prog} COMMAND --help explains one command.

example:
  {module.EXAMPLE}"""


if __name__ == "__main__":
    main()
