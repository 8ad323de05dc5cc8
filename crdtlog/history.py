"""History: who wrote what when of one row, read from the log.

Pure reading. Knows where a row stands in entries, and what its document says of each version. The one idea: only the
log holds what was overwritten, and only the document knows what became of a version, so each write is looked up there.
"""

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from crdtlog import clock, document, rowdocs
from crdtlog.catalog import Tracked
from crdtlog.connection import translated
from crdtlog.document import Document, Version
from crdtlog.errors import EntryRefused
from crdtlog.finding import Row, find_row, slot_of
from crdtlog.kinds import counter
from crdtlog.log import APPLIED
from crdtlog.merge_history import PatchedValues
from crdtlog.payload import DELETE, INSERT, UPDATE, Patch, Section, decode_data
from crdtlog.rows import document_key
from crdtlog.state import State
from crdtlog.values import Key, Value, normal_key, text_bytes

OPERATIONS = {INSERT: "insert", UPDATE: "update", DELETE: "delete"}
SHOWS, LOST, OVERWRITTEN = "shows", "lost", "overwritten"

_UNIX_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Written(NamedTuple):
    """One write of one cell, or of a row that has no cell beside its key; a delete writes no cell: `column` is None.

    `at` is UTC as in the views (None beyond the year 9999), `operation` insert, update or delete. `value` is what its
    author's row showed after it: a change that could not be merged, or only later, shows what was there. `state` is
    "shows" if this is what the table shows (for a delete: that the row is gone), "lost" if it lost against a write that
    did not know it, and "overwritten" if a later write or delete had seen it. `dot` names the version.
    """

    at: str | None
    device: str
    operation: str
    column: str | None
    value: Value
    state: str
    dot: str


def history(
    state: State, table: str, key: Value | Sequence[Value], column: str | None = None
) -> list[Written]:
    """All writes of one row by time, as far as the log goes; of one column and the row's deletes if `column` is given.

    Only what was drained is in the log.

    Cost: the whole log is read once, as entries know rows only inside their payloads. Every data entry is read and
    decompressed, one at a time, and decoded if it may hold the row: some 30 microseconds for a small entry, a quarter
    of a millisecond for one of thousands of rows, three times that for numbered tables, whose keys are not searched
    for. Memory: one entry, and what is found.

    Raises `NoSuchTable` (or column), `NoSuchRow`, `Usage` (the key has another form).
    """
    with translated(state.path):
        state.connection.execute("BEGIN")
        try:
            state.refresh()
            tracked = state.table(table)
            slot = None if column is None else slot_of(tracked, column)
            row = find_row(state, tracked, key)
            return _Fates(state, tracked, row).of(_writes(state, tracked, row.key), slot)
        finally:
            state.connection.execute("ROLLBACK")


# --- its writes ---------------------------------------------------------------------------------------------------


class Write(NamedTuple):
    """What one entry says of the row; `patches` are of cells that are not among `cells` until `_writes` fills them.

    So are the cells of `counters`: until then they hold first values, which show together with steps from before.
    """

    version: Version
    operation: int
    cells: dict[int, Value]
    patches: dict[int, Patch]
    counters: tuple[int, ...]


def _writes(state: State, tracked: Tracked, key: Key) -> Iterator[Write]:
    """Every write of a row that the log holds, in the order in which entries came; a patch as what its author saw."""
    needles = [tracked.table_id, *_spelled_one_way(tracked, key)]
    patched = PatchedValues(state, tracked, key)
    contexts: dict[int, dict[bytes, int]] = {}
    for number, item in state.log.entries():
        if number not in contexts:
            contexts[number] = state.log.before(state.log.by_number[number])
        context = contexts[number]
        context.update((named.writer, named.seq) for named in item.context)
        if item.kind != "data":
            continue
        raw = item.payload()
        if not all(needle in raw for needle in needles):
            continue
        sections = decode_data(raw, item.first_stamp, item.last_stamp).sections
        if write := _write_in(tracked, key, sections, number, item.seq):
            seen = {**context, item.writer: item.seq - 1} if write.patches or write.counters else {}
            for slot in write.counters:
                write.cells[slot] = patched.begun(slot, write.cells[slot], seen)
            for slot, patch in write.patches.items():
                try:
                    write.cells[slot] = patched.value(slot, patch, write.version, seen)
                except EntryRefused:
                    if not state.log.given_position:
                        raise
                    continue  # what it was before is not here
            yield write


def _spelled_one_way(tracked: Tracked, key: Key) -> list[bytes]:
    """Bytes that must be in an entry that names the key: those of its texts and blobs that have one spelling."""
    return [
        text_bytes(value) if isinstance(value, str) else value
        for value, collation in zip(key, tracked.collations, strict=True)
        if isinstance(value, str | bytes) and collation == "BINARY"
    ]


def written_by(state: State, tracked: Tracked, key: Key, number: int, seq: int) -> Write | None:
    """What one entry wrote of a row; None if it is not applied, is not about rows, or does not name this one."""
    sql = f"SELECT 1 FROM {APPLIED} AND l.writer = ? AND l.seq = ? AND l.kind = 'data'"
    if state.connection.execute(sql, (number, seq)).fetchone() is None:
        return None
    write = _write_in(tracked, key, state.log.sections(number, seq), number, seq)
    if write is None and state.log.is_given(number, seq):
        raise EntryRefused("what that entry wrote is from before this device joined, and was not given to it")
    if write is None or not (write.patches or write.counters):
        return write
    return next(whole for whole in _writes(state, tracked, key) if whole.version == write.version)


