"""Text patches merged ahead of the write lock: whatever a hostile one does to the worker, no other program waits.

Reads entries and documents as they are now, and has each text patch merged once; `texts` remembers the results. Under
the lock the same questions have their answers. What changed in between, or cannot be read here, is worked on then.
"""

import time
from collections.abc import Sequence
from typing import cast

from crdtlog import entry, merging
from crdtlog.catalog import Tracked
from crdtlog.entry import Patch, Section
from crdtlog.errors import CrdtlogError
from crdtlog.kinds import TEXT, Base, Merge, Merged, Origin
from crdtlog.merging import Name
from crdtlog.rows import document_key
from crdtlog.state import State
from crdtlog.texts import TextDocuments

#: So long at a time; the next call goes on with the entries that are left.
_SECONDS = 0.5

_Ends = dict[tuple[int, object, Name], bytes]


def merge_ahead(state: State, signed: Sequence[bytes]) -> int:
    """Have the text patches of some entries merged; returns how many of the entries were looked at, at least one."""
    if not any(TEXT in tracked.kinds.values() for tracked in state.tables.values()):
        return len(signed)
    _texts(state).remember()
    until = time.monotonic() + _SECONDS
    ends: _Ends = {}
    for index, blob in enumerate(signed):
        try:
            _merge_entry(state, blob, ends)
        except CrdtlogError:
            return index + 1  # whatever is wrong with it is found, and told, when it is accepted
        if time.monotonic() > until:
            return index + 1
    return len(signed)


def forget(state: State) -> None:
    """The results are of no use any more."""
    if state.has_texts:
        _texts(state).forget()


def _texts(state: State) -> TextDocuments:
    return cast(TextDocuments, state.documents(TEXT))


def _merge_entry(state: State, blob: bytes, ends: _Ends) -> None:
    item = entry.decode(entry.split(blob).body)
    writer = state.log.writers.get(item.writer)
    if item.kind != "data" or (writer is not None and item.seq <= writer.seq):
        return
    jobs: list[tuple[tuple[int, object, Name], Merge]] = []
    for section in entry.decode_data(item.payload(), item.first_stamp, item.last_stamp).sections:
        tracked = state.tables.get(section.table)
        for slot, column in section.patches.items() if tracked is not None else ():
            for row, patch in enumerate(column):
                if patch is not None and patch.kind == TEXT and tracked is not None:
                    origin = Origin(section.stamps[row], item.writer, item.seq)
                    jobs.append(_job(state, tracked, section, row, slot, patch, origin, ends))
    done = _texts(state).merge([job for _, job in jobs]) if jobs else []
    for (place, _), merged in zip(jobs, done, strict=True):
        if isinstance(merged, Merged):
            ends[place] = merged.state


def _job(
    state: State,
    tracked: Tracked,
    section: Section,
    row: int,
    slot: int,
    patch: Patch,
    origin: Origin,
    ends: _Ends,
) -> tuple[tuple[int, object, Name], Merge]:
    key = section.key(row)
    name = document_key(tracked, key)
    of = merging.name_of(state, slot, patch)
    place = (tracked.number, name, of)
    stored = merging.load(state, tracked, name).docs.get(of)
    before = ends.get(place) or (stored.state if stored is not None else None)
    if before is None:
        base, _ = merging.base_of(state, tracked, key, slot, (of.writer, of.seq))
    else:
        base = Base(None, Origin(0, patch.writer, patch.seq))
    return place, Merge(before, base, [(patch.data, origin)])
