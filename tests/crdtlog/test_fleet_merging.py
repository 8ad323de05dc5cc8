"""Random SQL on tables whose columns merge, beside registers: all devices end equal, and what adds up adds up.

In the tables of `MIXED` clients do whatever SQL allows, and columns change their kinds now and then: devices must end
with equal rows, documents and `state`. Of `sums`, rows stay and are only added to: there the result is known exactly,
whatever else happened.
"""

import json
import sqlite3
from typing import Any, NamedTuple

from hypothesis import given, note, settings
from hypothesis import strategies as st

from crdtlog.database import Database
from crdtlog.values import unpack_own
from tests.crdtlog.clients import ANY, Client, Drain, Reopen, Send, Shape, Step, Unseen, quoted, statement
from tests.crdtlog.devices import (
    World,
    apply_all,
    assert_converged,
    closing_connection,
    devices,
    exact,
    lacking,
    quick_directory,
    sync_all,
)

DOCUMENTS = [
    "{}",
    "[]",
    "5",
    "5.0",
    '"x"',
    " 1e400",
    "null",
    '{"a": 1, "b": [1, 2, 3]}',
    '{"a": {"c": 1}, "b": [1, 3]}',
    '{"b": [{"id": 1, "x": 1}, {"id": 2}], "a": null}',
    '[{"id": 1, "x": 2}, {"id": 2}, 7]',
    "[1, 2, 3, 4]",
    "[4, 3, 2, 1]",
    "not json",
    '{"a": 1, "a": 2}',
    None,
    b"{}",
    7,
]
SETS = ["[]", '["a"]', '["b", "a"]', "[1, 1.0, {}, []]", '[{"b": 1, "a": 2}]', "[1e999999999]", "{}", None, 3]
NUMBERS = [None, 0, 1, -1, 5, 0.5, -0.0, 1e300, 2**63 - 1, -(2**63), 9e999, "1", "x", b"\1"]
PLAIN = [*ANY[:4], "x", "X"]


class Mixed(NamedTuple):
    """A table, and the kinds of some of its columns at first."""

    shape: Shape
    kinds: dict[str, str]


MIXED = [
    Mixed(
        Shape(
            "CREATE TABLE mixed (id TEXT PRIMARY KEY, doc TEXT, tags TEXT, n INTEGER, r REAL, p)",
            "mixed",
            {"id": ["a", "b"]},
            {"doc": DOCUMENTS, "tags": SETS, "n": NUMBERS, "r": NUMBERS, "p": PLAIN},
        ),
        {"doc": "json", "tags": "set", "n": "counter", "r": "counter"},
    ),
    Mixed(
        Shape(
            "CREATE TABLE loose (name TEXT COLLATE NOCASE PRIMARY KEY, doc NUMERIC, tags JSON, n, p TEXT)",
            "loose",
            {"name": ["a", "A", "b"]},
            {"doc": DOCUMENTS, "tags": SETS, "n": NUMBERS, "p": PLAIN},
        ),
        {"doc": "json", "tags": "set", "n": "counter", "p": "text"},
    ),
    Mixed(
        Shape(
            "CREATE TABLE born (id INTEGER PRIMARY KEY, doc BLOB, n NUMERIC, p)",
            "born",
            {"id": [1, 2]},
            {"doc": DOCUMENTS, "n": NUMBERS, "p": PLAIN},
        ),
        {"doc": "json", "n": "counter"},
    ),
    Mixed(
        Shape(
            "CREATE TABLE paired (b INTEGER, a TEXT, doc, n INT, PRIMARY KEY (a, b)) WITHOUT ROWID",
            "paired",
            {"a": ["a", "b"], "b": [1]},
            {"doc": DOCUMENTS, "n": NUMBERS},
        ),
        {"doc": "json", "n": "counter"},
    ),
    Mixed(
        Shape(
            "CREATE TABLE strict (id TEXT NOT NULL PRIMARY KEY, doc TEXT, x ANY, n INT, r REAL) STRICT",
            "strict",
            {"id": ["a", "b"]},
            {"doc": DOCUMENTS, "x": SETS, "n": NUMBERS[:5], "r": NUMBERS[:8]},
        ),
        {"doc": "json", "x": "set", "n": "counter", "r": "counter"},
    ),
]
SUMS = "CREATE TABLE sums (id TEXT PRIMARY KEY, n INTEGER, doc TEXT, tags TEXT, p)"
SUM_KINDS = {"n": "counter", "doc": "json", "tags": "set"}
SUM_ROWS = ["s", "t"]

