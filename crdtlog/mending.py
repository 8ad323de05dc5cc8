"""Merge documents built anew from the log, where what stands beside a row is not what the log says (a damaged file).

Everything in `crdtlog__merge` follows from the log and from which versions of a cell there are. Documents that were set
aside stay so. What a document shows is put into the row, unless a program has changed that cell since.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from crdtlog import clock, document, rowdocs
from crdtlog.abridged import base
from crdtlog.catalog import Tracked
from crdtlog.connection import execute_rows, fetch
from crdtlog.document import Version
from crdtlog.errors import CrdtlogError
from crdtlog.kinds import COUNTER, TEXT, Failure, Merge, Origin, counter
from crdtlog.kinds.counter import Begun
from crdtlog.log import APPLIED
from crdtlog.payload import Patch
from crdtlog.rowdocs import Doc, Name, RowDocs
from crdtlog.rows import document_key
from crdtlog.state import State
from crdtlog.values import HASH_BYTES, Key, Value, hash_rows, normal_key, pack, same


class _Step(NamedTuple):
    dot: tuple[int, int]
    data: bytes
    origin: Origin


@dataclass
class _Row:
    """A row that was patched: the patches of each document, in causal order."""

    key: Key
    steps: dict[Name, list[_Step]] = field(default_factory=dict)


class Mended(NamedTuple):
    """A row whose documents are not what the log says: those that should be there, and what they show."""

    tracked: Tracked
    name: Value
    key: Key | None
    docs: RowDocs
    shown: dict[Name, Value]


def damaged_rows(state: State) -> dict[str, int]:
    """By table, how many rows' documents are not what the log says. Writes nothing."""
    state.warm(state.tables.values())
    return Counter(item.tracked.name for item in differing(state))


def mend_all(state: State) -> int:
    """Build such documents anew, in one transaction; returns how many rows'."""
    state.warm(state.tables.values())
    with state.transaction():
        found = list(differing(state))
        for item in found:
            mend(state, item)
        if found:
            state.bump()
    return len(found)


def differing(state: State) -> Iterator[Mended]:
    """All such rows. Reads the whole log once, if any table has columns that merge, or once merged."""
    given = base.merged_rows(state)  # more than the log tells
    for tracked, patched in _patched(state):
        for name in given.get(tracked.table_id, ()):
            patched.pop(name, None)
        names = "SELECT DISTINCT key FROM crdtlog__merge WHERE tab = ?"
        for (name,) in state.connection.execute(names, (tracked.number,)).fetchall():
            if name not in patched and name not in given.get(tracked.table_id, ()):
                yield Mended(tracked, name, None, RowDocs(), {})
        for name, row in patched.items():
            try:
                stored: RowDocs | None = rowdocs.load(state, tracked, name)
            except CrdtlogError:
                stored = None
            docs, shown = _expected(state, tracked, name, row, stored)
            if stored is None or not _equal(state, tracked, row.key, stored, docs, shown):
                yield Mended(tracked, name, row.key, docs, shown)


def mend(state: State, item: Mended) -> None:
    """Store the documents of a row as they should be, and have the row show them; inside the caller's transaction."""
    tracked = item.tracked
    rowdocs.store_all(state, tracked, {item.name: item.docs})
    kept = item.docs.count
    if item.key is None:
        return
    sql = "SELECT count(*) FROM crdtlog__loser WHERE tab = ? AND key = ?"
    kept += state.connection.execute(sql, (tracked.number, item.name)).fetchone()[0]
    state.connection.execute(
        f"UPDATE {tracked.rows_name} SET losers = ? WHERE {tracked.where_document}", (kept, *item.key)
    )
    _show(state, item)


# --- what the log says --------------------------------------------------------------------------------------------


