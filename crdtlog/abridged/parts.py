"""The parts of a snapshot as the payloads of `snapshot` entries: read strictly, `Malformed` alone raised.

The entries of one snapshot are a log of their own, signed by the device that gives it and stored by nobody. Writers are
named once, in the first part, and are numbers into that list everywhere else. This file opens no file.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple, cast

from crdtlog.clock import MAX_STAMP
from crdtlog.errors import Malformed
from crdtlog.values import (
    Value,
    check_bytes,
    check_column,
    check_int,
    check_ints,
    is_plain_text,
    pack,
    unpack,
)
from crdtlog.versions import MAX_SEQ, WRITER_BYTES

_VERSION = 1
_HASH_BYTES = 32
_MAX_LOGS = 100_000
_MAX_ROWS = 100_000


class Branch(NamedTuple):
    """A log that left another one (both numbers) with that entry."""

    writer: int
    parent: int
    first: int


class Said(NamedTuple):
    """From that entry on a log (a number) calls another one (a number) by that name."""

    writer: int
    seq: int
    name: bytes
    meant: int


class Edge(NamedTuple):
    """Where a forked log (a number) first wrote into a text, as `textnames` keeps it."""

    document: bytes
    writer: int
    lane: bytes
    seq: int
    clock: int


class Known(NamedTuple):
    """One entry that is known to stand at a fork, without its bytes."""

    hash: bytes
    writer: bytes
    seq: int
    previous: bytes


class Begin(NamedTuple):
    """All logs, each with the numbers of its last applied and of its last settled entry; and what is known of forks."""

    writers: list[bytes]
    applied: list[int]
    settled: list[int]
    branches: list[Branch]
    said: list[Said]
    edges: list[Edge]
    forks: list[Known]


class Item(NamedTuple):
    """One entry of the log, as it is stored: by the hash that its log names it by.

    `signed` may have other names in it than `original`, which is empty where they are one; an `abridged` entry has lost
    values, so that its signature is nobody's any more.
    """

    hash: bytes
    rows: int
    summary: str
    signed: bytes
    original: bytes
    abridged: bool


class Logged(NamedTuple):
    """Entries in their order."""

    items: list[Item]


class Rows(NamedTuple):
    """Documents of one table, as columns; with `cells` those of rows that are there, without those of deleted ones.

    `writers`, `seqs`, `stamps`, `losers` and `strata` are a document's in its compact form.
    """

    table: bytes
    keys: list[list[Value]]
    cells: list[list[Value]] | None
    writers: list[int]
    seqs: list[int]
    stamps: list[int]
    losers: list[int]
    strata: list[bytes | None]


class Loser(NamedTuple):
    """A losing version beside the row of that name."""

    key: Value
    slot: int
    writer: int
    seq: int
    stamp: int
    hidden: bool
    value: Value


class Losers(NamedTuple):
    """Losing versions of one table."""

    table: bytes
    items: list[Loser]


class Beside(NamedTuple):
    """What stands beside the row of that name for merging; `versions` and `aside` are dots.

    A sum of counters has no writer (-1), and neither of both. A document without versions has been replaced: it is
    there for who has not seen that, and goes on with it.
    """

    key: Value
    slot: int
    writer: int
    seq: int
    kind: int
    state: bytes
    versions: list[tuple[int, int]] | None
    problem: str | None
    aside: list[tuple[int, int]] | None


class Merging(NamedTuple):
    """What stands beside rows of one table for merging."""

    table: bytes
    items: list[Beside]


class End(NamedTuple):
    """The last part, and its number."""

    number: int


Part = Begin | Logged | Rows | Losers | Merging | End
_KINDS = {Begin: "begin", Logged: "log", Rows: "rows", Losers: "losers", Merging: "merging", End: "end"}


def encode(part: Part) -> bytes:
    """A part's payload."""
    version = [_VERSION] if isinstance(part, Begin) else []
    return pack([_KINDS[type(part)], *version, *part])


def decode(raw: bytes) -> Part:
    """The part in a payload; raises `Malformed`."""
    parts = unpack(raw)
    match parts:
        case ["begin", version, *_] if version != _VERSION:
            raise Malformed(
                "a snapshot of another version", "Use the same version of crdtlog on both devices."
            )
        case ["begin", _, list(writers), list(applied), list(settled), *rest] if len(rest) == 4:
            return _begin(writers, applied, settled, *rest)
        case ["log", list(items)]:
            return Logged([_item(item) for item in items])
        case ["rows", table, list(keys), cells, *columns] if len(columns) == 5:
            return _rows(table, keys, cells, columns)
        case ["losers", table, list(items)]:
            check_bytes(table, 8, "table id")
            return Losers(cast(bytes, table), [_loser(item) for item in items])
        case ["merging", table, list(items)]:
            check_bytes(table, 8, "table id")
            return Merging(cast(bytes, table), [_beside(item) for item in items])
        case ["end", number]:
            check_int(number, 1, MAX_SEQ, "number of a snapshot's last part")
            return End(cast(int, number))
        case _:
            raise Malformed("a part of a snapshot of an unknown kind")


