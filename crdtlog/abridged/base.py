"""What a snapshot brought of rows: written into a file that has none, and kept for rows that have to be made anew.

Where others make a row anew from its entries (`rewinding`), a device without history begins with what it was given. The
parts are kept as they came, in `crdtlog__base`, which no other file has.
"""

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import compress
from typing import Any, NamedTuple, TypeVar

from crdtlog import clock, entry, rowdocs, section_check
from crdtlog.abridged import parts
from crdtlog.abridged.parts import Begin, Losers, Merging, Part, Rows
from crdtlog.catalog import Tracked
from crdtlog.connection import execute_rows
from crdtlog.errors import EntryRefused, Malformed
from crdtlog.payload import DELETE, INSERT, Section
from crdtlog.rows import document_key, insert_document_sql
from crdtlog.state import State
from crdtlog.values import Key, Value, has_odd_text, hash_rows, normal_key, pack, unpack

_T = TypeVar("_T")

_TABLE = (
    "CREATE TABLE IF NOT EXISTS crdtlog__base (number INTEGER PRIMARY KEY, raw_size INTEGER, packed BLOB)"
)


class Numbers:
    """The local numbers of the writers that a snapshot numbers."""

    def __init__(self, local: Sequence[int]) -> None:
        self.local = local

    @staticmethod
    def of(state: State, begin: Begin) -> "Numbers":
        """Those of the writers that a first part names."""
        return Numbers([state.log.writer(writer).number for writer in begin.writers])

    def __getitem__(self, number: int) -> int:
        if not 0 <= number < len(self.local):
            raise Malformed("a snapshot speaks of a log that it does not name")
        return self.local[number]


def keep(state: State, number: int, raw_size: int, packed: bytes) -> None:
    """Keep a part of a snapshot that rows are made from, and the one that names writers."""
    state.connection.execute(_TABLE)
    state.connection.execute("INSERT INTO crdtlog__base VALUES (?, ?, ?)", (number, raw_size, packed))


def require_behind(state: State, at: int, what: str) -> None:
    """Raise `EntryRefused` where rows would have to be made as they were before this device was given its snapshot."""
    if at <= state.log.given_position:
        raise EntryRefused(
            f"{what} before this device joined, of which it has no history",
            "Remove this file's device and join again: crdtlog pair on another device, with a file of another name.",
        )


def put_back(state: State, touched: Mapping[bytes, Mapping[Key, Key]]) -> None:
    """Have some rows, which are not there, as the snapshot brought them; by table, by normal keys."""
    if not state.log.given_position:
        return
    found = _kept(state)
    begin = next(found)
    assert isinstance(begin, Begin)
    numbers = Numbers.of(state, begin)
    for part in found:
        assert isinstance(part, (Rows, Losers, Merging))
        wanted = touched.get(part.table)
        if wanted:
            write(state, part, numbers, _among(state.tables[part.table], wanted))


def given_document(state: State, tracked: Tracked, key: Key, of: rowdocs.Name) -> bytes | None:
    """What the snapshot brought of a document: with all patches in it that came along; None if it did not.

    Cost: the whole snapshot is read.
    """
    name = document_key(tracked, key)
    return next(
        (data for at, each, data in given_documents(state, tracked) if (at, each) == (name, of)), None
    )


def given_documents(state: State, tracked: Tracked) -> Iterator[tuple[Value, rowdocs.Name, bytes]]:
    """All such documents of a table, each with its row's name; without those that miss some patch."""
    if not state.log.given_position:
        return
    found = _kept(state)
    begin = next(found)
    assert isinstance(begin, Begin)
    numbers = Numbers.of(state, begin)
    for part in found:
        if isinstance(part, Merging) and part.table == tracked.table_id:
            for item in part.items:
                if item.writer >= 0 and item.problem is None:
                    of = rowdocs.Name(item.slot, numbers[item.writer], item.seq, item.kind)
                    yield item.key, of, item.state


def merged_rows(state: State) -> dict[bytes, set[Value]]:
    """The names of the rows beside which the snapshot brought what merging needs, by table."""
    result: dict[bytes, set[Value]] = {}
    if state.log.given_position:
        for part in _kept(state):
            if isinstance(part, Merging):
                result.setdefault(part.table, set()).update(item.key for item in part.items)
    return result


def _kept(state: State) -> Iterator[Part]:
    sql = "SELECT raw_size, packed FROM crdtlog__base ORDER BY number"
    for raw_size, packed in state.connection.execute(sql).fetchall():
        yield parts.decode(entry.decompress(packed, raw_size))


class _Among(NamedTuple):
    """Which rows are wanted."""

    keys: Callable[[Key], bool]
    names: Callable[[Value], bool]


def _among(tracked: Tracked, wanted: Mapping[Key, Key]) -> _Among:
    names = {document_key(tracked, key) for key in wanted}
    return _Among(lambda key: normal_key(key, tracked.collations) in wanted, names.__contains__)


