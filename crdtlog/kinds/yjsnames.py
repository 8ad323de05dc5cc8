"""A patch of kind `text` in other names for the clients that it speaks of; see `crdtlog.naming` and `yjs`.

Two copies of a home edit as one client, and number their characters alike from where they part. So the client of the
log that leaves the other at a fork gets a name, and numbers, of its own: those from where it parted, counted anew.
"""

from collections.abc import Mapping, Sequence

from crdtlog.errors import Malformed
from crdtlog.kinds.yjs import MAX_CLOCK, MAX_ITEMS, Reader

_MAX_CLIENT = (1 << 53) - 1
_HAS_ORIGIN, _HAS_RIGHT_ORIGIN = 0x80, 0x40

Pieces = Mapping[int, Sequence[tuple[int, int]]]
"""Of a client, from which clock on it is which other one, in order, beginning with clock 0; others stay as they are."""


def first_clock(update: bytes) -> int | None:
    """The clock of a patch's first character; None if it inserts nothing. Raises `Malformed`."""
    reader = Reader(update)
    if not reader.number(1):
        return None
    reader.number(MAX_ITEMS)
    reader.number(_MAX_CLIENT)
    return reader.number(MAX_CLOCK)


def renamed(update: bytes, pieces: Pieces) -> bytes:
    """The patch in other names. Raises `Malformed`."""
    reader = Reader(update)
    out = bytearray()

    def copy(start: int) -> None:
        out.extend(reader.data[start : reader.at])

    def name() -> None:
        for number in _named(pieces, reader.number(_MAX_CLIENT), reader.number(MAX_CLOCK)):
            _write(out, number)

    clients = reader.number(1)
    _write(out, clients)
    if clients:
        items = reader.number(MAX_ITEMS)
        _write(out, items)
        name()
        for _ in range(items):
            info = reader.byte()
            out.append(info)
            if info & _HAS_ORIGIN:
                name()
            if info & _HAS_RIGHT_ORIGIN:
                name()
            start = reader.at
            if not info & (_HAS_ORIGIN | _HAS_RIGHT_ORIGIN):
                reader.number(1)
                reader.text()
            reader.text()
            copy(start)
    deleted: dict[int, list[tuple[int, int]]] = {}
    for _ in range(reader.number(len(update))):
        client = reader.number(_MAX_CLIENT)
        for _ in range(reader.number(len(update))):
            at, length = reader.number(MAX_CLOCK), reader.number(MAX_CLOCK)
            for other, start, count in _split(pieces, client, at, length):
                deleted.setdefault(other, []).append((start, count))
    if reader.at != len(update):
        raise Malformed("a patch with something behind its end")
    _write(out, len(deleted))
    for client in sorted(deleted, reverse=True):
        _write(out, client)
        _write(out, len(deleted[client]))
        for span in sorted(deleted[client]):
            for number in span:
                _write(out, number)
    return bytes(out)


def _named(pieces: Pieces, client: int, clock: int) -> tuple[int, int]:
    found = client, clock
    for start, other in pieces.get(client, ()):
        if start <= clock:
            found = other, clock - start
    return found


def _split(pieces: Pieces, client: int, at: int, length: int) -> list[tuple[int, int, int]]:
    """A range by the clients that its parts belong to."""
    ends = [start for start, _ in pieces.get(client, ()) if at < start < at + length]
    found = []
    for start, end in zip([at, *ends], [*ends, at + length], strict=True):
        if end > start:
            found.append((*_named(pieces, client, start), end - start))
    return found


def _write(out: bytearray, number: int) -> None:
    while number > 127:
        out.append(number & 127 | 128)
        number >>= 7
    out.append(number)
