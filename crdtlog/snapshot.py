"""Snapshot: what one row shows now, as a Yjs document that editors and programs of other languages can read.

Made from the person's own table alone, never from bytes of another device. The one idea: the document has one root, the
map `row`, and in it every column by its name; what a Yjs value cannot hold exactly is spelled out (`Exact`).
"""

import json
import secrets
from collections.abc import Sequence
from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any, NamedTuple

from crdtlog import kinds
from crdtlog.catalog import Tracked
from crdtlog.connection import escaping_text, translated
from crdtlog.errors import NoSuchRow, TablePaused
from crdtlog.finding import bound, find_row, keys_meant
from crdtlog.kinds import jsontext
from crdtlog.kinds.jsontext import Json
from crdtlog.rows import document_key
from crdtlog.state import State
from crdtlog.values import Value, is_plain_text, text_bytes
from crdtlog.yjs_writer import MAX_INTEGER, Exact, Node, Text, update

if TYPE_CHECKING:
    from pycrdt import Doc

#: The one root of the document, a map.
ROOT = "row"

#: Longer numbers than this are spelled out: more digits than a double can need.
_NUMBER_CHARACTERS = 40


class Snapshot(NamedTuple):
    """A row as it shows: every column by name, mergeable ones as what a Yjs program would edit."""

    row: dict[str, Node]

    def update(self) -> bytes:
        """The document as a Yjs update, version 1. Each call's is a document of its own: do not merge two of them."""
        return update(ROOT, self.row, secrets.randbits(52) + 1)

    def document(self) -> "Doc[Any]":
        """The document itself. What is changed in it does not come back into the file: to change the row, write SQL.

        Its one root is the map `row`, with every column by its name; with pycrdt that is `doc.get("row", type=Map)`. A
        program that uses Yjs takes `doc.get_update()`: `Y.applyUpdate(ydoc, bytes)`, then `ydoc.getMap("row")`. What
        the map holds for which value is told under `doc` in docs/reference/cli.md.
        """
        from pycrdt import Doc

        doc: Doc[Any] = Doc()
        doc.apply_update(self.update())
        return doc


def snapshot(state: State, table: str, key: Value | Sequence[Value]) -> Snapshot:
    """What a row shows now, drained or not. See `Database.snapshot`."""
    with translated(state.path):
        state.connection.execute("BEGIN")
        try:
            state.refresh()
            tracked = state.table(table)
            if reason := state.misfit(tracked):
                raise TablePaused(
                    f"table {tracked.name} is paused: {reason}", f"See: crdtlog doctor {state.path}"
                )
            kind_of = {
                item.name: tracked.kinds[slot] for slot, item in tracked.cells if slot in tracked.kinds
            }
            cells = _cells(state, tracked, key)
        finally:
            state.connection.execute("ROLLBACK")
    return Snapshot({name: content(kind_of.get(name, kinds.REGISTER), value) for name, value in cells})


def _cells(state: State, tracked: Tracked, key: Value | Sequence[Value]) -> list[tuple[str, Value]]:
    """The row's cells, with their columns' names, as `SELECT *` gives them."""
    sql = f"SELECT * FROM main.{tracked.quoted} WHERE {tracked.where_key}"
    for possible in keys_meant(tracked, key):
        with escaping_text(state.connection):
            cursor = state.connection.execute(*bound(sql, possible))
            if row := cursor.fetchone():
                return [(column[0], value) for column, value in zip(cursor.description, row, strict=True)]
    shown = document_key(tracked, find_row(state, tracked, key).key)
    raise NoSuchRow(
        f"row {shown!r} of table {tracked.name} is not there now",
        f"See what was: crdtlog history {state.path} {tracked.name} KEY",
    )


# --- what a document holds ----------------------------------------------------------------------------------------


def content(kind: int, value: Value) -> Node:
    """A cell of a column of that kind; one without the kind's form is as in a register."""
    if isinstance(value, str) and is_plain_text(value):
        if kind == kinds.TEXT:
            return Text(value)
        if kind in (kinds.JSON, kinds.SET):
            tree = jsontext.parse(value)
            if tree is not None and (kind == kinds.JSON or isinstance(tree, list)):
                return json_node(tree)
        return value
    if isinstance(value, str):
        return Exact("text_hex", text_bytes(value).hex())
    if isinstance(value, int) and abs(value) > MAX_INTEGER:
        return Exact("integer", str(value))
    return value


def json_node(tree: Json) -> Node:
    """JSON as what a Yjs program would edit."""
    if isinstance(tree, list):
        return [json_node(item) for item in tree]
    if isinstance(tree, str):
        return _json_scalar(tree)
    names = {key: json.loads(f'"{key}"') for key in tree}
    if not all(map(is_plain_text, names.values())):
        return Exact("json", jsontext.minified(tree))
    return {names[key]: json_node(item) for key, item in tree.items()}


_CONSTANTS = {"null": None, "true": True, "false": False}


def _json_scalar(text: str) -> Node:
    if text in _CONSTANTS:
        return _CONSTANTS[text]
    if text.startswith('"'):
        string: str = json.loads(text)
        return string if is_plain_text(string) else Exact("json", text)
    if text.lstrip("-").isdigit() and text != "-0":
        fits = len(text) < _NUMBER_CHARACTERS and abs(int(text)) <= MAX_INTEGER
        return int(text) if fits else Exact("integer", text)
    return float(text) if _is_double(text) else Exact("json", text)


def _is_double(text: str) -> bool:
    """Whether a number of JSON is the one that people and JavaScript mean by the double nearest to it."""
    try:
        return len(text) < _NUMBER_CHARACTERS and Decimal(text) == Decimal(repr(float(text)))
    except InvalidOperation:  # an exponent beyond all bounds
        return False
