"""A table as SQLite reports it: PRAGMAs and `sqlite_master`, held against the text of its CREATE statement.

Knows which tables crdtlog can track and the reason why another cannot be. Must not know what is done with a
description. The one idea: PRAGMAs and text tell the same thing twice, and a table is described only if both agree.
"""

import sqlite3
from collections import Counter
from typing import Any, NamedTuple

from crdtlog import errors
from crdtlog.schema.definition import TableText, parse_index, parse_table
from crdtlog.schema.description import (
    Column,
    ForeignKey,
    Index,
    IndexColumn,
    Table,
    is_internal,
)
from crdtlog.schema.sqltext import COLLATIONS, Refusal, fold, normal, normal_type

_NO_KEY_HINT = "declare one, for example: id TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(16))))"
# What FTS3/4/5, R-Tree and Geopoly name their tables; newer SQLite tells by itself, for the modules it has
# loaded.
_SHADOWS = (
    *("content", "docsize", "config", "data", "idx", "segments", "segdir", "stat"),
    *("node", "rowid", "parent"),
)


def inspect(connection: sqlite3.Connection, name: str) -> Table:
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


def query(connection: sqlite3.Connection, sql: str, *values: object) -> list[tuple[Any, ...]]:
    """All rows of a query as tuples, whatever row factory the connection has."""
    cursor = connection.cursor()
    cursor.row_factory = None
    return cursor.execute(sql, values).fetchall()


def _reported_columns(connection: sqlite3.Connection, table: str) -> list[_ReportedColumn]:
    sql = "SELECT name, type, \"notnull\", dflt_value, pk, hidden FROM pragma_table_xinfo(?, 'main') ORDER BY cid"
    return [_ReportedColumn(*row) for row in query(connection, sql, table)]


def _reported_indexes(connection: sqlite3.Connection, table: str) -> list[_ReportedIndex]:
    sql = "SELECT name, \"unique\", origin, partial FROM pragma_index_list(?, 'main')"
    return [_ReportedIndex(*row) for row in query(connection, sql, table)]


def _reported_index_columns(connection: sqlite3.Connection, index: str) -> list[_ReportedIndexColumn]:
    sql = (
        "SELECT name, \"desc\", upper(coll), cid FROM pragma_index_xinfo(?, 'main') WHERE key ORDER BY seqno"
    )
    return [_ReportedIndexColumn(*row) for row in query(connection, sql, index)]


def _agree(condition: bool, what: str) -> None:
    if not condition:
        raise Refusal(
            f"its SQL text and SQLite's own report differ about {what}",
            "please report this table's definition",
        )


def _find(connection: sqlite3.Connection, name: str) -> tuple[str, str]:
    """The table's name as it is written, and its CREATE statement."""
    try:
        rows = query(
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
    if is_shadow(connection, name):
        raise Refusal(
            "a virtual table keeps its content in it", "track the table that the virtual table is made from"
        )
    return name, sql


def is_shadow(connection: sqlite3.Connection, name: str) -> bool:
    """Whether a virtual table keeps its content in this table."""
    virtual = query(
        connection, "SELECT name FROM main.sqlite_master WHERE type = 'table' AND sql LIKE 'CREATE VIRTUAL%'"
    )
    if any(fold(name) == f"{fold(row[0])}_{suffix}" for row in virtual for suffix in _SHADOWS):
        return True
    if not virtual or sqlite3.sqlite_version_info < (3, 37):
        return False
    return bool(
        query(
            connection, "SELECT 1 FROM pragma_table_list(?) WHERE schema = 'main' AND type = 'shadow'", name
        )
    )


def _refuse_triggers(connection: sqlite3.Connection, name: str) -> None:
    rows = query(
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
    rows = query(
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
    sql = query(connection, "SELECT sql FROM main.sqlite_master WHERE type = 'index' AND name = ?", name)[0][
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
