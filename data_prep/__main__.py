"""`python -m data_prep COMMAND …`: makes, checks and shows data sets. Each command is also a module of its own."""

import importlib
import sys

from nofa_jax.__main__ import run_command
from nofa_jax.cli import did_you_mean, exit_code
from nofa_jax.errors import UserError

COMMANDS = {
    "synthesize": "clips of embedded heads as a data set",
    "folder": "photos and videos of your own as a data set: detect, track, align, pack, check",
    "overlay": "the fitted head drawn over a video, to see whether tracking sits on the face",
    "check": "validate a data set and print its statistics",
    "show": "print one record and draw a contact sheet",
    "portrait": "a portrait and a driving video of embedded heads, to try the product with",
}


def run(argv: list[str]) -> int | None:
    """Runs the command that `argv` names; raises UserError for an unknown one."""
    if not argv or argv[0] in ("-h", "--help"):
        rows = "\n".join(f"  {name:<11} {summary}" for name, summary in COMMANDS.items())
        print(
            f"usage: python -m data_prep COMMAND [options]\n\ncommands:\n{rows}\n\nCOMMAND --help explains one command."
        )
        return 0
    name, *rest = argv
    if name not in COMMANDS:
        raise UserError(f"unknown command {name!r}{did_you_mean(name, COMMANDS)} (see python -m data_prep --help)")
    return run_command(importlib.import_module(f"data_prep.{name}"), f"python -m data_prep {name}", rest)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: run(sys.argv[1:])))
