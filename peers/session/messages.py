"""The messages of a sync session and their bytes on the wire.

This file knows the shape and the bounds of every message, and nothing of their meaning: no state, no
clock, no keys. The one idea: a frame is one msgpack array `[kind, field, ...]`, read by a typed reader
that builds only what the message may contain and checks each length before it allocates, so that no
foreign bytes can cost more than their own size.

Two forms never change, so that devices of any two versions can at least say why they do not talk:

    Hello   [0, lowest version, highest version, database id, ...]    the rest belongs to the versions named
    Refuse  [1, code, reason, permanent, lowest version, highest version, ...]

A Hello must be readable by every version in its range: a later version only adds fields at its end, which
an earlier one does not read. Version 1:

    Hello   [0, low, high, database, device, place, writer, nonce, name, clock ms, [epoch, ...],
             [[writer, seq, first 8 bytes of the head's hash], ...],
             [window bytes, window batches, frame bytes]]
    Entries [2, [[writer, seq, sealed entry], ...]]
    Ack     [3, batches dealt with since the session began, [[writer, seq], ...]]
    Ping    [4]
    Pong    [5]
    Compare [6, writer, seq up to which both are the same, [[seq, first 8 bytes of that entry's hash], ...]]
    Fork    [7, writer, seq, sealed entry]
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Any, NamedTuple

import msgpack

from crdtlog.errors import Malformed

VERSION = 1
"""The one protocol version this file reads and writes."""

DATABASE_BYTES = 32
DEVICE_BYTES = 16
WRITER_BYTES = 24
EPOCH_BYTES = 16
NONCE_BYTES = 32
HEAD_HASH_BYTES = 8
PLACE_MAX_BYTES = 64

MAX_VERSION = 2**16 - 1
MAX_INT = 2**63 - 1
MAX_WRITERS = 10_000
MAX_EPOCHS = 1_024
MAX_ENTRIES = 4_096
MAX_COMPARED = 64
MAX_NAME_CHARS = 100
MAX_CODE_CHARS = 32
MAX_REASON_CHARS = 500
MAX_CONTROL_BYTES = 1 << 20
"""No message but Entries and Fork is larger (a Hello with MAX_WRITERS heads takes about half of it)."""

FRAME_OVERHEAD_BYTES = 7
ITEM_OVERHEAD_BYTES = 41
"""An Entries frame is at most FRAME_OVERHEAD_BYTES + the sum of (ITEM_OVERHEAD_BYTES + sealed bytes) long."""


class Kind(IntEnum):
    """First element of every frame."""

    HELLO = 0
    REFUSE = 1
    ENTRIES = 2
    ACK = 3
    PING = 4
    PONG = 5
    COMPARE = 6
    FORK = 7


class HeadSeen(NamedTuple):
    """The end of a writer's log as a Hello tells it: sequence number, first 8 bytes of that entry's hash."""

    seq: int
    hash: bytes


class Window(NamedTuple):
    """What a receiver takes unacknowledged: bytes of Entries frames, their number, and one frame's size."""

    total_bytes: int
    batches: int
    frame_bytes: int


class Item(NamedTuple):
    """One log entry under way. Writer and seq are the sender's claim; the signed entry inside counts."""

    writer: bytes
    seq: int
    sealed: bytes


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of each side: who I am, what I hold (of you as of everybody), and what I can take."""

    versions: tuple[int, int]
    database: bytes
    device: bytes
    place: bytes
    writer: bytes
    nonce: bytes
    name: str
    clock_ms: int
    epochs: tuple[bytes, ...]
    heads: Mapping[bytes, HeadSeen]
    window: Window


@dataclass(frozen=True, slots=True)
class Stranger:
    """A Hello from which only the prefix that never changes can be read: no version in common."""

    versions: tuple[int, int]
    database: bytes


@dataclass(frozen=True, slots=True)
class Refuse:
    """Last message of a side that ends the session, with the reason for a person to read."""

    code: str
    reason: str
    permanent: bool
    versions: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Entries:
    """A batch of sealed log entries in the sender's log order, which is a causal order."""

    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Ack:
    """The first `batches` Entries messages are dealt with; `held` is what grew in the durable vector."""

    batches: int
    held: Mapping[bytes, int]


