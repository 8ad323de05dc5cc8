"""Table descriptions and the SQL text in them, which is read before any of it is compiled."""

import sqlite3
from contextlib import closing
from functools import cache

from crdtlog import schema
from crdtlog.errors import Malformed, SchemaRefused
from crdtlog.schema import Table, sqltext
from crdtlog.schema.definition import parse_index, parse_table
from crdtlog.schema.sqltext import Place, Refusal
from crdtlog.values import pack, unpack
from tests.fuzz.mutate import MSGPACK
from tests.fuzz.trial import Subject, Target, require

STATEMENTS = [
    "CREATE TABLE plain (id TEXT PRIMARY KEY, v, n INTEGER NOT NULL DEFAULT (1 + 2))",
    "CREATE TABLE counted (id INTEGER PRIMARY KEY AUTOINCREMENT, r REAL DEFAULT -1.5, t TEXT DEFAULT 'x')",
    "CREATE TABLE strictly (a TEXT NOT NULL, b INT NOT NULL, c BLOB, PRIMARY KEY (b DESC, a COLLATE NOCASE)) STRICT",
    "CREATE TABLE bare (k TEXT COLLATE RTRIM PRIMARY KEY, w DEFAULT CURRENT_TIMESTAMP) WITHOUT ROWID",
    "CREATE TABLE made (id TEXT PRIMARY KEY, a, g TEXT GENERATED ALWAYS AS (lower(a) || '-' || id) STORED,"
    " h AS (CASE WHEN a IN (1, 2) THEN CAST(a AS VARCHAR(10)) ELSE a -> '$.x' END))",
    "CREATE TABLE child (id TEXT PRIMARY KEY, p TEXT REFERENCES plain (id) ON DELETE SET NULL, q DEFAULT (random()),"
    ' "odd ""name" TEXT, FOREIGN KEY (q) REFERENCES counted (id) DEFERRABLE INITIALLY DEFERRED)',
    "CREATE INDEX one ON plain (v DESC, n COLLATE NOCASE) WHERE v IS NOT NULL",
    "CREATE INDEX two ON child (abs(length(p)), q)",
]
WORDS = [
    *b"SELECT EXISTS RAISE MATCH OVER CAST AS COLLATE NOCASE IN NOT NULL CASE WHEN THEN END AND CURRENT_TIME".split(),
    *b"( ) , ; '' ' \" \"\" [ ] ` -- /* */ || -> ->> x'00' x'0 0x 1.e5 1e ?1 :a @b $c #d . .5 \xef\xbb\xbf".split(),
    *b"zeroblob( randomblob( load_extension( date('now') printf( PRIMARY CHECK(1) DEFAULT GENERATED ALWAYS".split(),
    *b"sqlite_master crdtlog__meta WITHOUT ROWID STRICT UNIQUE REFERENCES id a v p q".split(),
    b"\x00",
    b"(" * 90,
    b"(" * 3_000,
    b"+1" * 2_000,
]


@cache
def tables() -> tuple[Table, ...]:
    """Descriptions of real tables."""
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        for statement in STATEMENTS:
            connection.execute(statement)
        names = [name for name, reason in schema.trackable_tables(connection) if reason is None]
        return tuple(schema.read_table(connection, name) for name in names)


def _validate() -> Subject:
    """A description that is read, and then proved harmless by compiling it."""

    def read(case: bytes) -> Table:
        table = schema.from_wire(unpack(case))
        schema.validate(table)
        return table

    def holds(table: Table) -> None:
        require(not schema.difference(table, table), "a description does not differ from itself")
        with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
            for statement in schema.create_statements(table):
                connection.execute(statement)
            require(
                schema.read_table(connection, table.name) == table, "a proved table can be built as it is"
            )

    return Subject(
        [pack(schema.to_wire(table)) for table in tables()],
        read,
        (Malformed, SchemaRefused),
        MSGPACK,
        WORDS,
        write=lambda table: pack(schema.to_wire(table)),
        holds=holds,
    )


def _text(case: bytes) -> str:
    return case.decode("utf-8", "surrogateescape")


def _expression() -> Subject:
    """An expression at each place where one may stand; what is accepted is in normal form."""

    def read(case: bytes) -> str:
        text = sqltext.normal(_text(case))
        refusals = []
        for place in Place:
            try:
                sqltext.check_expression(text, place)
            except Refusal as refusal:
                refusals.append(refusal)
        if len(refusals) == len(Place):
            raise refusals[0]
        return text

    seeds = [
        b"lower(a) || '-' || id",
        b"CASE WHEN a IN (1, 2) THEN CAST(a AS VARCHAR(10)) ELSE a -> '$.x' END",
        b"strftime('%Y', 'now') + zeroblob(10)",
        b"x'00ff' COLLATE NOCASE",
        b'-1.5e10 /* c */ -- d\n + "odd ""name"',
        b"CURRENT_TIMESTAMP",
    ]
    return Subject(seeds, read, (Refusal,), None, WORDS, write=str.encode)


def _definition() -> Subject:
    """The text of CREATE TABLE and CREATE INDEX, as it stands in a file that somebody passed on."""

    def read(case: bytes) -> object:
        text = _text(case)
        return parse_index(text) if "INDEX" in text[:20] else parse_table(text)

    return Subject([text.encode() for text in STATEMENTS], read, (Refusal,), None, WORDS)


def _type() -> Subject:
    return Subject(
        [b"VARCHAR(10)", b"DECIMAL(10,-5)", b"unsigned big int", b"", b"any"],
        lambda case: sqltext.normal_type(_text(case)),
        (Refusal,),
        None,
        WORDS,
        write=str.encode,
    )


TARGETS = [
    Target("schema.validate", 2_000, _validate),
    Target("sqltext.expression", 10_000, _expression),
    Target("sqltext.definition", 10_000, _definition),
    Target("sqltext.type", 10_000, _type),
]
