"""What a relay and its clients say: the messages, their bounds, and their bytes.

Knows shapes. Must not know their meaning: no state, no clock, no keys. The one idea: a frame is one msgpack array
`[kind, field, …]`, and every field has a type and a bound that are checked before anybody sees it.

    client → relay
    hello      ["hello", version, token or nil]
    open       ["open", id, mailbox, signature]
    append     ["append", id, mailbox, blob]
    read       ["read", id, mailbox, after, max bytes]
    subscribe  ["subscribe", id, mailbox, after]
    got        ["got", mailbox, index]
    meet       ["meet", first]
    say        ["say", bytes]

    relay → client
    hello      ["hello", lowest version, highest version, nonce, [largest blob, mailboxes, window, requests, ttl], …]
    opened     ["opened", id, life, first, last]
    appended   ["appended", id, index]
    blobs      ["blobs", id or nil, mailbox, first, [[index, blob], …], end]
    met        ["met"]
    said       ["said", bytes]
    left       ["left"]
    refused    ["refused", id or nil, code, reason, temporary, retry after or nil, …]

Hello and refused of the relay never change but by more fields at their end, so that a client of any version can say why
they do not talk.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar

import msgpack

from crdtlog.errors import Malformed

VERSION = 1
"""The one version of this protocol that this file reads and writes."""

MAILBOX_BYTES = 32
SIGNATURE_BYTES = 64
NONCE_BYTES = 32
LIFE_BYTES = 16
CHANNEL_BYTES = 16

SMALLEST_BLOB = 256
LARGEST_BLOB = 4 << 20
"""No relay may allow larger blobs, and no client need take them."""
SIZES = tuple(1 << power for power in range(8, 23))
"""The sizes that a blob may have: powers of two from 256 bytes to 4 MiB."""

MAX_VERSION = (1 << 16) - 1
MAX_ID = (1 << 32) - 1
MAX_INT = (1 << 63) - 1
MAX_TOKEN_CHARACTERS = 256
MAX_CODE_CHARACTERS = 32
MAX_REASON_CHARACTERS = 500
MAX_SAID_BYTES = 64 << 10
MAX_PAGE_BLOBS = 4096
MAX_PAGE_BYTES = 1 << 20
"""Blobs of one frame have no more bytes together, unless it is a single one."""
OVERHEAD_BYTES = 128
BLOB_OVERHEAD_BYTES = 16
MAX_REQUEST_BYTES = LARGEST_BLOB + OVERHEAD_BYTES
MAX_ANSWER_BYTES = LARGEST_BLOB + MAX_PAGE_BLOBS * BLOB_OVERHEAD_BYTES + OVERHEAD_BYTES
MAX_RETRY_S = 400 * 86_400


def size_for(length: int) -> int:
    """The smallest size of a blob that holds `length` bytes. Raises ValueError where none does."""
    if not 0 <= length <= LARGEST_BLOB:
        raise ValueError(f"no blob holds {length} bytes")
    return max(SMALLEST_BLOB, 1 << max(0, length - 1).bit_length())


class Limits(NamedTuple):
    """What a relay tells of its limits.

    Bytes of the largest blob, open mailboxes of one connection, bytes of pushed blobs that may be unacknowledged,
    requests that may be unanswered, seconds for which blobs are kept.
    """

    largest_blob: int
    mailboxes: int
    window_bytes: int
    requests: int
    ttl_s: int


# --- from a client ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClientHello:
    """First message of a client: the version it speaks, and the operator's token if it has one."""

    version: int
    token: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Open:
    """Asks for access to a mailbox; see `access` for what is signed."""

    id: int
    mailbox: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Append:
    """Puts a blob at the end of a mailbox."""

    id: int
    mailbox: bytes
    blob: bytes


