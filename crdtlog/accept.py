"""Accept: from other devices' signed bytes to stored, merged entries, under the write lock and in bounded time.

Entries are taken in one by one (`holding`); what has to wait for others is merged as soon as it can be (`settling`).
What is captured is drained first, in the same hold of the lock, so that a context never claims to have seen what the
person had not.
"""

import math
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from crdtlog import ahead, drain, reverting
from crdtlog.abridged import taking
from crdtlog.apply import CaptureFirst
from crdtlog.drain import Drainer
from crdtlog.errors import CrdtlogError, EntryRefused
from crdtlog.holding import accept_entry, accept_proof
from crdtlog.remembered import WorkFirst
from crdtlog.settling import settle
from crdtlog.state import State, savepoint

# Each attempt takes in all rows of one section that differ; a program may write in between, but not for ever.
_CAPTURE_ATTEMPTS = 50


class Applied(NamedTuple):
    """What one call did: entries taken in, their rows, and how many of the given entries are dealt with.

    None of them may be, when those that are held already took all the time.
    """

    entries: int
    rows: int
    done: int


#: What takes in one entry: `accept_entry` or `accept_proof`.
_Take = Callable[[State, bytes], int | None]


def apply(state: State, drainer: Drainer, signed: Sequence[bytes], hold_ms: float) -> Applied:
    """Merge entries in the order given; see `Database.apply`."""
    if state.awaits_snapshot:
        taken = taking.take(state, signed)
        return Applied(0, taken.rows, taken.done)
    try:
        return _apply(state, drainer, signed, hold_ms, accept_entry)
    finally:
        state.forget_answers()


def learn(state: State, drainer: Drainer, signed: bytes) -> None:
    """Know of a fork; see `Database.learn_fork`."""
    try:
        while not _apply(state, drainer, [signed], math.inf, accept_proof).done:
            pass
    finally:
        state.forget_answers()


def _apply(state: State, drainer: Drainer, signed: Sequence[bytes], hold_ms: float, take: _Take) -> Applied:
    attempts = works = 0
    while True:
        state.refresh()
        if drain.has_pending(state):
            if not state.may_write:
                reverting.revert(state)
            elif any(tracked.kinds for tracked in state.tables.values()):
                # What takes long is done before the lock; what is left is taken in under it.
                drain.drain(state, drainer)
        drainer.prepare()
        state.warm(state.tables.values())
        signed = signed[: ahead.merge_ahead(state, signed)]
        try:
            with state.transaction():
                if not drainer.settle():
                    continue
                with state.quick(patient=works < drain.PATIENCE):
                    return _apply_some(state, signed, hold_ms / 1000, take)
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


def _apply_some(state: State, signed: Sequence[bytes], hold_s: float, take: _Take) -> Applied:
    until = time.monotonic() + hold_s
    entries, rows, is_settled = settle(state, hold_s)
    if not is_settled:
        return Applied(entries, rows, 0)
    done = 0
    for blob in signed:
        try:
            with savepoint(state, whole=not done):
                accepted = take(state, blob)
        except (CrdtlogError, CaptureFirst, WorkFirst):
            if not done:
                raise
            break
        done += 1
        entries += accepted is not None
        rows += accepted or 0
        if time.monotonic() > until:
            break
    settled = settle(state, hold_s)
    # Entries that are only held are dealt with when those are merged that can be.
    return Applied(entries + settled.entries, rows + settled.rows, done if settled.done else max(0, done - 1))


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
