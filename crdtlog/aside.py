"""Aside: what was written on this device and counts nowhere is kept in its file, cell by cell, for its owner."""

from collections.abc import Sequence

from crdtlog import clock
from crdtlog.catalog import Tracked
from crdtlog.connection import execute_rows
from crdtlog.plain_rows import PlainRow
from crdtlog.rows import document_key
from crdtlog.state import State
from crdtlog.values import Value, has_odd_text, normal_key, same


def equal(one: Sequence[Value] | None, other: Sequence[Value] | None) -> bool:
    """Whether two rows' cells are the same, or both are gone."""
    if one is None or other is None:
        return one is other
    return all(map(same, one, other))


def keep(state: State, tracked: Tracked, rows: Sequence[tuple[PlainRow, PlainRow]], reason: str) -> None:
    """Note the cells that we had changed; of a row that we had deleted, that it was."""
    kept: list[tuple[Value, ...]] = []
    for base, mine in rows:
        name = document_key(tracked, normal_key(mine.key, tracked.collations))
        at_ms = clock.julian_ms(mine.at)
        if mine.cells is None:
            kept.append((at_ms, tracked.number, name, None, None, 1, reason))
            continue
        before = base.cells or [None] * len(mine.cells)
        kept += [
            (at_ms, tracked.number, name, slot, ours, 0, reason)
            for slot, was, ours in zip(tracked.cell_slots, before, mine.cells, strict=True)
            if base.cells is None or not same(was, ours)
        ]
    sql = (
        "INSERT INTO crdtlog__aside (at_ms, tab, key, slot, value, gone, reason) VALUES (?, ?, ?, ?, ?, ?, ?)"
    )
    execute_rows(state.connection, sql, kept, odd=any(has_odd_text(row) for row in kept))