@dataclass(frozen=True, slots=True)
class Read:
    """Asks for blobs behind an index, of about so many bytes."""

    id: int
    mailbox: bytes
    after: int
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Subscribe:
    """Asks for all blobs behind an index, those that come later too; replaces an earlier one of that mailbox."""

    id: int
    mailbox: bytes
    after: int


@dataclass(frozen=True, slots=True)
class Got:
    """Pushed blobs up to that index are dealt with, and count no more against the window."""

    mailbox: bytes
    index: int


@dataclass(frozen=True, slots=True)
class Meet:
    """Takes one side of the rendezvous channel that the request named: the first side makes it."""

    first: bool


@dataclass(frozen=True, slots=True)
class Say:
    """Bytes for the other side of the channel."""

    data: bytes


Request = ClientHello | Open | Append | Read | Subscribe | Got | Meet | Say


# --- from a relay -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Hello:
    """First message of a relay: versions it speaks, the connection's nonce, its limits."""

    versions: tuple[int, int]
    nonce: bytes
    limits: Limits


@dataclass(frozen=True, slots=True)
class Opened:
    """A mailbox is open.

    `life` is drawn when a mailbox begins: another one means that indexes began anew. It is all zeros for a mailbox to
    which nothing was appended. Kept are the blobs from `first` to `last`; none, if `first` is `last` + 1.
    """

    id: int
    life: bytes
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Appended:
    """The blob is durable, under this index."""

    id: int
    index: int


@dataclass(frozen=True, slots=True)
class Blobs:
    """Blobs in ascending order of index, the answer to a Read, or pushed (id None).

    `first` is the lowest index that is kept; `end` says that nothing more was there.
    """

    id: int | None
    mailbox: bytes
    first: int
    blobs: tuple[tuple[int, bytes], ...]
    end: bool


@dataclass(frozen=True, slots=True)
class Met:
    """Both sides of the channel are here."""


@dataclass(frozen=True, slots=True)
class Said:
    """What the other side of the channel said."""

    data: bytes


@dataclass(frozen=True, slots=True)
class Left:
    """The other side of the channel has gone."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A request (None: the whole connection, which ends) was refused."""

    id: int | None
    code: str
    reason: str
    temporary: bool
    retry_after_s: int | None


Answer = Hello | Opened | Appended | Blobs | Met | Said | Left | Refusal


# --- writing ------------------------------------------------------------------------------------------------------


def encode(message: Request | Answer) -> bytes:
    """The frame of a message. Reasons are cut to their limit."""
    frame: bytes = msgpack.packb(_fields(message), use_bin_type=True)
    return frame


def _fields(message: Request | Answer) -> list[Any]:
    match message:
        case ClientHello(version, token):
            return ["hello", version, token]
        case Open(id, mailbox, signature):
            return ["open", id, mailbox, signature]
        case Append(id, mailbox, blob):
            return ["append", id, mailbox, blob]
        case Read(id, mailbox, after, max_bytes):
            return ["read", id, mailbox, after, max_bytes]
        case Subscribe(id, mailbox, after):
            return ["subscribe", id, mailbox, after]
        case Got(mailbox, index):
            return ["got", mailbox, index]
        case Meet(first):
            return ["meet", first]
        case Say(data):
            return ["say", data]
        case Hello(versions, nonce, limits):
            return ["hello", *versions, nonce, list(limits)]
        case Opened(id, life, first, last):
            return ["opened", id, life, first, last]
        case Appended(id, index):
            return ["appended", id, index]
        case Blobs(of, mailbox, first, blobs, end):
            return ["blobs", of, mailbox, first, [[index, blob] for index, blob in blobs], end]
        case Met():
            return ["met"]
        case Said(data):
            return ["said", data]
        case Left():
            return ["left"]
        case Refusal(of, code, reason, temporary, retry_after_s):
            text = reason[:MAX_REASON_CHARACTERS]
            return ["refused", of, code[:MAX_CODE_CHARACTERS], text, temporary, retry_after_s]


# --- reading ------------------------------------------------------------------------------------------------------


