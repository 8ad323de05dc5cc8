"""Retract: what this device wrote and does not count is taken back, and put aside for its owner.

Somebody decided, before our entries were known, that this device may not write (any more). They count nowhere, so the
rows must be as if they had not been. What they said is kept in the file, cell by cell (`crdtlog_aside`); and if this
device may write by now, it is written once more wherever nobody else has changed the same cell meanwhile.
"""

from collections.abc import Mapping, Sequence

from crdtlog import entry
from crdtlog.aside import equal, keep
from crdtlog.device import new_writer
from crdtlog.entry import Entry
from crdtlog.group import role_counts
from crdtlog.holding import accept_entry
from crdtlog.plain_rows import PlainRow, put, rows_now, rows_of
from crdtlog.rewinding import Rewound, rewind
from crdtlog.state import State
from crdtlog.values import Key, same
from crdtlog.versions import device_of
from crdtlog.writers import Writer

#: Of some tables' rows: what they were, and what we had made of them.
Retracted = Mapping[bytes, Sequence[tuple[PlainRow, PlainRow]]]

REASON = "this device had been removed, or made a reader, before others had this"


def retract(state: State) -> Retracted | None:
    """Take own entries back that do not count, inside the caller's transaction; None if there are none.

    What is captured has been drained. This device goes on as a new writer; others' entries that came later are held, to
    be merged again by the caller, who then calls `put_aside`.
    """
    if state.group.is_plain or state.role(state.device.id) is None:
        return None
    own = {writer.id for writer in state.log.writers.values() if device_of(writer.id) == state.device.id}
    firsts = [first for writer in own if (first := _first_lost(state, state.log.writers[writer])) is not None]
    if not firsts:
        return None
    rewound, retracted = _taken_back(state, min(firsts), own)
    state.become(new_writer(state.device))
    state.must_settle = True
    for item in rewound:
        accept_entry(state, item.signed)
    state.group.changed()
    return retracted


def put_aside(state: State, retracted: Retracted) -> None:
    """Keep what was taken back, and write it again if this device may, where nobody else has changed it."""
    may_write = role_counts(state.role(state.device.id))
    for table, rows in retracted.items():
        tracked = state.tables[table]
        now = rows_now(state, tracked, {mine.key: mine.at for _, mine in rows})
        again = [_again(base, mine, current) for (base, mine), current in zip(rows, now, strict=True)]
        if may_write:
            put(state, tracked, [row for row in again if row is not None])
        keep(state, tracked, rows, REASON)
        state.taken_back += len(rows)


def _first_lost(state: State, writer: Writer) -> int | None:
    """Where the first applied entry of an own log stands, in the local order, that does not count."""
    first = state.group.found.doubtful(writer.id)
    if first is None:
        return None
    first = max(first, writer.first)
    context = state.log.context(writer.id, first)
    for seq in range(first, writer.applied + 1):
        item = _entry(state, writer, seq)
        context.update((named.writer, named.seq) for named in item.context)
        if seq > 1:
            context[writer.id] = seq - 1
        if not state.group.counts(item, context):
            return state.log.position_of(writer.number, seq)
    return None


def _entry(state: State, writer: Writer, seq: int) -> Entry:
    return entry.decode(entry.split(state.log.signed(writer.number, seq)).body)


def _taken_back(state: State, position: int, own: set[bytes]) -> tuple[list[Rewound], Retracted]:
    """Rewind to before a position; what was taken out, and the rows that own entries among it wrote."""
    written: dict[bytes, dict[Key, float]] = {}
    for writer in own:
        log = state.log.writers[writer]
        for seq in range(state.log.first_from(log.number, position), log.applied + 1):
            item = _entry(state, log, seq)
            for table, rows in rows_of(item).items() if item.kind == "data" else ():
                written.setdefault(table, {}).update(rows)
    mine = {table: rows_now(state, state.tables[table], rows) for table, rows in written.items()}
    rewound = rewind(state, position)
    retracted = {}
    for table, rows in written.items():
        base = rows_now(state, state.tables[table], rows)
        both = zip(base, mine[table], strict=True)
        retracted[table] = [(was, ours) for was, ours in both if not equal(was.cells, ours.cells)]
    return rewound, retracted


def _again(base: PlainRow, mine: PlainRow, now: PlainRow) -> PlainRow | None:
    """The row with our changes of cells that nobody else has changed; None if that is how it is."""
    if mine.cells is None or base.cells is None or now.cells is None:
        row = mine if equal(base.cells, now.cells) else now
    else:
        cells = [
            ours if same(was, is_) else is_
            for was, ours, is_ in zip(base.cells, mine.cells, now.cells, strict=True)
        ]
        row = mine._replace(cells=cells)
    return None if equal(row.cells, now.cells) else row
