"""Memory of one training step, from shapes alone: parameters, optimizer state and XLA's own count of temporaries.

    python benchmarks/step_memory.py --config=configs/general.py --batch_sizes=1,2

Nothing is computed and no weights are needed; the step is compiled for the CPU. Temporaries grow linearly with the
batch, so two sizes give the estimate for any.
"""

import argparse
import sys
import time
from pathlib import Path

import jax
import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from nofa_jax import build
from nofa_jax.cli import load_config
from nofa_jax.train.frozen import identity_network, perceptual_network
from nofa_jax.train.objective import Objective
from nofa_jax.train.stages import begin_stage, plan, stage_optimizer
from nofa_jax.train.step import make_train_step
from nofa_jax.types import Batch, Frame


def abstract_frame(lead: tuple[int, ...], size: int, counts: tuple[int, int]) -> Frame:
    shapes = {"image": (size, size, 3), "mask": (size, size), "cam2world": (4, 4), "intrinsics": (3, 3)}
    shapes |= {"id_coeff": (counts[0],), "exp_coeff": (counts[1],), "landmarks": (68, 2)}
    return Frame(**{name: jax.ShapeDtypeStruct((*lead, *shape), np.float32) for name, shape in shapes.items()})


def gigabytes(tree: object) -> float:
    return sum(np.prod(leaf.shape) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree)) / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--config", default="configs/general.py")
    parser.add_argument("--batch_sizes", default="1,2")
    args = parser.parse_args()
    config = load_config(args.config)
    model, stage = build.build_model(config), plan(config)[0]
    counts = build.coefficient_counts(config)
    variables = dict(jax.eval_shape(lambda: build.init_variables(config, model, counts, jax.random.key(0))))
    params = variables.pop("params")
    optimizer = stage_optimizer(config, stage, params)
    state = jax.eval_shape(lambda p, c: begin_stage(config, stage, p, c), params, variables)
    print(f"parameters {gigabytes(params):.2f} GB, state with averages and moments {gigabytes(state):.2f} GB")
    # The stand-ins: LPIPS's and ArcFace's own temporaries come on top.
    objective = Objective(
        perceptual_network("laplacian-pyramid", True), identity_network("lowpass-cosine", True), config.train.mouth_size
    )
    rendering, options = build.rendering(config, stage.options), stage.options
    terms = frozenset(options.losses)
    step = make_train_step(model, optimizer, objective, rendering, terms, options.trainable, 0.99, 0)
    weights = dict.fromkeys(terms, jax.ShapeDtypeStruct((), np.float32))
    for b in map(int, args.batch_sizes.split(",")):
        t = config.train.targets_per_source
        size = config.data.size
        batch = Batch(
            source=abstract_frame((b,), size, counts),
            target=abstract_frame((b, t), size, counts),
            clip=jax.ShapeDtypeStruct((b,), np.int32),
        )
        begin = time.perf_counter()
        compiled = step.lower(state, batch, weights, objective.networks).compile()
        temporaries = compiled.memory_analysis().temp_size_in_bytes / 1e9
        print(
            f"batch {b}: temporaries {temporaries:.2f} GB (compiled in {time.perf_counter() - begin:.0f} s)", flush=True
        )


if __name__ == "__main__":
    main()
