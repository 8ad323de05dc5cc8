"""One log entry: its bytes, its signature, and the columnar payload of a `data` entry.

Body: msgpack array of version, database id, writer, sequence, previous entry's hash, context difference, first and last
stamp, kind, epoch of writing, payload's raw size, payload (zstd). Signature (Ed25519) and chain hash (SHA-256) cover
the body's bytes as sent, domain-separated; they are never re-encoded. This file opens no file and reads no clock; it
checks sizes and structure before it believes anything, and raises `Malformed` alone.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Protocol, cast

import zstandard

from crdtlog.clock import MAX_STAMP
from crdtlog.errors import Malformed, TooLarge
from crdtlog.values import Key, Value, check_column, pack, unpack
from crdtlog.versions import MAX_SEQ, WRITER_BYTES, Named

VERSION = 1
SIGN_DOMAIN = b"crdtlog entry signature 1\0"
HASH_DOMAIN = b"crdtlog entry"
HASH_BYTES = 32
EPOCH_BYTES = 16
SIGNATURE_BYTES = 64
KINDS = ("data", "schema", "member", "event", "error", "command")

#: Rows in one entry at most, so that one transaction that changed this many shows whole elsewhere (R3).
MAX_ROWS = 5_000
#: Raw payload bytes aimed at: a larger row travels alone in its entry.
TARGET_RAW_BYTES = 4 << 20
#: No entry may be larger than this, raw or packed; a session carries entries of up to 64 MiB.
MAX_RAW_BYTES = 60 << 20
#: What a header and a signature may take beside the payload.
MAX_HEADER_BYTES = 1 << 20
MAX_CONTEXT = 10_000
MAX_SECTIONS = 20_000
MAX_PATCH_KIND = 15

_LEVEL = 3


class Signer(Protocol):
    """Whoever can sign for a device."""

    def sign_bytes(self, domain: bytes, body: bytes) -> bytes:
        """The 64-byte Ed25519 signature of domain and body."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A log entry's header and its still compressed payload; stamps are unsigned 64-bit."""

    database: bytes
    writer: bytes
    seq: int
    previous: bytes
    context: tuple[Named, ...]
    first_stamp: int
    last_stamp: int
    kind: str
    epoch: bytes
    raw_size: int
    packed: bytes

    def payload(self) -> bytes:
        """The decompressed payload; never more than the size that the header declares and the limit allows."""
        return decompress(self.packed, self.raw_size)


class Signed(NamedTuple):
    """An entry as it travels and rests: body, signature, and the body's chain hash."""

    body: bytes
    signature: bytes
    hash: bytes

    def bytes(self) -> bytes:
        """The two as one msgpack array."""
        return pack([self.body, self.signature])


def encode(entry: Entry) -> bytes:
    """The body's bytes."""
    return pack(
        [
            VERSION,
            entry.database,
            entry.writer,
            entry.seq,
            entry.previous,
            [list(named) for named in entry.context],
            entry.first_stamp,
            entry.last_stamp,
            entry.kind,
            entry.epoch,
            entry.raw_size,
            entry.packed,
        ]
    )


def sign(entry: Entry, signer: Signer) -> Signed:
    """The signed form of an entry."""
    body = encode(entry)
    return Signed(body, signer.sign_bytes(SIGN_DOMAIN, body), entry_hash(body))


def entry_hash(body: bytes) -> bytes:
    """The 32 bytes by which the next entry of the log names this one."""
    return hashlib.sha256(HASH_DOMAIN + body).digest()


def split(signed: bytes) -> Signed:
    """Body, signature and hash of a signed entry's bytes, nothing verified."""
    if len(signed) > MAX_RAW_BYTES + MAX_HEADER_BYTES:
        raise TooLarge(f"an entry is larger than {MAX_RAW_BYTES:,} bytes")
    parts = unpack(signed)
    if not (
        isinstance(parts, list)
        and len(parts) == 2
        and isinstance(parts[0], bytes)
        and isinstance(parts[1], bytes)
    ):
        raise Malformed("an entry must be a body and a signature")
    if len(parts[1]) != SIGNATURE_BYTES:
        raise Malformed("an entry's signature must have 64 bytes")
    return Signed(parts[0], parts[1], entry_hash(parts[0]))


