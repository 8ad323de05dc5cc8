"""Schemas read from real SQLite files, and received ones proved harmless: the door to all about schemas.

This file knows how SQLite reports a table (PRAGMAs, `sqlite_master`), which tables crdtlog can track and the
reason why another cannot be, and the authorizer under which a received description is compiled. It must not
know the log, devices or documents. The one idea (R8): text that came from another device is never executed. A
description is written anew with every name quoted, compiled in an empty database that allows nothing else,
and read back: only if the same description comes out is it accepted. What is read from a file takes the same
road, so that whatever one device tracks, another can build.
"""

import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from typing import Any, NamedTuple

from crdtlog import errors
from crdtlog.schema.definition import TableText, parse_index, parse_table
from crdtlog.schema.description import (
    Column,
    ForeignKey,
    Index,
    IndexColumn,
    Places,
    Table,
    affinity,
    difference,
    from_wire,
    is_internal,
    to_wire,
)
from crdtlog.schema.sqltext import COLLATIONS, FUNCTIONS, Refusal, fold, normal, normal_type, quote
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

_NO_KEY_HINT = "declare one, for example: id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(16))))"
# What FTS3/4/5, R-Tree and Geopoly name their tables; newer SQLite tells by itself, for the modules it has
# loaded.
_SHADOWS = (
    *("content", "docsize", "config", "data", "idx", "segments", "segdir", "stat"),
    *("node", "rowid", "parent"),
)


# --- reading ------------------------------------------------------------------------------------------------


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
        for row in _rows(connection, "SELECT name FROM main.sqlite_master WHERE type = 'table' ORDER BY name")
    ]
    found: list[tuple[str, str | None]] = []
    for name in names:
        if is_internal(name) or _is_shadow(connection, name):
            continue
        try:
            _described(connection, name)
            found.append((name, None))
        except Refusal as refusal:
            found.append((name, refusal.reason))
    return found


def _described(connection: sqlite3.Connection, name: str) -> Table:
    table = _inspect(connection, name)
    try:
        validate(table)
    except errors.SchemaRefused as error:
        raise Refusal(f"other devices could not build it ({error})", error.hint) from None
    return table


def _inspect(connection: sqlite3.Connection, name: str) -> Table:
    """Describe a table without proving that it can be rebuilt. Raises `Refusal` or `errors.NoSuchTable`."""
    if is_internal(name):
        raise Refusal("it belongs to SQLite or to crdtlog")
    name, sql = _find(connection, name)
    _refuse_triggers(connection, name)
    reported = _reported_columns(connection, name)
    indexes = _reported_indexes(connection, name)
    if not any(column.key for column in reported):
        raise Refusal("it has no declared primary key", _NO_KEY_HINT)
    _refuse_unique(connection, reported, indexes)
    text = parse_table(sql)
    _cross_check(text, reported)
    table = Table(
        name=name,
        columns=_columns(connection, text, reported, indexes),
        without_rowid=text.without_rowid,
        strict=text.strict,
        autoincrement=text.autoincrement,
        foreign_keys=_foreign_keys(connection, name, text),
        indexes=_indexes(connection, indexes),
    )
    alias = not text.without_rowid and not any(index.origin == "pk" for index in indexes)
    _agree(alias == table.integer_key, "its primary key")
    return table


class _ReportedColumn(NamedTuple):
    """A row of PRAGMA table_xinfo. `hidden` is 2 for VIRTUAL and 3 for STORED generated columns."""

    name: str
    type: str
    not_null: int
    default: str | None
    key: int
    hidden: int


class _ReportedIndex(NamedTuple):
    """A row of PRAGMA index_list. `origin` is "pk", "u" (a UNIQUE constraint) or "c" (CREATE INDEX)."""

    name: str
    unique: int
    origin: str
    partial: int


class _ReportedIndexColumn(NamedTuple):
    """A key row of PRAGMA index_xinfo. An expression has no name, and the number -2."""

    name: str | None
    descending: int
    collation: str
    number: int


def _rows(connection: sqlite3.Connection, sql: str, *values: object) -> list[tuple[Any, ...]]:
    cursor = connection.cursor()
    cursor.row_factory = None
    return cursor.execute(sql, values).fetchall()


def _reported_columns(connection: sqlite3.Connection, table: str) -> list[_ReportedColumn]:
    sql = "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?, 'main') ORDER BY cid"
    return [_ReportedColumn(*row) for row in _rows(connection, sql, table)]


def _reported_indexes(connection: sqlite3.Connection, table: str) -> list[_ReportedIndex]:
    sql = "SELECT name, \"unique\", origin, partial FROM pragma_index_list(?, 'main')"
    return [_ReportedIndex(*row) for row in _rows(connection, sql, table)]


def _reported_index_columns(connection: sqlite3.Connection, index: str) -> list[_ReportedIndexColumn]:
    sql = (
        "SELECT name, \"desc\", upper(coll), cid FROM pragma_index_xinfo(?, 'main') WHERE key ORDER BY seqno"
    )
    return [_ReportedIndexColumn(*row) for row in _rows(connection, sql, index)]


