"""Metrics on disk: complete, resumable, readable by TensorBoard; and where a step's time goes."""

import json
import math
import struct
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event  # ty: ignore[missing-module-member] protobuf makes it at run time

from nofa_jax.errors import UserError
from nofa_jax.train.log import METRICS_FILE, MetricWriter, StepTimer, read_rows


def _events(workdir: Path) -> list[Event]:
    """The records of all event files: length, checksum, payload, checksum."""
    events = []
    for path in sorted((workdir / "tensorboard").iterdir()):
        content, place = path.read_bytes(), 0
        while place < len(content):
            (length,) = struct.unpack_from("<Q", content, place)
            events.append(Event.FromString(content[place + 12 : place + 12 + length]))
            place += 16 + length
    return events


def test_rows_and_events_hold_what_was_logged(tmp_path: Path) -> None:
    picture = np.zeros((8, 6, 3), np.uint8)
    with MetricWriter(tmp_path) as writer:
        writer.scalars(1, {"loss": jnp.float32(0.5), "rec": 2})
        rows = read_rows(tmp_path)  # at once, not at the end
        writer.image(1, "preview", picture)
        writer.text(1, "config", "**x**")
        writer.scalars(2, {"loss": math.nan})
    assert [{k: v for k, v in row.items() if k != "time"} for row in rows] == [{"step": 1, "loss": 0.5, "rec": 2.0}]
    assert abs(rows[0]["time"] - time.time()) < 60
    assert math.isnan(read_rows(tmp_path)[1]["loss"])
    values = {(event.step, v.tag): v for event in _events(tmp_path) for v in event.summary.value}
    assert values[1, "loss"].simple_value == 0.5
    assert values[1, "rec"].simple_value == 2.0
    assert (values[1, "preview"].image.height, values[1, "preview"].image.width) == (8, 6)
    assert math.isnan(values[2, "loss"].simple_value)


def test_resuming_drops_later_rows_and_a_cut_line(tmp_path: Path) -> None:
    with MetricWriter(tmp_path) as writer:
        for step in (10, 20, 30, 40):
            writer.scalars(step, {"loss": step})
    with open(tmp_path / METRICS_FILE, "a") as file:
        file.write('{"step": 50, "los')  # killed while writing
    assert [row["step"] for row in read_rows(tmp_path)] == [10, 20, 30, 40]
    with MetricWriter(tmp_path, start_step=20) as writer:
        writer.scalars(30, {"loss": -30})
    assert [(row["step"], row["loss"]) for row in read_rows(tmp_path)] == [(10, 10), (20, 20), (30, -30)]
    for line in (tmp_path / METRICS_FILE).read_text().splitlines():
        json.loads(line)
    starts = [event.step for event in _events(tmp_path) if event.HasField("session_log")]
    assert 21 in starts  # TensorBoard hides what was logged at this step and later by the first run


def test_a_run_from_the_start_replaces_the_rows(tmp_path: Path) -> None:
    for loss in (1, 2):
        with MetricWriter(tmp_path, tensorboard=False) as writer:
            writer.scalars(5, {"loss": loss})
    assert [row["loss"] for row in read_rows(tmp_path)] == [2]
    assert not (tmp_path / "tensorboard").exists()


def test_unwritable_and_closed(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot write"):
        MetricWriter(tmp_path / "file")
    writer = MetricWriter(tmp_path, tensorboard=False)
    writer.close()
    writer.close()
    writer.scalars(1, {"loss": 1})
    assert read_rows(tmp_path) == []
    assert read_rows(tmp_path / "nowhere") == []


def test_step_timer_splits_the_wall_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    timer = StepTimer()

    def spend(part: str, seconds: float) -> None:
        with timer(part):
            now[0] += seconds

    for _ in range(4):
        spend("data", 0.25)
        spend("step", 1.0)
        now[0] += 0.5
    spend("log", 2.0)
    assert timer.split(4) == pytest.approx(
        {
            "seconds/data": 0.25,
            "seconds/step": 1.0,
            "seconds/log": 0.5,
            "seconds/other": 0.5,
            "steps_per_second": 4 / 9,
        }
    )
    spend("step", 3.0)
    assert timer.split(1) == pytest.approx({"seconds/step": 3.0, "seconds/other": 0.0, "steps_per_second": 1 / 3})