def decode(body: bytes) -> Entry:
    """The entry in a body whose signature has been verified."""
    parts = unpack(body)
    if not isinstance(parts, list) or not parts:
        raise Malformed("an entry's body must be an array")
    if parts[0] != VERSION:
        raise Malformed(f"an entry of version {parts[0]!r}; this program reads version {VERSION}")
    if len(parts) != 12:
        raise Malformed(f"an entry's body has {len(parts)} fields instead of 12")
    _, database, writer, seq, previous, context, first, last, kind, epoch, raw_size, packed = parts
    _bytes_of(database, 32, "database id")
    _bytes_of(writer, WRITER_BYTES, "writer")
    _int_of(seq, 1, MAX_SEQ, "sequence number")
    _bytes_of(previous, HASH_BYTES if seq > 1 else 0, "previous hash")
    _int_of(first, 0, MAX_STAMP, "first stamp")
    _int_of(last, first, MAX_STAMP, "last stamp")
    if kind not in KINDS:
        raise Malformed("an entry of an unknown kind")
    _bytes_of(epoch, EPOCH_BYTES, "epoch")
    _int_of(raw_size, 0, MAX_RAW_BYTES, "payload size")
    if not isinstance(packed, bytes):
        raise Malformed("an entry's payload must be bytes")
    return Entry(
        database, writer, seq, previous, _context(context, writer), first, last, kind, epoch, raw_size, packed
    )


def _context(items: object, own: bytes) -> tuple[Named, ...]:
    if not isinstance(items, list) or len(items) > MAX_CONTEXT:
        raise Malformed("an entry's context must be a short array")
    result = []
    for item in items:
        if not isinstance(item, list) or len(item) != 3:
            raise Malformed("a context names writer, sequence number and hash")
        _bytes_of(item[0], WRITER_BYTES, "writer in a context")
        _int_of(item[1], 1, MAX_SEQ, "sequence number in a context")
        _bytes_of(item[2], 8, "hash in a context")
        result.append(Named(item[0], item[1], item[2]))
    writers = [named.writer for named in result]
    if sorted(set(writers)) != writers or own in writers:
        raise Malformed("a context names other writers once each, in order")
    return tuple(result)


# --- payload compression ------------------------------------------------------------------------------------------


def compress(raw: bytes) -> bytes:
    """A payload's packed form."""
    if len(raw) > MAX_RAW_BYTES:
        raise TooLarge(f"a row of {len(raw):,} bytes is over the limit of {MAX_RAW_BYTES:,}")
    return zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True).compress(raw)


def decompress(packed: bytes, raw_size: int) -> bytes:
    """The raw payload, which must be exactly as large as declared."""
    try:
        declared = zstandard.frame_content_size(packed)
        if declared != raw_size:
            raise Malformed("a payload's size is not the one declared")
        raw = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompress(
            packed, max_output_size=raw_size + 1
        )
    except zstandard.ZstdError as error:
        raise Malformed(f"a payload does not decompress: {error}") from None
    if len(raw) != raw_size:
        raise Malformed("a payload's size is not the one declared")
    return raw


# --- data payload -------------------------------------------------------------------------------------------------

INSERT, UPDATE, DELETE = 0, 1, 2


