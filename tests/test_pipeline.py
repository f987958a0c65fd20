"""configs/pipeline.sh: the paper's stages one after the other, a few steps each."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STAGES = ("general", "teeth", "compensation", "finetune", "pti")
SMALL = ("--config.data.identities=24", "--config.warm_start.steps=4", "--config.warm_start.encoder_batches=1")


@pytest.mark.slow
def test_all_stages_run_in_sequence_and_are_passed_over_when_done(tmp_path: Path) -> None:
    environment = os.environ | {
        "NOFA_CACHE": str(tmp_path / "cache"),
        "PYTHON": sys.executable,
        "STEPS": "3",
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
    }
    command = [ROOT / "configs/pipeline.sh", tmp_path / "out", *SMALL]
    digests = []
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        digests.append(re.findall(r"done step=3 params=([0-9a-f]{64})", done.stdout))
        assert "mechanics alone" in done.stdout
    assert len(set(digests[0])) == len(STAGES)  # every stage changed something
    assert digests[0] == digests[1]
    for stage in ("finetune", "pti"):
        (row,) = (json.loads(line) for line in (tmp_path / "out" / stage / "metrics.jsonl").read_text().splitlines())
        assert {"source_psnr_before", "source_psnr_after", "other_psnr_after"} <= row.keys()
        assert (tmp_path / "out" / stage / "photo.png").stat().st_size > 1000