@dataclass(frozen=True, slots=True)
class Ping:
    """Asks for a Pong."""


@dataclass(frozen=True, slots=True)
class Pong:
    """Answers one Ping."""


@dataclass(frozen=True, slots=True)
class Compare:
    """Looks for the place where two logs of one name part: behind `same` and not behind the last of `seen`."""

    writer: bytes
    same: int
    seen: tuple[HeadSeen, ...]


@dataclass(frozen=True, slots=True)
class Fork:
    """The sender's entry at the place where two logs of one name part: with the receiver's own it proves that."""

    writer: bytes
    seq: int
    sealed: bytes


Message = Hello | Stranger | Refuse | Entries | Ack | Ping | Pong | Compare | Fork


def common_version(ours: tuple[int, int], theirs: tuple[int, int]) -> int | None:
    """The highest version in both ranges (lowest, highest), or None."""
    best = min(ours[1], theirs[1])
    return best if best >= max(ours[0], theirs[0]) else None


def printable(text: str, max_chars: int) -> str:
    """`text` cut to `max_chars`, with everything that could steer a terminal or reading order replaced."""
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text[:max_chars])


# --- writing --------------------------------------------------------------------------------------------


def encode(message: Message) -> bytes:
    """The frame of a message. Names and reasons are cut to their limits."""
    frame: bytes = msgpack.packb(_fields(message), use_bin_type=True)
    return frame


def refusal(code: str, reason: str, *, permanent: bool = False) -> bytes:
    """The frame that refuses a connection for which there is no session (yet)."""
    return encode(Refuse(code, reason, permanent, (VERSION, VERSION)))


def _fields(message: Message) -> list[Any]:
    match message:
        case Hello():
            return _hello_fields(message)
        case Stranger(versions, database):
            return [Kind.HELLO, *versions, database]
        case Refuse(code, reason, permanent, versions):
            text = printable(reason, MAX_REASON_CHARS)
            return [Kind.REFUSE, code[:MAX_CODE_CHARS], text, permanent, *versions]
        case Entries(items):
            return [Kind.ENTRIES, [list(item) for item in items]]
        case Ack(batches, held):
            return [Kind.ACK, batches, [[writer, held[writer]] for writer in sorted(held)]]
        case Ping():
            return [Kind.PING]
        case Pong():
            return [Kind.PONG]
        case Compare(writer, same, seen):
            return [Kind.COMPARE, writer, same, [list(each) for each in seen]]
        case Fork(writer, seq, sealed):
            return [Kind.FORK, writer, seq, sealed]


def _hello_fields(hello: Hello) -> list[Any]:
    name = printable(hello.name, MAX_NAME_CHARS)
    heads = [[writer, *hello.heads[writer]] for writer in sorted(hello.heads)]
    who = [hello.database, hello.device, hello.place, hello.writer, hello.nonce, name, hello.clock_ms]
    return [Kind.HELLO, *hello.versions, *who, list(hello.epochs), heads, list(hello.window)]


# --- reading --------------------------------------------------------------------------------------------


def decode(frame: bytes, versions: tuple[int, int] = (VERSION, VERSION)) -> Message:
    """The message of a frame.

    `versions` are the (lowest, highest) that the reader speaks: a Hello outside them comes back as a
    `Stranger`. Raises Malformed for anything that is not exactly one message within its bounds.
    """
    reader = Reader(frame)
    count = reader.array(1, 64)
    kind = reader.uint(MAX_INT)
    if kind not in (Kind.ENTRIES, Kind.FORK) and len(frame) > MAX_CONTROL_BYTES:
        raise Malformed(f"a message of kind {kind} has {len(frame)} bytes; {MAX_CONTROL_BYTES} are allowed")
    read = _READERS.get(kind)
    if read is None:
        raise Malformed(f"no message has the kind {kind}")
    return read(reader, count, versions)


def hello_database(frame: bytes) -> bytes:
    """The database that a Hello of any version names, for a listener of several. Raises Malformed."""
    message = decode(frame, (0, 0))
    if not isinstance(message, Stranger):
        raise Malformed("the first message is not a Hello")
    return message.database