def decode_request(frame: bytes) -> Request:
    """A client's message. Raises `Malformed` for anything that is not exactly one within its bounds."""
    return _decoded(frame, _REQUESTS, MAX_REQUEST_BYTES)


def decode_answer(frame: bytes) -> Answer:
    """A relay's message. Raises `Malformed` for anything that is not exactly one within its bounds."""
    return _decoded(frame, _ANSWERS, MAX_ANSWER_BYTES)


_Message = TypeVar("_Message")


def _decoded(frame: bytes, readers: "dict[str, Callable[[_Fields], _Message]]", max_bytes: int) -> _Message:
    if len(frame) > max_bytes:
        raise Malformed(f"a frame has {len(frame)} bytes; {max_bytes} are allowed")
    try:
        value = msgpack.unpackb(
            frame,
            raw=False,
            max_array_len=MAX_PAGE_BLOBS,
            max_bin_len=LARGEST_BLOB,
            max_str_len=4 * MAX_REASON_CHARACTERS,
            max_map_len=0,
            max_ext_len=0,
        )
    except (ValueError, RecursionError, msgpack.UnpackException) as error:
        raise Malformed(f"a frame is no msgpack within its bounds: {error}") from error
    if not isinstance(value, list) or not value or not isinstance(value[0], str):
        raise Malformed("a frame is an array that begins with its kind")
    read = readers.get(value[0])
    if read is None:
        raise Malformed("a frame has an unknown kind")
    return read(_Fields(value))


class _Fields:
    """The fields of a message, taken one after another; each raises Malformed when it is not as it should be."""

    def __init__(self, values: list[Any]) -> None:
        self._values = values
        self._at = 1

    def count(self, expected: int, *, more: bool = False) -> "_Fields":
        """So many fields follow the kind; `more` are read over."""
        found = len(self._values) - 1
        if found < expected or (found > expected and not more):
            raise Malformed(f"a message of {found} fields where {expected} belong")
        return self

    def octets(self, low: int, high: int | None = None) -> bytes:
        value = self._next()
        if type(value) is not bytes or not low <= len(value) <= (low if high is None else high):
            raise Malformed("bytes of another type or length than expected")
        return value

    def text(self, high: int) -> str:
        value = self._next()
        if type(value) is not str or len(value) > high:
            raise Malformed("a text of another type or length than expected")
        return value

    def uint(self, high: int = MAX_INT, low: int = 0) -> int:
        value = self._next()
        if type(value) is not int or not low <= value <= high:
            raise Malformed("a number of another type or size than expected")
        return value

    def flag(self) -> bool:
        value = self._next()
        if type(value) is not bool:
            raise Malformed("neither true nor false")
        return value

    def array(self) -> "list[Any]":
        value = self._next()
        if type(value) is not list:
            raise Malformed("no array where one belongs")
        return value

    def is_nil(self) -> bool:
        """Whether nil comes next, which is then taken."""
        if self._values[self._at] is not None:
            return False
        self._at += 1
        return True

    def id_or_nil(self) -> int | None:
        return None if self.is_nil() else self.uint(MAX_ID)

    def _next(self) -> Any:
        value = self._values[self._at]
        self._at += 1
        return value


def _client_hello(fields: _Fields) -> ClientHello:
    # The token of a later version may stand elsewhere; its version is all that must be understood.
    version = fields.count(1, more=True).uint(MAX_VERSION, 1)
    if version != VERSION:
        return ClientHello(version, None)
    fields.count(2)
    return ClientHello(version, None if fields.is_nil() else fields.text(MAX_TOKEN_CHARACTERS))


def _open(fields: _Fields) -> Open:
    fields.count(3)
    return Open(fields.uint(MAX_ID), fields.octets(MAILBOX_BYTES), fields.octets(SIGNATURE_BYTES))


def _append(fields: _Fields) -> Append:
    fields.count(3)
    return Append(fields.uint(MAX_ID), fields.octets(MAILBOX_BYTES), fields.octets(0, LARGEST_BLOB))


