"""A pickle interpreter that only builds inert data: numbers, text, bytes, containers, and what an allow-list makes.

Python's own `pickle` imports and calls what a file names, lets one opcode allocate gigabytes (a memo index, an integer)
and hashes nested tuples without a bound. This one knows no import: a name in the file is looked up in a table that the
caller gives, and only functions of that table are ever called, with data arguments. Time and memory grow at most
linearly with the file. Protocols 0 to 5; out-of-band buffers, extension codes and INST/OBJ are refused.
"""

import codecs
import re
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


class _Stop(Exception):
    """STOP was met: control flow, not an error."""


_MARK = object()
_SIZED = (str, bytes, tuple, list, dict, set, frozenset)


class _Machine:
    def __init__(self, data, position, resolve, persistent_load, budget):
        self.data, self.position, self.size = data, position, len(data)
        self.resolve, self.persistent_load, self.budget = resolve, persistent_load, budget
        self.stack: list = []
        self.memo: dict[int, Any] = {}

    def run(self) -> Any:
        try:
            while self.budget.opcodes > 0:
                self.budget.opcodes -= 1
                if self.position >= self.size:
                    raise PickleError("it ends too early (truncated)")
                opcode = self.data[self.position]
                self.position += 1
                action = _ACTIONS.get(opcode)
                if action is None:
                    raise PickleError(f"unsupported opcode {bytes([opcode])!r}")
                action(self)
        except _Stop:
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
        if not self.stack or self.stack[-1] is _MARK:
            raise PickleError("the stack is empty")
        return self.stack.pop()

    def top(self, kind: type | tuple) -> Any:
        if not self.stack or not isinstance(self.stack[-1], kind):
            raise PickleError("an operation meets a value of the wrong type")
        return self.stack[-1]

    def pop_to_mark(self) -> list:
        for index in range(len(self.stack) - 1, -1, -1):
            if self.stack[index] is _MARK:
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
        state, target = self.pop(), self.stack[-1] if self.stack else None
        if isinstance(target, dict):  # attributes of an OrderedDict: PyTorch's `_metadata`, of no use here
            return
        if not hasattr(type(target), "set_state"):
            raise PickleError("a state for something that takes none")
        target.set_state(state)


def checked_keys(values: list) -> list:
    """`values`, if each may be a key; integers above 64 bits could be chosen to collide."""
    for value in values:
        if not isinstance(value, HASHABLE) and not (type(value) is int and -(1 << 63) <= value < 1 << 64):
            raise PickleError(f"a key of type {type(value).__name__}")
    return values


def _text_integer(line: bytes) -> int | bool:
    if line in (b"00", b"01"):
        return line == b"01"
    if not re.fullmatch(rb"-?\d{1,40}L?", line):
        raise PickleError("a malformed integer")
    return int(line.rstrip(b"L"))


def _text_string(line: bytes) -> str:
    if len(line) < 2 or line[0] != line[-1] or line[:1] not in b"'\"":
        raise PickleError("a malformed string")
    return codecs.escape_decode(line[1:-1])[0].decode("latin-1")


def _stop(machine: _Machine) -> None:
    raise _Stop


def _protocol(machine: _Machine) -> None:
    if (version := machine.number("<B")) > 5:
        raise PickleError(f"pickle protocol {version}")


def _tuple(count: int) -> Callable[[_Machine], None]:
    def action(machine: _Machine) -> None:
        values = [machine.pop() for _ in range(count)]
        machine.push(tuple(reversed(values)))

    return action


def _pop(machine: _Machine) -> None:
    if not machine.stack:
        raise PickleError("the stack is empty")
    machine.stack.pop()


def _append(machine: _Machine, values: list) -> None:
    machine.top(list).extend(values)


def _dict(machine: _Machine) -> None:
    values = machine.pop_to_mark()
    machine.push({})
    machine.set_items(values)


def _single(method: Callable[[_Machine, list], None], count: int) -> Callable[[_Machine], None]:
    def action(machine: _Machine) -> None:
        values = [machine.pop() for _ in range(count)]
        method(machine, values[::-1])

    return action


def _push(make: Callable[[_Machine], Any]) -> Callable[[_Machine], None]:
    return lambda machine: machine.push(make(machine))


