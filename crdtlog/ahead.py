"""Text patches merged ahead of the write lock: whatever a hostile one does to the worker, no other program waits.

Reads entries and documents as they are now, and has each text patch merged once; the answers are remembered (see
`remembered`), and under the lock the same is asked again. Where there is no answer yet (something changed in between,
or a document must be built anew from the log), the lock is given back, and taken again once there is one.
"""

import time
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from crdtlog import entry, proof, rowdocs
from crdtlog.catalog import Tracked
from crdtlog.errors import CrdtlogError
from crdtlog.kinds import TEXT, Failure, Merge, Merged, Origin
from crdtlog.payload import Section, decode_data
from crdtlog.rowdocs import Name
from crdtlog.rows import document_key
from crdtlog.state import State

#: So long, or so many patches, at a time: about what one hold of the lock applies. The next call goes on with the
#: entries that are left, and what was worked out for more of them is forgotten by then.
_SECONDS = 0.5
_PATCHES = 200

_Place = tuple[int, object, Name]


class _End(NamedTuple):
    """A document as entries so far leave it: its state, and the patches that are set aside."""

    state: bytes
    aside: list[tuple[bytes, Origin]]


_Ends = dict[_Place, _End | None]


def merge_ahead(state: State, signed: Sequence[bytes]) -> int:
    """Have the text patches of some entries merged; returns how many of the entries were looked at, at least one."""
    if not any(TEXT in tracked.kinds.values() for tracked in state.tables.values()):
        return len(signed)
    state.documents(TEXT).remember()
    until = time.monotonic() + _SECONDS
    ends: _Ends = {}
    patches = 0
    for index, blob in enumerate(signed):
        try:
            patches += _merge_entry(state, blob, ends)
        except CrdtlogError:
            return index + 1  # whatever is wrong with it is found, and told, when it is accepted
        if patches >= _PATCHES or time.monotonic() > until:
            return index + 1
    return len(signed)


def _merge_entry(state: State, blob: bytes, ends: _Ends) -> int:
    """Have an entry's text patches merged; returns how many."""
    item = entry.decode(proof.split(blob)[0].body)
    writer = state.log.writers.get(item.writer)
    if item.kind != "data" or (writer is not None and item.seq <= writer.seq):
        return 0
    jobs: list[tuple[_Place, Merge]] = []
    for section in decode_data(item.payload(), item.first_stamp, item.last_stamp).sections:
        tracked = state.tables.get(section.table)
        if tracked is not None:
            jobs += _jobs(state, tracked, section, (item.writer, item.seq), ends)
    done = state.documents(TEXT).merge([job for _, job in jobs]) if jobs else []
    for (place, asked), merged in zip(jobs, done, strict=True):
        ends[place] = None if merged.tried else _end(asked, merged)
    return len(jobs)


def _jobs(
    state: State, tracked: Tracked, section: Section, dot: tuple[bytes, int], ends: _Ends
) -> Iterator[tuple[_Place, Merge]]:
    """What a section's patches ask of their documents; those left out that only all patches to one tell."""
    patches = [
        (row, slot, patch)
        for slot, column in section.patches.items()
        for row, patch in enumerate(column)
        if patch is not None and patch.kind == TEXT
    ]
    keys = {row: section.key(row) for row, _, _ in patches}
    names = {row: document_key(tracked, key) for row, key in keys.items()}
    stored = rowdocs.load_all(state, tracked, list(names.values()))
    for row, slot, patch in patches:
        key, name = keys[row], names[row]
        of = rowdocs.name_of(state, slot, patch)
        place = (tracked.number, name, of)
        doc = stored[name].docs.get(of)
        before: _End | None
        if place in ends:
            before = ends[place]
        elif doc is None:
            before = _End(b"", [])
        elif doc.aside is None:
            before = None
        else:
            before = _End(doc.state, rowdocs.patches_at(state, tracked, key, of, doc.aside))
        if before is None:
            ends[place] = None
            continue
        todo = [*before.aside, (patch.data, Origin(section.stamps[row], *dot))]
        yield place, rowdocs.next_job(state, tracked, key, of, before.state, todo)


def _end(job: Merge, merged: Merged | Failure) -> _End:
    state = merged.state if isinstance(merged, Merged) else job.state or b""
    left = {left.origin for left in merged.left}
    return _End(state, [item for item in job.patches if item[1] in left])
