"""The steps of many files on Apache Beam: on a cluster what workers.py does on one machine.

The code is the same: one call for each file, whose results lie in the work folder. So the pipeline carries nothing but
the files' names, and what comes after it (packing) finds everything done.
"""

import importlib
from collections.abc import Callable, Sequence
from typing import Any

from nofa_jax.errors import UserError


def run_on_beam(function: Callable[[Any], Any], items: Sequence[Any], options: Sequence[str]) -> None:
    """Calls `function` on every item, on the workers of the runner that `options` name; waits for the end.

    Raises:
      UserError: Apache Beam is not installed, or the pipeline did not finish.
    """
    try:
        apache_beam: Any = importlib.import_module("apache_beam")
        pipeline_options: Any = importlib.import_module("apache_beam.options.pipeline_options")
    except ImportError as error:
        raise UserError(
            'Apache Beam is not installed: pip install "apache-beam>=2.77", in an environment of its own (it takes '
            "an older protobuf)"
        ) from error
    pipeline = apache_beam.Pipeline(options=pipeline_options.PipelineOptions(list(options)))
    # Reshuffled: else runners fuse the list with the work and one worker does it all.
    _ = (
        pipeline
        | "files" >> apache_beam.Create(list(items))
        | "spread" >> apache_beam.Reshuffle()
        | "detect, track, align" >> apache_beam.Map(function)
    )
    state = str(pipeline.run().wait_until_finish())
    if state != "DONE":
        raise UserError(f"Apache Beam ended as {state}; the same command goes on where it was")
