"""Cells of mergeable columns that do not merge, for people: set aside, beyond a number's range, or without the form.

Reads only. None of these stops an exchange: such a cell is kept as a register keeps it, or as it was before.
"""

from collections.abc import Iterator
from typing import NamedTuple

from crdtlog import kinds, rowdocs
from crdtlog.catalog import Tracked
from crdtlog.connection import escaping_text
from crdtlog.errors import DamagedDocument
from crdtlog.kinds import COUNTER, NAMES, TEXT, counter
from crdtlog.rowdocs import Name
from crdtlog.rows import document_key
from crdtlog.state import State
from crdtlog.values import Value, unpack_own

_ROWS = 2_000


class Unmerged(NamedTuple):
    """Some cells of a column: how many, one row's key, why they do not merge, and what to do, for a person.

    No rows: whatever is written into the column from now on does not merge, until what is in the way is gone.
    """

    table: str
    column: str
    kind: str
    rows: int
    key: str
    reason: str
    next: str = ""


_ANEW = "Write the cell anew, on a device that shows the rest as it should be: then it merges again."
_NUMBER = "Write a number into the cell: it shows, and counts on from there."
#: What a cell may hold, by kind.
_HOLDS = {
    kinds.TEXT: "a text that merges",
    kinds.JSON: "JSON that merges",
    kinds.COUNTER: "a number",
    kinds.SET: "a JSON array that merges",
}


def unmerged(state: State) -> list[Unmerged]:
    """All of them, with one line for each column and reason, and for each document that was set aside."""
    found = []
    state.warm(state.tables.values())
    for tracked in state.tables.values():
        names = {slot: column.name for slot, column in tracked.cells}
        for key, slot, kind, problem in state.connection.execute(
            "SELECT key, slot, kind, problem FROM crdtlog__merge WHERE tab = ? AND problem IS NOT NULL",
            (tracked.number,),
        ):
            found.append(Unmerged(tracked.name, names[slot], NAMES[kind], 1, str(key), problem, _ANEW))
        if state.trouble:
            reason = f"{state.trouble}; until it can, the latest write shows whole"
            texts = [slot for slot, kind in sorted(tracked.kinds.items()) if kind == TEXT]
            found += [Unmerged(tracked.name, names[slot], NAMES[TEXT], 0, "", reason) for slot in texts]
        found += _beyond_range(state, tracked, names)
        if not tracked.paused:
            found += _without_form(state, tracked, names)
    return found


def _beyond_range(state: State, tracked: Tracked, names: dict[int, str]) -> Iterator[Unmerged]:
    for key, slot, writer, seq, data in state.connection.execute(
        "SELECT key, slot, writer, seq, state FROM crdtlog__merge WHERE tab = ? AND kind = ? AND seq > 0",
        (tracked.number, COUNTER),
    ).fetchall():
        try:
            added = rowdocs.load(state, tracked, key).added(Name(slot, writer, seq, COUNTER))
        except DamagedDocument:
            continue  # `check` tells of those
        if counter.overflows(unpack_own(data), added):
            reason = "its steps add up beyond what the column can hold: the nearest number shows"
            yield Unmerged(tracked.name, names[slot], NAMES[COUNTER], 1, str(key), reason, _NUMBER)


def _without_form(state: State, tracked: Tracked, names: dict[int, str]) -> Iterator[Unmerged]:
    for slot, kind in sorted(tracked.kinds.items()):
        name = tracked.cell_names[tracked.cell_slots.index(slot)]
        keys = ", ".join(tracked.key_names)
        known = " AND ".join(f"{key} IS NOT NULL" for key in (*tracked.key_names, name))
        rows, example = 0, ""
        with escaping_text(state.connection):
            cursor = state.connection.execute(
                f"SELECT {keys}, {name} FROM main.{tracked.quoted} WHERE {known}"
            )
            while some := cursor.fetchmany(_ROWS):
                odd = [row for row in some if not _has_form(kind, row[-1])]
                if odd and not rows:
                    example = str(document_key(tracked, odd[0][:-1]))
                rows += len(odd)
        if rows:
            reason = f"not {_HOLDS[kind]}: kept whole, the latest write shows"
            ask = (
                f"Write {_HOLDS[kind]}, or NULL. If the column is to hold other values, have it be a register: "
                f"crdtlog track FILE {tracked.name} --merge {names[slot]}=register"
            )
            yield Unmerged(tracked.name, names[slot], NAMES[kind], rows, example, reason, ask)


def _has_form(kind: int, value: Value) -> bool:
    return counter.counts(value) if kind == COUNTER else kinds.has_form(kind, value)
