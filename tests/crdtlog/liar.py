"""A member that lies: three devices of which one signs entries that no honest device writes, and what must follow."""

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from crdtlog import entry, errors
from crdtlog.clock import stamp
from crdtlog.database import Database
from crdtlog.device import device_from_secrets
from crdtlog.entry import Entry
from crdtlog.errors import CrdtlogError
from crdtlog.payload import DELETE, Section, encode_data
from tests.crdtlog.devices import (
    World,
    apply_all,
    assert_converged,
    devices,
    lacking,
    sync,
    table_rows,
)

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = [
    "CREATE TABLE t (id TEXT PRIMARY KEY, v, n INTEGER NOT NULL)",
    "CREATE TABLE s (id TEXT NOT NULL PRIMARY KEY, n INT, b BLOB) STRICT",
    "CREATE TABLE i (id INTEGER PRIMARY KEY, r REAL)",
    "CREATE TABLE f (id TEXT COLLATE NOCASE PRIMARY KEY, v)",
]
ROWS = """
INSERT INTO t VALUES ('k', 'v', 1), ('l', 'v', 1);
INSERT INTO s VALUES ('k', 1, x'00');
INSERT INTO i VALUES (1, 1.5);
INSERT INTO f VALUES ('f', 1);
"""
TABLES = ["t", "s", "i", "f"]
STRANGER = device_from_secrets("stranger", b"\x07" * 32, b"\x08" * 32)
NOW = stamp(1_700_000_000_000)


class Three(NamedTuple):
    """A member that will lie, and two honest ones; all hold the same."""

    liar: Database
    honest: Database
    other: Database


def made_three(world: World) -> Three:
    three = Three(*devices(world, ["liar", "honest", "other"], SCHEMA, ROWS))
    for db in three:
        db.execute("INSERT INTO t VALUES (?, 'own', 0)", (db.device.name,))
        db.drain_all()
    for _ in range(2):
        sync(three.liar, three.honest)
        sync(three.honest, three.other)
    sync(three.liar, three.honest)
    return three


def table_id(db: Database, name: str) -> bytes:
    return db._state.table(name).table_id


def slots(db: Database, name: str) -> tuple[int, ...]:
    return tuple(db._state.table(name).cell_slots)


def next_entry(liar: Database, raw: bytes = b"", **changes: Any) -> Entry:
    """The entry that would come next in the liar's log, with some fields changed."""
    own = liar._state.writer
    fields: dict[str, Any] = {
        "database": liar.id,
        "writer": own.id,
        "seq": own.seq + 1,
        "previous": own.hash,
        "context": liar._state.log.next_context(own),
        "first_stamp": own.last_stamp + 1,
        "last_stamp": own.last_stamp + 100,
        "kind": "data",
        "epoch": liar.epoch,
        "raw_size": len(raw),
        "packed": entry.compress(raw),
    }
    return Entry(**{**fields, **changes})


def signed(liar: Database, item: Entry, device: Any = None) -> bytes:
    return entry.sign(item, device or liar.device).bytes()


def data(liar: Database, *sections: Section, **changes: Any) -> bytes:
    """A signed data entry with these sections, whose stamps are counted from the liar's next one."""
    first = liar._state.writer.last_stamp + 1
    return signed(liar, next_entry(liar, encode_data(sections, first), **changes))


def section(
    liar: Database, table: str, operation: int, keys: list[Any], *cells: list[Any], **more: Any
) -> Section:
    """Rows of a table with a one-column key; cells in the order of the table's columns."""
    first = liar._state.writer.last_stamp + 1
    own = slots(liar, table)[: len(cells)] if operation != DELETE else ()
    fields: dict[str, Any] = {
        "stamps": [first] * len(keys),
        "slots": own,
        "keys": [keys],
        "cells": list(cells),
        **more,
    }
    return Section(table_id(liar, table), operation, **fields)


def picture(db: Database) -> Any:
    return (
        db.verify().state,
        db.heads(),
        [table_rows(db, table) for table in TABLES],
        db.conflicts(),
        db.members(),
    )


def refused(three: Three, *entries: bytes) -> None:
    """The honest device refuses the last of these entries in our words, keeps its file as it was, and goes on."""
    liar, honest, other = three
    *fine, lie = entries
    apply_all(honest, fine)
    before = picture(honest)

    for batch in ([lie], [lie, *lacking(other, honest)]):
        with pytest.raises(CrdtlogError) as caught:
            honest.apply(batch)
        assert not isinstance(caught.value, errors.Temporary)
        assert str(caught.value)
    assert picture(honest) == before
    assert honest.verify().ok

    other.execute("UPDATE t SET v = 'goes on' WHERE id = 'l'")
    other.drain_all()
    # A lie behind honest entries ends the batch there; the honest ones count.
    truth = lacking(other, honest)
    assert honest.apply([*truth, lie], hold_ms=1_000)[::2] == (len(truth), len(truth))
    sync(honest, other)
    liar.execute("INSERT INTO t VALUES ('and so', 'does the liar', 0)")
    if not fine:
        sync(liar, honest)
        sync(honest, other)
        assert_converged([honest, other], TABLES)
