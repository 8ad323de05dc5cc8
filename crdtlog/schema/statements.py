"""CREATE statements written from a description.

This file knows how a `Table` is spelled as SQL. It must not open databases. The one idea: a description is
data, and SQL is only ever written from it, with every name quoted and every expression checked token by token
first.
"""

from collections.abc import Iterator

from crdtlog import errors
from crdtlog.schema.description import Column, ForeignKey, Index, Table, check_structure
from crdtlog.schema.sqltext import Kind, Place, Refusal, check_expression, quote, tokenize

_BARE_DEFAULTS = frozenset({"NULL", "TRUE", "FALSE", "CURRENT_DATE", "CURRENT_TIME", "CURRENT_TIMESTAMP"})


def create_statements(table: Table) -> list[str]:
    """CREATE TABLE, then one CREATE INDEX for each index; every name quoted, nothing copied unchecked.

    Raises `errors.Malformed` or `errors.SchemaRefused` if the description is not one that may be executed.
    """
    check_structure(table)
    check_expressions(table)
    single = _has_key_in_column(table)
    parts = [
        column_definition(column, keyed=_column_key(table) if single and column.key else "")
        for column in table.columns
    ]
    if not single:
        parts.append(f"PRIMARY KEY ({', '.join(map(_key_part, table.key_columns))})")
    parts += [_foreign_key(foreign_key) for foreign_key in table.foreign_keys]
    options = ["WITHOUT ROWID"] * table.without_rowid + ["STRICT"] * table.strict
    create = (
        f"CREATE TABLE {quote(table.name)} (\n  "
        + ",\n  ".join(parts)
        + "\n)"
        + f" {', '.join(options)}".rstrip()
    )
    return [create, *(index_statement(table, index) for index in table.indexes)]


def column_definition(column: Column, *, keyed: str = "") -> str:
    """One column as in CREATE TABLE or ALTER TABLE ADD COLUMN, for a description that was validated."""
    words = [quote(column.name), column.type, keyed]
    if column.not_null:
        words.append("NOT NULL")
    if column.default is not None:
        words.append(f"DEFAULT {column.default if _is_bare(column.default) else f'({column.default})'}")
    if column.collation != "BINARY":
        words.append(f"COLLATE {column.collation}")
    if column.generated is not None:
        words.append(f"GENERATED ALWAYS AS ({column.generated}) {'STORED' if column.stored else 'VIRTUAL'}")
    return " ".join(filter(None, words))


def index_statement(table: Table, index: Index) -> str:
    """One CREATE INDEX, for a table whose description was validated."""
    collations = {column.name: column.collation for column in table.columns}
    parts = []
    for column in index.columns:
        text = column.text if column.is_expression else quote(column.text)
        if not column.is_expression and collations[column.text] != column.collation:
            text += f" COLLATE {column.collation}"
        parts.append(text + " DESC" * column.descending)
    where = "" if index.where is None else f" WHERE {index.where}"
    return f"CREATE INDEX {quote(index.name)} ON {quote(table.name)} ({', '.join(parts)}){where}"


def _has_key_in_column(table: Table) -> bool:
    """Whether PRIMARY KEY must stand in the column: for AUTOINCREMENT, and where only there DESC prevents an
    alias."""
    key = table.key_columns
    return table.integer_key or (len(key) == 1 and key[0].type == "INTEGER" and key[0].descending)


def _column_key(table: Table) -> str:
    return "PRIMARY KEY" + " DESC" * table.key_columns[0].descending + " AUTOINCREMENT" * table.autoincrement


def _key_part(column: Column) -> str:
    collate = f" COLLATE {column.key_collation}" if column.key_collation != column.collation else ""
    return quote(column.name) + collate + " DESC" * column.descending


def _foreign_key(foreign_key: ForeignKey) -> str:
    text = (
        f"FOREIGN KEY ({', '.join(map(quote, foreign_key.columns))}) REFERENCES {quote(foreign_key.parent)}"
    )
    if foreign_key.parent_columns:
        text += f" ({', '.join(map(quote, foreign_key.parent_columns))})"
    if foreign_key.on_update != "NO ACTION":
        text += f" ON UPDATE {foreign_key.on_update}"
    if foreign_key.on_delete != "NO ACTION":
        text += f" ON DELETE {foreign_key.on_delete}"
    return text + " DEFERRABLE INITIALLY DEFERRED" * foreign_key.deferred


def _is_bare(default: str) -> bool:
    """Whether DEFAULT may be followed by this without parentheses: a literal, or a sign and a number."""
    tokens = tokenize(default)
    if len(tokens) == 2 and tokens[0].text in ("+", "-"):
        return tokens[1].kind is Kind.NUMBER
    return len(tokens) == 1 and (
        tokens[0].kind in (Kind.STRING, Kind.NUMBER, Kind.BLOB) or tokens[0].word in _BARE_DEFAULTS
    )


def check_expressions(table: Table) -> None:
    """Check every expression. Raises `errors.SchemaRefused`; see `sqltext.check_expression`."""
    try:
        for text, place in _expressions(table):
            check_expression(text, place)
    except Refusal as refusal:
        raise errors.SchemaRefused(f"table {table.name!r}: {refusal.reason}", refusal.hint) from None


def _expressions(table: Table) -> Iterator[tuple[str, Place]]:
    for column in table.columns:
        if column.default is not None:
            yield column.default, Place.DEFAULT
        if column.generated is not None:
            yield column.generated, Place.GENERATED
    for index in table.indexes:
        yield from ((column.text, Place.INDEX) for column in index.columns if column.is_expression)
        if index.where is not None:
            yield index.where, Place.INDEX
