"""train.py as real processes: alone, in company, and killed."""

import os
import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def start(cache: Path, workdir: Path, *options: str, devices: int = 1) -> subprocess.Popen:
    """A tiny run, compiled in seconds without XLA's optimisations, on so many fake CPU devices."""
    command = [sys.executable, "train.py", "--config=tests/tiny.py", f"--workdir={workdir}", *options]
    environment = os.environ | {
        "NOFA_CACHE": str(cache),
        "PYTHONPATH": str(ROOT),
        "JAX_PLATFORMS": "cpu",
        "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices}",
    }
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(process: subprocess.Popen, timeout: float = 1800) -> str:
    """Its output; fails with its errors when it did not end well."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    assert process.returncode == 0, err[-3000:]
    return out


def pair(cache: Path, workdir: Path, *options: str) -> list[subprocess.Popen]:
    """The same run on two processes that find each other over loopback."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    company = (f"--coordinator={address}", "--num_processes=2")
    return [start(cache, workdir, *options, *company, f"--process_id={index}") for index in range(2)]


def digest(out: str) -> str:
    """The last line's: sha256 of all parameters."""
    return out.strip().splitlines()[-1].partition(" params=")[2]