def _patched(state: State) -> list[tuple[Tracked, dict[Value, _Row]]]:
    """The rows of each table that were patched, by name."""
    merging = "SELECT tab FROM crdtlog__kind UNION SELECT tab FROM crdtlog__merge"
    numbers = {number for (number,) in state.connection.execute(merging)}
    found: dict[bytes, tuple[Tracked, dict[Value, _Row]]] = {
        tracked.table_id: (tracked, {})
        for tracked in state.tables.values()
        if tracked.number in numbers and not tracked.paused
    }
    sql = f"SELECT l.writer, l.seq FROM {APPLIED} AND l.kind = 'data' ORDER BY l.position"
    for number, seq in state.connection.execute(sql).fetchall() if found else ():
        for section in state.log.sections(number, seq):
            if not section.patches or section.table not in found:
                continue
            tracked, rows = found[section.table]
            for slot, column in section.patches.items():
                for index, patch in enumerate(column):
                    if patch is None:
                        continue
                    key = normal_key(section.key(index), tracked.collations)
                    row = rows.setdefault(document_key(tracked, key), _Row(key))
                    origin = Origin(section.stamps[index], state.log.ids[number], seq)
                    _note(state, row, slot, patch, _Step((number, seq), patch.data, origin))
    return list(found.values())


def _note(state: State, row: _Row, slot: int, patch: Patch, step: _Step) -> None:
    row.steps.setdefault(rowdocs.name_of(state, slot, patch), []).append(step)


def _versions(state: State, tracked: Tracked, name: Value, key: Key) -> dict[int, list[Version]]:
    """The versions of each cell, the showing one first."""
    w, s, at, dead, strata = state.connection.execute(
        f"SELECT w, s, at, dead, strata FROM {tracked.rows_name} WHERE {tracked.where_document}", key
    ).fetchone()
    compact = document.Compact(w, s, clock.from_sql(at), bool(dead), strata or b"")
    showing = document.expand(compact, tracked.slots).showing
    versions = {slot: [version] for slot, version in showing.items()}
    for slot, writer, seq, stamp in state.connection.execute(
        "SELECT slot, writer, seq, stamp FROM crdtlog__loser WHERE tab = ? AND key = ? AND slot > 0",
        (tracked.number, name),
    ):
        versions[slot].append(Version(clock.from_sql(stamp), writer, seq))
    return versions


def _expected(
    state: State, tracked: Tracked, name: Value, row: _Row, stored: RowDocs | None
) -> tuple[RowDocs, dict[Name, Value]]:
    docs, shown = RowDocs(), dict[Name, Value]()
    versions = _versions(state, tracked, name, row.key)
    for of, steps in row.steps.items():
        if of.kind == COUNTER:
            _count(docs, of, steps)
    for of, steps in row.steps.items():
        here = {(version.writer, version.seq) for version in versions[of.slot]}
        dots = {step.dot for step in steps} & here
        if not dots:
            continue
        before = stored.docs.get(of) if stored else None
        if before is not None and before.problem is not None:
            docs.docs[of] = Doc(before.state, dots, before.problem, before.aside)
            continue
        base, _ = rowdocs.base_of(state, tracked, row.key, of.slot, (of.writer, of.seq))
        if of.kind == COUNTER:
            docs.docs[of] = Doc(pack(base.value), dots)
            shown[of] = rowdocs.show(state, tracked, row.key, of, docs)
            continue
        job = Merge(None, base, [(step.data, step.origin) for step in steps])
        (merged,) = state.documents(of.kind).merge([job])
        if isinstance(merged, Failure):
            docs.docs[of] = Doc(b"", dots, f"its changes cannot be merged ({merged.reason})", None)
            continue
        docs.docs[of] = Doc(merged.state, dots)
        if merged.left:
            problem = f"a change cannot be merged ({merged.left[0].reason})"
            docs.docs[of] = Doc(merged.state, dots, problem, None)
        shown[of] = rowdocs.as_stored(state, tracked.affinity(of.slot), merged.shown)
    return docs, shown


