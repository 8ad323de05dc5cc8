"""Two descriptions of a table compared: whether rows can be exchanged between them, and if not, why.

What may differ is what no merged row could break or show differently. Knows `description` alone.
"""

from typing import NamedTuple

from crdtlog.schema.description import Column, Table
from crdtlog.schema.sqltext import Kind, fold, tokenize


class Places(NamedTuple):
    """What a sentence calls the two sides of a comparison."""

    mine: str = "here"
    theirs: str = "there"


HERE_AND_THERE = Places()


def difference(mine: Table, theirs: Table, places: Places = HERE_AND_THERE) -> str | None:
    """Why rows of these two tables cannot be exchanged, as one sentence; None if they can.

    What must agree: the columns (names without regard to ASCII case, and their order), the primary key
    (columns, order, collations, whether it is the rowid), and for each column affinity, NOT NULL, collation
    and generated expression; in STRICT tables the type; STRICT and WITHOUT ROWID themselves. What may differ,
    because no merged row could break it or show differently: spelling of types within one affinity, defaults
    (they only matter to whoever inserts), foreign keys (merging checks none), indexes, AUTOINCREMENT, STORED
    against VIRTUAL, and the direction of the key's order.
    """
    table = f"table {mine.name!r}"
    if fold(mine.name) != fold(theirs.name):
        return f"{table} is called {theirs.name!r} {places.theirs}"
    for option, here, there in (
        ("STRICT", mine.strict, theirs.strict),
        ("WITHOUT ROWID", mine.without_rowid, theirs.without_rowid),
    ):
        if here != there:
            has, lacks = places if here else (places.theirs, places.mine)
            return f"{table} is {option} {has} but not {lacks}"
    return (
        _names_difference(table, mine, theirs, places)
        or _key_difference(table, mine, theirs, places)
        or _columns_difference(mine, theirs, places)
    )


def _names_difference(table: str, mine: Table, theirs: Table, places: Places) -> str | None:
    here, there = ({fold(column.name): column.name for column in side.columns} for side in (mine, theirs))
    for names, others, has, lacks in ((here, there, *places), (there, here, places.theirs, places.mine)):
        extra = [name for folded, name in names.items() if folded not in others]
        if extra:
            plural = "s" if len(extra) > 1 else ""
            return f"{table} has the column{plural} {', '.join(map(repr, extra[:5]))} {has} but not {lacks}"
    return None if list(here) == list(there) else f"{table} has its columns in another order {places.theirs}"


def _key_difference(table: str, mine: Table, theirs: Table, places: Places) -> str | None:
    keys = [
        [(fold(column.name), column.key_collation) for column in side.key_columns] for side in (mine, theirs)
    ]
    if keys[0] != keys[1]:
        here, there = (
            ", ".join(f"{column.name} {column.key_collation}" for column in side.key_columns)
            for side in (mine, theirs)
        )
        return f"{table} has the primary key ({here}) {places.mine} and ({there}) {places.theirs}"
    if mine.integer_key != theirs.integer_key:
        return (
            f"{table} has its rowid as primary key {places.mine if mine.integer_key else places.theirs} only"
        )
    return None


def _columns_difference(mine: Table, theirs: Table, places: Places) -> str | None:
    for here, there in zip(mine.columns, theirs.columns, strict=True):
        for what, a, b in (
            ("type", _comparable_type(mine, here), _comparable_type(theirs, there)),
            ("NOT NULL", here.not_null, there.not_null),
            ("collation", here.collation, there.collation),
            ("expression", _comparable_expression(here), _comparable_expression(there)),
        ):
            if a != b:
                column = f"column {here.name!r} of table {mine.name!r}"
                return f"{column} has {what} {_said(a)} {places.mine} and {_said(b)} {places.theirs}"
    return None


def _said(value: object) -> str:
    if value is None:
        return "none"
    return str(value) if isinstance(value, str) else "set" if value else "not set"


def _comparable_type(table: Table, column: Column) -> str:
    if not table.strict:
        return table.affinity(column)
    return "INTEGER" if column.type == "INT" else column.type


def _comparable_expression(column: Column) -> str | None:
    """The expression with no spaces between its tokens and no case in its words."""
    if column.generated is None:
        return None
    return " ".join(
        fold(token.text) if token.kind is Kind.WORD else token.text for token in tokenize(column.generated)
    )
