"""Starting a stage from the checkpoint of an earlier run: all parts, with the averaged parameters."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree
from ml_collections import ConfigDict

from nofa_jax.errors import UserError
from nofa_jax.port.files import check_variables
from nofa_jax.progress import log
from nofa_jax.train.checkpoint import load
from nofa_jax.train.provenance import CONFIG_FILE, config_changes, plain, read_config

# Fields of config.model that decide how fast or in which precision, or what untrained weights are; not what trained
# ones mean.
FREE = ("dtype", "renderer.ray_chunk", "renderer.remat", "encoder.head_init_std", "generator.fine_init_std")


def missing_run(run: str, made_by: str) -> str:
    """What to do where there is no such run yet, or an empty string."""
    if (Path(run) / CONFIG_FILE).is_file():
        return ""
    return (
        f"config.init_from.run={run}, the run that this stage starts from: run `python train.py --config={made_by} "
        f"--workdir={run}` first, or name another run"
    )


def load_run(config: ConfigDict, abstract: Mapping[str, Any]) -> dict[str, PyTree]:
    """All variables of config.init_from.run's newest good checkpoint, in the structure and shapes of `abstract`.

    Raises UserError when the run's model or head is another than the config's, or it has no good checkpoint.
    """
    run = config.init_from.run
    theirs, ours = (plain(c) for c in (read_config(run), config))
    changes = config_changes({"model": theirs["model"]}, {"model": ours["model"]})
    changes |= config_changes({"data": {"head": theirs["data"]["head"]}}, {"data": {"head": ours["data"]["head"]}})
    differ = [text for name, text in changes.items() if name.removeprefix("model.") not in FREE]
    if differ:
        raise UserError(
            f"this stage goes on with the model of {run}, but the config differs from that run's: {'; '.join(differ)}. "
            "Give the run's values with --config.NAME=VALUE, or another --config.init_from.run"
        )
    found = load(run, ("ema", "constants"))
    variables = {"params": found.state["ema"], **found.state["constants"]}
    check_variables(variables, abstract, f"the checkpoint of {run}")
    log(f"all parts start from {run}, step {found.step}")
    return jax.tree.map(jnp.asarray, variables)
