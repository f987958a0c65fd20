"""What the allowed names in a checkpoint turn into: numpy arrays and views of PyTorch storages, never foreign objects.

Every function here is called by the interpreter with arguments out of the file, so each checks all of them.
Arrays are read-only views of the bytes of the file (no copy), so a file cannot ask for more memory than its size.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from nofa_jax.port.pickle_vm import Global, Opaque, PickleError, checked_keys, quoted

MAX_DIMS = 32
MAX_ELEMENTS = 1 << 40
NUMBERS = {"b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8", "c8", "c16"}  # numpy's codes
STORAGE_DTYPES = {
    "Double": np.dtype("<f8"),
    "Float": np.dtype("<f4"),
    "Half": np.dtype("<f2"),
    "BFloat16": np.dtype(ml_dtypes.bfloat16),
    "Long": np.dtype("<i8"),
    "Int": np.dtype("<i4"),
    "Short": np.dtype("<i2"),
    "Char": np.dtype("i1"),
    "Byte": np.dtype("u1"),
    "Bool": np.dtype("?"),
    "ComplexFloat": np.dtype("<c8"),
    "ComplexDouble": np.dtype("<c16"),
}


@dataclass(frozen=True)
class Storage:
    """A PyTorch storage: `count` elements; `data` is None while only the layout of a file is being read."""

    dtype: np.dtype
    count: int
    data: bytes | memoryview | None

    def array(self, offset: int, shape: tuple[int, ...], strides: tuple[int, ...]) -> np.ndarray | None:
        """The view a tensor asks for (all in elements); refused when it leaves the storage or overlaps itself."""
        if not math.prod(shape):
            return np.empty(shape, self.dtype)
        reach = 0  # the farthest element reached by the axes seen so far, smallest stride first
        for stride, size in sorted((s, n) for s, n in zip(strides, shape, strict=True) if n > 1):
            if stride <= reach:
                raise PickleError("a tensor with overlapping elements")
            reach += stride * (size - 1)
        if offset + reach >= self.count:
            raise PickleError(f"a tensor that reaches element {offset + reach} of a storage of {self.count}")
        if self.data is None:
            return None
        step = self.dtype.itemsize
        return np.ndarray(shape, self.dtype, self.data, offset * step, tuple(s * step for s in strides))


def checked_count(value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_ELEMENTS:
        raise PickleError("a size, stride or offset that is not a sensible integer")
    return value


def checked_shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, tuple) or len(value) > MAX_DIMS:
        raise PickleError("a shape that is not a short tuple")
    return tuple(checked_count(v) for v in value)


# PyTorch
def rebuild_tensor(storage: Any, offset: Any, shape: Any, strides: Any, *rest: Any) -> np.ndarray | None:
    """torch._utils._rebuild_tensor and _rebuild_tensor_v2 (the rest: requires_grad, hooks, metadata)."""
    if not isinstance(storage, Storage) or len(rest) > 3:
        raise PickleError("a tensor without a storage")
    shape, strides = checked_shape(shape), checked_shape(strides)
    if len(shape) != len(strides):
        raise PickleError("a tensor whose shape and strides differ in length")
    return storage.array(checked_count(offset), shape, strides)


def rebuild_parameter(tensor: Any, *rest: Any) -> np.ndarray | None:
    if not (tensor is None or isinstance(tensor, np.ndarray)) or len(rest) > 3:
        raise PickleError("a parameter that is not a tensor")
    return tensor


def rebuild_from_type(function: Any, kind: Any, arguments: Any, state: Any) -> np.ndarray | None:
    """torch._tensor._rebuild_from_type_v2: a tensor with Python attributes, which are dropped."""
    if not (isinstance(function, Global) and function.call in (rebuild_tensor, rebuild_parameter)):
        raise PickleError("a tensor made by an unknown function")
    if not isinstance(arguments, tuple):
        raise PickleError("a tensor without arguments")
    return function.call(*arguments)


def torch_size(values: Any = ()) -> tuple[int, ...]:
    return checked_shape(tuple(values[: MAX_DIMS + 1]) if isinstance(values, list) else values)


# numpy
class Dtype:
    """A numpy dtype in the making: REDUCE gives the code, BUILD the byte order."""

    def __init__(self, code: Any, align: Any = False, copy: Any = False):
        if not isinstance(code, str) or code not in NUMBERS:
            name = quoted(code) if isinstance(code, str) else type(code).__name__
            raise PickleError(f"numpy dtype {name}; only numbers are read")
        self.dtype = np.dtype(code)

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or not 5 <= len(state) <= 9 or any(s is not None for s in state[2:5]):
            raise PickleError("a dtype with fields")
        if not isinstance(state[1], str) or state[1] not in "<|=":
            raise PickleError("a dtype that is not little-endian")


class _Array(np.ndarray):
    """A pickled array between REDUCE and BUILD. It is the final object too: the file may refer to it twice."""

    def set_state(self, state: Any) -> None:
        if not isinstance(state, tuple) or len(state) not in (4, 5):
            raise PickleError("an array with a malformed state")
        shape, dtype, fortran, data = state[-4:]
        view = array_from_buffer(data, dtype, shape, "F" if fortran is True else "C")
        # All of this is checked by now, so numpy's own method is safe; it keeps `data` without copying it.
        checked: Any = (1, view.shape, view.dtype, fortran is True, data)
        self.__setstate__(checked)
        self.flags.writeable = False


def array_from_buffer(data: Any, dtype: Any, shape: Any, order: Any = "C") -> np.ndarray:
    """numpy.core.numeric._frombuffer: the bytes `data` as an array; the size must fit exactly."""
    if not isinstance(data, bytes) or not isinstance(dtype, Dtype) or order not in ("C", "F"):
        raise PickleError("an array without bytes, dtype or order")
    shape = checked_shape(shape)
    if math.prod(shape) * dtype.dtype.itemsize != len(data):
        raise PickleError(f"an array of shape {shape} and type {dtype.dtype} in {len(data)} bytes")
    return np.frombuffer(data, dtype.dtype).reshape(shape, order=order)


def empty_array(kind: Any, shape: Any, code: Any) -> np.ndarray:
    """numpy.core.multiarray._reconstruct."""
    if not isinstance(kind, Global) or kind.name != "numpy.ndarray":
        raise PickleError("an array of an unknown class")
    return _Array((0,), np.uint8)


def numpy_scalar(dtype: Any, data: Any) -> bool | int | float | complex:
    return array_from_buffer(data, dtype, ()).item()


# Python
def ordered_dict(items: Any = ()) -> dict:
    result: dict = {}
    if not isinstance(items, list | tuple) or any(not isinstance(i, list | tuple) or len(i) != 2 for i in items):
        raise PickleError("a malformed OrderedDict")
    checked_keys([key for key, _ in items])
    result.update(items)
    return result


def encoded(text: Any, encoding: Any = "latin1") -> bytes:
    """_codecs.encode: how protocol 2 writes bytes."""
    if not isinstance(text, str) or encoding not in ("latin1", "latin-1"):
        raise PickleError("bytes in an unknown encoding")
    return text.encode("latin-1")


def empty_bytes() -> bytes:
    """builtins.bytes: how protocols 0 to 2 write no bytes."""
    return b""


def checked_set(items: Any = ()) -> set:
    if not isinstance(items, list | tuple | set):
        raise PickleError("a malformed set")
    return set(checked_keys(list(items)))


def opaque(name: str) -> Callable[..., Opaque]:
    """A function that stands for the class `name` and keeps what it is given."""
    return lambda *args: Opaque(name, args)


def _numpy_names() -> dict[str, Callable[..., Any]]:
    core = {
        "multiarray._reconstruct": empty_array,
        "multiarray.scalar": numpy_scalar,
        "numeric._frombuffer": array_from_buffer,
    }
    return {f"numpy.{base}.{name}": f for base in ("core", "_core") for name, f in core.items()}


# Names that may be called, and what is called in their place.
CALLABLE: dict[str, Callable[..., Any]] = {
    "collections.OrderedDict": ordered_dict,
    "_codecs.encode": encoded,
    "builtins.bytes": empty_bytes,
    "__builtin__.bytes": empty_bytes,
    "builtins.set": checked_set,
    "__builtin__.set": checked_set,
    "argparse.Namespace": opaque("argparse.Namespace"),
    "numpy.dtype": Dtype,
    **_numpy_names(),
    "torch.Size": torch_size,
    "torch.device": lambda *args: ":".join(str(a)[:20] for a in args[:2] if isinstance(a, str | int)),
    "torch._utils._rebuild_tensor": rebuild_tensor,
    "torch._utils._rebuild_tensor_v2": rebuild_tensor,
    "torch._utils._rebuild_parameter": rebuild_parameter,
    "torch._utils._rebuild_parameter_with_state": rebuild_parameter,
    "torch._tensor._rebuild_from_type_v2": rebuild_from_type,
}

# Names that may only be mentioned, as arguments of the above or as values (`dtype=torch.float32`).
MENTIONED = {
    "numpy.ndarray",
    "torch.Tensor",
    "torch.nn.parameter.Parameter",
    *(f"torch.{kind}Storage" for kind in STORAGE_DTYPES),
    *(f"torch.{name}" for name in ("float32", "float64", "float16", "bfloat16", "bool", "uint8")),
    *(f"torch.int{bits}" for bits in (8, 16, 32, 64)),
}