def _count(docs: RowDocs, of: Name, steps: list[_Step]) -> None:
    for step in steps:
        added = docs.sums.get(of.slot, counter.ZERO)
        docs.sums[of.slot] = counter.add(added, counter.decode(step.data))
        before = counter.decode_before(step.data)
        if before is not None:
            docs.begin(of, Begun(step.origin.stamp, step.origin.writer, before))


def _equal(
    state: State, tracked: Tracked, key: Key, stored: RowDocs, docs: RowDocs, shown: dict[Name, Value]
) -> bool:
    """Whether documents are the same. A text's bytes depend on the order of its changes: it must show the same."""
    if (stored.sums, stored.begun) != (docs.sums, docs.begun) or stored.docs.keys() != docs.docs.keys():
        return False
    for of, doc in docs.docs.items():
        other = stored.docs[of]
        if other.versions != doc.versions:
            return False
        if of.kind != TEXT or doc.problem is not None:
            if other.state != doc.state:
                return False
        else:
            try:
                if not same(rowdocs.show(state, tracked, key, of, stored), shown[of]):
                    return False
            except CrdtlogError:
                return False
    return True


# --- what shows ---------------------------------------------------------------------------------------------------


def _show(state: State, item: Mended) -> None:
    tracked, key = item.tracked, item.key
    assert key is not None
    (dead, hashes) = state.connection.execute(
        f"SELECT dead, hashes FROM {tracked.rows_name} WHERE {tracked.where_document}", key
    ).fetchone()
    slots = {of.slot for of in item.docs.docs} | item.docs.sums.keys()
    for slot, versions in _versions(state, tracked, item.name, key).items():
        if slot not in slots:
            continue
        values = {version: _value(state, item, slot, version) for version in versions}
        showing = values[versions[0]]
        if not dead and showing is not None and hashes is not None:
            hashes = _write_cell(state, item, slot, showing[0], hashes)
        for version in versions[1:]:
            if (value := values[version]) is not None:
                where = "tab = ? AND key = ? AND slot = ? AND writer = ? AND seq = ?"
                row = (value[0], tracked.number, item.name, slot, version.writer, version.seq)
                sql = f"UPDATE crdtlog__loser SET value = ? WHERE {where}"
                execute_rows(state.connection, sql, [row], odd=True)


def _value(state: State, item: Mended, slot: int, version: Version) -> tuple[Value] | None:
    """What a version shows, if that depends on a document or on a sum."""
    dot = (version.writer, version.seq)
    of = item.docs.of(slot, dot)
    if of is not None:
        return (item.shown[of],) if of in item.shown else None
    if slot not in item.docs.sums or item.key is None:
        return None
    base, counts = rowdocs.base_of(state, item.tracked, item.key, slot, dot)
    if not counts:
        return None
    value = counter.shown(base.value, item.docs.sums[slot])
    return (rowdocs.as_stored(state, item.tracked.affinity(slot), value),)


def _write_cell(state: State, item: Mended, slot: int, value: Value, hashes: bytes) -> bytes:
    """Have the row hold a value, unless a program wrote there since; returns the hashes of its document."""
    tracked, key = item.tracked, item.key
    assert key is not None
    index = tracked.cell_slots.index(slot)
    at = index * HASH_BYTES
    (digest,) = hash_rows([(value,)], 1, state.seed)
    if hashes[at : at + HASH_BYTES] == digest:
        return hashes
    name = tracked.cell_names[index]
    rows, _ = fetch(
        state.connection, f"SELECT {name} FROM main.{tracked.quoted} WHERE {tracked.where_key}", key
    )
    if rows and hash_rows([(rows[0][0],)], 1, state.seed)[0] == hashes[at : at + HASH_BYTES]:
        sql = f"UPDATE main.{tracked.quoted} SET {name} = ? WHERE {tracked.where_key}"
        execute_rows(state.connection, sql, [(value, *key)], odd=True)
    hashes = hashes[:at] + digest + hashes[at + HASH_BYTES :]
    state.connection.execute(
        f"UPDATE {tracked.rows_name} SET hashes = ? WHERE {tracked.where_document}", (hashes, *key)
    )
    return hashes
