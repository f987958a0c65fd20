"""`nofa port run`: checks named arrays from an .npz, runs a network on them and writes named arrays."""

from collections.abc import Mapping
from pathlib import Path

import jax
import numpy as np

from nofa_jax.cli import did_you_mean
from nofa_jax.errors import UserError
from nofa_jax.face3d.npz import check_finite, read_npz
from nofa_jax.port.files import check_variables, is_ported, load_ported
from nofa_jax.port.kinds import Input, Kind, kind_named, port_source
from nofa_jax.port.networks import Network
from nofa_jax.port.source import read_source

INTEGERS = {"uint8": "u", "integer": "iu"}


def load_network(name: str, path: str | Path, heads: str | Path | None = None) -> tuple[Network, Mapping]:
    """(network, variables) of a ported file, or of a published one, which is ported in memory.

    Raises:
      UserError: a file of another kind, or one that cannot be read.
    """
    kind = kind_named(name)
    if not Path(path).is_file() or not is_ported(path):
        ported = port_source(name, read_source(path, heads))
        return kind.build(ported.options), ported.variables
    variables, facts = load_ported(path, name)
    if heads:
        raise UserError(f"{path} is a ported file, which has its heads: leave --heads out")
    try:
        network = kind.build(facts["options"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: its header does not describe a network of kind {name}: {error}") from error
    check_variables(variables, network.target, path)
    return network, variables


def run(name: str, path: str | Path, inputs: str | Path, outputs: str | Path, heads: str | Path | None = None) -> dict:
    """Runs the network in `path` on the arrays of one .npz and writes another; returns the written arrays.

    Raises:
      UserError: bad files, or arrays of the wrong names, shapes or dtypes.
    """
    kind = kind_named(name)
    outputs = Path(outputs)
    if outputs.is_dir() or not outputs.absolute().parent.is_dir():
        raise UserError(f"cannot write {outputs}: it is a directory, or there is none to put it in")
    arrays = checked(kind, read_npz(inputs, what="input of port run"), inputs)
    network, variables = load_network(name, path, heads)
    with jax.default_matmul_precision("highest"):  # accelerators would multiply float32 in lower precision
        try:
            results = network.run(variables, arrays)
        except ValueError as error:
            raise UserError(f"{inputs}: {error}") from error
    partial = outputs.with_name(outputs.name + ".partial")
    try:
        with partial.open("wb") as file:
            np.savez(file, **results)  # ty: ignore[invalid-argument-type]
        partial.replace(outputs)
    except OSError as error:
        raise UserError(f"cannot write {outputs}: {error.strerror or error}") from error
    finally:
        partial.unlink(missing_ok=True)
    return results


def checked(kind: Kind, arrays: Mapping[str, np.ndarray], path: str | Path) -> dict[str, np.ndarray]:
    """The arrays in the dtypes that the network takes.

    Raises:
      UserError: an unknown or missing name, a wrong shape or dtype, values that are not finite.
    """
    takes = f"it takes {describe(kind)}"
    for name in arrays:
        if name not in kind.inputs:
            raise UserError(f"{path}: unknown array {name!r}{did_you_mean(name, kind.inputs)}; {takes}")
    missing = [name for name, entry in kind.inputs.items() if not entry.optional and name not in arrays]
    if "ws" in kind.inputs and len(arrays.keys() & {"ws", "z"}) != 1:
        raise UserError(f"{path} needs either ws or z; {takes}")
    if missing:
        raise UserError(f"{path} lacks {', '.join(missing)}; {takes}")
    sizes: dict[str, int] = {}
    return {name: _checked_array(f"{path}: {name}", array, kind.inputs[name], sizes) for name, array in arrays.items()}


def describe(kind: Kind) -> str:
    """The inputs in one line."""

    def one(name: str, entry: Input) -> str:
        shape = f"[{', '.join(map(str, entry.shape))}] " if entry.shape else ""
        return f"{name}{'?' if entry.optional else ''} {shape}{entry.values}"

    return "; ".join(one(name, entry) for name, entry in kind.inputs.items())


def _checked_array(what: str, array: np.ndarray, entry: Input, sizes: dict[str, int]) -> np.ndarray:
    """`sizes` holds the free sizes met so far, by letter; this array's are added."""
    if not entry.shape and array.shape == (1,):
        array = array.reshape(())
    if len(array.shape) != len(entry.shape):
        raise UserError(f"{what} has shape {list(array.shape)}, wanted [{', '.join(map(str, entry.shape))}]")
    for size, wanted in zip(array.shape, entry.shape, strict=True):
        expected = wanted if isinstance(wanted, int) else sizes.setdefault(wanted, size)
        if size != expected:
            same = "" if isinstance(wanted, int) else f" ({wanted} is {expected} in an earlier array)"
            raise UserError(f"{what} has shape {list(array.shape)}, wanted [{', '.join(map(str, entry.shape))}]{same}")
    if array.size == 0:
        raise UserError(f"{what} is empty")
    kinds = INTEGERS.get(entry.values, "f")
    if not entry.shape and array.dtype.kind in "iuf":  # 1 and 1.0 are the same number
        whole = kinds != "f" and float(array).is_integer()
        array = array.astype(np.int64 if whole else np.float64)
    if array.dtype.kind not in kinds or (entry.values == "uint8" and array.dtype != np.uint8):
        wanted = entry.values if entry.values in INTEGERS else f"floating point ({entry.values})"
        raise UserError(f"{what} is {array.dtype}, wanted {wanted}")
    if kinds != "f":
        return array
    check_finite(what.partition(": ")[0], what.partition(": ")[2], array)
    return array.astype(np.float32)
