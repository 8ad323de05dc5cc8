"""Settle: merge what is held and counts, take back what was ours and does not, and say of the group what we must.

Entries are held as they come, and merged at once where nothing can be said against them (`holding`). All others wait
for this: the group is evaluated with all that is held, and what counts is merged in the local order, which is causal.
Most of what waits does not count, and waits for ever; some is vouched for later and is merged then.
"""

import math
import time
from typing import NamedTuple

from crdtlog import entry, members, retracting, rotating
from crdtlog.apply import CaptureFirst
from crdtlog.entry import Entry
from crdtlog.errors import CrdtlogError, Temporary
from crdtlog.holding import effect
from crdtlog.membership import Seen
from crdtlog.remembered import WorkFirst
from crdtlog.state import State, describe, savepoint
from crdtlog.writers import Writer


class Settled(NamedTuple):
    """What was merged, and whether nothing more is to be done."""

    entries: int
    rows: int
    done: bool


def settle(state: State, hold_s: float = math.inf) -> Settled:
    """Merge what can be merged of all that is held, in the caller's transaction, for about so long.

    What is captured has been drained. Signals as `apply_data` for the first entry; before a later one it stops. What
    counts and cannot be merged waits for another schema, and says why in its line of the log.
    """
    if not state.must_settle:
        return Settled(0, 0, True)
    state.group.changed()
    members.put_in_effect(state)
    retracted = retracting.retract(state)
    # With own entries taken back, rows stand as they were before those until all is merged again.
    until = math.inf if retracted is not None or state.must_finish else time.monotonic() + hold_s
    entries = rows = 0
    stuck: set[bytes] = set()
    while (found := _next(state, stuck)) is not None:
        writer, item = found
        if entries and time.monotonic() > until:
            return Settled(entries, rows, False)
        context = state.log.context(item.writer, item.seq)
        is_covered = all(state.log.is_applied(*dot) for dot in context.items())
        if not is_covered or not state.group.counts(item, context):
            stuck.add(writer.id)
            continue
        try:
            with savepoint(state):
                count, summary = effect(state, item, context)
                state.log.note_applied(state.log.writers[item.writer], item.seq, count, summary)
        except (CaptureFirst, WorkFirst, Temporary):
            if not entries or retracted is not None or state.must_finish:
                raise
            return Settled(entries, rows, False)
        except CrdtlogError as error:
            state.log.note_waiting(state.log.writers[item.writer], item.seq, describe(error))
            stuck.add(writer.id)
            continue
        entries, rows = entries + 1, rows + count
    if retracted is not None:
        retracting.put_aside(state, retracted)
    _say_what_is_applied(state)
    rotating.choose(state)
    state.must_settle = state.must_finish = False
    return Settled(entries, rows, True)


def _next(state: State, stuck: set[bytes]) -> tuple[Writer, Entry] | None:
    """The first entry in the local order that is next in its log to be merged, stuck logs left out."""
    lags = [writer for writer in state.log.lags() if writer.id not in stuck]
    if not lags:
        return None
    writer = min(lags, key=lambda log: state.log.position_of(log.number, log.applied + 1))
    signed = state.log.signed(writer.number, writer.applied + 1)
    return writer, entry.decode(entry.split(signed).body)


def _say_what_is_applied(state: State) -> None:
    """Vouch for what is merged here and would else be cut, by the next own entry (membership, `must_tell`)."""
    group = state.group
    if group.is_plain or state.role(state.device.id) is None or not group.knows_itself():
        return
    group.changed()
    if group.found.must_tell:
        members.say(state, Seen(), "told what it had before somebody was removed or made less")