def _read(fields: _Fields) -> Read:
    fields.count(4)
    return Read(fields.uint(MAX_ID), fields.octets(MAILBOX_BYTES), fields.uint(), fields.uint())


def _subscribe(fields: _Fields) -> Subscribe:
    fields.count(3)
    return Subscribe(fields.uint(MAX_ID), fields.octets(MAILBOX_BYTES), fields.uint())


def _got(fields: _Fields) -> Got:
    fields.count(2)
    return Got(fields.octets(MAILBOX_BYTES), fields.uint())


def _meet(fields: _Fields) -> Meet:
    return Meet(fields.count(1).flag())


def _say(fields: _Fields) -> Say:
    return Say(fields.count(1).octets(0, MAX_SAID_BYTES))


def _hello(fields: _Fields) -> Hello:
    fields.count(4, more=True)
    low = fields.uint(MAX_VERSION, 1)
    versions = low, fields.uint(MAX_VERSION, low)
    nonce = fields.octets(NONCE_BYTES)
    limits = _Fields([None, *fields.array()]).count(len(Limits._fields), more=True)
    largest = limits.uint(LARGEST_BLOB, SMALLEST_BLOB)
    return Hello(versions, nonce, Limits(largest, *(limits.uint(low=1) for _ in range(4))))


def _opened(fields: _Fields) -> Opened:
    fields.count(4)
    id, life = fields.uint(MAX_ID), fields.octets(LIFE_BYTES)
    first = fields.uint(low=1)
    return Opened(id, life, first, fields.uint(low=first - 1))


def _appended(fields: _Fields) -> Appended:
    fields.count(2)
    return Appended(fields.uint(MAX_ID), fields.uint(low=1))


def _blobs(fields: _Fields) -> Blobs:
    fields.count(5)
    of, mailbox, first = fields.id_or_nil(), fields.octets(MAILBOX_BYTES), fields.uint(low=1)
    blobs: list[tuple[int, bytes]] = []
    lowest = first
    for item in fields.array():
        if type(item) is not list:
            raise Malformed("no array where one belongs")
        one = _Fields([None, *item]).count(2)
        index = one.uint(low=lowest)
        blobs.append((index, one.octets(SMALLEST_BLOB, LARGEST_BLOB)))
        lowest = index + 1
    return Blobs(of, mailbox, first, tuple(blobs), fields.flag())


def _met(fields: _Fields) -> Met:
    fields.count(0)
    return Met()


def _said(fields: _Fields) -> Said:
    return Said(fields.count(1).octets(0, MAX_SAID_BYTES))


def _left(fields: _Fields) -> Left:
    fields.count(0)
    return Left()


def _refused(fields: _Fields) -> Refusal:
    fields.count(5, more=True)
    of, code, reason = (
        fields.id_or_nil(),
        fields.text(MAX_CODE_CHARACTERS),
        fields.text(MAX_REASON_CHARACTERS),
    )
    temporary = fields.flag()
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in reason)
    return Refusal(of, code, shown, temporary, None if fields.is_nil() else fields.uint(MAX_RETRY_S))


_REQUESTS: dict[str, Callable[[_Fields], Request]] = {
    "hello": _client_hello,
    "open": _open,
    "append": _append,
    "read": _read,
    "subscribe": _subscribe,
    "got": _got,
    "meet": _meet,
    "say": _say,
}
_ANSWERS: dict[str, Callable[[_Fields], Answer]] = {
    "hello": _hello,
    "opened": _opened,
    "appended": _appended,
    "blobs": _blobs,
    "met": _met,
    "said": _said,
    "left": _left,
    "refused": _refused,
}


def seconds(wait_s: float) -> int:
    """A wait as it travels: whole seconds, at least one, and no more than a refusal can say."""
    return min(MAX_RETRY_S, max(1, math.ceil(wait_s)))
