"""One run on 2 processes, 1 and 8 devices in turn, over one workdir: trained, saved, resumed elsewhere."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.processes import digest, finish, pair, start

ONE_STAGE = ("--config.stages=('general',)", "--config.stage.general.until=1.0", "--config.train.checkpoint_every=1")
ROWS = ("--config.train.batch_size=8", "--config.train.targets_per_source=1", "--config.train.preview_every=100")


def losses(workdir: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (workdir / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_moves_between_processes_and_devices(tmp_path):
    options = [*ONE_STAGE, *ROWS]
    straight = finish(start(tmp_path, tmp_path / "straight", *options, "--config.train.steps=4"))
    assert "done step=4" in straight

    run = tmp_path / "run"
    outs = [finish(process) for process in pair(tmp_path, run, *options, "--config.train.steps=1")]
    assert digest(outs[0]) == digest(outs[1]) != ""
    outs = [finish(process) for process in pair(tmp_path, run, *options, "--config.train.steps=2")]
    assert all("at step 1" in out for out in outs)
    assert digest(outs[0]) == digest(outs[1])
    out = finish(start(tmp_path, run, *options, "--config.train.steps=3", "--config.mesh.fsdp=4", devices=8))
    assert "at step 2" in out
    outs = [finish(process) for process in pair(tmp_path, run, *options, "--config.train.steps=4")]
    assert all("at step 3" in out for out in outs)
    # Steps of one schedule differ in length here, not in the first losses: the learning rate is still warming up.
    np.testing.assert_allclose(losses(run)[0], losses(tmp_path / "straight")[0], rtol=1e-4)
    assert len(losses(run)) == 4
