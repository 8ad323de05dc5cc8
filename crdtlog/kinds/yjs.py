"""What an update of a text may say, read without the library that applies it (Yjs update format, version 1).

A patch comes from another device, and the library that merges text fails badly on bytes that no honest device writes:
it panics, loops, or damages its memory, and in all that was found the items named others that did not exist, or used a
number twice. So each patch is read here first, and refused unless it says what an honest edit says: strings inserted
into one root text by the patch's own author, each number new, beside characters that are there; and ranges deleted
that are there. Nothing here allocates by what a number in the bytes claims.

An item is named by its client and clock; a client's clock counts UTF-16 units. A client here is one writer editing
one document: both make its number, so that nobody can use another's.
"""

from hashlib import sha256
from typing import NamedTuple

from crdtlog.errors import Malformed
from crdtlog.kinds.text import Dot
from crdtlog.values import pack

#: The name of the one root of a text's document.
ROOT = "text"

#: An honest patch has a tenth of that (see MAX_SPLICES in textdiff.py).
MAX_ITEMS = 10_000
#: Deleted ranges: a text that was edited very often can be deleted as a whole.
MAX_RANGES = 1_000_000
#: Clocks are 32 bits in the library.
MAX_CLOCK = (1 << 31) - 1

_MAX_CLIENT = (1 << 53) - 1
_STRING = 4
_HAS_ORIGIN, _HAS_RIGHT_ORIGIN = 0x80, 0x40


def start_client(begun: Dot) -> int:
    """The client whose items are the text that a document begins with."""
    return _client("start", *begun)


def edit_client(begun: Dot, writer: bytes) -> int:
    """The client as which a writer edits a document. It never edits as another, and nobody else as this one."""
    return _client("edit", *begun, writer)


def _client(*parts: object) -> int:
    return int.from_bytes(sha256(pack(["crdtlog text", *parts])).digest()[:7], "big") >> 3 or 1


class Patch(NamedTuple):
    """What a patch says of items: its author's from `clock` on are new; each client's up to `named` must be there."""

    client: int
    clock: int
    length: int
    named: dict[int, int]


def read_patch(data: bytes, client: int) -> Patch:
    """Read a patch whose author is `client`. Raises `Malformed` for what no honest edit says."""
    reader = Reader(data)
    named: dict[int, int] = {}
    clients = reader.number(1)
    first = clock = 0
    if clients:
        items = reader.number(MAX_ITEMS)
        if not items or reader.number(_MAX_CLIENT) != client:
            raise Malformed("a patch with another author's items")
        first = clock = reader.number(MAX_CLOCK)
        for _ in range(items):
            clock += _read_item(reader, client, clock, named)
            if clock > MAX_CLOCK:
                raise Malformed("a patch whose items are too many to number")
    _read_deleted(reader, client, clock if clients else None, named)
    if reader.at != len(data):
        raise Malformed("a patch with something behind its end")
    return Patch(client, first, clock - first, named)


def read_clocks(data: bytes) -> dict[int, int]:
    """How far each client's items are there, from a state vector."""
    reader = Reader(data)
    return {reader.number(_MAX_CLIENT): reader.number(MAX_CLOCK) for _ in range(reader.number(len(data)))}


def check_present(patch: Patch, clocks: dict[int, int]) -> str:
    """Why a patch does not continue a document with these clocks; empty if it does."""
    there = clocks.get(patch.client, 0)
    if patch.length and patch.clock < there:
        return "repeated"
    if patch.length and patch.clock > there:
        return "missing"
    for client, end in patch.named.items():
        if end > clocks.get(client, 0):
            return "missing"
    return ""


class Reader:
    """Reads the primitives of the format."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.at = 0

    def byte(self) -> int:
        """One byte."""
        if self.at == len(self.data):
            raise Malformed("a patch that breaks off")
        self.at += 1
        return self.data[self.at - 1]

    def number(self, most: int) -> int:
        """A number of seven bits to a byte, low ones first."""
        data, at = self.data, self.at
        if at < len(data) and data[at] < 128 and data[at] <= most:
            self.at = at + 1  # as most are
            return data[at]
        value = shift = 0
        while at < len(data) and shift < 63:
            byte = data[at]
            at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                if value > most:
                    raise Malformed("a patch with a number out of its bounds")
                self.at = at
                return value
            shift += 7
        raise Malformed("a patch that breaks off in a number")

    def text(self) -> str:
        """Text with its length in bytes before it."""
        length = self.number(len(self.data))
        raw = self.data[self.at : self.at + length]
        if len(raw) != length:
            raise Malformed("a patch that breaks off in a text")
        self.at += length
        try:
            return raw.decode()
        except UnicodeDecodeError:
            raise Malformed("a patch with text that is not UTF-8") from None


def _read_item(reader: Reader, client: int, clock: int, named: dict[int, int]) -> int:
    """Read one item; returns how many numbers it takes."""
    info = reader.byte()
    beside = info & (_HAS_ORIGIN | _HAS_RIGHT_ORIGIN)
    if info != beside | _STRING:
        raise Malformed("a patch that inserts something else than plain text")
    if info & _HAS_ORIGIN:
        _read_name(reader, client, clock, named)
    if info & _HAS_RIGHT_ORIGIN:
        _read_name(reader, client, clock, named)
    if not beside and (reader.number(1) != 1 or reader.text() != ROOT):
        raise Malformed("a patch of another root")
    text = reader.text()
    if not text:
        raise Malformed("a patch that inserts nothing")
    return utf16_length(text)


def _read_name(reader: Reader, client: int, clock: int, named: dict[int, int]) -> None:
    other, at = reader.number(_MAX_CLIENT), reader.number(MAX_CLOCK)
    if other == client and at >= clock:
        raise Malformed("a patch whose items stand beside later ones")
    # An author's own items before this patch are there if the patch continues them.
    if other != client and at >= named.get(other, 0):
        named[other] = at + 1


def _read_deleted(reader: Reader, client: int, own_end: int | None, named: dict[int, int]) -> None:
    """Read the deleted ranges. `own_end`: where the author's items end after this patch, if it says."""
    seen: set[int] = set()
    left = MAX_RANGES
    for _ in range(reader.number(len(reader.data))):
        other = reader.number(_MAX_CLIENT)
        if other in seen:
            raise Malformed("a patch that lists a client's deletions twice")
        seen.add(other)
        count = reader.number(left)
        left -= count
        end = 0
        for _ in range(count):
            at, length = reader.number(MAX_CLOCK), reader.number(MAX_CLOCK)
            if not length or at < end:
                raise Malformed("a patch whose deletions are not in order")
            end = at + length
        if not end:
            raise Malformed("a patch with an empty list of deletions")
        if other == client and own_end is not None:
            if end > own_end:
                raise Malformed("a patch that deletes what its author has not written")
        elif end > named.get(other, 0):
            named[other] = end


def utf16_length(text: str) -> int:
    """How many UTF-16 units a text takes."""
    return len(text) if text.isascii() else len(text.encode("utf-16-le")) // 2
