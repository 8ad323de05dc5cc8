"""Devices without a network: several files of one database in one directory, exchanging entries by hand.

`World` makes devices, joins them and lets two of them exchange entries: whole, in slices, twice, or cut off in the
middle. Homes lie beside the files, so that a device can be closed and opened again, also by another process.
"""

import os
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import crdtlog
from crdtlog import entry, members
from crdtlog.clock import from_sql
from crdtlog.connection import escaping_text
from crdtlog.database import Database
from crdtlog.device import load_device
from crdtlog.entry import Entry
from crdtlog.payload import Section, decode_data

Row = tuple[Any, ...]


class World:
    """Some devices of one database, by name; the first that opens founds it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.open: dict[str, Database] = {}

    def path(self, name: str) -> Path:
        """Where a device's file lies."""
        return self.directory / f"{name}.db"

    def home(self, name: str) -> crdtlog.Home:
        """Where a device's keys lie."""
        return crdtlog.Home(self.directory / f"home-{name}")

    def found(self, name: str, schema: Sequence[str] = (), rows: str = "") -> Database:
        """The first device: creates its tables with plain SQL, then tracks them."""
        if schema:
            with closing_connection(self.path(name)) as connection:
                connection.executescript(";\n".join(schema) + ";\n" + rows)
        db = self.open[name] = crdtlog.open(self.path(name), home=self.home(name), name=name)
        if schema:
            for (table,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                if not table.startswith(("crdtlog_", "sqlite_")):
                    db.track(table)
        return db

    def join(self, name: str, by: Database, role: str = "admin", *, history: bool = True) -> Database:
        """One more device, added by an admin's, without any entries yet."""
        device = load_device(self.home(name).prepare(), name=name)
        by.add_member(members.newcomer_of(device, role), history=history)
        welcome = by.welcome(device.id)
        db = self.open[name] = crdtlog.adopt(self.path(name), welcome, home=self.home(name), name=name)
        return db

    def reopen(self, name: str) -> Database:
        """Close a device's file, losing whatever only its process knew, and open it again."""
        self.open[name].close()
        db = self.open[name] = crdtlog.open(self.path(name), home=self.home(name), create=False)
        return db

    def close(self) -> None:
        """Close all files."""
        for db in self.open.values():
            db.close()

    def __enter__(self) -> "World":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def devices(world: World, names: Sequence[str], schema: Sequence[str], rows: str = "") -> list[Database]:
    """The founder and joiners, all with the same tables and rows."""
    founder = world.found(names[0], schema, rows)
    others = [world.join(name, founder) for name in names[1:]]
    for other in others:
        send(founder, other)
        other.caught_up()
    return [founder, *others]


def pair(world: World, *schema: str, rows: str = "") -> tuple[Database, Database]:
    """Two devices, `one` and `other`, with the same tables and rows."""
    one, other = devices(world, ["one", "other"], schema, rows)
    return one, other


@contextmanager
def closing_connection(path: Path) -> Iterator[sqlite3.Connection]:
    """Some other program's connection, in autocommit mode."""
    connection = sqlite3.connect(path, isolation_level=None, timeout=10)
    try:
        yield connection
    finally:
        connection.close()


# --- writing ------------------------------------------------------------------------------------------------------

NUMBERS = "WITH RECURSIVE up (n) AS (SELECT {low} UNION ALL SELECT n + 1 FROM up WHERE n < {high}) "


def fill(db: Database, low: int, high: int, row: str = "n, 'v' || n, 0") -> None:
    """Another program's transaction: the rows `low` to `high` of table `t`, all at once."""
    with closing_connection(db.path) as connection:
        connection.execute(NUMBERS.format(low=low, high=high) + f"INSERT INTO t SELECT {row} FROM up")


def write_apart(dbs: Sequence[Database], sql: str) -> None:
    """Each device runs the statement before it has seen the others'; `:name` in it is the device's name."""
    for db in dbs:
        db.execute(sql, {"name": db.device.name})
        db.drain_all()


def apart(world: World, schema: str, *statements: str, rows: str = "") -> tuple[Database, Database]:
    """Two devices, `one` and `other`, that have run one statement each, the second later, and then exchanged both."""
    one, other = pair(world, schema, rows=rows)
    for db, sql in zip((one, other), statements, strict=True):
        db.execute(sql)
        db.drain_all()
        time.sleep(0.002)
    sync(one, other)
    return one, other


def without_triggers(db: Database, sql: str) -> None:
    """A write that no trigger sees and that leaves no trace in the schema."""
    script = f".dbconfig enable_trigger off\n{sql};\n"
    try:
        command = ["sqlite3", "-bail", "-batch", str(db.path)]
        subprocess.run(command, input=script, text=True, check=True, capture_output=True)
    except (FileNotFoundError, subprocess.CalledProcessError):
        pytest.skip("the sqlite3 shell is not here")


# --- exchanging entries -------------------------------------------------------------------------------------------


def lacking(source: Database, target: Database) -> list[bytes]:
    """The signed entries that the source has drained and the target lacks, in the source's order."""
    vector = {writer: head.seq for writer, head in target.heads().items()}
    batch = source.entries_after(0, vector, 1 << 40)
    assert batch.end
    return [item.signed for item in batch.entries]


def apply_all(target: Database, entries: Sequence[bytes], hold_ms: float = 20) -> int:
    """Apply entries until all are dealt with; returns the rows."""
    todo, rows = list(entries), 0
    while todo:
        step = target.apply(todo, hold_ms)
        assert step.done or step.entries, "apply must make progress or say why not"
        todo, rows = todo[step.done :], rows + step.rows
    return rows


def send(source: Database, target: Database) -> int:
    """One direction: what the source has captured is drained, what the target lacks is applied there.

    A device that was let in without history gets a snapshot first, from an admin.
    """
    source.drain_all()
    if source.must_give(target.device.id, {writer: head.seq for writer, head in target.heads().items()}):
        if not any(m.role == "admin" and m.device == source.device.id for m in target.members()):
            return 0
        apply_all(target, [part.signed for part in source.snapshot_parts()])
    return apply_all(target, lacking(source, target))


def sync(one: Database, other: Database) -> None:
    """Both directions; afterwards both hold the same entries, unless somebody wrote meanwhile."""
    send(one, other)
    send(other, one)
    send(one, other)


def sync_all(dbs: Sequence[Database]) -> None:
    """Exchange through the first device until all hold the same."""
    for _ in range(2):
        for other in dbs[1:]:
            sync(dbs[0], other)
    for other in dbs[1:]:
        sync(dbs[0], other)


# --- looking ------------------------------------------------------------------------------------------------------


def rows_of(db: Database, sql: str = "SELECT * FROM t ORDER BY id") -> list[Any]:
    """What a program sees."""
    return db.execute(sql).fetchall()


def conflicts_of(db: Database) -> list[Row]:
    """The conflicts that people see: key, column, value, and the device that wrote it."""
    return [(item["key"], item["column"], item["value"], item["device"]) for item in db.conflicts()]


def table_rows(db: Database, table: str, order: str = "1") -> list[Row]:
    """A table's rows with storage classes and exact bytes, floats as hexadecimal: what "equal tables" means."""
    connection = db._state.connection
    quoted = '"' + table.replace('"', '""') + '"'
    with escaping_text(connection):
        rows = connection.execute(f"SELECT * FROM main.{quoted}").fetchall()
    return sorted((tuple(map(exact, row)) for row in rows), key=repr)


def exact(value: Any) -> Any:
    """A value such that equality is equality bit for bit, storage class included."""
    if isinstance(value, float):
        return ("real", value.hex())
    return (type(value).__name__, value)


def assert_converged(dbs: Sequence[Database], tables: Sequence[str]) -> None:
    """Equal tables, equal documents, nothing pending, rows equal to documents, logs in order (R13)."""
    states = []
    for db in dbs:
        assert db.pending() == 0
        verified = db.verify()
        assert verified.problems == []
        assert verified.ok
        states.append(verified.state)
        assert [found for found in db.check() if found.total or found.damaged] == []
    for table in tables:
        first = table_rows(dbs[0], table)
        for db in dbs[1:]:
            assert table_rows(db, table) == first
    assert len({tuple(sorted(db.heads().items())) for db in dbs}) == 1
    assert len(set(states)) == 1
    # A device without history may not have the hidden ones' values.
    seen = [[row[:-1] if row[6] else row for row in losers(db)] for db in dbs]
    assert len({repr(sorted(each, key=repr)) for each in seen}) == 1


def losers(db: Database) -> list[Row]:
    """Every kept losing version of a column: table, key, slot, writer, seq, stamp, hidden, value."""
    connection = db._state.connection
    with escaping_text(connection):
        rows = connection.execute(
            "SELECT t.name, l.key, l.slot, w.writer, l.seq, l.stamp, l.hidden, l.value FROM crdtlog__loser l "
            "JOIN crdtlog__table t ON t.id = l.tab JOIN crdtlog__writer w ON w.id = l.writer WHERE l.slot > 1"
        ).fetchall()
    return [(row[0], exact(row[1]), *row[2:5], from_sql(row[5]), row[6], exact(row[7])) for row in rows]


def logged(db: Database, after: int = 0) -> list[tuple[Entry, list[Section]]]:
    """All held data entries behind a position, decoded, in the device's order."""
    found = []
    for item in db.entries_after(after, {}, 1 << 40).entries:
        decoded = entry.decode(entry.split(item.signed).body)
        if decoded.kind == "data":
            payload = decode_data(decoded.payload(), decoded.first_stamp, decoded.last_stamp)
            found.append((decoded, payload.sections))
    return found


def new_entries(db: Database, position: int) -> list[int]:
    """The rows of each data entry behind a position."""
    return [sum(section.rows for section in sections) for _, sections in logged(db, position)]


@contextmanager
def quick_directory() -> Iterator[Path]:
    """A directory for files that live a second: in memory where there is such a place, as commits sync the disk."""
    memory = Path("/dev/shm")
    usable = memory.is_dir() and os.access(memory, os.W_OK)
    with tempfile.TemporaryDirectory(prefix="crdtlog-", dir=memory if usable else None) as name:
        yield Path(name)