def _agree(condition: bool, what: str) -> None:
    if not condition:
        raise Refusal(
            f"its SQL text and SQLite's own report differ about {what}",
            "please report this table's definition",
        )


def _find(connection: sqlite3.Connection, name: str) -> tuple[str, str]:
    """The table's name as it is written, and its CREATE statement."""
    try:
        rows = _rows(
            connection,
            "SELECT type, name, sql FROM main.sqlite_master "
            "WHERE type IN ('table', 'view') AND name = ? COLLATE NOCASE",
            name,
        )
    except UnicodeEncodeError:
        rows = []
    if not rows:
        raise errors.NoSuchTable(
            f"there is no table {name!r}", "see the tables with: SELECT name FROM sqlite_master"
        )
    kind, name, sql = rows[0]
    if kind == "view":
        raise Refusal("it is a view", "track the tables it reads from")
    if not isinstance(sql, str):
        raise Refusal("its CREATE statement is missing")
    if sql[:14].upper() == "CREATE VIRTUAL":
        raise Refusal("it is a virtual table", "track the table it is made from")
    if _is_shadow(connection, name):
        raise Refusal(
            "a virtual table keeps its content in it", "track the table that the virtual table is made from"
        )
    return name, sql


def _is_shadow(connection: sqlite3.Connection, name: str) -> bool:
    virtual = _rows(
        connection, "SELECT name FROM main.sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL%'"
    )
    if any(fold(name) == f"{fold(row[0])}_{suffix}" for row in virtual for suffix in _SHADOWS):
        return True
    if not virtual or sqlite3.sqlite_version_info < (3, 37):
        return False
    return bool(
        _rows(
            connection, "SELECT 1 FROM pragma_table_list(?) WHERE schema = 'main' AND type = 'shadow'", name
        )
    )


def _refuse_triggers(connection: sqlite3.Connection, name: str) -> None:
    rows = _rows(
        connection,
        "SELECT name FROM main.sqlite_master WHERE type = 'trigger' AND tbl_name = ? COLLATE NOCASE",
        name,
    )
    names = sorted(row[0] for row in rows if not fold(row[0]).startswith("crdtlog__"))
    if names:
        raise Refusal(
            f"it has the trigger {names[0]!r}, which would run again when changes from other devices arrive",
            "drop the table's triggers first",
        )


def _refuse_unique(
    connection: sqlite3.Connection, reported: list[_ReportedColumn], indexes: list[_ReportedIndex]
) -> None:
    """Refuse uniqueness beyond the primary key; another unique index over exactly the key adds no rule."""
    primary = [index.name for index in indexes if index.origin == "pk"]
    key = {(column.name, "BINARY") for column in reported if column.key}  # a rowid compares as a number
    if primary:
        key = {
            (column.name or "", column.collation)
            for column in _reported_index_columns(connection, primary[0])
        }
    for index in indexes:
        if not index.unique or index.origin == "pk":
            continue
        columns = _reported_index_columns(connection, index.name)
        if index.partial or {(column.name, column.collation) for column in columns} != key:
            listed = ", ".join("(expression)" if column.name is None else column.name for column in columns)
            raise Refusal(
                f"it has UNIQUE beyond its primary key ({listed}), which rows merged from other devices might break",
                "drop that constraint or index, or make those columns the primary key",
            )


def _cross_check(text: TableText, reported: list[_ReportedColumn]) -> None:
    """Compare what was parsed with what SQLite reports, so that a slip of the parser never goes unnoticed."""
    _agree([column.name for column in text.columns] == [column.name for column in reported], "the columns")
    key = {fold(part.name): position for position, part in enumerate(text.key, 1)}
    _agree(len(key) == len(text.key), "the primary key, which names a column twice")
    for stated, found in zip(text.columns, reported, strict=True):
        where = f"column {found.name!r}"
        _agree(stated.type is None or stated.type == normal_type(found.type), f"the type of {where}")
        implied = bool(found.not_null) and found.key > 0 and (text.without_rowid or text.strict)
        _agree(implied or bool(found.not_null) == stated.not_null, f"NOT NULL of {where}")
        default = None if found.default is None else normal(found.default)
        _agree(default == stated.default_text, f"the default of {where}")
        _agree(found.key == key.get(fold(found.name), 0), f"the place of {where} in the primary key")
        hidden = 0 if stated.generated is None else 3 if stated.stored else 2
        _agree(found.hidden == hidden, f"how {where} is generated")
        if stated.collation not in COLLATIONS:
            raise Refusal(
                f"{where} has the collation {stated.collation}, which other programs and devices lack",
                "rebuild the table with BINARY, NOCASE or RTRIM",
            )


