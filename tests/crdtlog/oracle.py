"""What must be in the tables, and what must be kept, by definition: from the logs alone, one write after the other."""

from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from crdtlog.catalog import Tracked
from crdtlog.connection import escaping_text
from crdtlog.database import Database
from crdtlog.entry import Entry
from crdtlog.history import OPERATIONS
from crdtlog.payload import DELETE, INSERT, Section
from crdtlog.values import Key, key_text, normal_key
from tests.crdtlog.devices import (
    exact,
    logged,
)

Cells = dict[int, Any]
Content = dict[str, dict[Key, Cells]]


def content(db: Database) -> Content:
    """What the tables hold: table → normal key → slot → value, exactly (a key's spelling where that is a value)."""
    found: Content = {}
    connection = db._state.connection
    with escaping_text(connection):
        for tracked in db._state.tables.values():
            names = ", ".join([*tracked.key_names, *tracked.cell_names])
            rows = connection.execute(f"SELECT {names} FROM main.{tracked.quoted}").fetchall()
            width = len(tracked.keys)
            found[tracked.name] = {
                named(tracked, row[:width]): dict(
                    zip(tracked.cell_slots, map(exact, row[width:]), strict=True)
                )
                for row in rows
                if None not in row[:width]
            }
    return found


def named(tracked: Tracked, key: Iterable[Any]) -> Key:
    return normal_key(tuple(key), tracked.collations)


def replay(db: Database, before: Content, entries: list[tuple[Entry, list[Section]]]) -> Content:
    """The tables after some entries, each of which must say nothing superfluous."""
    after = {table: {key: dict(cells) for key, cells in rows.items()} for table, rows in before.items()}
    for _, sections in entries:
        for section in sections:
            tracked = db._state.tables[section.table]
            rows = after[tracked.name]
            for row in range(section.rows):
                key = named(tracked, section.key(row))
                written = {
                    slot: exact(column[row])
                    for slot, column in zip(section.slots, section.cells, strict=True)
                }
                if section.operation == INSERT:
                    assert key not in rows, "an insert of a row that was there"
                    rows[key] = written
                elif section.operation == DELETE:
                    assert key in rows, "a delete of a row that was not there"
                    del rows[key]
                else:
                    assert written, "an update that says nothing"
                    assert all(rows[key][slot] != value for slot, value in written.items()), (
                        "an equal value written"
                    )
                    rows[key].update(written)
    return after


class Written(NamedTuple):
    """What one entry says of one row, and all that its author had seen."""

    name: tuple[int, bytes, int]  # stamp, writer, seq: the order in which versions win
    cells: Cells
    alive: bool
    birth: bool
    seen: dict[bytes, int]

    def covers(self, other: "Written") -> bool:
        return self.seen.get(other.name[1], 0) >= other.name[2]


def by_definition(db: Database) -> tuple[Content, set[tuple[Any, ...]]]:
    """What all tables and all losing versions must be, from the logs alone."""
    contexts: dict[bytes, dict[bytes, int]] = {}
    rows: dict[tuple[bytes, Key], list[Written]] = {}
    for item, sections in entries_with_contexts(db, contexts):
        seen = dict(contexts[item.writer])
        for section in sections:
            tracked = db._state.tables[section.table]
            for row in range(section.rows):
                cells = {
                    slot: exact(column[row])
                    for slot, column in zip(section.slots, section.cells, strict=True)
                }
                name = (section.stamps[row], item.writer, item.seq)
                write = Written(name, cells, section.operation != DELETE, section.operation == INSERT, seen)
                rows.setdefault((section.table, named(tracked, section.key(row))), []).append(write)
    tables: Content = {tracked.name: {} for tracked in db._state.tables.values()}
    lost = set()
    for (table, key), writes in rows.items():
        tracked = db._state.tables[table]
        alive = max(uncovered(writes), key=lambda write: write.name).alive
        shown: Cells = {}
        for slot in tracked.cell_slots:
            versions = uncovered([write for write in writes if slot in write.cells])
            best = max(versions, key=lambda write: write.name)
            shown[slot] = best.cells[slot]
            for write in versions:
                if write is not best:
                    hidden = int(not alive or write.cells[slot] == shown[slot])
                    stamp, writer, seq = write.name
                    lost.add(
                        (
                            tracked.name,
                            exact(key_text(key)),
                            slot,
                            writer,
                            seq,
                            stamp,
                            hidden,
                            write.cells[slot],
                        )
                    )
        if alive:
            tables[tracked.name][key] = shown
    return tables, lost


def entries_with_contexts(
    db: Database, contexts: dict[bytes, dict[bytes, int]]
) -> Iterable[tuple[Entry, list[Section]]]:
    """Every data entry in causal order; `contexts` holds each writer's whole context at that moment."""
    from crdtlog import entry

    decoded = {(item.writer, item.seq): sections for item, sections in logged(db)}
    for blob in db.entries_after(0, {}, 1 << 40).entries:
        item = entry.decode(entry.split(blob.signed).body)
        context = contexts.setdefault(item.writer, {})
        context.update({named.writer: named.seq for named in item.context})
        context[item.writer] = item.seq - 1
        if item.kind == "data":
            yield item, decoded[item.writer, item.seq]


def uncovered(writes: list[Written]) -> list[Written]:
    return [write for write in writes if not any(other.covers(write) for other in writes)]


Line = tuple[str, str | None, Any, str]


def logged_lines(db: Database, table: str) -> dict[Key, Counter[Line]]:
    """What the logs hold of each row: operation, column, value and dot."""
    tracked = db._state.table(table)
    names = {slot: column.name for slot, column in tracked.cells}
    found: dict[Key, Counter[Line]] = {}
    for item, sections in logged(db):
        for section in sections:
            for row in range(section.rows):
                columns = zip(section.slots, section.cells, strict=True)
                cells: list[tuple[str | None, Any]] = [(names[slot], column[row]) for slot, column in columns]
                lines = found.setdefault(named(tracked, section.key(row)), Counter())
                for name, value in cells or [(None, None)]:
                    dot = f"{item.writer.hex()}:{item.seq}"
                    lines[OPERATIONS[section.operation], name, exact(value), dot] += 1
    return found