CHANGES = {
    "json": [
        "json_set({0}, '$.a', 9)",
        "json_set({0}, '$.z', 1)",
        "json_insert({0}, '$.b[#]', 8)",
        "json_insert({0}, '$[#]', 8)",
        "json_remove({0}, '$.a')",
        "json_remove({0}, '$.b[0]')",
        "json_set({0}, '$.b[0]', json('[1]'))",
    ],
    "set": ["json_insert({0}, '$[#]', 'c')", "json_remove({0}, '$[0]')", "'[\"c\"]'", "'[]'"],
    "text": ["{0} || 'end'", "'begin' || {0}", "replace({0}, 'e', '')", "substr({0}, 2)"],
    "counter": ["{0} + 1", "{0} - 3", "{0} + 0.5", "{0} * 2"],
}
#: What a column may become.
OTHERS = {
    "json": ["json", "set", "register"],
    "set": ["json", "set", "register"],
    "counter": ["counter", "register"],
    "text": ["text", "json", "register"],
}


@st.composite
def change(draw: st.DrawFn, tables: list[Mixed]) -> str:
    """An UPDATE that changes a little of what is there."""
    shape, kinds = draw(st.sampled_from(tables))
    column, kind = draw(st.sampled_from(sorted(kinds.items())))
    new = draw(st.sampled_from(CHANGES[kind])).format(quoted(column))
    valid = f" WHERE json_valid({quoted(column)})" if kind in ("json", "set") else ""
    return f"UPDATE {quoted(shape.name)} SET {quoted(column)} = {new}{valid}"


class Add(NamedTuple):
    """A program adds to a row of `sums`, in each of its columns, in a way that must never be lost."""

    device: int
    row: str
    step: int


class Kind(NamedTuple):
    """A person gives a column another kind on one device."""

    device: int
    table: str
    column: str
    kind: str


Happening = Step | Add | Kind


@st.composite
def happenings(draw: st.DrawFn, count: int, tables: list[Mixed], kinds: bool) -> list[Happening]:
    device = st.integers(0, count - 1)
    shapes = [table.shape for table in tables]
    sql = st.one_of(change(tables), change(tables), statement(shapes))
    client = st.builds(Client, device, st.lists(sql, min_size=1, max_size=3), st.just("COMMIT"))
    unseen = st.builds(Unseen, device, st.lists(sql, min_size=1, max_size=2))
    send = st.builds(Send, device, device, st.integers(1, 4), st.booleans(), st.booleans()).filter(
        lambda step: step.source != step.target
    )
    add = st.builds(Add, device, st.sampled_from(SUM_ROWS), st.integers(-5, 5))
    others: list[st.SearchStrategy[Happening]] = [
        st.builds(Drain, device),
        st.builds(Reopen, device),
        unseen,
        add,
    ]
    if kinds:
        columns = [(t.shape.name, column, kind) for t in tables for column, kind in t.kinds.items()]
        named = st.sampled_from(columns).flatmap(
            lambda c: st.builds(Kind, device, st.just(c[0]), st.just(c[1]), st.sampled_from(OTHERS[c[2]]))
        )
        others.append(named)
    inserts = st.lists(statement(shapes), min_size=2, max_size=4)
    history: list[Happening] = [Client(0, draw(inserts)), *(Send(0, other) for other in range(1, count))]
    return history + draw(st.lists(st.one_of(*[client] * 4, *[send] * 3, *others), min_size=8, max_size=30))


class Fleet:
    """Runs steps."""

    def __init__(self, world: World, clocks: list[int | None], tables: list[Mixed]) -> None:
        self.world = world
        self.names = ["ant", "bee", "cat", "dog"][: len(clocks)]
        rows = "".join(f"INSERT INTO sums VALUES ('{row}', 0, '{{}}', '[]', 0);" for row in SUM_ROWS)
        self.dbs = devices(world, self.names, [SUMS, *(table.shape.sql for table in tables)], rows)
        for table in tables:
            self.dbs[0].track(table.shape.name, table.kinds)
        self.dbs[0].track("sums", SUM_KINDS)
        sync_all(self.dbs)
        self.clocks = clocks
        for device in range(len(clocks)):
            self._set_clock(device)
        self.sums = dict.fromkeys(SUM_ROWS, 0)
        self.added: dict[str, set[str]] = {row: set() for row in SUM_ROWS}
        self.number = 0

    def _set_clock(self, device: int) -> None:
        if (fixed := self.clocks[device]) is not None:
            self.dbs[device]._state.now_ms = lambda: fixed

    def run(self, step: Happening) -> None:
        match step:
            case Client(device, statements):
                self._client(device, statements)
            case Unseen(device, statements):
                with closing_connection(self.world.path(self.names[device])) as connection:
                    triggers = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
                    for (name,) in connection.execute(triggers).fetchall():
                        connection.execute(f"DROP TRIGGER {name}")
                self._client(device, statements)
            case Drain(device):
                self.dbs[device].drain_all()
            case Reopen(device):
                self.dbs[device] = self.world.reopen(self.names[device])
                self._set_clock(device)
            case Send():
                self._send(step)
            case Add(device, row, amount):
                self.number += 1
                name = f"k{self.number}"
                self.added[row].add(name)
                self.sums[row] += amount
                sql = (
                    f"UPDATE sums SET n = n + {amount}, doc = json_set(doc, '$.{name}', {self.number}), "
                    f"tags = json_insert(tags, '$[#]', '{name}') WHERE id = '{row}'"
                )
                self._client(device, [sql])
            case Kind(device, table, column, kind):
                self.dbs[device].track(table, {column: kind})

    def _client(self, device: int, statements: list[str]) -> None:
        with closing_connection(self.world.path(self.names[device])) as connection:
            connection.execute("BEGIN IMMEDIATE")
            for sql in statements:
                try:
                    connection.execute(sql)
                except (sqlite3.IntegrityError, sqlite3.OperationalError) as error:
                    assert "no such" not in str(error) and "syntax" not in str(error)
                    note(f"{sql}: {error}")
            connection.execute("COMMIT")

    def _send(self, step: Send) -> None:
        source, target = self.dbs[step.source], self.dbs[step.target]
        source.drain_all()
        entries = lacking(source, target)
        if step.cut:
            entries = entries[: step.limit]
        for at in range(0, len(entries), step.limit):
            apply_all(target, entries[at : at + step.limit], hold_ms=0 if step.twice else 20)
        if step.twice:
            apply_all(target, entries)


