"""Schemas read from real SQLite files, and received ones proved harmless: the door to all about schemas.

`inspection` reads, `proving` accepts, `description` says what a table is, `comparison` whether two may exchange rows,
and `statements` writes one as SQL. What is read from a file is proved like what is received, so that whatever one
device tracks, another can build.
"""

import sqlite3

from crdtlog import errors
from crdtlog.schema.comparison import Places, difference
from crdtlog.schema.description import (
    Column,
    ForeignKey,
    Index,
    IndexColumn,
    Table,
    affinity,
    from_wire,
    is_internal,
    to_wire,
)
from crdtlog.schema.inspection import inspect, is_shadow, query
from crdtlog.schema.proving import validate
from crdtlog.schema.sqltext import Refusal, quote
from crdtlog.schema.statements import column_definition, create_statements, index_statement

__all__ = [
    "Column",
    "ForeignKey",
    "Index",
    "IndexColumn",
    "Places",
    "Table",
    "affinity",
    "column_definition",
    "create_statements",
    "difference",
    "from_wire",
    "index_statement",
    "quote",
    "read_table",
    "to_wire",
    "trackable_tables",
    "validate",
]


def read_table(connection: sqlite3.Connection, name: str) -> Table:
    """Describe a table of the main database.

    It takes several statements: call it inside a transaction if other connections may change the schema.

    Raises `errors.NoSuchTable`, or `errors.Untrackable` with the reason. SQLite's own errors pass through.
    """
    try:
        return _described(connection, name)
    except Refusal as refusal:
        raise errors.Untrackable(
            f"table {name!r} cannot be tracked: {refusal.reason}", refusal.hint
        ) from None


def trackable_tables(connection: sqlite3.Connection) -> list[tuple[str, str | None]]:
    """Every table of the user's by name, with None or the reason why it cannot be tracked.

    Left out: SQLite's and crdtlog's own tables, views, and the tables in which virtual tables keep their
    content.
    """
    names = [
        row[0]
        for row in query(connection, "SELECT name FROM main.sqlite_master WHERE type = 'table' ORDER BY name")
    ]
    found: list[tuple[str, str | None]] = []
    for name in names:
        if is_internal(name) or is_shadow(connection, name):
            continue
        try:
            _described(connection, name)
            found.append((name, None))
        except Refusal as refusal:
            found.append((name, refusal.reason))
    return found


def _described(connection: sqlite3.Connection, name: str) -> Table:
    table = inspect(connection, name)
    try:
        validate(table)
    except errors.SchemaRefused as error:
        raise Refusal(f"other devices could not build it ({error})", error.hint) from None
    return table
