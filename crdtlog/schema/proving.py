"""A received description proved harmless before it is executed (R8).

Knows the authorizer and the limits under which a description is compiled. The one idea: text that came from another
device is never executed. A description is written anew with every name quoted, compiled in an empty database that
allows nothing else, and read back: only if the same description comes out is it accepted.
"""

import sqlite3
from collections.abc import Callable
from contextlib import closing

from crdtlog import errors
from crdtlog.schema.description import Table, is_internal
from crdtlog.schema.inspection import inspect, query
from crdtlog.schema.sqltext import FUNCTIONS, Refusal, fold, quote
from crdtlog.schema.statements import create_statements

_LIMITS = (
    (sqlite3.SQLITE_LIMIT_SQL_LENGTH, 8_000_000),
    (sqlite3.SQLITE_LIMIT_LENGTH, 16_000_000),
    (sqlite3.SQLITE_LIMIT_ATTACHED, 0),
    (sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH, 1),
    # Generated columns that each name the one before twice make programs of 2^n instructions: stop those
    # early.
    (sqlite3.SQLITE_LIMIT_VDBE_OP, 250_000),
)


def validate(table: Table) -> None:
    """Prove that a description can be executed without harm and means what it says. Raises `errors.SchemaRefused`.

    It is compiled in an empty database in memory where an authorizer allows nothing but to create this table
    and its indexes and to call SQLite's own functions; inserting, reading, updating and deleting are compiled
    too, for only then does SQLite look into defaults and generated columns. Nothing of it is evaluated. Then
    it is read back.
    """
    try:
        statements = create_statements(table)
    except errors.Malformed as error:
        raise errors.SchemaRefused(str(error), error.hint) from None
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        try:
            _compile(connection, table, statements)
            found = inspect(connection, table.name)
        except (sqlite3.Error, sqlite3.Warning, MemoryError, RecursionError) as error:
            raise errors.SchemaRefused(
                f"table {table.name!r} cannot be built: {str(error) or 'it is too complex'}"
            ) from None
        except (Refusal, errors.NoSuchTable) as error:
            raise errors.SchemaRefused(f"table {table.name!r} cannot be built: {error}") from None
        rows = query(connection, "SELECT type, name FROM sqlite_master")
    built = {(kind, name) for kind, name in rows if not is_internal(name)}
    expected = {("table", table.name), *(("index", index.name) for index in table.indexes)}
    if found != table or built != expected:
        raise errors.SchemaRefused(
            f"table {table.name!r} would become another table than its description says"
        )


def _compile(connection: sqlite3.Connection, table: Table, statements: list[str]) -> None:
    for limit, value in _LIMITS:
        connection.setlimit(limit, value)
    connection.set_authorizer(_authorizer(table, reading=False))
    for statement in statements:
        connection.execute(statement)
    connection.set_authorizer(_authorizer(table, reading=True))
    name = quote(table.name)
    column = quote(table.stored_columns[0].name)
    for probe in (
        f"INSERT INTO {name} DEFAULT VALUES",
        f"SELECT * FROM {name}",
        f"UPDATE {name} SET {column} = {column}",
        f"DELETE FROM {name}",
    ):
        connection.execute(f"EXPLAIN {probe}").close()
    connection.set_authorizer(None)


def _authorizer(table: Table, *, reading: bool) -> Callable[..., int]:
    """Allow to create this one table and its indexes, and what SQLite does to its own tables for that.

    `reading` allows SELECT, which no part of a CREATE statement needs. A database of None is SQLite's way to tell of
    a table that is used without any of its columns.
    """
    own = fold(table.name)
    used = {own, "sqlite_master", "sqlite_schema"}
    created = {own, "sqlite_sequence"}
    indexes = {fold(index.name) for index in table.indexes}
    using = {sqlite3.SQLITE_INSERT, sqlite3.SQLITE_UPDATE, sqlite3.SQLITE_READ, sqlite3.SQLITE_DELETE}

    def allowed(action: int, first: str, second: str, database: str | None) -> bool:
        if action == sqlite3.SQLITE_FUNCTION:
            return second in FUNCTIONS
        if action == sqlite3.SQLITE_SELECT:
            return reading
        if database not in ("main", None):
            return False
        if action == sqlite3.SQLITE_CREATE_TABLE:
            return first in created
        if action in (sqlite3.SQLITE_CREATE_INDEX, sqlite3.SQLITE_REINDEX):
            return first in indexes or first.startswith("sqlite_autoindex_")
        return action in using and first in used

    def authorize(
        action: int, first: str | None, second: str | None, database: str | None, _trigger: str | None
    ) -> int:
        permitted = allowed(action, fold(first or ""), fold(second or ""), database)
        return sqlite3.SQLITE_OK if permitted else sqlite3.SQLITE_DENY

    return authorize
