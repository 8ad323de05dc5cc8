"""Accept: from other devices' signed bytes to stored, merged entries, under the write lock and in bounded time.

An entry is authenticated, must continue its log and stand on what is held, takes effect by its kind, and is stored, all
in one transaction (log invariants L1 to L3). What is captured is drained first, in the same hold of the lock, so that a
context never claims to have seen what the person had not.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

from crdtlog import ahead, changes, drain, entry, members, tracking
from crdtlog.apply import CaptureFirst, apply_data
from crdtlog.device import verify_bytes
from crdtlog.drain import Drainer
from crdtlog.entry import Entry, Signed
from crdtlog.errors import CrdtlogError, EntryRefused
from crdtlog.remembered import WorkFirst
from crdtlog.state import State
from crdtlog.versions import device_of

# Each attempt takes in all rows of one section that differ; a program may write in between, but not for ever.
_CAPTURE_ATTEMPTS = 50


class Applied(NamedTuple):
    """What one call did: entries merged, their rows, and how many of the given entries are dealt with."""

    entries: int
    rows: int
    done: int


def apply(state: State, drainer: Drainer, signed: Sequence[bytes], hold_ms: float) -> Applied:
    """Merge entries in the order given; see `Database.apply`."""
    try:
        return _apply(state, drainer, signed, hold_ms)
    finally:
        state.forget_answers()


def _apply(state: State, drainer: Drainer, signed: Sequence[bytes], hold_ms: float) -> Applied:
    attempts = works = 0
    while True:
        state.refresh()
        if drain.has_pending(state) and any(tracked.kinds for tracked in state.tables.values()):
            drain.drain(
                state, drainer
            )  # what takes long is done before the lock; what is left is taken in under it
        drainer.prepare()
        state.warm(state.tables.values())
        signed = signed[: ahead.merge_ahead(state, signed)]
        try:
            with state.transaction():
                if not drainer.settle():
                    continue
                with state.quick(patient=works < drain.PATIENCE):
                    return _apply_some(state, signed, time.monotonic() + hold_ms / 1000)
        except CaptureFirst as signal:
            attempts += 1
            if attempts > _CAPTURE_ATTEMPTS:
                raise EntryRefused(
                    f"rows of table {signal.tracked.name} differ from their documents again and again",
                    "Run `crdtlog check`.",
                ) from None
            _capture(state, signal)
        except WorkFirst as signal:
            works += 1
            signal.work()


def _apply_some(state: State, signed: Sequence[bytes], until: float) -> Applied:
    connection = state.connection
    entries = rows = 0
    for index, blob in enumerate(signed):
        if index:
            connection.execute("SAVEPOINT entry")
        try:
            accepted = accept_entry(state, blob)
        except (CrdtlogError, CaptureFirst, WorkFirst):
            if not index:
                raise
            connection.execute("ROLLBACK TO entry")
            connection.execute("RELEASE entry")
            state.bump()
            return Applied(entries, rows, index)
        if index:
            connection.execute("RELEASE entry")
        if accepted is not None:
            entries += 1
            rows += accepted
        if time.monotonic() > until:
            return Applied(entries, rows, index + 1)
    return Applied(entries, rows, len(signed))


def _capture(state: State, signal: CaptureFirst) -> None:
    """Note rows that differ from their documents, so that the drain before the next attempt takes them in."""
    tracked = signal.tracked
    with state.transaction():
        if signal.missing > drain.MASS_DELETE_ROWS and tracked.reconcile_ms == 0:
            # So many rows gone are weak evidence (R2): the whole table is compared before any is taken for deleted.
            state.mark_for_reconcile(tracked)
            state.bump()
            return
        drain.capture_rows(state, tracked, signal.keys, odd=signal.odd)


def accept_entry(state: State, blob: bytes) -> int | None:
    """Verify, merge and store one entry in the caller's transaction; returns its rows, or None when it was held."""
    signed = entry.split(blob)
    item = entry.decode(signed.body)
    _authenticate(state, item, signed)
    known = state.log.writers.get(item.writer)
    if known is not None and not state.log.check_succession(item, signed.hash, known):
        return None
    writer = state.log.writer(item.writer)
    if known is None and not state.log.check_succession(item, signed.hash, writer):
        return None
    state.log.check_context(item)
    rows, summary = _effect(state, item, signed.hash)
    writer = state.log.writer(item.writer)
    state.log.append(item, signed, writer, received_ms=state.now_ms(), rows=rows, summary=summary)
    return rows


def _authenticate(state: State, item: Entry, signed: Signed) -> None:
    if item.database != state.database:
        raise EntryRefused("an entry of another database")
    author = device_of(item.writer)
    row = state.connection.execute("SELECT sign_key FROM crdtlog__device WHERE id = ?", (author,)).fetchone()
    if row is None:
        raise EntryRefused(f"an entry by a device that is not a member ({author.hex()[:12]})")
    if not verify_bytes(row[0], entry.SIGN_DOMAIN, signed.body, signed.signature):
        raise EntryRefused(f"entry {item.seq} of writer {item.writer.hex()[:12]} has a wrong signature")


def _effect(state: State, item: Entry, hash_: bytes) -> tuple[int, str]:
    match item.kind:
        case "data":
            rows, counts = apply_data(state, item)
            return rows, changes.summarise(counts)
        case "member":
            return 0, members.apply_member(state, item.payload(), item, hash_)
        case "schema":
            return 0, tracking.apply_schema(state, item, state.log.writer(item.writer).context)
        case _:
            return 0, item.kind