def _begin(*lists: Any) -> Begin:
    if not all(isinstance(each, list) for each in lists):
        raise Malformed("a snapshot begins with lists")
    writers, applied, settled, branches, said, edges, forks = lists
    if len(writers) > _MAX_LOGS or len(set(map(bytes, _all_bytes(writers)))) != len(writers):
        raise Malformed("a snapshot names each log once")
    for writer in writers:
        check_bytes(writer, WRITER_BYTES, "writer")
    for numbers in (applied, settled):
        if len(check_ints(numbers, 0, MAX_SEQ, "entries")) != len(writers):
            raise Malformed("a snapshot tells of each log how far it is applied and settled")
    last = len(writers) - 1
    for item in _arrays(branches, 3):
        check_ints(item[:2], 0, last, "logs of a branch")
        check_int(item[2], 1, MAX_SEQ, "first entry of a branch")
    for item in _arrays(said, 4):
        check_ints([item[0], item[3]], 0, last, "logs that are called something")
        check_int(item[1], 1, MAX_SEQ, "entry that calls a log something")
        check_bytes(item[2], WRITER_BYTES, "name of a log")
    for item in _arrays(edges, 5):
        check_bytes(item[0], _HASH_BYTES, "document")
        check_int(item[1], 0, last, "log that writes into a document")
        if not isinstance(item[2], bytes) or len(item[2]) > _HASH_BYTES:
            raise Malformed("a lane is a few bytes")
        check_ints(item[3:], 0, MAX_SEQ, "place in a document")
    for item in _arrays(forks, 4):
        check_bytes(item[0], _HASH_BYTES, "hash at a fork")
        check_bytes(item[1], WRITER_BYTES, "writer at a fork")
        check_int(item[2], 1, MAX_SEQ, "number at a fork")
        check_bytes(item[3], _HASH_BYTES if item[2] > 1 else 0, "hash before a fork")
    return Begin(
        writers,
        applied,
        settled,
        [Branch(*item) for item in branches],
        [Said(*item) for item in said],
        [Edge(*item) for item in edges],
        [Known(*item) for item in forks],
    )


def _all_bytes(items: list[Any]) -> list[bytes]:
    if not all(isinstance(item, bytes) for item in items):
        raise Malformed("a writer is bytes")
    return items


def _arrays(items: list[Any], size: int) -> list[list[Any]]:
    if not all(isinstance(item, list) and len(item) == size for item in items):
        raise Malformed(f"not arrays of {size}")
    return items


def _item(item: object) -> Item:
    match item:
        case [digest, rows, str(summary), bytes(signed), bytes(original), bool(abridged)]:
            check_bytes(digest, _HASH_BYTES, "hash of an entry")
            check_int(rows, 0, MAX_SEQ, "rows of an entry")
            _check_plain(summary)
            return Item(cast(bytes, digest), cast(int, rows), summary[:1_000], signed, original, abridged)
        case _:
            raise Malformed("an entry of a snapshot has six fields")


def _rows(table: object, keys: list[Any], cells: object, columns: Sequence[object]) -> Rows:
    check_bytes(table, 8, "table id")
    if not keys or not isinstance(columns[0], list):
        raise Malformed("rows have keys")
    count = len(columns[0])
    if not 0 < count <= _MAX_ROWS:
        raise Malformed("a part has between one row and the limit")
    for column in (*keys, *(cells if isinstance(cells, list) else ())):
        if not isinstance(column, list) or len(column) != count:
            raise Malformed("columns must have one length")
        check_column(column)
    if cells is not None and not isinstance(cells, list):
        raise Malformed("cells are columns")
    if any(value is None for column in keys for value in column):
        raise Malformed("a key holds NULL")
    writers, seqs, stamps, losers = (
        check_ints(column, low, high, "documents")
        for column, low, high in zip(
            columns, (0, 1, 0, 0), (_MAX_LOGS, MAX_SEQ, MAX_STAMP, MAX_SEQ), strict=False
        )
    )
    strata = columns[4]
    if not isinstance(strata, list) or not all(each is None or isinstance(each, bytes) for each in strata):
        raise Malformed("strata are bytes")
    if any(len(column) != count for column in (seqs, stamps, losers, strata)):
        raise Malformed("columns must have one length")
    return Rows(cast(bytes, table), keys, cells, writers, seqs, stamps, losers, strata)


def _loser(item: object) -> Loser:
    if not isinstance(item, list) or len(item) != 7:
        raise Malformed("a losing version has seven fields")
    key, slot, writer, seq, stamp, hidden, value = item
    check_column([key, value])
    _check_dot(slot, writer, seq, 0)
    check_int(stamp, 0, MAX_STAMP, "stamp")
    if type(hidden) is not bool:
        raise Malformed("a losing version is hidden or not")
    return Loser(*item)


def _beside(item: object) -> Beside:
    if not isinstance(item, list) or len(item) != 9:
        raise Malformed("what stands beside a row has nine fields")
    key, slot, writer, seq, kind, state, versions, problem, aside = item
    check_column([key])
    _check_dot(slot, writer, seq, -1)
    check_int(kind, 0, 100, "kind")
    if not isinstance(state, bytes) or not (problem is None or isinstance(problem, str)):
        raise Malformed("a merge document is bytes")
    _check_plain(problem or "")
    return Beside(key, slot, writer, seq, kind, state, _dots(versions), problem, _dots(aside))


def _check_plain(text: str) -> None:
    if not is_plain_text(text):
        raise Malformed("words for people that are no text")


def _check_dot(slot: object, writer: object, seq: object, least: int) -> None:
    check_int(slot, 0, 4_100, "slot")
    check_int(writer, least, _MAX_LOGS, "log")
    check_int(seq, 0, MAX_SEQ, "sequence number")


def _dots(item: object) -> list[tuple[int, int]] | None:
    if item is None:
        return None
    if not isinstance(item, list):
        raise Malformed("dots are an array")
    for dot in _arrays(item, 2):
        check_int(dot[0], 0, _MAX_LOGS, "log")
        check_int(dot[1], 1, MAX_SEQ, "sequence number")
    return [(writer, seq) for writer, seq in item]
