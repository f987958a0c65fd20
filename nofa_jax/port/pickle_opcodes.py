"""What each opcode of the pickle protocols does to the `Machine`, and the function that runs a pickle.

Missing on purpose, so refused: INST, OBJ, NEWOBJ_EX, the extension codes and out-of-band buffers.
"""

import codecs
import re
import struct
from collections.abc import Callable
from mmap import mmap
from typing import Any

from nofa_jax.port.pickle_vm import MARK, Budget, Global, Machine, PickleError, Stop, checked_keys


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


def _stop(machine: Machine) -> None:
    raise Stop


def _protocol(machine: Machine) -> None:
    if (version := machine.number("<B")) > 5:
        raise PickleError(f"pickle protocol {version}")


def _tuple(count: int) -> Callable[[Machine], None]:
    def action(machine: Machine) -> None:
        values = [machine.pop() for _ in range(count)]
        machine.push(tuple(reversed(values)))

    return action


def _pop(machine: Machine) -> None:
    if not machine.stack:
        raise PickleError("the stack is empty")
    machine.stack.pop()


def _append(machine: Machine, values: list) -> None:
    machine.top(list).extend(values)


def _dict(machine: Machine) -> None:
    values = machine.pop_to_mark()
    machine.push({})
    machine.set_items(values)


def _single(method: Callable[[Machine, list], None], count: int) -> Callable[[Machine], None]:
    def action(machine: Machine) -> None:
        values = [machine.pop() for _ in range(count)]
        method(machine, values[::-1])

    return action


def _push(make: Callable[[Machine], Any]) -> Callable[[Machine], None]:
    return lambda machine: machine.push(make(machine))


def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.find(module, name)


_ACTIONS: dict[int, Callable[[Machine], Any]] = {
    code[0]: action
    for code, action in {
        b".": _stop,
        b"\x80": _protocol,
        b"\x95": lambda m: m.number("<Q"),  # FRAME: its length says nothing that we need
        b"(": lambda m: m.push(MARK),
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
        b"s": _single(Machine.set_items, 2),
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
    machine = Machine(data, position, resolve, persistent_load, budget)
    try:
        return machine.run(_ACTIONS), machine.position
    except PickleError as error:
        raise PickleError(f"{error} [byte {machine.position}]") from None
    except (ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError, struct.error) as error:
        reason = f"damaged or malformed ({type(error).__name__}: {str(error)[:80]})"
        raise PickleError(f"{reason} [byte {machine.position}]") from None
