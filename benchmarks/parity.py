"""Parity of every ported network with the original code, through the commands that users have.

    NOFA_SHARED=<parity data> python benchmarks/parity.py [--bfloat16] [KIND …]

For each kind: writes a file as published with rule-made weights, ports it, runs both files on the stored inputs and
compares with the original's float64 results. Prints the table of docs/parity.md. The full-size networks need up to
6 GB and some minutes each. --bfloat16: convolutions in that type instead, through the same code without the commands.
"""

import sys
import tempfile
import time
from pathlib import Path

import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from nofa_jax.__main__ import dispatch
from nofa_jax.port.kinds import KINDS, port_source
from nofa_jax.port.source import read_source
from tests.port.published import CASES, Case


def command(*words: str | Path) -> None:
    dispatch(["port", *map(str, words)])


def measure(case: Case, folder: Path) -> tuple[dict[str, float], float]:
    """Errors of the ported file by output, and the seconds of its run; fails when the published file gives others."""
    arrays, ported = folder / "in.npz", folder / "ported.safetensors"
    np.savez(arrays, **case.inputs)
    heads = [f"--heads={case.heads}"] if case.heads else []
    command(case.kind, case.file, ported, *heads)
    command("run", case.kind, case.file, arrays, folder / "published.npz", *heads)
    start = time.perf_counter()
    command("run", case.kind, ported, arrays, folder / "ported.npz")
    seconds = time.perf_counter() - start
    with np.load(folder / "published.npz") as a, np.load(folder / "ported.npz") as b:
        for name in a.files:
            np.testing.assert_array_equal(a[name], b[name], err_msg=name)
        return case.compare(dict(b)), seconds


def measure_bfloat16(case: Case) -> tuple[dict[str, float], float]:
    ported = port_source(case.kind, read_source(case.file, case.heads))
    network = KINDS[case.kind].build(ported.options, jnp.bfloat16)
    start = time.perf_counter()
    return case.compare(network.run(ported.variables, case.inputs)), time.perf_counter() - start


def main() -> None:
    rows, names = [], [name for name in sys.argv[1:] if name != "--bfloat16"]
    low = "--bfloat16" in sys.argv
    for name in names or CASES:
        with tempfile.TemporaryDirectory() as folder:
            case = CASES[name](Path(folder))
            errors, seconds = measure_bfloat16(case) if low else measure(case, Path(folder))
        for output, error in errors.items():
            own = f"{case.own[output]:.1e}" if output in case.own else ""
            rows.append(f"| {name} | {output} | {error:.1e} | {own} |")
        print(f"{name}: run in {seconds:.1f} s (reading and compiling included)", flush=True)
    print("\n| kind | output | error | the original's own float32 error |\n|---|---|---|---|\n" + "\n".join(rows))


if __name__ == "__main__":
    main()