_ALL = _Among(lambda key: True, lambda name: True)


# --- written ------------------------------------------------------------------------------------------------------


def write(state: State, part: Rows | Losers | Merging, numbers: Numbers, wanted: _Among = _ALL) -> int:
    """Write what a part brings of some rows, where nothing of them is; returns how many rows are there now.

    The caller clears what triggers capture of it. Raises `Malformed`, `EntryRefused`.
    """
    tracked = state.tables.get(part.table)
    if tracked is None:
        raise Malformed("a snapshot of a table that nobody tracks")
    try:
        match part:
            case Rows():
                return _write_rows(state, tracked, part, numbers, wanted)
            case Losers():
                _write_losers(state, tracked, part, numbers, wanted)
            case Merging():
                _write_merging(state, tracked, part, numbers, wanted)
    except (sqlite3.IntegrityError, sqlite3.DataError) as error:
        raise EntryRefused(f"a snapshot's rows cannot stand in table {tracked.name}: {error}") from error
    return 0


def _write_rows(state: State, tracked: Tracked, part: Rows, numbers: Numbers, wanted: _Among) -> int:
    if len(part.keys) != len(tracked.keys):
        raise Malformed(f"a key of {tracked.name} has {len(tracked.keys)} columns")
    chosen = [wanted.keys(key) for key in zip(*part.keys, strict=True)]
    keys, cells = (
        [list(compress(column, chosen)) for column in columns] for columns in (part.keys, part.cells or [])
    )
    stamps = list(compress(part.stamps, chosen))
    if not stamps:
        return 0
    is_dead = part.cells is None
    slots = () if is_dead else tuple(tracked.cell_slots)
    if len(cells) != len(slots):
        raise Malformed(f"a snapshot's rows of {tracked.name} have other columns")
    section = Section(part.table, DELETE if is_dead else INSERT, slots, keys, cells, stamps)
    odd = any(map(has_odd_text, (*keys, *cells)))
    section_check.table_of(state, section)
    section_check.check_rows(tracked, section, set())
    section_check.check_exact(state, tracked, section, odd)
    if not is_dead:
        names = tracked.cell_names if tracked.respelled else [*tracked.key_names, *tracked.cell_names]
        columns = cells if tracked.respelled else [*keys, *cells]
        sql = f"INSERT INTO main.{tracked.quoted} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        execute_rows(state.connection, sql, zip(*columns, strict=True), odd=odd)
    hashes = [None] * len(stamps) if is_dead else hash_rows(cells, len(stamps), state.seed)
    documents = zip(
        *keys,
        [numbers[writer] for writer in compress(part.writers, chosen)],
        compress(part.seqs, chosen),
        map(clock.to_sql, stamps),
        [int(is_dead)] * len(stamps),
        compress(part.losers, chosen),
        [each and _strata(each, numbers) for each in compress(part.strata, chosen)],
        hashes,
        strict=True,
    )
    execute_rows(state.connection, insert_document_sql(tracked), documents, odd=odd)
    return 0 if is_dead else len(stamps)


def _strata(strata: bytes, numbers: Numbers) -> bytes:
    found = unpack(strata)
    if not isinstance(found, list) or not found:
        raise Malformed("strata are an array")
    result = []
    for item in found:
        match item:
            case [int(writer), int(seq), int(stamp), int() | bytes() as bits, int(life)] if (
                min(seq, stamp, life) >= 0 and life <= 2
            ):
                result.append((numbers[writer], seq, stamp, bits, life))
            case _:
                raise Malformed("a stratum has five fields")
    return pack(result)


def _write_losers(state: State, tracked: Tracked, part: Losers, numbers: Numbers, wanted: _Among) -> None:
    rows: list[tuple[Any, ...]] = [
        (tracked.number, key, slot, numbers[writer], seq, clock.to_sql(stamp), int(hidden), value)
        for key, slot, writer, seq, stamp, hidden, value in part.items
        if wanted.names(key)
    ]
    sql = "INSERT INTO crdtlog__loser VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
    execute_rows(state.connection, sql, rows, odd=any(has_odd_text((row[1], row[-1])) for row in rows))


def _write_merging(state: State, tracked: Tracked, part: Merging, numbers: Numbers, wanted: _Among) -> None:
    def dots(items: list[tuple[int, int]] | None) -> bytes | None:
        return None if items is None else pack(sorted((numbers[writer], seq) for writer, seq in items))

    rows = [
        (
            tracked.number,
            item.key,
            item.slot,
            *(rowdocs.SUM if item.writer < 0 else (numbers[item.writer], item.seq)),
            item.kind,
            item.state,
            dots(item.versions),
            item.problem,
            dots(item.aside),
        )
        for item in part.items
        if wanted.names(item.key) and (item.versions or item.writer < 0)
    ]
    sql = "INSERT INTO crdtlog__merge VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
    execute_rows(state.connection, sql, rows, odd=any(has_odd_text((row[1],)) for row in rows))
