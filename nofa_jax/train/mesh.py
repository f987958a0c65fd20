"""The devices of a run as a mesh with named axes, and where each array of a step lives on it.

    data    every index has its own part of the batch and a whole copy of the state
    fsdp    the batch is cut along it too; parameters, their averages and Adam's moments are cut into as many parts

RULES say by path what is cut. One device is a mesh of one, so there is one code path.
"""

import re
from collections.abc import Callable, Sequence
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array, PyTree

from nofa_jax.errors import UserError
from nofa_jax.progress import log
from nofa_jax.train.digest import flatten
from nofa_jax.types import Batch

AXES = ("data", "fsdp")
ROWS = PartitionSpec(AXES)  # the leading axis, over all devices
EVERYWHERE = PartitionSpec()

# (path in the state, whether to cut); the first match decides.
RULES: tuple[tuple[str, bool], ...] = ((r"(params|ema|opt_state)/.*", True), (r".*", False))
SMALLEST: int = 2**14  # numbers in an array worth cutting: fetching a bias costs more than keeping it

T = TypeVar("T")


def make_mesh(fsdp: int, rows: int, devices: Sequence[jax.Device] | None = None) -> Mesh:
    """All devices of all processes as (data, fsdp).

    Args:
      fsdp: parts that the state is cut into; it divides the number of devices.
      rows: examples that are shared out at a time (the batch, or a part of it when gradients accumulate).

    On one host devices are left out, with a line in the log, until their number divides `rows`: the quickstart's batch
    of 6 uses 6 of 8. Raises UserError where that cannot be.
    """
    devices = list(jax.devices() if devices is None else devices)
    counts = [n for n in range(1, len(devices) + 1) if rows % n == 0 and fsdp > 0 and n % fsdp == 0]
    if not counts or (jax.process_count() > 1 and counts[-1] != len(devices)):
        raise UserError(
            f"train.batch_size / train.accumulate = {rows} examples cannot be shared by {len(devices)} devices with "
            f"mesh.fsdp={fsdp}: the number of devices must divide the one and be a multiple of the other"
        )
    if counts[-1] < len(devices):
        log(f"using {counts[-1]} of {len(devices)} devices: their number has to divide {rows} examples")
        devices = devices[: counts[-1]]
    return Mesh(np.array(devices).reshape(-1, fsdp), AXES)


def copied(mesh: Mesh) -> NamedSharding:
    """A whole copy on every device."""
    return NamedSharding(mesh, EVERYWHERE)


def by_rows(mesh: Mesh) -> NamedSharding:
    """The leading axis shared out to all devices."""
    return NamedSharding(mesh, ROWS)


def state_shardings(
    mesh: Mesh, state: PyTree, rules: Sequence[tuple[str, bool]] = RULES, smallest: int | None = None
) -> PyTree:
    """A sharding for each leaf of `state` (arrays or their shapes), structured like it.

    A leaf that is cut is cut along its longest axis that `fsdp` divides; small leaves and those without such an axis
    are copied.
    """
    parts, smallest = mesh.shape["fsdp"], SMALLEST if smallest is None else smallest

    def sharding(path: str, shape: tuple[int, ...]) -> NamedSharding:
        cut = next(answer for pattern, answer in rules if re.fullmatch(pattern, path))
        axes = [axis for axis, length in enumerate(shape) if length % parts == 0]
        if not cut or not axes or parts == 1 or np.prod(shape) < smallest:
            return copied(mesh)
        longest = max(axes, key=lambda axis: shape[axis])
        return NamedSharding(mesh, PartitionSpec(*[None] * longest, "fsdp"))

    leaves = [sharding(path, np.shape(leaf)) for path, leaf in flatten(state).items()]
    return jax.tree.unflatten(jax.tree.structure(state), leaves)


def abstract(mesh: Mesh, state: PyTree) -> PyTree:
    """Shapes, dtypes and places of a state: what a checkpoint is restored into, whatever mesh wrote it."""
    return jax.tree.map(
        lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
        state,
        state_shardings(mesh, state),
    )


def put_state(mesh: Mesh, state: T) -> T:
    """Places a state that every process holds whole; of several processes the first one's numbers count."""
    shardings = state_shardings(mesh, state)
    if jax.process_count() == 1:
        return jax.device_put(state, shardings)
    from jax.experimental import multihost_utils

    whole = multihost_utils.broadcast_one_to_all(jax.device_get(state))

    def place(leaf: np.ndarray, sharding: NamedSharding) -> Array:
        leaf = np.asarray(leaf)
        return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])

    return jax.tree.map(place, whole, shardings)


def made_on(mesh: Mesh, make: Callable[..., T], *arguments: PyTree) -> T:
    """make(*arguments), computed on the mesh and placed there as a state: nothing passes through a host."""
    shardings = state_shardings(mesh, jax.eval_shape(make, *arguments))
    return jax.jit(make, out_shardings=shardings)(*arguments)


def put_copies(mesh: Mesh, tree: T) -> T:
    """Places arrays that every process holds whole and equal (weights of losses, frozen networks) on all devices."""

    def place(leaf: Array) -> Array:
        whole = np.asarray(leaf)
        return jax.make_array_from_callback(whole.shape, copied(mesh), lambda index: whole[index])

    return jax.tree.map(place, tree)


def put_batch(mesh: Mesh, batch: Batch) -> Batch:
    """Places this process's rows of a batch; they become one array of all processes' rows, in their order."""
    if jax.process_count() == 1:
        return jax.device_put(batch, by_rows(mesh))
    return jax.tree.map(lambda leaf: jax.make_array_from_process_local_data(by_rows(mesh), leaf), batch)


def hold(tree: T, mesh: Mesh | None, spec: PartitionSpec) -> T:
    """Inside a jitted function: keeps every leaf where `spec` says, so that the compiler has no choice to make."""
    if mesh is None or mesh.size == 1:
        return tree
    return jax.lax.with_sharding_constraint(tree, NamedSharding(mesh, spec))


def on_each_device(function: Callable[..., dict[str, Array]], mesh: Mesh | None) -> Callable[..., dict[str, Array]]:
    """function(rows, whole) -> {name: mean over rows}, run by each device on its own rows and averaged over devices.

    Crops, pyramids and networks of the losses then cannot make the compiler gather images: each device sees its own.
    `rows` is a pytree of arrays with a leading batch axis, `whole` one that every device has. Results are scalars.
    """
    if mesh is None or mesh.size == 1:
        return function

    def local(rows: PyTree, whole: PyTree) -> dict[str, Array]:
        return jax.lax.pmean(function(rows, whole), AXES)

    return jax.shard_map(local, mesh=mesh, in_specs=(ROWS, EVERYWHERE), out_specs=EVERYWHERE)
