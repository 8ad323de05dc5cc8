"""A table's schema as a value: what it consists of, and as plain lists for the log.

This file knows `Table` and its parts, the bounds that they keep, and how they are carried as msgpack-able lists.
It must not open databases nor write SQL: how a description is read from a file and how a received one is proved
harmless is in `schema`. The one idea: a schema is data in normal form, so that two devices that mean the same
say the same.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

from crdtlog import errors
from crdtlog.schema.sqltext import (
    COLLATIONS,
    Refusal,
    fold,
    is_unicode,
    normal_type,
)

WIRE_VERSION = 1
COLUMNS_LIMIT = 1900
"""SQLite gives a query 2,000 columns, and the engine reads a row together with its document."""
PARTS_LIMIT = 256
"""Foreign keys of a table, and indexes of a table."""
NAME_LIMIT = 1000
TYPE_LIMIT = 255
EXPRESSION_LIMIT = 20_000
TEXT_LIMIT = 1_000_000
"""The limits of one name, one declared type, one expression, and all text of a description, in characters."""

ACTIONS = frozenset({"NO ACTION", "RESTRICT", "SET NULL", "SET DEFAULT", "CASCADE"})
_STRICT_TYPES = frozenset({"INT", "INTEGER", "REAL", "TEXT", "BLOB", "ANY"})


@dataclass(frozen=True, slots=True)
class Column:
    """One column. Expressions and type are in normal form (`sqltext.normal`, `sqltext.normal_type`)."""

    name: str
    type: str = ""
    """The declared type, "" if there is none."""
    not_null: bool = False
    """Whether SQLite refuses NULL; also true for the key columns of WITHOUT ROWID and STRICT tables."""
    default: str | None = None
    key: int = 0
    """The position in PRIMARY KEY, from 1; 0 if not in it."""
    collation: str = "BINARY"
    generated: str | None = None
    stored: bool = False
    key_collation: str = "BINARY"
    """The collation by which PRIMARY KEY compares this column, where it is a key of more than a rowid."""
    descending: bool = False
    """Whether PRIMARY KEY sorts it downwards. By an old quirk `INTEGER PRIMARY KEY DESC` is no rowid alias."""


@dataclass(frozen=True, slots=True)
class ForeignKey:
    """One foreign key. Empty `parent_columns` mean the parent's primary key; `deferred` is INITIALLY
    DEFERRED."""

    columns: tuple[str, ...]
    parent: str
    parent_columns: tuple[str, ...] = ()
    on_update: str = "NO ACTION"
    on_delete: str = "NO ACTION"
    deferred: bool = False


@dataclass(frozen=True, slots=True)
class IndexColumn:
    """A column's name, or an expression as it stands (with its own COLLATE, if any); `collation` is the one
    in force."""

    text: str
    is_expression: bool = False
    collation: str = "BINARY"
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Index:
    """An index that is not unique; `where` makes it partial."""

    name: str
    columns: tuple[IndexColumn, ...]
    where: str | None = None


@dataclass(frozen=True, slots=True)
class Table:
    """A table that can be tracked: it has a primary key and no other rule that merged rows could break."""

    name: str
    columns: tuple[Column, ...]
    without_rowid: bool = False
    strict: bool = False
    autoincrement: bool = False
    foreign_keys: tuple[ForeignKey, ...] = ()
    """In the order of the CREATE statement."""
    indexes: tuple[Index, ...] = ()
    """Sorted by name."""

    @property
    def key_columns(self) -> tuple[Column, ...]:
        """The primary key's columns in the key's order."""
        return tuple(sorted((column for column in self.columns if column.key), key=lambda column: column.key))

    @property
    def stored_columns(self) -> tuple[Column, ...]:
        """The columns that hold values of their own (neither VIRTUAL nor STORED generated ones), in order."""
        return tuple(column for column in self.columns if column.generated is None)

    @property
    def integer_key(self) -> bool:
        """Whether the primary key is an alias of the rowid (INTEGER PRIMARY KEY)."""
        key = self.key_columns
        return not self.without_rowid and len(key) == 1 and key[0].type == "INTEGER" and not key[0].descending

    def affinity(self, column: Column) -> str:
        """The affinity of one of this table's columns; see the function `affinity`."""
        return affinity(column, strict=self.strict)


def affinity(column: Column, *, strict: bool = False) -> str:
    """TEXT, INTEGER, REAL, NUMERIC or BLOB (none), by section 3.1 of https://sqlite.org/datatype3.html.

    `strict`: the column is one of a STRICT table, where ANY means that every value stays as it is.
    """
    kind = column.type.upper()
    if strict and kind == "ANY":
        return "BLOB"
    if "INT" in kind:
        return "INTEGER"
    if any(word in kind for word in ("CHAR", "CLOB", "TEXT")):
        return "TEXT"
    if not kind or "BLOB" in kind:
        return "BLOB"
    return "REAL" if any(word in kind for word in ("REAL", "FLOA", "DOUB")) else "NUMERIC"


