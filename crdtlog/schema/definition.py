"""What the text of CREATE TABLE and CREATE INDEX says that SQLite's PRAGMAs do not tell.

This file knows the grammar of those two statements as SQLite stores them in `sqlite_master` (its `parse.y`),
also after ALTER TABLE has rewritten them. It must not know connections, and judges nothing except clauses
that crdtlog cannot honour (CHECK, ON CONFLICT), which it refuses where it meets them. The one idea: read
every token or refuse the table; nothing is skipped because it looks unimportant.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from crdtlog.schema.sqltext import (
    Kind,
    Reader,
    Refusal,
    Token,
    quote_string,
    read_type,
    render,
    split_commas,
    tokenize,
)

_TABLE_CONSTRAINTS = frozenset({"CONSTRAINT", "PRIMARY", "UNIQUE", "CHECK", "FOREIGN"})
_CONSTANT_WORDS = frozenset({"NULL", "TRUE", "FALSE", "CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP"})


@dataclass(slots=True)
class ColumnText:
    """One column definition. `type` is None if it was written with quotes."""

    name: str
    type: str | None = ""
    not_null: bool = False
    default: str | None = None
    default_text: str | None = None
    """The default as SQLite's PRAGMA reports it, up to spaces; `default` may be spelled more clearly."""
    collation: str = "BINARY"
    generated: str | None = None
    stored: bool = False


@dataclass(slots=True)
class KeyPart:
    """One column of PRIMARY KEY (…): its collation if one is given there."""

    name: str
    collation: str | None = None
    descending: bool = False


@dataclass(slots=True)
class ReferenceText:
    """One foreign key. No parent columns means: the parent's primary key."""

    columns: list[str]
    parent: str
    parent_columns: list[str] = field(default_factory=list)
    on_update: str = "NO ACTION"
    on_delete: str = "NO ACTION"
    deferred: bool = False


@dataclass(slots=True)
class TableText:
    """A whole CREATE TABLE."""

    name: str
    columns: list[ColumnText] = field(default_factory=list)
    key: list[KeyPart] = field(default_factory=list)
    autoincrement: bool = False
    references: list[ReferenceText] = field(default_factory=list)
    without_rowid: bool = False
    strict: bool = False


@dataclass(slots=True)
class IndexText:
    """A CREATE INDEX: the text of each indexed column or expression without ASC or DESC, and the WHERE
    expression."""

    columns: list[str]
    where: str | None


# --- CREATE TABLE -------------------------------------------------------------------------------------------


def parse_table(sql: str) -> TableText:
    """Read a CREATE TABLE statement. Raises `Refusal` for what cannot be read or carried."""
    reader = Reader(tokenize(sql))
    reader.expect_words("CREATE", "TABLE")
    table = TableText(_object_name(reader))
    body = Reader(reader.inside())
    _column(body, table)
    while body.operator(","):
        if body.peek().word in _TABLE_CONSTRAINTS:
            break
        _column(body, table)
    while not body.done:
        _table_constraint(body, table)
        body.operator(",")  # SQLite lets the commas between table constraints be left out
    _table_options(reader, table)
    return table


def _object_name(reader: Reader) -> str:
    reader.words("IF", "NOT", "EXISTS")
    name = reader.name()
    return reader.name() if reader.operator(".") else name


def _table_options(reader: Reader, table: TableText) -> None:
    while not reader.done:
        if reader.words("WITHOUT", "ROWID"):
            table.without_rowid = True
        elif reader.words("STRICT"):
            table.strict = True
        else:
            raise reader.unexpected()
        if not reader.operator(",") and not reader.done:
            raise reader.unexpected()


def _column(reader: Reader, table: TableText) -> None:
    column = ColumnText(reader.name())
    table.columns.append(column)
    column.type = read_type(reader)
    while not reader.done and not (reader.peek().kind is Kind.OPERATOR and reader.peek().text == ","):
        _column_constraint(reader, table, column)


def _column_constraint(reader: Reader, table: TableText, column: ColumnText) -> None:
    if reader.words("CONSTRAINT"):
        reader.name()
    elif reader.words("DEFAULT"):
        _default(reader, column)
    elif reader.words("NOT", "NULL"):
        column.not_null = True
        _conflict(reader)
    elif reader.words("NULL"):
        _conflict(reader)
    elif reader.words("PRIMARY", "KEY"):
        _column_key(reader, table, column)
    elif reader.words("UNIQUE"):
        _conflict(reader)
    elif reader.words("COLLATE"):
        column.collation = reader.name().upper()
    elif reader.words("GENERATED", "ALWAYS", "AS") or reader.words("AS"):
        column.generated = _expression(reader)
        column.stored = reader.words("STORED")
        reader.words("VIRTUAL")
    elif reader.words("REFERENCES"):
        table.references.append(_reference(reader, [column.name]))
    elif not _deferral(reader, table.references[-1:]):
        _check_or_unexpected(reader)


def _check_or_unexpected(reader: Reader) -> None:
    if reader.words("CHECK"):
        raise Refusal(
            "it has a CHECK constraint, which rows merged from other devices might break",
            "rebuild the table without CHECK, or keep the rule in the program",
        )
    raise reader.unexpected()


