"""Makes, checks and shows data sets. `nofa data` and `python -m data_prep` are the same commands."""

import sys

from nofa_jax.__main__ import run_group
from nofa_jax.cli import exit_code

EXAMPLE = "nofa data show data/heads128 --split=val --record=3 --out=sheet.png"
COMMANDS = {  # name: (module, what it does)
    "synthesize": ("data_prep.synthesize", "clips of embedded heads as a data set"),
    "folder": ("data_prep.folder", "photos and videos of your own as a data set: detect, track, align, pack, check"),
    "overlay": ("data_prep.overlay", "the fitted head drawn over a video, to see whether tracking sits on the face"),
    "check": ("data_prep.check", "validate a data set, print its statistics and write a report page"),
    "show": ("data_prep.show", "print one record and draw a contact sheet"),
    "portrait": ("data_prep.portrait", "a portrait and a driving video of embedded heads, to try the product with"),
}


def run(argv: list[str]) -> int | None:
    """Runs the command that `argv` names; raises UserError for an unknown one."""
    return run_group(sys.modules[__name__], "python -m data_prep", argv)


if __name__ == "__main__":
    sys.exit(exit_code(lambda: run(sys.argv[1:])))