class Reader:
    """Reads msgpack values of known types from untrusted bytes; raises Malformed when they do not fit."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    def array(self, low: int, high: int) -> int:
        """The length of an array that begins here."""
        return self._within(self._length("array", {0xDC: 2, 0xDD: 4}, 0x90, 0x0F), low, high, "array of")

    def octets(self, low: int, high: int) -> bytes:
        """A byte string."""
        length = self._length("byte string", {0xC4: 1, 0xC5: 2, 0xC6: 4}, None, 0)
        return self._take(self._within(length, low, high, "byte string of"))

    def text(self, max_chars: int) -> str:
        """A text, with unprintable characters replaced."""
        length = self._length("text", {0xD9: 1, 0xDA: 2, 0xDB: 4}, 0xA0, 0x1F)
        raw = self._take(self._within(length, 0, 4 * max_chars, "text of"))
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError:
            raise Malformed("a text is not UTF-8") from None
        self._within(len(text), 0, max_chars, "text of")
        return printable(text, max_chars)

    def uint(self, high: int, low: int = 0) -> int:
        """A whole number that is not negative."""
        first = self._take(1)[0]
        if first < 0x80:
            return self._within(first, low, high, "number")
        width = {0xCC: 1, 0xCD: 2, 0xCE: 4, 0xCF: 8}.get(first)
        if width is None:
            raise Malformed(f"byte {self._at - 1}: not a number")
        return self._within(int.from_bytes(self._take(width)), low, high, "number")

    def flag(self) -> bool:
        """True or false."""
        first = self._take(1)[0]
        if first not in (0xC2, 0xC3):
            raise Malformed(f"byte {self._at - 1}: neither true nor false")
        return first == 0xC3

    def end(self) -> None:
        """Nothing may follow."""
        if self._at != len(self._data):
            raise Malformed(f"{len(self._data) - self._at} bytes follow the message")

    def _length(self, what: str, widths: Mapping[int, int], fix: int | None, mask: int) -> int:
        first = self._take(1)[0]
        if fix is not None and first & ~mask == fix:
            return first & mask
        if first not in widths:
            raise Malformed(f"byte {self._at - 1}: not the head of an expected {what}")
        return int.from_bytes(self._take(widths[first]))

    def _take(self, count: int) -> bytes:
        piece = self._data[self._at : self._at + count]
        if len(piece) != count:
            raise Malformed("the message ends in the middle of a value")
        self._at += count
        return piece

    def _within(self, value: int, low: int, high: int, what: str) -> int:
        if not low <= value <= high:
            raise Malformed(f"{what} {value} is outside {low} to {high}")
        return value


def _versions(reader: Reader) -> tuple[int, int]:
    low = reader.uint(MAX_VERSION, 1)
    return low, reader.uint(MAX_VERSION, low)


def _writer_seq(reader: Reader, fields: int, last: bytes) -> tuple[bytes, int]:
    """A writer, which must come after `last` so that none appears twice, and its sequence number."""
    reader.array(fields, fields)
    writer = reader.octets(WRITER_BYTES, WRITER_BYTES)
    if writer <= last:
        raise Malformed("the writers of a vector are not in ascending order")
    return writer, reader.uint(MAX_INT, 1)


def _read_hello(reader: Reader, count: int, versions: tuple[int, int]) -> Message:
    if count < 4:
        raise Malformed("a Hello without versions and database")
    theirs = _versions(reader)
    database = reader.octets(DATABASE_BYTES, DATABASE_BYTES)
    if common_version(versions, theirs) is None:
        return Stranger(theirs, database)
    newer = theirs[1] > VERSION
    if count < 13 or (count > 13 and not newer):
        raise Malformed(f"a Hello of {count} fields")
    hello = Hello(
        versions=theirs,
        database=database,
        device=reader.octets(DEVICE_BYTES, DEVICE_BYTES),
        place=reader.octets(1, PLACE_MAX_BYTES),
        writer=reader.octets(WRITER_BYTES, WRITER_BYTES),
        nonce=reader.octets(NONCE_BYTES, NONCE_BYTES),
        name=reader.text(MAX_NAME_CHARS),
        clock_ms=reader.uint(MAX_INT),
        epochs=tuple(reader.octets(EPOCH_BYTES, EPOCH_BYTES) for _ in range(reader.array(0, MAX_EPOCHS))),
        heads=_read_heads(reader),
        window=_read_window(reader),
    )
    if not newer:
        reader.end()
    return hello


def _read_heads(reader: Reader) -> dict[bytes, HeadSeen]:
    heads: dict[bytes, HeadSeen] = {}
    writer = b""
    for _ in range(reader.array(0, MAX_WRITERS)):
        writer, seq = _writer_seq(reader, 3, writer)
        heads[writer] = HeadSeen(seq, reader.octets(HEAD_HASH_BYTES, HEAD_HASH_BYTES))
    return heads


def _read_window(reader: Reader) -> Window:
    reader.array(3, 3)
    return Window(reader.uint(MAX_INT, 1), reader.uint(MAX_INT, 1), reader.uint(MAX_INT, 1))


def _read_refuse(reader: Reader, count: int, versions: tuple[int, int]) -> Refuse:
    if count < 6:
        raise Malformed(f"a Refuse of {count} fields")
    code, reason, permanent = reader.text(MAX_CODE_CHARS), reader.text(MAX_REASON_CHARS), reader.flag()
    refuse = Refuse(code, reason, permanent, _versions(reader))
    if count == 6:
        reader.end()
    return refuse


def _read_entries(reader: Reader, count: int, versions: tuple[int, int]) -> Entries:
    _exactly(count, 2)
    items = tuple(_read_item(reader) for _ in range(reader.array(1, MAX_ENTRIES)))
    reader.end()
    return Entries(items)


def _read_item(reader: Reader) -> Item:
    reader.array(3, 3)
    writer = reader.octets(WRITER_BYTES, WRITER_BYTES)
    return Item(writer, reader.uint(MAX_INT, 1), reader.octets(1, MAX_INT))


def _read_ack(reader: Reader, count: int, versions: tuple[int, int]) -> Ack:
    _exactly(count, 3)
    batches = reader.uint(MAX_INT)
    held: dict[bytes, int] = {}
    writer = b""
    for _ in range(reader.array(0, MAX_WRITERS)):
        writer, held[writer] = _writer_seq(reader, 2, writer)
    reader.end()
    return Ack(batches, held)


def _read_ping(reader: Reader, count: int, versions: tuple[int, int]) -> Ping:
    _exactly(count, 1)
    reader.end()
    return Ping()


def _read_pong(reader: Reader, count: int, versions: tuple[int, int]) -> Pong:
    _exactly(count, 1)
    reader.end()
    return Pong()


def _read_compare(reader: Reader, count: int, versions: tuple[int, int]) -> Compare:
    _exactly(count, 4)
    writer = reader.octets(WRITER_BYTES, WRITER_BYTES)
    same = reader.uint(MAX_INT)
    seen: list[HeadSeen] = []
    last = same
    for _ in range(reader.array(1, MAX_COMPARED)):
        reader.array(2, 2)
        last = reader.uint(MAX_INT, last + 1)
        seen.append(HeadSeen(last, reader.octets(HEAD_HASH_BYTES, HEAD_HASH_BYTES)))
    reader.end()
    return Compare(writer, same, tuple(seen))


def _read_fork(reader: Reader, count: int, versions: tuple[int, int]) -> Fork:
    _exactly(count, 4)
    writer = reader.octets(WRITER_BYTES, WRITER_BYTES)
    fork = Fork(writer, reader.uint(MAX_INT, 1), reader.octets(1, MAX_INT))
    reader.end()
    return fork


def _exactly(count: int, fields: int) -> None:
    if count != fields:
        raise Malformed(f"a message of {count} fields where {fields} belong")


_READERS: dict[int, Callable[[Reader, int, tuple[int, int]], Message]] = {
    Kind.HELLO: _read_hello,
    Kind.REFUSE: _read_refuse,
    Kind.ENTRIES: _read_entries,
    Kind.ACK: _read_ack,
    Kind.PING: _read_ping,
    Kind.PONG: _read_pong,
    Kind.COMPARE: _read_compare,
    Kind.FORK: _read_fork,
}