def is_internal(name: str) -> bool:
    """Whether a table of this name belongs to SQLite or to crdtlog."""
    return fold(name).startswith(("sqlite_", "crdtlog_"))


# --- bounds -------------------------------------------------------------------------------------------------


def check_structure(table: Table) -> None:
    """Check names, bounds and how the parts fit together, but not what expressions mean. Raises
    `errors.Malformed`."""
    _require(sum(map(len, _texts(table))) <= TEXT_LIMIT, "too much text")
    _check_name(table.name)
    _require(not is_internal(table.name), f"the name {table.name!r} is reserved")
    _require(0 < len(table.columns) <= COLUMNS_LIMIT, f"not 1 to {COLUMNS_LIMIT} columns")
    names = {column.name for column in table.columns}
    _require(len({fold(name) for name in names}) == len(table.columns), "two columns of one name")
    for column in table.columns:
        _check_column(table, column)
    _require(
        [column.key for column in table.key_columns] == list(range(1, len(table.key_columns) + 1)),
        "a broken key",
    )
    _require(bool(table.key_columns), "no primary key")
    _require(table.integer_key or not table.autoincrement, "AUTOINCREMENT without INTEGER PRIMARY KEY")
    _require(len(table.foreign_keys) <= PARTS_LIMIT, f"more than {PARTS_LIMIT} foreign keys")
    for foreign_key in table.foreign_keys:
        _check_foreign_key(foreign_key, names)
    _require(len(table.indexes) <= PARTS_LIMIT, f"more than {PARTS_LIMIT} indexes")
    for index in table.indexes:
        _check_index(index, names)
    sort_keys = [fold(index.name) for index in table.indexes]
    _require(sort_keys == sorted(set(sort_keys)), "indexes that are not sorted, or two of one name")


def _require(condition: bool, problem: str) -> None:
    if not condition:
        raise errors.Malformed(f"a table description has {problem}")


def _check_name(name: str) -> None:
    _require(
        len(name) <= NAME_LIMIT and "\0" not in name and is_unicode(name), f"an impossible name {name[:40]!r}"
    )


def _check_expression_text(text: str | None) -> None:
    if text is not None:
        _require(
            0 < len(text) <= EXPRESSION_LIMIT and "\0" not in text and is_unicode(text),
            "an impossible expression",
        )


def _check_column(table: Table, column: Column) -> None:
    where = f"column {column.name[:40]!r}"
    _check_name(column.name)
    _check_type(column.type)
    _require(not table.strict or column.type in _STRICT_TYPES, f"no STRICT type for {where}")
    _check_expression_text(column.default)
    _check_expression_text(column.generated)
    _require(0 <= column.key <= COLUMNS_LIMIT, f"an impossible key position of {where}")
    _require(
        column.collation in COLLATIONS and column.key_collation in COLLATIONS,
        f"an unknown collation of {where}",
    )
    _require(
        column.generated is None or not (column.key or column.default),
        f"a key or default of generated {where}",
    )
    _require(column.generated is not None or not column.stored, f"STORED {where} without an expression")
    compared = column.key > 0 and not table.integer_key
    _require(compared or (column.key_collation == "BINARY" and not column.descending), f"an order of {where}")


def _check_type(text: str) -> None:
    _require(len(text) <= TYPE_LIMIT, "too long a type")
    try:
        _require(normal_type(text) == text, f"the type {text!r}, which is not in normal form")
    except Refusal as refusal:
        raise errors.Malformed(f"a table description cannot be used: {refusal.reason}") from None


def _check_foreign_key(foreign_key: ForeignKey, names: set[str]) -> None:
    for name in (foreign_key.parent, *foreign_key.parent_columns):
        _check_name(name)
    _require(not is_internal(foreign_key.parent), "a foreign key to an internal table")
    _require(
        bool(foreign_key.columns) and names.issuperset(foreign_key.columns),
        "a foreign key of unknown columns",
    )
    _require(len(foreign_key.parent_columns) in (0, len(foreign_key.columns)), "a foreign key of two lengths")
    _require({foreign_key.on_update, foreign_key.on_delete} <= ACTIONS, "an unknown foreign key action")


