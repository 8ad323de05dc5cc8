"""What random clients do to random tables: shapes of tables, statements, and the steps of a history."""

import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import product
from typing import Any, NamedTuple

from hypothesis import strategies as st

from crdtlog.database import Database
from tests.crdtlog.devices import World, closing_connection, devices, quick_directory, send, sync_all

SHELL = shutil.which("sqlite3")


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


class Choose(NamedTuple):
    """Somebody on one device gives a column of table `t` another kind."""

    device: int
    column: str
    kind: str


Step = Client | Unseen | Drain | Send | Reopen | Choose


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


@st.composite
def quarrel(draw: st.DrawFn, count: int, shape: Shape) -> list[Step]:
    """Rounds in which all devices write the same few rows, before some of them exchange entries."""
    few = shape._replace(key={name: values[:2] for name, values in shape.key.items()})
    table, columns = quoted(shape.name), {**few.key, **few.rest}
    rows = [
        [*map(literal, key), *(literal(draw(st.sampled_from(values))) for values in few.rest.values())]
        for key in product(*few.key.values())
    ]
    names = ", ".join(map(quoted, columns))
    inserts = [f"INSERT OR IGNORE INTO {table} ({names}) VALUES ({', '.join(row)})" for row in rows]
    history: list[Step] = [Client(0, inserts), *(Send(0, other) for other in range(1, count))]
    everywhere = [
        f"UPDATE {table} SET {quoted(name)} = {literal(value)}"
        for name, values in few.rest.items()
        for value in values
    ]
    one = st.one_of(statement([few]), st.sampled_from([*everywhere, *inserts]))
    statements = st.lists(one, min_size=1, max_size=3)
    device = st.integers(0, count - 1)
    send = st.tuples(device, device).filter(lambda pair: pair[0] != pair[1]).map(lambda pair: Send(*pair))
    for _ in range(draw(st.integers(1, 4))):
        for writer in draw(st.permutations(range(count))):
            history += [Client(writer, draw(statements)), Drain(writer)]
        history += draw(st.lists(send, max_size=2))
    return history


def merging(statements: list[str], kinds: dict[str, list[str]]) -> st.SearchStrategy[list[Step]]:
    """What may happen on three devices to the columns of `t` that merge; `kinds` are those each may be given."""
    device = st.integers(0, 2)
    client = st.builds(lambda device, sql: Client(device, [sql]), device, st.sampled_from(statements))
    send = st.permutations(range(3)).map(lambda order: Send(*order[:2]))
    choices = [(column, kind) for column, some in kinds.items() for kind in some]
    choose = st.builds(lambda device, choice: Choose(device, *choice), device, st.sampled_from(choices))
    return st.lists(
        st.one_of(*[client] * 4, *[send] * 4, *[st.builds(Drain, device)] * 2, choose), max_size=30
    )


@contextmanager
def after_a_quarrel(choose: st.DataObject, shape: Shape) -> Iterator[list[Database]]:
    """Two devices, `ant` and `bee`, that have quarrelled over one table and now hold the same."""
    plan = choose.draw(quarrel(2, shape))
    with quick_directory() as directory, World(directory) as world:
        dbs = devices(world, ["ant", "bee"], [shape.sql])
        play(dbs, plan)
        sync_all(dbs)
        yield dbs


def play(dbs: list[Database], history: list[Step]) -> None:
    """What clients write on some devices, and what these send one another.

    For tests that only want a history: writes that no trigger sees, and new beginnings, are left out. A statement may
    fail on a constraint, or on a text that is no JSON.
    """
    for step in history:
        match step:
            case Client(device, statements, ending):
                with closing_connection(dbs[device].path) as connection:
                    connection.execute("BEGIN IMMEDIATE")
                    for sql in statements:
                        try:
                            connection.execute(sql)
                        except sqlite3.Error as error:
                            no_json = "malformed JSON" in str(error)
                            assert no_json or isinstance(error, sqlite3.IntegrityError)
                    connection.execute(ending)
            case Drain(device):
                dbs[device].drain_all()
            case Send(source, target):
                send(dbs[source], dbs[target])
            case Choose(device, column, kind):
                dbs[device].track("t", {column: kind})
