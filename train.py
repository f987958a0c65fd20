"""Trains NOFA: the stages of one config, in one resumable run.

The same command resumes. SIGTERM and Ctrl-C save first. The last line of a finished run is
`done step=N params=<sha256 of all parameter bytes in path order>`.
"""

from pathlib import Path

import jax
import numpy as np
from absl import flags
from ml_collections import ConfigDict, config_flags

from nofa_jax import build, compile_cache
from nofa_jax.cli import run_main
from nofa_jax.data.sampler import pair_loader
from nofa_jax.errors import UserError
from nofa_jax.progress import Progress, log
from nofa_jax.train.checkpoint import Checkpointer
from nofa_jax.train.digest import params_digest
from nofa_jax.train.log import MetricWriter, StepTimer
from nofa_jax.train.provenance import record_run
from nofa_jax.train.show import Preview
from nofa_jax.train.signals import StopSignal
from nofa_jax.train.stages import abstract_states, begin_stage, plan, stage_optimizer
from nofa_jax.train.step import make_train_step
from nofa_jax.train.workdir import open_workdir

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/quickstart.py", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run; default runs/NAME-OF-THE-CONFIG")
ACCEPT = flags.DEFINE_bool("accept_config_changes", False, "Resume although the config differs from the run's")
flags.mark_flag_as_required("config")


def main() -> int:
    config = CONFIG.value
    compile_cache.enable()
    if missing := build.missing_prerequisites(config):
        raise UserError(missing)
    with open_workdir(WORKDIR.value or Path("runs") / config.name) as workdir, StopSignal() as stop:
        return train(config, workdir, stop)


def train(config: ConfigDict, workdir: Path, stop: StopSignal) -> int:
    t = config.train
    model, stages, objective = build.build_model(config), plan(config), build.objective(config)
    dataset = build.dataset(config)
    loader = pair_loader(dataset, "train", t.batch_size, t.targets_per_source, config.seed, threads=config.data.threads)

    with Checkpointer(workdir, keep=t.keep) as checkpoints:
        record_run(workdir, config, resuming=bool(checkpoints.steps()), accept_changes=ACCEPT.value)
        state = build.initial_state(config, model, dataset, stages, warm=not checkpoints.steps())
        if restored := checkpoints.restore(abstract_states(config, stages, state)):
            state = restored.state
            loader.set_state(restored.extra["data"])
            log(f"resuming {workdir} at step {restored.step}")
        step = int(state.step)
        preview_batch = next(pair_loader(dataset, "val", 4, 1, config.seed, threads=0))

        with MetricWriter(workdir, step) as metrics, Progress(t.steps, config.name, start=step) as progress:
            timer, last_logged = StepTimer(), step
            for stage in [s for s in stages if s.stop > step]:
                if step == stage.start and step > 0:
                    state = begin_stage(config, stage, state.ema, state.constants)
                rendering, weights = build.rendering(config, stage.options), dict(stage.options.losses)
                optimizer = stage_optimizer(config, stage, state.params)
                trainable = stage.options.trainable
                train_step = make_train_step(
                    model, optimizer, objective, rendering, frozenset(weights), trainable, t.ema, config.seed
                )
                weights = {name: np.float32(value) for name, value in weights.items()}
                preview = Preview(model, rendering, preview_batch)
                log(f"stage {stage.name}: steps {stage.start} to {stage.stop}")

                while step < stage.stop:
                    with timer("data"):
                        batch = next(loader)
                    with timer("step"):
                        state, values = train_step(state, batch, weights, objective.networks)
                        jax.block_until_ready(values)
                    step += 1
                    if step % t.log_every == 0 or step == stage.stop:
                        values = check_finite({k: float(v) for k, v in values.items()}, last_logged, step)
                        names = {objective.names.get(k, k): v for k, v in values.items()}
                        metrics.scalars(step, names | timer.split(step - last_logged))
                        last_logged = step
                    progress.update(stage=stage.name, loss=float(values["loss"]))
                    with timer("log"):
                        if step % t.preview_every == 0 or step == stage.stop:
                            variables = {"params": state.ema, **state.constants}
                            grid = preview.write(variables, workdir / "previews" / f"{step:07d}.png")
                            metrics.image(step, "preview", grid)
                        if step % t.checkpoint_every == 0 or step == stage.stop or stop:
                            checkpoints.save(step, state, extra={"data": loader.get_state()})
                    if stop:
                        checkpoints.wait()
                        log(f"{stop.name}: saved step {step}; the same command resumes")
                        return stop.exit_code
    log(f"done step={step} params={params_digest(state.params)}")
    return 0


def check_finite(values: dict[str, float], since: int, step: int) -> dict[str, float]:
    """The values, or an error that names those which are not finite."""
    bad = [name for name, value in values.items() if not np.isfinite(value)]
    if bad:
        raise UserError(f"not finite between steps {since} and {step}: {', '.join(bad)}; lower the learning rate")
    return values


if __name__ == "__main__":
    run_main(main, "python train.py --config=configs/quickstart.py --workdir=runs/quickstart --config.train.steps=500")