def merge_documents(db: Database) -> list[Any]:
    """What is stored of documents, by global names."""
    ids = db._state.log.ids
    tables = {tracked.number: tracked.name for tracked in db._state.tables.values()}
    found = []
    for tab, key, slot, writer, seq, kind, state, versions, problem in db._state.connection.execute(
        "SELECT tab, key, slot, writer, seq, kind, state, versions, problem FROM crdtlog__merge"
    ):
        dots = None if versions is None else sorted((ids[w], s) for w, s in unpack_own(versions))
        found.append((tables[tab], exact(key), slot, ids.get(writer), seq, kind, state, dots, problem))
    return sorted(found, key=repr)


def unmerged(db: Database) -> list[Any]:
    """Without the row that is the example: which one comes first is a file's own affair."""
    return sorted(item._replace(key="") for item in db.unmerged())


CLOCKS = st.lists(st.sampled_from([None, None, 0, 0, 1_000]), min_size=2, max_size=4)
SOME = st.lists(st.sampled_from(MIXED), min_size=1, max_size=2, unique_by=lambda table: table.shape.name)


@settings(max_examples=settings().max_examples * 2)
@given(st.data(), CLOCKS, SOME)
def test_after_any_history_all_devices_hold_the_same_documents(
    choose: st.DataObject, clocks: list[int | None], tables: list[Mixed]
) -> None:
    run_and_judge(choose.draw(happenings(len(clocks), tables, False)), clocks, tables)


@settings(max_examples=settings().max_examples * 2)
@given(st.data(), CLOCKS, SOME)
def test_kinds_that_change_in_the_middle_divide_nobody(
    choose: st.DataObject, clocks: list[int | None], tables: list[Mixed]
) -> None:
    run_and_judge(choose.draw(happenings(len(clocks), tables, True)), clocks, tables)


def run_and_judge(history: list[Happening], clocks: list[int | None], tables: list[Mixed]) -> None:
    with quick_directory() as directory, World(directory) as world:
        fleet = Fleet(world, clocks, tables)
        for step in history:
            fleet.run(step)
        for db in fleet.dbs:
            db.drain_all()
        sync_all(fleet.dbs)

        assert_converged(fleet.dbs, ["sums", *(table.shape.name for table in tables)])
        for db in fleet.dbs[1:]:
            assert merge_documents(db) == merge_documents(fleet.dbs[0])
            assert unmerged(db) == unmerged(fleet.dbs[0])
        judge_sums(fleet)
        for db in fleet.dbs:
            assert db.drain_all() == 0
        for table in tables:  # and all of it can be written again
            key, column = next(iter(table.shape.key)), next(iter(table.kinds))
            fleet.dbs[-1].execute(f"UPDATE {table.shape.name} SET {column} = NULL WHERE {key} IS NOT NULL")
        sync_all(fleet.dbs)
        assert_converged(fleet.dbs, [table.shape.name for table in tables])


def judge_sums(fleet: Fleet) -> None:
    for row, n, doc, tags in fleet.dbs[0].execute("SELECT id, n, doc, tags FROM sums").fetchall():
        assert n == fleet.sums[row]
        assert set(json.loads(doc)) == fleet.added[row]
        assert set(json.loads(tags)) == fleet.added[row]
