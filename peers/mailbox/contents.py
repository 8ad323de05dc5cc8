"""What is inside a blob: some whole entries, or a piece of a large one; and putting pieces together.

Knows lengths and numbers. Must not know what an entry is, nor sealing: all this is inside the encryption. The one idea:
whoever can seal a blob may be hostile all the same, so pieces are kept within bounds, and what does not become whole is
dropped and counted.

    entries  0x01 ‖ (length (4, big endian) ‖ signed entry) …
    piece    0x02 ‖ name of the entry, drawn at random (16) ‖ number of the piece, from 0 (2) ‖ pieces in all (2)
             ‖ bytes
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from crdtlog.entry import MAX_HEADER_BYTES, MAX_RAW_BYTES
from crdtlog.errors import Malformed, TooLarge
from peers import envelope
from peers.relay.messages import SIZES

MAX_ENTRY_BYTES = MAX_RAW_BYTES + MAX_HEADER_BYTES
MAX_ENTRIES = 4_096
"""So many entries are in one blob at most."""
MAX_PIECES = 0xFFFF
BATCH_BYTES = 64 << 10
"""Small entries share a blob up to this size: what a relay counts as one append."""
PIECE_BYTES = 1 << 20
"""Larger blobs than this are made of no entry: the last piece is rounded up alone."""
NAME_BYTES = 16

_ENTRIES, _PIECE = 1, 2
_LENGTH_BYTES = 4
_PIECE_HEADER_BYTES = 1 + NAME_BYTES + 2 + 2

MAX_PARTIAL_BYTES = 96 << 20
MAX_PARTIAL = 256
STALE_BLOBS = 4_096
"""An entry of which no piece came for so many blobs is given up."""


class Piece(NamedTuple):
    """A part of one entry."""

    name: bytes
    number: int
    of: int
    """How many there are."""
    data: bytes


# --- writing ------------------------------------------------------------------------------------------------------


def room(size: int) -> int:
    """How much content a blob of that size holds."""
    return size - envelope.SIZED_OVERHEAD_BYTES


def largest_size(limit: int, most: int = PIECE_BYTES) -> int:
    """The largest size of a blob within a relay's limit that is used here."""
    return max(size for size in SIZES if size <= max(SIZES[0], min(limit, most)))


def of_entries(entries: Sequence[bytes]) -> bytes:
    """The content that holds whole entries."""
    return bytes((_ENTRIES,)) + b"".join(len(each).to_bytes(_LENGTH_BYTES, "big") + each for each in entries)


def length_with(length: int, entry: bytes) -> int:
    """How long a content of `length` bytes (0: none yet) is with one more entry."""
    return (length or 1) + _LENGTH_BYTES + len(entry)


def cut(entry: bytes, name: bytes, size: int) -> list[bytes]:
    """The contents of the pieces of an entry, none larger than a blob of `size` holds.

    Raises `TooLarge` if there would be more than can be numbered.
    """
    step = room(size) - _PIECE_HEADER_BYTES
    count = -(-len(entry) // step)
    if count > MAX_PIECES:
        raise TooLarge(f"an entry of {len(entry):,} bytes is more than fits into blobs of {size:,}")
    return [
        bytes((_PIECE,))
        + name
        + number.to_bytes(2, "big")
        + count.to_bytes(2, "big")
        + entry[number * step : (number + 1) * step]
        for number in range(count)
    ]


# --- reading ------------------------------------------------------------------------------------------------------


def read(content: bytes) -> list[bytes] | Piece:
    """The entries in a content, or the piece that it is. Raises `Malformed`."""
    if content[:1] == bytes((_ENTRIES,)):
        return _entries(content)
    if content[:1] == bytes((_PIECE,)):
        return _piece(content)
    raise Malformed("a blob of an unknown kind")


def _entries(content: bytes) -> list[bytes]:
    found: list[bytes] = []
    at = 1
    while at < len(content):
        start = at + _LENGTH_BYTES
        at = start + int.from_bytes(content[at:start], "big")
        if start > len(content) or at > len(content) or at == start or len(found) == MAX_ENTRIES:
            raise Malformed("a blob's entries do not fit it")
        found.append(content[start:at])
    if not found:
        raise Malformed("a blob without entries")
    return found


def _piece(content: bytes) -> Piece:
    name, rest = content[1 : 1 + NAME_BYTES], content[1 + NAME_BYTES : _PIECE_HEADER_BYTES]
    number, count = int.from_bytes(rest[:2], "big"), int.from_bytes(rest[2:], "big")
    if len(content) <= _PIECE_HEADER_BYTES or number >= count:
        raise Malformed("a blob that is no piece of an entry")
    return Piece(name, number, count, content[_PIECE_HEADER_BYTES:])


@dataclass(slots=True)
class _Partial:
    count: int
    first: int
    last: int
    size: int = 0
    pieces: dict[int, bytes] = field(default_factory=dict)


class Pieces:
    """Entries of which some pieces have come."""

    def __init__(self) -> None:
        self._partial: dict[bytes, _Partial] = {}  # the one that got a piece last is the last
        self._size = 0
        self.dropped = 0
        """How many entries were given up."""

    def add(self, index: int, piece: Piece) -> tuple[int, bytes] | None:
        """Take a piece from the blob of that index: the index of the first piece and the entry, once it is whole."""
        partial = self._partial.pop(piece.name, None) or _Partial(piece.of, index, index)
        self._partial[piece.name] = partial
        if piece.of != partial.count or partial.pieces.get(piece.number, piece.data) != piece.data:
            self._drop(piece.name)
            return None
        partial.last = index
        if piece.number not in partial.pieces:
            partial.pieces[piece.number] = piece.data
            partial.size += len(piece.data)
            self._size += len(piece.data)
        if partial.size > MAX_ENTRY_BYTES:
            self._drop(piece.name)
        elif len(partial.pieces) == partial.count:
            del self._partial[piece.name]
            self._size -= partial.size
            return partial.first, b"".join(partial.pieces[number] for number in range(partial.count))
        while self._size > MAX_PARTIAL_BYTES or len(self._partial) > MAX_PARTIAL:
            self._drop(next(iter(self._partial)))
        return None

    def pass_over(self, index: int) -> None:
        """The mailbox was read up to that index: entries of which nothing came for long are given up."""
        for name in [n for n, partial in self._partial.items() if index - partial.last > STALE_BLOBS]:
            self._drop(name)

    def first_index(self) -> int | None:
        """The lowest index of a piece that is kept."""
        return min((partial.first for partial in self._partial.values()), default=None)

    def clear(self) -> None:
        """Forget all of them."""
        self._partial.clear()
        self._size = 0

    def _drop(self, name: bytes) -> None:
        self._size -= self._partial.pop(name).size
        self.dropped += 1
