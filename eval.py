"""Measures a trained run on people it never saw, next to honest controls: reenactment and one-shot fine-tuning.

Writes metrics.json (protocol and results), report.md (tables, what was reached, pictures), pairs.jsonl (every pair's
scores) and grids to WORKDIR/eval. The first evaluation on a data set also trains the expression regressor that measures
it, and caches it.
"""

import dataclasses
from pathlib import Path

import numpy as np
from absl import flags

from nofa_jax import build, compile_cache
from nofa_jax.cli import run_main
from nofa_jax.data.records import open_dataset
from nofa_jax.errors import UserError
from nofa_jax.metrics.expression import to_uint8
from nofa_jax.metrics.protocol import (
    evaluate,
    evaluate_finetuning,
    load_pairs,
    load_views,
    model_avatar,
    summarize,
    summarize_finetuning,
)
from nofa_jax.metrics.report import bars_table, check_bars, protocol_block, results_table, write_report
from nofa_jax.metrics.train_regressor import cached_regressor
from nofa_jax.progress import log
from nofa_jax.train import checkpoint
from nofa_jax.train.digest import params_digest
from nofa_jax.train.provenance import describe_run

WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run to measure", required=True)
STEP = flags.DEFINE_integer("step", None, "Checkpoint to measure; default the newest good one")
DATA = flags.DEFINE_string("data", None, "Data set to measure on; default the run's own")
SPLIT = flags.DEFINE_enum("split", "test", ("test", "val", "train"), "Split to take people from")
PAIRS = flags.DEFINE_integer("pairs", 144, "Number of source and target pairs", lower_bound=2)
IDENTITIES = flags.DEFINE_integer("finetune_identities", 8, "People to fine-tune on; 0 leaves it out", lower_bound=0)
STEPS = flags.DEFINE_integer("finetune_steps", 100, "Steps of fine-tuning", lower_bound=1)
BATCH = flags.DEFINE_integer("batch_size", 8, "Pictures rendered at once", lower_bound=1)
SEED = flags.DEFINE_integer("seed", 0, "Decides the pairs", lower_bound=0)
OUT = flags.DEFINE_string("out", None, "Directory of the results; default WORKDIR/eval")
PICTURES = 12  # pairs shown in the grids


def main() -> int:
    compile_cache.enable()
    step = checkpoint.load(WORKDIR.value, ("ema", "constants"), STEP.value).step  # the newest that is good
    config, model, variables = build.load(WORKDIR.value, step)
    dataset = open_dataset(DATA.value) if DATA.value else build.dataset(config)
    pairs = load_pairs(dataset, SPLIT.value, PAIRS.value, SEED.value)
    people = load_views(dataset, SPLIT.value, IDENTITIES.value, SEED.value)
    size, made = pairs.target.image.shape[1], config.model.output_size
    if size != made:
        raise UserError(
            f"{dataset.path} has pictures of {size} pixels, but the model makes {made}: give another --data"
        )
    regressor = cached_regressor(dataset)
    # With C whether or not the run trained it: untrained it adds zero, and fine-tuning needs it.
    avatar_of = model_avatar(model, dataclasses.replace(build.rendering(config), compensate=True))
    avatar = avatar_of(variables)

    shown = np.linspace(0, len(pairs) - 1, min(PICTURES, len(pairs))).astype(int)
    rows, pictures = evaluate(avatar, regressor, pairs, BATCH.value, keep=shown)
    results = summarize(rows, regressor.exp_names)
    if people:
        finetuner = build.finetuner(config, model)

        def finetune(photo):
            return avatar_of(finetuner(variables, photo, STEPS.value, show_progress=False).variables)

        tuned = evaluate_finetuning(avatar, finetune, people, BATCH.value)
        results["finetuned"] = summarize_finetuning(tuned, STEPS.value)
        rows += tuned

    protocol = protocol_block(
        pairs,
        dataset,
        regressor,
        split=SPLIT.value,
        seed=SEED.value,
        checkpoint={"step": step, "params_sha256": params_digest(variables["params"]), "workdir": WORKDIR.value},
        finetuning={"identities": len(people), "steps": STEPS.value},
        run=describe_run(),
    )
    columns = {"source": to_uint8(pairs.source.image[shown]), "target": pictures.pop("target"), **pictures}
    columns.pop("copy_source")  # the first column
    out = Path(OUT.value or Path(WORKDIR.value) / "eval")
    files = write_report(out, {"protocol": protocol, "results": results}, rows, columns)
    log(results_table(results) + "\n\n" + bars_table(check_bars(results)))
    log("written: " + ", ".join(str(f) for f in files))
    return 0


if __name__ == "__main__":
    run_main(main, "python eval.py --workdir=runs/quickstart")
