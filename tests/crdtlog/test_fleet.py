"""Random SQL by random clients on a small fleet: whatever happens, all devices end equal and nothing is lost silently.

Clients are connections that know nothing of crdtlog, and now and then the `sqlite3` shell. Three things are held
against an oracle that shares no code with documents, drain or apply: what a drain logs is exactly what the clients
changed (and no more); what shows on every device is what the logs say by definition; what does not show is kept,
unless a write by someone who had seen it replaced it.
"""

import shutil
import sqlite3
import subprocess
from collections.abc import Iterable
from typing import Any, NamedTuple

from hypothesis import given, note, settings
from hypothesis import strategies as st

from crdtlog.catalog import Tracked
from crdtlog.connection import escaping_text
from crdtlog.database import Database
from crdtlog.entry import DELETE, INSERT, Entry, Section
from crdtlog.values import Key, key_text, normal_key
from tests.crdtlog.devices import (
    World,
    apply_all,
    assert_converged,
    closing_connection,
    devices,
    exact,
    lacking,
    logged,
    losers,
    quick_directory,
    sync_all,
)

SHELL = shutil.which("sqlite3")


# --- what clients do ----------------------------------------------------------------------------------------------


class Shape(NamedTuple):
    """A table: its definition, key columns with values for them, other columns with values for them."""

    sql: str
    name: str
    key: dict[str, list[Any]]
    rest: dict[str, list[Any]]

    def __repr__(self) -> str:
        return f"<{self.name}>"


ODD = b"\xff\xfeA"  # text that is not valid UTF-8, given as its bytes
TEXTS = ["a", "A", "b", "", "ü", "a\0b", memoryview(ODD)]
ANY = [
    None,
    0,
    1,
    -1,
    1.0,
    0.0,
    -0.0,
    0.5,
    2**63 - 1,
    -(2**63),
    9e999,
    "x",
    "X",
    "1",
    "",
    b"",
    b"\0x",
    memoryview(ODD),
]

SHAPES = [
    Shape(
        "CREATE TABLE notes (id TEXT PRIMARY KEY, any, t TEXT, n INTEGER, r REAL, u NUMERIC)",
        "notes",
        {"id": TEXTS},
        {"any": ANY, "t": ANY, "n": ANY, "r": ANY, "u": ANY},
    ),
    Shape(
        "CREATE TABLE pairs (b INTEGER, a TEXT, v, PRIMARY KEY (a, b)) WITHOUT ROWID",
        "pairs",
        {"a": ["a", "A", memoryview(ODD)], "b": [1, 1.0, "1", -1]},
        {"v": ANY},
    ),
    Shape(
        "CREATE TABLE numbered (id INTEGER PRIMARY KEY, name TEXT NOT NULL DEFAULT 'x')",
        "numbered",
        {"id": [1, 2, 3]},
        {"name": ["a", "b", None]},
    ),
    Shape(
        "CREATE TABLE folded (name TEXT COLLATE NOCASE PRIMARY KEY, v)",
        "folded",
        {"name": ["a", "A", "b", "B", "é", "É"]},
        {"v": ANY},
    ),
    Shape(
        "CREATE TABLE blobs (k BLOB PRIMARY KEY NOT NULL, v) WITHOUT ROWID",
        "blobs",
        {"k": [b"", b"a", "a", 1, 1.0, 0.0, -0.0]},
        {"v": ANY},
    ),
    Shape(
        "CREATE TABLE typed (id TEXT NOT NULL PRIMARY KEY, n INT, r REAL, t TEXT, b BLOB, x ANY) STRICT",
        "typed",
        {"id": TEXTS},
        {
            "n": [None, 1, 2**63 - 1, "no"],
            "r": [0.5, 1, -0.0],
            "t": ["x", 1, None],
            "b": [b"x", None],
            "x": ANY,
        },
    ),
    Shape(
        "CREATE TABLE computed (a INTEGER, id TEXT PRIMARY KEY, twice AS (a * 2) STORED, said AS (a || id), c)",
        "computed",
        {"id": ["a", "b"]},
        {"a": [1, 2, "x", None], "c": ANY},
    ),
    Shape(
        'CREATE TABLE "sélect ""any?"" table" ("group by" TEXT, "ключ" TEXT, "or""der?" , "values" DEFAULT 7, '
        'PRIMARY KEY ("ключ" COLLATE RTRIM, "group by" COLLATE NOCASE))',
        'sélect "any?" table',
        {"ключ": ["a", "a ", "b"], "group by": ["x", "X", "ß"]},
        {'or"der?': ANY, "values": ANY},
    ),
    Shape(
        "CREATE TABLE links (a TEXT, b INTEGER, PRIMARY KEY (a, b))",
        "links",
        {"a": TEXTS[:3], "b": [1, 2]},
        {},
    ),
    Shape(
        "CREATE TABLE parents (id TEXT PRIMARY KEY, name TEXT)",
        "parents",
        {"id": ["p", "q"]},
        {"name": ["x", "y"]},
    ),
    Shape(
        "CREATE TABLE children (id TEXT PRIMARY KEY, parent TEXT REFERENCES parents ON DELETE CASCADE "
        "ON UPDATE CASCADE, v)",
        "children",
        {"id": ["c", "d"]},
        {"parent": ["p", "q", None], "v": ANY},
    ),
]


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def literal(value: Any) -> str:
    """A value as SQL text, exactly."""
    match value:
        case None:
            return "NULL"
        case memoryview():
            return f"CAST(x'{value.tobytes().hex()}' AS TEXT)"
        case bytes():
            return f"x'{value.hex()}'"
        case str():
            return (
                f"CAST(x'{value.encode().hex()}' AS TEXT)"
                if "\0" in value
                else "'" + value.replace("'", "''") + "'"
            )
        case float():
            return "9e999" if value == float("inf") else repr(value)
        case _:
            return str(value)


