"""Trains NOFA: the stages of one config, in one resumable run.

The same command resumes. SIGTERM and Ctrl-C save first. The last line of a finished run is
`done step=N params=<sha256 of all parameter bytes in path order>`.
"""

import functools
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
from nofa_jax.train import hosts
from nofa_jax.train.checkpoint import Checkpointer
from nofa_jax.train.digest import params_digest
from nofa_jax.train.log import MetricWriter, StepTimer
from nofa_jax.train.mesh import abstract, made_on, make_mesh, put_batch, put_copies, put_state
from nofa_jax.train.nonfinite import NonFinite
from nofa_jax.train.photo_run import adapt
from nofa_jax.train.profile import Profiler
from nofa_jax.train.provenance import record_run
from nofa_jax.train.show import Preview
from nofa_jax.train.signals import STOPPED, StopSignal
from nofa_jax.train.stages import abstract_states, begin_stage, plan
from nofa_jax.train.workdir import open_workdir

CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/quickstart.py", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", None, "Directory of the run; default runs/NAME-OF-THE-CONFIG")
ACCEPT = flags.DEFINE_bool("accept_config_changes", False, "Resume although the config differs from the run's")
COORDINATOR = flags.DEFINE_string("coordinator", None, "Several processes: HOST:PORT of the first, or auto")
PROCESSES = flags.DEFINE_integer("num_processes", None, "With --coordinator=HOST:PORT: how many there are")
PROCESS = flags.DEFINE_integer("process_id", None, "With --coordinator=HOST:PORT: which one this is, from 0")
flags.mark_flag_as_required("config")


def main() -> int:
    hosts.join(COORDINATOR.value, PROCESSES.value, PROCESS.value)
    config = CONFIG.value
    compile_cache.enable(config.compile_cache or None)
    if missing := build.missing_prerequisites(config):
        raise UserError(missing)
    workdir = WORKDIR.value or Path("runs") / config.name
    with open_workdir(workdir, lock=jax.process_index() == 0) as workdir, StopSignal() as stop:
        if "photo" in config:
            return adapt(config, workdir, ACCEPT.value)
        return train(config, workdir, stop)


def train(config: ConfigDict, workdir: Path, stop: StopSignal) -> int:
    t = config.train
    model, stages, objective = build.build_model(config), plan(config), build.objective(config)
    mesh = make_mesh(config.mesh.fsdp, build.rows_at_a_time(config))
    with hosts.first_alone("data set"):
        dataset = build.dataset(config)
    share = (jax.process_index(), jax.process_count())
    loader = pair_loader(
        dataset, "train", t.batch_size, t.targets_per_source, config.seed, *share, threads=config.data.threads
    )

    with Checkpointer(workdir, keep=t.keep, best="val_psnr" if t.keep_best else None) as checkpoints:
        record_run(workdir, config, resuming=bool(checkpoints.steps()), accept_changes=ACCEPT.value)
        state = build.initial_state(config, model, dataset, stages, warm=not checkpoints.steps())
        shapes = abstract_states(config, stages, state)
        if restored := checkpoints.restore(lambda step: abstract(mesh, shapes(step))):
            state = restored.state
            loader.set_state(restored.extra["data"])
            log(f"resuming {workdir} at step {restored.step}")
        else:
            state = put_state(mesh, state)
        step, networks = int(state.step), put_copies(mesh, objective.networks)
        preview_batch = next(pair_loader(dataset, "val", 4, min(t.targets_per_source, 1), config.seed, threads=0))

        with (
            MetricWriter(workdir, step) as metrics,
            Progress(t.steps, config.name, start=step) as progress,
            Profiler(workdir, config.profile) as profiler,
        ):
            timer, check_finite, last_logged = StepTimer(), NonFinite(workdir, t.skip_nonfinite), step
            for stage in [s for s in stages if s.stop > step]:
                if step == stage.start and step > 0:
                    state = made_on(mesh, functools.partial(begin_stage, config, stage), state.ema, state.constants)
                train_step = build.train_step(config, model, objective, stage, state, mesh)
                weights = put_copies(mesh, {name: np.float32(value) for name, value in stage.options.losses.items()})
                preview = Preview(model, build.rendering(config, stage.options), preview_batch, mesh)
                log(f"stage {stage.name}: steps {stage.start} to {stage.stop}")

                transfers = "allow"  # compiling fetches constants
                while step < stage.stop:
                    profiler.at(step)
                    with timer("data"):
                        rows = next(loader)
                        batch = put_batch(mesh, rows)
                    with timer("step"), jax.transfer_guard(transfers):
                        state, values = train_step(state, batch, weights, networks)
                        jax.block_until_ready(values)
                    step, transfers = step + 1, "disallow"
                    values = {objective.names.get(k, k): float(v) for k, v in jax.device_get(values).items()}
                    check_finite(step, values, rows)
                    progress.update(stage=stage.name, loss=values["loss"])
                    stopping, last = hosts.agree(bool(stop)), step == stage.stop
                    with timer("log"):
                        scores = {}
                        if step % t.preview_every == 0 or last:
                            variables = {"params": state.ema, **state.constants}
                            grid, psnr = preview.write(variables, workdir / "previews" / f"{step:07d}.png")
                            metrics.image(step, "preview", grid)
                            scores = {"val_psnr": psnr}
                        if step % t.checkpoint_every == 0 or last or stopping:
                            checkpoints.save(step, state, {"data": loader.get_state()}, scores)
                    if step % t.log_every == 0 or scores:
                        metrics.scalars(step, values | scores | timer.split(step - last_logged))
                        last_logged = step
                    if stopping:
                        checkpoints.wait()
                        log(f"{stop.name or 'stopped elsewhere'}: saved step {step}; the same command resumes")
                        return stop.exit_code or STOPPED
    log(f"done step={step} params={params_digest(state.params)}")
    return 0


if __name__ == "__main__":
    run_main(main, "python train.py --config=configs/quickstart.py --workdir=runs/quickstart --config.train.steps=500")