def _stack_global(machine: _Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.find(module, name)


_ACTIONS: dict[int, Callable[[_Machine], Any]] = {
    code[0]: action
    for code, action in {
        b".": _stop,
        b"\x80": _protocol,
        b"\x95": lambda m: m.number("<Q"),  # FRAME: its length says nothing that we need
        b"(": lambda m: m.push(_MARK),
        b"0": _pop,
        b"1": lambda m: m.pop_to_mark(),
        b"2": lambda m: m.push(m.top(object)),
        b"N": _push(lambda m: None),
        b"\x88": _push(lambda m: True),
        b"\x89": _push(lambda m: False),
        b"I": _push(lambda m: _text_integer(m.line())),
        b"L": _push(lambda m: _text_integer(m.line())),
        b"J": _push(lambda m: m.number("<i")),
        b"K": _push(lambda m: m.number("<B")),
        b"M": _push(lambda m: m.number("<H")),
        b"\x8a": _push(lambda m: m.integer(m.number("<B"))),
        b"\x8b": _push(lambda m: m.integer(m.number("<i"))),
        b"F": _push(lambda m: float(m.line()[:64])),
        b"G": _push(lambda m: m.number(">d")),
        b"S": _push(lambda m: _text_string(m.line())),
        b"T": _push(lambda m: m.take(m.number("<i")).decode("latin-1")),
        b"U": _push(lambda m: m.take(m.number("<B")).decode("latin-1")),
        b"V": _push(lambda m: m.line().decode("raw-unicode-escape")),
        b"X": _push(lambda m: m.text(m.number("<I"))),
        b"\x8c": _push(lambda m: m.text(m.number("<B"))),
        b"\x8d": _push(lambda m: m.text(m.number("<Q"))),
        b"B": _push(lambda m: m.take(m.number("<I"))),
        b"C": _push(lambda m: m.take(m.number("<B"))),
        b"\x8e": _push(lambda m: m.take(m.number("<Q"))),
        b"\x96": _push(lambda m: m.take(m.number("<Q"))),  # BYTEARRAY8: read as bytes
        b")": _push(lambda m: ()),
        b"t": _push(lambda m: tuple(m.pop_to_mark())),
        b"\x85": _tuple(1),
        b"\x86": _tuple(2),
        b"\x87": _tuple(3),
        b"]": _push(lambda m: []),
        b"l": _push(lambda m: m.pop_to_mark()),
        b"a": _single(_append, 1),
        b"e": lambda m: _append(m, m.pop_to_mark()),
        b"}": _push(lambda m: {}),
        b"d": _dict,
        b"s": _single(_Machine.set_items, 2),
        b"u": lambda m: m.set_items(m.pop_to_mark()),
        b"\x8f": _push(lambda m: set()),
        b"\x90": lambda m: m.extend_set(m.pop_to_mark()),
        b"\x91": _push(lambda m: frozenset(checked_keys(m.pop_to_mark()))),
        b"g": lambda m: m.get(_text_integer(m.line())),
        b"h": lambda m: m.get(m.number("<B")),
        b"j": lambda m: m.get(m.number("<I")),
        b"p": lambda m: m.put(_text_integer(m.line())),
        b"q": lambda m: m.put(m.number("<B")),
        b"r": lambda m: m.put(m.number("<I")),
        b"\x94": lambda m: m.put(len(m.memo)),
        b"c": lambda m: m.find(m.line().decode(), m.line().decode()),
        b"\x93": _stack_global,
        b"R": lambda m: m.call(m.pop(), m.pop()),
        b"\x81": lambda m: m.call(m.pop(), m.pop()),
        b"b": lambda m: m.build(),
        b"P": _push(lambda m: m.persistent_load(m.line().decode("latin-1"))),
        b"Q": _push(lambda m: m.persistent_load(m.pop())),
    }.items()
}


def run_pickle(
    data: bytes | mmap,
    position: int,
    resolve: Callable[[str, str], Global],
    persistent_load: Callable[[Any], Any],
    budget: Budget,
) -> tuple[Any, int]:
    """Interprets the pickle at `position`; returns its value and the position after it.

    `resolve(module, name)` gives the Global that stands for a name, or raises PickleError. REDUCE and NEWOBJ call
    `Global.call(*args)`; BUILD calls `target.set_state(state)`. Raises PickleError, and nothing else, on bad streams.
    """
    machine = _Machine(data, position, resolve, persistent_load, budget)
    try:
        return machine.run(), machine.position
    except PickleError as error:
        raise PickleError(f"{error} [byte {machine.position}]") from None
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError, struct.error) as error:
        reason = f"damaged or malformed ({type(error).__name__}: {str(error)[:80]})"
        raise PickleError(f"{reason} [byte {machine.position}]") from None