@st.composite
def statement(draw: st.DrawFn, shapes: list[Shape]) -> str:
    """One INSERT, UPDATE or DELETE that a client might send; it may well fail on a constraint."""
    shape = draw(st.sampled_from(shapes))
    table = quoted(shape.name)
    columns = {**shape.key, **shape.rest}

    def some(names: Iterable[str]) -> dict[str, str]:
        return {quoted(name): literal(draw(st.sampled_from(columns[name]))) for name in names}

    where = " AND ".join(f"{name} = {value}" for name, value in some(shape.key).items())
    some_columns = st.lists(
        st.sampled_from(list(shape.rest or shape.key)), min_size=1, max_size=3, unique=True
    )
    changed = some(draw(some_columns))
    assignments = ", ".join(f"{name} = {value}" for name, value in changed.items())
    match draw(
        st.sampled_from(["insert", "insert", "replace", "upsert", "update", "update all", "delete", "rekey"])
    ):
        case "update":
            return f"UPDATE {table} SET {assignments} WHERE {where}"
        case "update all":
            return f"UPDATE {table} SET {assignments}"
        case "delete":
            return f"DELETE FROM {table}" + draw(st.sampled_from(["", f" WHERE {where}", f" WHERE {where}"]))
        case "rekey":
            key = ", ".join(f"{name} = {value}" for name, value in some(shape.key).items())
            return f"UPDATE {draw(st.sampled_from(['', 'OR REPLACE ', 'OR IGNORE ']))}{table} SET {key} WHERE {where}"
        case kind:
            values = {**some(shape.key), **some(shape.rest)}
            text = f"INTO {table} ({', '.join(values)}) VALUES ({', '.join(values.values())})"
            if kind == "upsert":
                return f"INSERT {text} ON CONFLICT DO UPDATE SET {assignments}"
            return f"{'REPLACE' if kind == 'replace' else 'INSERT'} {text}"


class Client(NamedTuple):
    """One transaction by some program on one device."""

    device: int
    statements: list[str]
    ending: str = "COMMIT"
    shell: bool = False


class Unseen(NamedTuple):
    """A program drops the triggers, as a migration does, and goes on writing."""

    device: int
    statements: list[str]


class Drain(NamedTuple):
    """The engine on one device takes in what was captured."""

    device: int