class Patch(NamedTuple):
    """A change to a merge document, in place of a value: its kind's code, the dot that began it, and what changes."""

    kind: int
    writer: bytes
    seq: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Section:
    """Rows of one table that were written alike, as columns: `keys[k][row]`, `cells[c][row]`, `stamps[row]`.

    `slots` are the ids of the columns in `cells`. `births` names, for tables keyed by INTEGER PRIMARY KEY, the insert
    that each row descends from, as (writer, seq) or None for this very entry; None as a whole means all None. `unseen`
    lists the rows inserted over a document that was not standing in the author's table. `patches` gives, for some of
    the slots, each row's patch; where it is None the cell holds a value, and where it is not the cell holds None.
    `counters` are the slots whose values begin a counter.
    """

    table: bytes
    operation: int
    slots: tuple[int, ...]
    keys: list[list[Value]]
    cells: list[list[Value]]
    stamps: list[int]
    births: list[tuple[bytes, int] | None] | None = None
    unseen: tuple[int, ...] = ()
    patches: Mapping[int, list[Patch | None]] = field(default_factory=dict)
    counters: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows the section has."""
        return len(self.stamps)

    def key(self, row: int) -> Key:
        """The key of one of its rows."""
        return tuple(column[row] for column in self.keys)

    def values(self, row: int) -> dict[int, Value]:
        """Slot → value of one of its rows; patched cells, which hold none, are left out."""
        patched = {slot for slot, column in self.patches.items() if column[row] is not None}
        cells = zip(self.slots, self.cells, strict=True)
        return {slot: column[row] for slot, column in cells if slot not in patched}


def encode_data(sections: Sequence[Section], first_stamp: int) -> bytes:
    """A data entry's raw payload. Stamps are stored as differences to the entry's first stamp."""
    return pack([_section_out(section, first_stamp) for section in sections])


def _section_out(section: Section, first: int) -> list[object]:
    offsets: int | list[int] = [value - first for value in section.stamps]
    if isinstance(offsets, list) and len(set(offsets)) == 1:
        offsets = offsets[0]
    births = _births_out(section.births) if section.births is not None and any(section.births) else None
    fields = [
        section.table,
        section.operation,
        list(section.slots),
        section.keys,
        section.cells,
        offsets,
        births,
        list(section.unseen) or None,
    ]
    if section.patches or section.counters:
        fields += [_patches_out(section.patches), list(section.counters)]
    return fields


class _Names:
    """Writers that are named often, once each."""

    def __init__(self) -> None:
        self.index: dict[bytes, int] = {}

    def number(self, writer: bytes) -> int:
        return self.index.setdefault(writer, len(self.index))


def _births_out(births: list[tuple[bytes, int] | None]) -> list[object]:
    names = _Names()
    dots = [None if birth is None else [names.number(birth[0]), birth[1]] for birth in births]
    return [list(names.index), dots]


def _patches_out(patches: Mapping[int, list[Patch | None]]) -> list[object]:
    names = _Names()
    columns = [
        [slot, [None if p is None else [p.kind, names.number(p.writer), p.seq, p.data] for p in column]]
        for slot, column in sorted(patches.items())
    ]
    return [list(names.index), columns]


class Payload(NamedTuple):
    """A decoded data payload; `odd` tells that some text is not valid UTF-8."""

    sections: list[Section]
    odd: bool


def decode_data(raw: bytes, first_stamp: int, last_stamp: int) -> Payload:
    """The sections of a raw data payload, every value checked. Raises `Malformed`."""
    items, odd = _unpack_strict(raw)
    if not isinstance(items, list) or not 0 < len(items) <= MAX_SECTIONS:
        raise Malformed("a data payload must be a short array of sections")
    sections = [_section_in(item, first_stamp, last_stamp) for item in items]
    if sum(section.rows for section in sections) > MAX_ROWS:
        raise Malformed(f"an entry may hold {MAX_ROWS:,} rows")
    return Payload(sections, odd)


def _unpack_strict(raw: bytes) -> tuple[Any, bool]:
    try:
        return unpack(raw, max_array=MAX_SECTIONS, odd_text=False), False
    except UnicodeDecodeError:
        return unpack(raw, max_array=MAX_SECTIONS), True


def _section_in(item: object, first: int, last: int) -> Section:
    if not isinstance(item, list) or len(item) not in (8, 10):
        raise Malformed("a section has eight fields, or ten")
    table, operation, slots, keys, cells, offsets, births, unseen, *merging = item
    _bytes_of(table, 8, "table id")
    _int_of(operation, INSERT, DELETE, "operation")
    slots = _ints(slots, 1, 4_000, "column ids")
    if len(set(slots)) != len(slots) or (operation == DELETE and slots):
        raise Malformed("a section names each column once, and none for deletes")
    keys = _columns(keys, None)
    if not keys:
        raise Malformed("a section needs keys")
    rows = len(keys[0])
    _columns(keys, rows)
    if not 0 < rows <= MAX_ROWS:
        raise Malformed("a section has between one row and the limit")
    cells = _columns(cells, rows)
    if len(cells) != len(slots):
        raise Malformed("a section has as many columns of cells as it names")
    for column in (*keys, *cells):
        check_column(column)
    if any(value is None for column in keys for value in column):
        raise Malformed("a key holds NULL")
    span = last - first
    stamps = (
        [first + offsets] * rows
        if isinstance(offsets, int) and not isinstance(offsets, bool) and 0 <= offsets <= span
        else [first + offset for offset in _ints(offsets, 0, span, "stamps")]
    )
    if len(stamps) != rows:
        raise Malformed("a section has a stamp for each row")
    return Section(
        table,
        operation,
        tuple(slots),
        keys,
        cells,
        stamps,
        _births_in(births, rows),
        _unseen_in(unseen, rows),
        _patches_in(merging[0], slots, cells) if merging else {},
        _counters_in(merging[1], slots) if merging else (),
    )


def _births_in(item: object, rows: int) -> list[tuple[bytes, int] | None] | None:
    if item is None:
        return None
    if not (
        isinstance(item, list) and len(item) == 2 and isinstance(item[0], list) and isinstance(item[1], list)
    ):
        raise Malformed("births are a list of writers and a list of dots")
    names, births = item
    for name in names:
        _bytes_of(name, WRITER_BYTES, "writer of a birth")
    if len(births) != rows:
        raise Malformed("a section has a birth for each row")
    result: list[tuple[bytes, int] | None] = []
    for birth in births:
        if birth is None:
            result.append(None)
            continue
        if not (isinstance(birth, list) and len(birth) == 2):
            raise Malformed("a birth is a dot")
        _int_of(birth[0], 0, len(names) - 1, "writer of a birth")
        _int_of(birth[1], 1, MAX_SEQ, "sequence number of a birth")
        result.append((names[birth[0]], birth[1]))
    return result


def _patches_in(item: object, slots: list[int], cells: list[list[Value]]) -> dict[int, list[Patch | None]]:
    match item:
        case [list(names), list(columns)]:
            pass
        case _:
            raise Malformed("patches are a list of writers and a list of columns")
    for name in names:
        _bytes_of(name, WRITER_BYTES, "writer of a patched cell")
    result: dict[int, list[Patch | None]] = {}
    for column in columns:
        match column:
            case [int(slot), list(patches)] if slot in slots and slot not in result:
                result[slot] = [_patch_in(patch, names) for patch in patches]
            case _:
                raise Malformed("a column of patches belongs to a column that the section names, once")
        values = cells[slots.index(slot)]
        if len(patches) != len(values) or not any(patches):
            raise Malformed("a column of patches has a place for each row, and a patch")
        if any(patch is not None and value is not None for patch, value in zip(patches, values, strict=True)):
            raise Malformed("a cell holds a patch or a value")
    return result


def _patch_in(item: object, names: list[bytes]) -> Patch | None:
    match item:
        case None:
            return None
        case [int(kind), int(name), int(seq), bytes(data)]:
            _int_of(kind, 1, MAX_PATCH_KIND, "kind of a patch")
            _int_of(name, 0, len(names) - 1, "writer of a patched cell")
            _int_of(seq, 1, MAX_SEQ, "sequence number of a patched cell")
            return Patch(kind, names[name], seq, data)
        case _:
            raise Malformed("a patch has four fields")


def _counters_in(item: object, slots: list[int]) -> tuple[int, ...]:
    counters = _ints(item, 1, 4_000, "counters")
    if not set(counters) <= set(slots) or len(set(counters)) != len(counters):
        raise Malformed("counters are columns that the section names, once each")
    return tuple(counters)


def _unseen_in(item: object, rows: int) -> tuple[int, ...]:
    return () if item is None else tuple(_ints(item, 0, rows - 1, "unseen rows"))


def _columns(item: object, rows: int | None) -> list[list[Value]]:
    if not isinstance(item, list) or not all(isinstance(column, list) for column in item):
        raise Malformed("columns must be arrays")
    if rows is not None and any(len(column) != rows for column in item):
        raise Malformed("columns must have one length")
    return cast("list[list[Value]]", item)


def _ints(item: object, low: int, high: int, what: str) -> list[int]:
    if not isinstance(item, list):
        raise Malformed(f"{what}: not an array")
    if item and (set(map(type, item)) != {int} or min(item) < low or max(item) > high):
        raise Malformed(f"{what}: out of range")
    return cast("list[int]", item)


def _bytes_of(item: object, size: int, what: str) -> None:
    if not isinstance(item, bytes) or len(item) != size:
        raise Malformed(f"{what}: not {size} bytes")


def _int_of(item: object, low: int, high: int, what: str) -> None:
    if type(item) is not int or not low <= item <= high:
        raise Malformed(f"{what}: not a number from {low} to {high}")
