"""Run with 8 fake devices by test_mesh.py: the same steps on one device and on meshes of eight; prints JSON."""

import json
import re
import sys

import jax
import numpy as np
from ml_collections import ConfigDict

from nofa_jax import build
from nofa_jax.train import mesh as meshes
from nofa_jax.train.stages import begin_stage, plan
from tests.fakes import fake_batch, tiny_config

meshes.SMALLEST = 64  # toy arrays are small
jax.config.update("jax_disable_most_optimizations", True)


def gathered(text: str, kind: str) -> list[int]:
    """Numbers in the result of every all-gather (all-to-all, …) of a compiled program."""
    shapes = re.findall(rf"= \(?\w+\[([\d,]*)\][^=]* {kind}(?:-start)?\(", text)
    return [int(np.prod([int(n) for n in shape.split(",") if n])) for shape in shapes]


def stage_config(name: str) -> ConfigDict:
    """A toy config that has the stage; eight rows."""
    config = tiny_config().unlock()
    if name not in config.stage:
        from nofa_jax.cli import load_config

        real = load_config(f"configs/{name}.py:quickstart")
        config.stage = real.stage
        config.stages = real.stages
        config.train.update({"restorer": "untrained", "window": real.train.window})
    config.train.update({"batch_size": 8, "targets_per_source": 1})
    return config


def run(config, stage, mesh, start) -> dict:
    model, objective = build.build_model(config), build.objective(config)
    state = meshes.put_state(mesh, jax.tree.map(np.array, start))
    step = build.train_step(config, model, objective, stage, state, mesh)
    weights = meshes.put_copies(mesh, {k: np.float32(v) for k, v in stage.options.losses.items()})
    networks = meshes.put_copies(mesh, objective.networks)
    batches = [meshes.put_batch(mesh, jax.tree.map(np.asarray, fake_batch(config, i))) for i in range(2)]
    compiled = step.lower(state, batches[0], weights, networks).compile()
    text = compiled.as_text()
    result = {"gathers": gathered(text, "all-gather"), "exchanges": gathered(text, "all-to-all"), "losses": []}
    result["bytes"] = sum(s.data.nbytes for leaf in jax.tree.leaves(state) for s in leaf.addressable_shards[:1])
    for batch in batches:
        with jax.transfer_guard("disallow"):
            state, values = compiled(state, batch, weights, networks)
        result["losses"].append({k: float(v) for k, v in values.items()})
    return result


def main() -> None:
    config = stage_config(sys.argv[1])
    (stage,) = [stage for stage in plan(config) if stage.name == sys.argv[1]]
    variables = dict(build.init_variables(config, build.build_model(config), (5, 6), jax.random.key(0)))
    start = begin_stage(config, stage, variables.pop("params"), variables)
    layouts = {
        "one": meshes.make_mesh(1, 8, jax.devices()[:1]),
        "eight": meshes.make_mesh(1, 8),
        "fsdp": meshes.make_mesh(4, 8),
    }
    print(json.dumps({name: run(config, stage, mesh, start) for name, mesh in layouts.items()}))


if __name__ == "__main__":
    main()