class Send(NamedTuple):
    """One device drains and gives another what it lacks: in slices of `limit` entries, perhaps cut off or twice."""

    source: int
    target: int
    limit: int = 1_000
    cut: bool = False
    twice: bool = False


class Reopen(NamedTuple):
    """The engine on one device ends and starts anew."""

    device: int


Step = Client | Unseen | Drain | Send | Reopen


def steps(count: int, shapes: list[Shape]) -> st.SearchStrategy[list[Step]]:
    """What may happen on a fleet of that many devices with those tables."""
    device = st.integers(0, count - 1)
    client = st.builds(
        Client,
        device,
        st.lists(statement(shapes), min_size=1, max_size=4),
        st.sampled_from(["COMMIT", "COMMIT", "COMMIT", "ROLLBACK"]),
        st.sampled_from([False] * 9 + [True]),
    )
    unseen = st.builds(Unseen, device, st.lists(statement(shapes), min_size=1, max_size=2))
    send = st.builds(Send, device, device, st.integers(1, 4), st.booleans(), st.booleans()).filter(
        lambda step: step.source != step.target
    )
    return st.lists(
        st.one_of(*[client] * 4, *[send] * 4, st.builds(Drain, device), st.builds(Reopen, device), unseen),
        min_size=8,
        max_size=30,
    )


# --- the oracle ---------------------------------------------------------------------------------------------------

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


# --- the fleet ----------------------------------------------------------------------------------------------------


class Fleet:
    """Runs steps, and holds each drain against what clients really changed."""

    def __init__(self, world: World, clocks: list[int | None], shapes: list[Shape]) -> None:
        count = len(clocks)
        self.world = world
        self.names = ["ant", "bee", "cat", "dog"][:count]
        self.dbs = devices(world, self.names, [shape.sql for shape in shapes])
        self.clocks = clocks
        for device in range(count):
            self._set_clock(device)
        self.before = [content(db) for db in self.dbs]

    def _set_clock(self, device: int) -> None:
        """A clock that stands still far in the past gives stamps that lose, or tie with another such device's."""
        if (fixed := self.clocks[device]) is not None:
            self.dbs[device]._state.now_ms = lambda: fixed

    def run(self, step: Step) -> None:
        match step:
            case Client():
                self._client(step)
            case Unseen(device, statements):
                path = self.world.path(self.names[device])
                with closing_connection(path) as connection:
                    names = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
                    for (name,) in connection.execute(names).fetchall():
                        connection.execute(f"DROP TRIGGER {name}")
                self._client(Client(device, statements))
            case Drain(device):
                with self.watched(device):
                    self.dbs[device].drain_all()
            case Reopen(device):
                self.dbs[device] = self.world.reopen(self.names[device])
                self._set_clock(device)
            case Send():
                self._send(step)

    def _client(self, step: Client) -> None:
        path = self.world.path(self.names[step.device])
        if step.shell and SHELL:
            script = ";\n".join(["PRAGMA foreign_keys = ON", "BEGIN", *step.statements, step.ending]) + ";\n"
            subprocess.run(
                [SHELL, "-bail", "-batch", path], input=script.encode(), capture_output=True, timeout=30
            )
            return
        with closing_connection(path) as connection:
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("BEGIN IMMEDIATE")
            for sql in step.statements:
                try:
                    connection.execute(sql)
                except sqlite3.IntegrityError as error:
                    note(f"{sql}: {error}")
            connection.execute(step.ending)

    def _send(self, step: Send) -> None:
        with self.watched(step.source):
            self.dbs[step.source].drain_all()
        entries = lacking(self.dbs[step.source], self.dbs[step.target])
        if step.cut:
            entries = entries[: step.limit]
        if not entries:
            return
        with self.watched(step.target):
            for at in range(0, len(entries), step.limit):
                apply_all(
                    self.dbs[step.target], entries[at : at + step.limit], hold_ms=0 if step.twice else 20
                )
            if step.twice:
                apply_all(self.dbs[step.target], entries)

    def watched(self, device: int) -> "Watched":
        return Watched(self, device)


