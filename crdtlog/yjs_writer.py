"""A tree of values written as a Yjs update (format version 1): the bytes that every Yjs program can apply.

Written here and not by a library, because pycrdt inserts one element after another, which takes minutes and gigabytes
for a long array, and does not keep all integers. A new document's update is simple: one client's items in a row, each
beside the one before it or the first in its container.
"""

import struct
from collections import deque
from collections.abc import Iterable
from itertools import groupby
from typing import NamedTuple, TypeAlias


class Text(NamedTuple):
    """A text that can be edited character by character (`Y.Text`)."""

    text: str


class Exact(NamedTuple):
    """What a Yjs value cannot hold, spelled out: a plain object of one member, which no `Y.Map` can be taken for."""

    form: str
    spelled: str


Scalar: TypeAlias = bool | int | float | str | bytes | Exact | None
#: A dict is a `Y.Map`, a list a `Y.Array`.
Node: TypeAlias = "Scalar | Text | dict[str, Node] | list[Node]"

#: Integers beyond are not exact in a Yjs document, nor in JavaScript.
MAX_INTEGER = (1 << 53) - 1
_VARIABLE_INTEGER = (1 << 31) - 1

# What an item may hold, and what its first byte tells beside that.
_STRING, _TYPE, _ANY = 4, 7, 8
_HAS_ORIGIN, _HAS_NAME = 0x80, 0x20
_TYPE_OF: dict[type, int] = {list: 0, dict: 1, Text: 2}


def update(root: str, holds: dict[str, Node] | list[Node], client: int) -> bytes:
    """The update that makes an empty document hold one map, or one array, of that name.

    `client` names who writes: a number below 2^53 that is never used for another update. No text may hold surrogates,
    no integer be beyond `MAX_INTEGER`.
    """
    writer = _Writer(client)
    if isinstance(holds, dict):
        writer.members(b"\x01" + _text(root), holds)
    else:
        writer.elements(b"\x01" + _text(root), holds)
    while writer.ahead:
        clock, node = writer.ahead.popleft()
        parent = b"\x00" + writer.client + _number(clock)
        if isinstance(node, dict):
            writer.members(parent, node)
        elif isinstance(node, list):
            writer.elements(parent, node)
        elif node.text:
            units = len(node.text) if node.text.isascii() else len(node.text.encode("utf-16-le")) // 2
            writer.item(bytes([_STRING]), parent, _text(node.text), units)
    if not writer.count:
        return b"\x00\x00"
    head = b"\x01" + _number(writer.count) + writer.client + b"\x00"
    return head + bytes(writer.items) + b"\x00"


class _Writer:
    """Writes items, each with the next number; containers wait in `ahead` for what is in them."""

    def __init__(self, client: int) -> None:
        self.client = _number(client)
        self.items = bytearray()
        self.count = 0
        self.clock = 0
        self.ahead: deque[tuple[int, Text | dict[str, Node] | list[Node]]] = deque()

    def members(self, parent: bytes, members: dict[str, Node]) -> None:
        """A map's: each the first of its name."""
        for name, node in members.items():
            place = parent + _text(name)
            if isinstance(node, (Text, dict, list)):
                self.container(bytes([_HAS_NAME | _TYPE]), place, node)
            else:
                self.item(bytes([_HAS_NAME | _ANY]), place, b"\x01" + _any(node), 1)

    def elements(self, parent: bytes, elements: list[Node]) -> None:
        """An array's: each behind the one before; scalars that follow one another are one item."""
        flag, place = 0, parent
        for is_container, run in groupby(elements, lambda node: isinstance(node, (Text, dict, list))):
            if is_container:
                for node in run:
                    assert isinstance(node, (Text, dict, list))
                    self.container(bytes([flag | _TYPE]), place, node)
                    flag, place = _HAS_ORIGIN, self.last()
            else:
                values = [_any(node) for node in run if not isinstance(node, (Text, dict, list))]
                self.item(bytes([flag | _ANY]), place, _number(len(values)) + b"".join(values), len(values))
                flag, place = _HAS_ORIGIN, self.last()

    def container(self, info: bytes, place: bytes, node: "Text | dict[str, Node] | list[Node]") -> None:
        """An empty container, to be filled later."""
        self.ahead.append((self.clock, node))
        self.item(info, place, bytes([_TYPE_OF[type(node)]]), 1)

    def item(self, info: bytes, place: bytes, content: bytes, units: int) -> None:
        """One item, which takes so many numbers."""
        self.items += info + place + content
        self.count += 1
        self.clock += units

    def last(self) -> bytes:
        """The name of the last unit that was written."""
        return self.client + _number(self.clock - 1)


def _any(value: Scalar) -> bytes:
    """A scalar, as lib0 writes it."""
    if value is None:
        return b"\x7e"
    if isinstance(value, bool):
        return b"\x78" if value else b"\x79"
    if isinstance(value, int):
        assert -MAX_INTEGER <= value <= MAX_INTEGER, "an integer that would not be exact"
        if -_VARIABLE_INTEGER <= value <= _VARIABLE_INTEGER:
            return b"\x7d" + _signed(value)
        return b"\x7b" + struct.pack(">d", value)
    if isinstance(value, float):
        return b"\x7b" + struct.pack(">d", value)
    if isinstance(value, str):
        return b"\x77" + _text(value)
    if isinstance(value, bytes):
        return b"\x74" + _number(len(value)) + value
    return b"\x76\x01" + _text(value.form) + b"\x77" + _text(value.spelled)


def _text(text: str) -> bytes:
    raw = text.encode()
    return _number(len(raw)) + raw


def _number(value: int) -> bytes:
    """Seven bits to a byte, low ones first."""
    return bytes(_bits(value))


def _signed(value: int) -> bytes:
    """The same, with the sign in the first byte, which so has six bits."""
    rest = abs(value)
    first = (rest & 0x3F) | (0x40 if value < 0 else 0)
    return bytes([first | 0x80, *_bits(rest >> 6)]) if rest > 0x3F else bytes([first])


def _bits(value: int) -> Iterable[int]:
    while value > 0x7F:
        yield value & 0x7F | 0x80
        value >>= 7
    yield value