def _columns(
    connection: sqlite3.Connection,
    text: TableText,
    reported: list[_ReportedColumn],
    indexes: list[_ReportedIndex],
) -> tuple[Column, ...]:
    order = _key_order(connection, text, indexes)
    return tuple(
        Column(
            name=stated.name,
            type=normal_type(found.type),
            not_null=bool(found.not_null),
            default=stated.default,
            key=found.key,
            collation=stated.collation,
            generated=stated.generated,
            stored=stated.stored,
            key_collation=order[found.key - 1].collation if found.key and order else "BINARY",
            descending=bool(order[found.key - 1].descending) if found.key and order else False,
        )
        for stated, found in zip(text.columns, reported, strict=True)
    )


def _key_order(
    connection: sqlite3.Connection, text: TableText, indexes: list[_ReportedIndex]
) -> list[_ReportedIndexColumn]:
    """The primary key's columns as its index has them; none for a rowid alias, which has no index."""
    names = [index.name for index in indexes if index.origin == "pk"]
    if not names:
        return []
    own = {fold(column.name): column for column in text.columns}
    stated = []
    for part in text.key:
        column = own[fold(part.name)]
        # In a WITHOUT ROWID table SQLite first takes a lone INTEGER key for a rowid, and forgets its COLLATE.
        forgotten = text.without_rowid and len(text.key) == 1 and column.type == "INTEGER"
        collation = column.collation if part.collation is None or forgotten else part.collation
        stated.append((fold(part.name), part.descending, collation))
    found = _reported_index_columns(connection, names[0])
    _agree(
        [(fold(c.name or ""), bool(c.descending), c.collation) for c in found] == stated, "its primary key"
    )
    for key in found:
        if key.collation not in COLLATIONS:
            raise Refusal(f"its primary key has the collation {key.collation}, which other devices lack")
    return found


def _foreign_keys(connection: sqlite3.Connection, name: str, text: TableText) -> tuple[ForeignKey, ...]:
    spelled = {fold(column.name): column.name for column in text.columns}
    foreign_keys = []
    for reference in text.references:
        _agree(all(fold(column) in spelled for column in reference.columns), "its foreign keys")
        foreign_keys.append(
            ForeignKey(
                tuple(spelled[fold(column)] for column in reference.columns),
                reference.parent,
                tuple(reference.parent_columns),
                reference.on_update,
                reference.on_delete,
                reference.deferred,
            )
        )
    rows = _rows(
        connection,
        'SELECT id, "table", "from", "to", on_update, on_delete '
        "FROM pragma_foreign_key_list(?, 'main') ORDER BY id, seq",
        name,
    )
    reported: dict[int, list[tuple[Any, ...]]] = {}
    for row in rows:
        reported.setdefault(row[0], []).append(row[1:])
    stated = Counter(_as_reported(foreign_key) for foreign_key in foreign_keys)
    _agree(stated == Counter(tuple(rows) for rows in reported.values()), "its foreign keys")
    return tuple(foreign_keys)


def _as_reported(foreign_key: ForeignKey) -> tuple[tuple[Any, ...], ...]:
    targets = foreign_key.parent_columns or (None,) * len(foreign_key.columns)
    return tuple(
        (foreign_key.parent, column, target, foreign_key.on_update, foreign_key.on_delete)
        for column, target in zip(foreign_key.columns, targets, strict=True)
    )


def _indexes(connection: sqlite3.Connection, indexes: list[_ReportedIndex]) -> tuple[Index, ...]:
    """The indexes that are not unique, except crdtlog's own, by name."""
    names = [index.name for index in indexes if not index.unique and not is_internal(index.name)]
    return tuple(_index(connection, name) for name in sorted(names, key=fold))


def _index(connection: sqlite3.Connection, name: str) -> Index:
    sql = _rows(connection, "SELECT sql FROM main.sqlite_master WHERE type = 'index' AND name = ?", name)[0][
        0
    ]
    text = parse_index(sql)
    reported = _reported_index_columns(connection, name)
    _agree(len(reported) == len(text.columns), f"index {name!r}")
    columns = []
    for stated, found in zip(text.columns, reported, strict=True):
        _agree((found.name is None) == (found.number == -2), f"index {name!r}")
        if found.collation not in COLLATIONS:
            raise Refusal(
                f"index {name!r} has the collation {found.collation}, which other devices lack",
                "drop that index",
            )
        is_expression = found.name is None
        word = stated if found.name is None else found.name
        columns.append(IndexColumn(word, is_expression, found.collation, bool(found.descending)))
    return Index(name, tuple(columns), text.where)


# --- proving a received description harmless ----------------------------------------------------------------

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
            found = _inspect(connection, table.name)
        except (sqlite3.Error, sqlite3.Warning, MemoryError, RecursionError) as error:
            raise errors.SchemaRefused(
                f"table {table.name!r} cannot be built: {str(error) or 'it is too complex'}"
            ) from None
        except (Refusal, errors.NoSuchTable) as error:
            raise errors.SchemaRefused(f"table {table.name!r} cannot be built: {error}") from None
        rows = _rows(connection, "SELECT type, name FROM sqlite_master")
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
