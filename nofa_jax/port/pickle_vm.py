"""A pickle interpreter that only builds inert data: numbers, text, bytes, containers, and what an allow-list makes.

Python's own `pickle` imports and calls what a file names, lets one opcode allocate gigabytes (a memo index, an integer)
and hashes nested tuples without a bound. This one knows no import: a name in the file is looked up in a table that the
caller gives, and only functions of that table are ever called, with data arguments. Time and memory grow at most
linearly with the file. Protocols 0 to 5; out-of-band buffers, extension codes and INST/OBJ are refused.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass
from mmap import mmap
from typing import Any

MAX_OPCODES = 1_000_000  # in one file; the largest published ones need about 1e5
MAX_LINE = 1 << 16  # bytes of one text argument of protocol 0
MAX_TEXT = 1 << 24  # bytes of one string: source code in NVIDIA's files is far below
MAX_INTEGER = 32  # bytes: torch's magic number has ten
HASHABLE = (str, bytes, bool, type(None))  # hashed with a secret key or trivially; nested tuples can take for ever


class PickleError(Exception):
    """The stream is damaged, hostile or not of the allowed kind; the message says where and why."""


@dataclass(frozen=True)
class Global:
    """A name found in the file. `call` is our own function that stands for it, or None if it is only a name."""

    name: str
    call: Callable[..., Any] | None = None


class Opaque:
    """Inert stand-in for an instance of a foreign class: what the file gave its constructor, and its state."""

    def __init__(self, name: str, args: tuple = ()):
        self.name, self.args, self.state = name, args, None

    def set_state(self, state: Any) -> None:
        """What BUILD calls; subclasses may keep or check it differently (raise PickleError to refuse)."""
        self.state = state

    def children(self) -> tuple:
        """Values held, for walks over the tree."""
        return (self.args, self.state)


def quoted(name: str) -> str:
    """A name from a file, made safe to print in one line."""
    return ascii(name[:100])


@dataclass
class Budget:
    """What a file, with all the pickles inside it, may still use."""

    work: int  # bytes and items that calls may read; a memo entry can be passed to any number of calls
    opcodes: int = MAX_OPCODES

    def spend(self, work: int) -> None:
        self.work -= work
        if self.work < 0:
            raise PickleError("it uses the same values over and over")


class Stop(Exception):
    """STOP was met: control flow, not an error."""


MARK = object()
_SIZED = (str, bytes, tuple, list, dict, set, frozenset)


class Machine:
    """Stack, memo and position of one pickle stream, and the operations that its opcodes are made of."""

    def __init__(
        self,
        data: bytes | mmap,
        position: int,
        resolve: Callable[[str, str], Global],
        persistent_load: Callable[[Any], Any],
        budget: Budget,
    ):
        self.data, self.position, self.size = data, position, len(data)
        self.resolve, self.persistent_load, self.budget = resolve, persistent_load, budget
        self.stack: list = []
        self.memo: dict[int, Any] = {}

    def run(self, actions: dict[int, Callable[["Machine"], Any]]) -> Any:
        """Interprets the opcodes until STOP; `actions` says what each does."""
        try:
            while self.budget.opcodes > 0:
                self.budget.opcodes -= 1
                if self.position >= self.size:
                    raise PickleError("it ends too early (truncated)")
                opcode = self.data[self.position]
                self.position += 1
                action = actions.get(opcode)
                if action is None:
                    raise PickleError(f"unsupported opcode {bytes([opcode])!r}")
                action(self)
        except Stop:
            return self.pop()
        raise PickleError(f"more than {MAX_OPCODES} opcodes")

    # Reading arguments
    def take(self, count: int) -> bytes:
        start = self.position
        if count < 0 or count > self.size - start:
            raise PickleError(f"it announces {count} bytes where {self.size - start} are left (truncated)")
        self.position = start + count
        return self.data[start : start + count]

    def number(self, layout: str) -> Any:
        return struct.unpack(layout, self.take(struct.calcsize(layout)))[0]

    def line(self) -> bytes:
        end = self.data.find(b"\n", self.position, self.position + MAX_LINE)
        if end < 0:
            raise PickleError("a text argument does not end")
        text = self.take(end - self.position)
        self.position += 1
        return text

    def text(self, length: int) -> str:
        if length > MAX_TEXT:
            raise PickleError(f"a text of {length} bytes")
        return self.take(length).decode("utf-8", "surrogatepass")

    def integer(self, length: int) -> int:
        if not 0 <= length <= MAX_INTEGER:
            raise PickleError(f"an integer of {length} bytes")
        return int.from_bytes(self.take(length), "little", signed=True)

    # The stack
    def push(self, value: Any) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack or self.stack[-1] is MARK:
            raise PickleError("the stack is empty")
        return self.stack.pop()

    def top(self, kind: type | tuple) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise PickleError("an operation meets a value of the wrong type")
        return self.stack[-1]

    def pop_to_mark(self) -> list:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is MARK:
                values = self.stack[index + 1 :]
                del self.stack[index:]
                return values
        raise PickleError("a mark is missing")

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise PickleError(f"memo entry {index} does not exist")
        self.push(self.memo[index])

    def put(self, index: int) -> None:
        value = self.pop()
        self.push(value)
        self.memo[index] = value

    # Composite values
    def extend_set(self, values: list) -> None:
        self.top(set).update(checked_keys(values))

    def set_items(self, values: list) -> None:
        if len(values) % 2:
            raise PickleError("a key without a value")
        self.top(dict).update(zip(checked_keys(values[0::2]), values[1::2], strict=True))

    def find(self, module: Any, name: Any) -> None:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise PickleError("a global whose name is not text")
        self.push(self.resolve(module, name))

    def call(self, arguments: Any, function: Any) -> None:
        if not isinstance(function, Global) or not isinstance(arguments, tuple):
            raise PickleError("a call of something that is not a global")
        if function.call is None:
            raise PickleError(f"{quoted(function.name)} may be named but not called")
        self.budget.spend(sum(len(a) for a in arguments if isinstance(a, _SIZED)))
        self.push(function.call(*arguments))

    def build(self) -> None:
        state, target = self.pop(), self.top(object)
        if isinstance(target, dict):  # attributes of an OrderedDict: PyTorch's `_metadata`, of no use here
            return
        set_state = getattr(type(target), "set_state", None)
        if set_state is None:
            raise PickleError("a state for something that takes none")
        set_state(target, state)


def checked_keys(values: list) -> list:
    """`values`, if each may be a key; integers above 64 bits could be chosen to collide."""
    for value in values:
        if not isinstance(value, HASHABLE) and not (type(value) is int and -(1 << 63) <= value < 1 << 64):
            raise PickleError(f"a key of type {type(value).__name__}")
    return values