def _expression(reader: Reader) -> str:
    return render(reader.inside())


def _default(reader: Reader, column: ColumnText) -> None:
    token = reader.peek()
    if token.text == "(":
        column.default = column.default_text = _expression(reader)
        return
    tokens = [reader.take()]
    if token.text in ("+", "-"):
        tokens.append(reader.take())
    column.default = column.default_text = render(tokens)
    # SQLite reads DEFAULT abc and DEFAULT "abc" as the text 'abc'; say so, because later versions may not.
    if token.kind is Kind.QUOTED or (token.kind is Kind.WORD and token.word not in _CONSTANT_WORDS):
        column.default = quote_string(token.name)


def _conflict(reader: Reader) -> None:
    """Take an ON CONFLICT clause. ABORT is what SQLite does anyway; any other would change rows that are
    merged in."""
    if reader.words("ON", "CONFLICT") and not reader.words("ABORT"):
        raise Refusal(
            f"it has ON CONFLICT {reader.peek().text.upper()}, which would drop or change merged rows",
            "rebuild the table without that clause, and write INSERT OR … in the program instead",
        )


def _column_key(reader: Reader, table: TableText, column: ColumnText) -> None:
    reader.words("ASC")
    table.key.append(KeyPart(column.name, None, reader.words("DESC")))
    _conflict(reader)
    table.autoincrement = reader.words("AUTOINCREMENT")


def _table_constraint(reader: Reader, table: TableText) -> None:
    if reader.words("CONSTRAINT"):
        reader.name()
    elif reader.words("PRIMARY", "KEY"):
        inside = reader.inside()
        if inside and inside[-1].word == "AUTOINCREMENT":
            table.autoincrement = True
            inside.pop()
        table.key += [_key_part(Reader(part)) for part in split_commas(inside)]
        _conflict(reader)
    elif reader.words("UNIQUE"):
        reader.inside()  # whether this makes the table untrackable is read from its index
        _conflict(reader)
    elif reader.words("FOREIGN", "KEY"):
        columns = _names(reader)
        reader.expect_words("REFERENCES")
        table.references.append(_reference(reader, columns))
        _deferral(reader, table.references[-1:])
    else:
        _check_or_unexpected(reader)


def _key_part(reader: Reader) -> KeyPart:
    part = KeyPart(reader.name())
    if reader.words("COLLATE"):
        part.collation = reader.name().upper()
    reader.words("ASC")
    part.descending = reader.words("DESC")
    if not reader.done:
        raise reader.unexpected()
    return part


def _names(reader: Reader) -> list[str]:
    # SQLite lets old texts say COLLATE and DESC in these lists, and ignores them: _key_part reads past them.
    return [_key_part(Reader(part)).name for part in split_commas(reader.inside())]


def _reference(reader: Reader, columns: list[str]) -> ReferenceText:
    reference = ReferenceText(columns, reader.name())
    if reader.peek().text == "(":
        reference.parent_columns = _names(reader)
    while True:
        if reader.words("ON", "DELETE"):
            reference.on_delete = _action(reader)
        elif reader.words("ON", "UPDATE"):
            reference.on_update = _action(reader)
        elif reader.words("ON", "INSERT"):
            _action(reader)
        elif reader.words("MATCH"):
            reader.name()
        else:
            return reference


def _action(reader: Reader) -> str:
    for words in (("NO", "ACTION"), ("SET", "NULL"), ("SET", "DEFAULT"), ("CASCADE",), ("RESTRICT",)):
        if reader.words(*words):
            return " ".join(words)
    raise reader.unexpected()


def _deferral(reader: Reader, last: Sequence[ReferenceText]) -> bool:
    """Take [NOT] DEFERRABLE [INITIALLY …], which speaks of the foreign key before it."""
    never = reader.words("NOT", "DEFERRABLE")
    if not never and not reader.words("DEFERRABLE"):
        return False
    deferred = False
    if reader.words("INITIALLY"):
        deferred = reader.words("DEFERRED")
        if not deferred:
            reader.expect_words("IMMEDIATE")
    for reference in last:
        reference.deferred = deferred and not never
    return True


# --- CREATE INDEX -------------------------------------------------------------------------------------------


def parse_index(sql: str) -> IndexText:
    """Read a CREATE INDEX statement that is not UNIQUE. Raises `Refusal` for what cannot be read."""
    reader = Reader(tokenize(sql))
    reader.expect_words("CREATE", "INDEX")
    _object_name(reader)
    reader.expect_words("ON")
    reader.name()
    columns = [render(_without_order(part)) for part in split_commas(reader.inside())]
    where = None
    if reader.words("WHERE"):
        rest = []
        while not reader.done:
            rest.append(reader.take())
        where = render(rest)
    if not reader.done:
        raise reader.unexpected()
    return IndexText(columns, where)


def _without_order(tokens: list[Token]) -> list[Token]:
    return tokens[:-1] if len(tokens) > 1 and tokens[-1].word in ("ASC", "DESC") else tokens