class Watched:
    """Around a drain or apply: the own entries that it appended say exactly what clients had changed since the last."""

    def __init__(self, fleet: Fleet, device: int) -> None:
        self.fleet, self.device, self.db = fleet, device, fleet.dbs[device]

    def __enter__(self) -> None:
        self.position = self.db.position()
        self.now = content(self.db)

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            own = [item for item in logged(self.db, self.position) if item[0].writer == self.db.writer]
            if own or self.db.pending() == 0:
                assert replay(self.db, self.fleet.before[self.device], own) == self.now
                self.fleet.before[self.device] = content(self.db)


CLOCKS = st.lists(st.sampled_from([None, None, 0, 0, 1_000]), min_size=2, max_size=4)


SOME_SHAPES = st.lists(
    st.sampled_from(SHAPES[:-2]), min_size=1, max_size=2, unique_by=lambda shape: shape.name
)


@settings(max_examples=settings().max_examples * 2)
@given(st.data(), CLOCKS, SOME_SHAPES)
def test_after_any_history_all_devices_hold_the_same_and_nothing_is_lost(
    choose: st.DataObject, clocks: list[int | None], shapes: list[Shape]
) -> None:
    run_and_judge(choose.draw(steps(len(clocks), shapes)), clocks, shapes)


@given(st.data(), CLOCKS)
def test_children_that_a_cascade_moves_or_deletes_arrive_as_they_were_left(
    choose: st.DataObject, clocks: list[int | None]
) -> None:
    run_and_judge(choose.draw(steps(len(clocks), SHAPES[-2:])), clocks, SHAPES[-2:])


ONE_ROW = Shape(
    "CREATE TABLE one (id PRIMARY KEY, a, b)", "one", {"id": ["k"]}, {"a": [1, 2, 3], "b": [1, 2, None]}
)
BRAWL = st.sampled_from(
    [
        *["DELETE FROM one"] * 3,
        "REPLACE INTO one VALUES ('k', 5, 5)",
        "INSERT INTO one VALUES ('k', 6, 6) ON CONFLICT DO UPDATE SET a = 7",
        *(f"UPDATE one SET {column} = {value}" for column in "ab" for value in (1, 2, 3)),
    ]
)


@st.composite
def brawl(draw: st.DrawFn, count: int) -> list[Step]:
    """Rounds in which several devices write one row before a few of them exchange entries."""
    device = st.integers(0, count - 1)
    send = st.tuples(device, device).filter(lambda pair: pair[0] != pair[1]).map(lambda pair: Send(*pair))
    history: list[Step] = [
        Client(0, ["REPLACE INTO one VALUES ('k', 0, 0)"]),
        *(Send(0, n) for n in range(1, count)),
    ]
    for _ in range(draw(st.integers(1, 5))):
        for writer in draw(st.lists(device, min_size=1, max_size=count, unique=True)):
            history.append(Client(writer, [draw(BRAWL)]))
        history += draw(st.lists(send, max_size=2 * count))
    return history


@settings(max_examples=settings().max_examples * 4)
@given(st.data(), CLOCKS)
def test_one_row_that_everybody_fights_over_ends_the_same_everywhere(
    choose: st.DataObject, clocks: list[int | None]
) -> None:
    run_and_judge(choose.draw(brawl(len(clocks))), clocks, [ONE_ROW])


@settings(max_examples=settings().max_examples // 2)
@given(st.data(), CLOCKS)
def test_many_tables_of_all_shapes_share_one_log(choose: st.DataObject, clocks: list[int | None]) -> None:
    run_and_judge(choose.draw(steps(len(clocks), SHAPES)), clocks, SHAPES)


def run_and_judge(history: list[Step], clocks: list[int | None], shapes: list[Shape]) -> None:
    with quick_directory() as directory, World(directory) as world:
        fleet = Fleet(world, clocks, shapes)

        for step in history:
            fleet.run(step)
        for device in range(len(clocks)):
            with fleet.watched(device):
                fleet.dbs[device].drain_all()
        sync_all(fleet.dbs)

        assert_converged(fleet.dbs, [shape.name for shape in shapes])
        tables, lost = by_definition(fleet.dbs[0])
        assert content(fleet.dbs[-1]) == tables
        assert set(losers(fleet.dbs[-1])) == lost