def last_value(state: State, tracked: Tracked, key: Key, slot: int, version: Version) -> Value:
    """What a version that shows, or showed last, made of its cell: its value, or that of the document it belongs to.

    From documents and the log alone, whatever the row holds.
    """
    docs = rowdocs.load(state, tracked, document_key(tracked, key))
    if (of := docs.of(slot, (version.writer, version.seq))) is not None:
        return rowdocs.show(state, tracked, key, of, docs)
    if slot not in docs.sums:
        write = written_by(state, tracked, key, version.writer, version.seq)
        assert write is not None, "a document names an entry that did not write the row"
        return write.cells[slot]
    base, counts = rowdocs.base_of(state, tracked, key, slot, (version.writer, version.seq))
    value = counter.shown(base.value, docs.sums[slot]) if counts else base.value
    return rowdocs.as_stored(state, tracked.affinity(slot), value)


def _write_in(tracked: Tracked, key: Key, sections: Sequence[Section], number: int, seq: int) -> Write | None:
    """The write of a row among an entry's sections; an entry names a row at most once."""
    wanted = normal_key(key, tracked.collations)
    for section in sections:
        if section.table != tracked.table_id:
            continue
        for row, spelled in enumerate(zip(*section.keys, strict=True)):
            if spelled == wanted or normal_key(spelled, tracked.collations) == wanted:
                patches = {
                    slot: patch
                    for slot, column in section.patches.items()
                    if (patch := column[row]) is not None
                }
                values = zip(section.slots, (column[row] for column in section.cells), strict=True)
                cells = {slot: value for slot, value in values if slot not in patches}
                version = Version(section.stamps[row], number, seq)
                counters = tuple(slot for slot in section.counters if slot in cells)
                return Write(version, section.operation, cells, patches, counters)
    return None


# --- what became of them ------------------------------------------------------------------------------------------


class _Fates:
    """What became of each version of one row."""

    def __init__(self, state: State, tracked: Tracked, row: Row) -> None:
        self.state = state
        self.tracked = tracked
        self.dead = row.compact.dead
        self.document: Document = document.expand(row.compact, tracked.slots)
        self.hidden = losing_versions(state, tracked, row.key)
        self.names = device_names(state)

    def of(self, writes: Iterator[Write], slot: int | None) -> list[Written]:
        """The lines of some writes by time, alike on every device; those of one slot and the deletes if it is given."""
        ids = self.state.log.ids
        found = [
            ((write.version.stamp, ids[write.version.writer], write.version.seq), self._lines(write, slot))
            for write in writes
        ]
        return [line for _, lines in sorted(found, key=lambda item: item[0]) for line in lines]

    def _lines(self, write: Write, only: int | None) -> list[Written]:
        names = {slot: column.name for slot, column in self.tracked.cells}
        dot = dot_text(self.state, write.version)
        at, device = _moment(write.version.stamp), self.names[write.version.writer]
        operation = OPERATIONS[write.operation]
        if not write.cells:
            return [Written(at, device, operation, None, None, self._of_row(write), dot)]
        return [
            Written(at, device, operation, names[slot], value, self._of_cell(slot, write.version), dot)
            for slot, value in sorted(write.cells.items())
            if only in (None, slot)
        ]

    def _of_row(self, write: Write) -> str:
        alive = write.operation != DELETE
        if write.version not in self.document.liveness:
            return OVERWRITTEN
        return LOST if alive == self.dead else SHOWS

    def _of_cell(self, slot: int, version: Version) -> str:
        if self.dead:
            return LOST if self.document.liveness.get(version) else OVERWRITTEN
        if self.document.showing[slot] == version:
            return SHOWS
        hidden = self.hidden.get((slot, version))
        if hidden is None:
            return OVERWRITTEN
        return SHOWS if hidden else LOST


def losing_versions(state: State, tracked: Tracked, key: Key) -> dict[tuple[int, Version], bool]:
    """The losing versions kept beside a row, by slot; True for those out of sight, as their value shows anyway."""
    sql = "SELECT slot, writer, seq, stamp, hidden FROM crdtlog__loser WHERE tab = ? AND key = ? AND slot > 1"
    return {
        (slot, Version(clock.from_sql(stamp), writer, seq)): bool(hidden)
        for slot, writer, seq, stamp, hidden in state.connection.execute(
            sql, (tracked.number, document_key(tracked, key))
        )
    }


def device_names(state: State) -> dict[int, str]:
    """The name of the device behind each local writer number; its id where it has no name."""
    return dict(
        state.connection.execute(
            "SELECT w.id, coalesce(d.name, lower(hex(w.device))) FROM crdtlog__writer w "
            "LEFT JOIN crdtlog__device d ON d.id = w.device"
        )
    )


def dot_text(state: State, version: Version) -> str:
    """A dot as people see it."""
    return f"{state.log.ids[version.writer].hex()}:{version.seq}"


def _moment(stamp: int) -> str | None:
    """A stamp as ISO 8601 in UTC with milliseconds, as in the views."""
    try:
        at = _UNIX_EPOCH + timedelta(milliseconds=clock.stamp_ms(stamp))
    except OverflowError:
        return None
    return at.strftime("%Y-%m-%dT%H:%M:%S") + f".{at.microsecond // 1000:03}Z"