def _check_index(index: Index, names: set[str]) -> None:
    _check_name(index.name)
    _require(not is_internal(index.name), f"a reserved index name {index.name[:40]!r}")
    _require(0 < len(index.columns) <= COLUMNS_LIMIT, "an index without columns")
    _check_expression_text(index.where)
    for column in index.columns:
        _require(column.collation in COLLATIONS, "an index with an unknown collation")
        if column.is_expression:
            _check_expression_text(column.text)
        else:
            _require(column.text in names, f"an index of an unknown column {column.text[:40]!r}")


def _texts(table: Table) -> Iterator[str]:
    yield table.name
    for column in table.columns:
        yield from (column.name, column.type, column.default or "", column.generated or "")
    for foreign_key in table.foreign_keys:
        yield from (foreign_key.parent, *foreign_key.columns, *foreign_key.parent_columns)
    for index in table.indexes:
        yield from (index.name, index.where or "", *(column.text for column in index.columns))


# --- as plain values ----------------------------------------------------------------------------------------


def to_wire(table: Table) -> list[object]:
    """The description as nested lists of str, int, bool and None, fit for msgpack."""
    return [
        WIRE_VERSION,
        table.name,
        [
            [
                c.name,
                c.type,
                c.not_null,
                c.default,
                c.key,
                c.collation,
                c.generated,
                c.stored,
                c.key_collation,
                c.descending,
            ]
            for c in table.columns
        ],
        table.without_rowid,
        table.strict,
        table.autoincrement,
        [
            [list(f.columns), f.parent, list(f.parent_columns), f.on_update, f.on_delete, f.deferred]
            for f in table.foreign_keys
        ],
        [
            [i.name, [[c.text, c.is_expression, c.collation, c.descending] for c in i.columns], i.where]
            for i in table.indexes
        ],
    ]


def from_wire(obj: object) -> Table:
    """Read what `to_wire` wrote, checking every type and bound. Raises only `errors.Malformed`.

    The result is well-formed but not yet trusted: its expressions are judged by `schema.validate`.
    """
    parts = _sequence(obj, 8, 8)
    version = _typed(parts[0], int)
    if version != WIRE_VERSION:
        raise errors.Malformed(f"a table description has version {version}", "update crdtlog on this device")
    table = Table(
        _typed(parts[1], str),
        _many(parts[2], COLUMNS_LIMIT, _column_from),
        _typed(parts[3], bool),
        _typed(parts[4], bool),
        _typed(parts[5], bool),
        _many(parts[6], PARTS_LIMIT, _foreign_key_from),
        _many(parts[7], PARTS_LIMIT, _index_from),
    )
    check_structure(table)
    return table


def _column_from(obj: object) -> Column:
    parts = _sequence(obj, 10, 10)
    return Column(
        name=_typed(parts[0], str),
        type=_typed(parts[1], str),
        not_null=_typed(parts[2], bool),
        default=_optional(parts[3]),
        key=_typed(parts[4], int),
        collation=_typed(parts[5], str),
        generated=_optional(parts[6]),
        stored=_typed(parts[7], bool),
        key_collation=_typed(parts[8], str),
        descending=_typed(parts[9], bool),
    )


def _foreign_key_from(obj: object) -> ForeignKey:
    parts = _sequence(obj, 6, 6)
    return ForeignKey(
        _many(parts[0], COLUMNS_LIMIT, _text_from),
        _typed(parts[1], str),
        _many(parts[2], COLUMNS_LIMIT, _text_from),
        _typed(parts[3], str),
        _typed(parts[4], str),
        _typed(parts[5], bool),
    )


def _index_from(obj: object) -> Index:
    parts = _sequence(obj, 3, 3)
    return Index(
        _typed(parts[0], str), _many(parts[1], COLUMNS_LIMIT, _index_column_from), _optional(parts[2])
    )


def _index_column_from(obj: object) -> IndexColumn:
    parts = _sequence(obj, 4, 4)
    return IndexColumn(
        _typed(parts[0], str), _typed(parts[1], bool), _typed(parts[2], str), _typed(parts[3], bool)
    )


T = TypeVar("T")


def _typed(obj: object, kind: type[T]) -> T:
    if type(obj) is not kind:  # not isinstance: True is no number here
        raise errors.Malformed(f"a table description has {type(obj).__name__} where {kind.__name__} belongs")
    return obj


def _text_from(obj: object) -> str:
    return _typed(obj, str)


def _optional(obj: object) -> str | None:
    return None if obj is None else _typed(obj, str)


def _sequence(obj: object, least: int, most: int) -> Sequence[object]:
    if not isinstance(obj, list | tuple) or not least <= len(obj) <= most:
        raise errors.Malformed(
            "a table description has a list of the wrong length, or none where one belongs"
        )
    return obj


def _many(obj: object, most: int, read: Callable[[object], T]) -> tuple[T, ...]:
    return tuple(read(item) for item in _sequence(obj, 0, most))
