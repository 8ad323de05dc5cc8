"""What a patched cell showed to its author: documents built again from the log, as far as each author had seen.

Fed with a row's writes in causal order. The one idea: where an author had seen all patches so far, as nearly always,
the next value is one patch away from the last.
"""

from typing import NamedTuple

from crdtlog import rowdocs
from crdtlog.catalog import Tracked
from crdtlog.document import Version
from crdtlog.kinds import COUNTER, Base, Failure, Merge, Origin, counter
from crdtlog.kinds.counter import Begun, Sum
from crdtlog.payload import Patch
from crdtlog.rowdocs import Name
from crdtlog.state import State
from crdtlog.values import Key, Value


class _Step(NamedTuple):
    patch: bytes
    origin: Origin


class PatchedValues:
    """The patches of one row's cells so far, and what they show."""

    def __init__(self, state: State, tracked: Tracked, key: Key) -> None:
        self._state = state
        self._tracked = tracked
        self._key = key
        self._steps: dict[Name, list[_Step]] = {}
        self._counted: dict[int, list[_Step]] = {}
        #: the first steps on values that were no counter's
        self._first_steps: dict[Name, list[_Step]] = {}
        self._bases: dict[Name, Base] = {}
        #: documents with all of their steps in them
        self._whole: dict[Name, bytes] = {}

    def value(self, slot: int, patch: Patch, version: Version, seen: dict[bytes, int]) -> Value:
        """What the cell showed after a patch to its author, who had seen those entries; None if nobody can tell."""
        writer = self._state.log.writers[patch.writer]
        of = Name(slot, writer.number, patch.seq, patch.kind)
        if of not in self._bases:
            dot = (of.writer, of.seq)
            self._bases[of], _ = rowdocs.base_of(self._state, self._tracked, self._key, slot, dot)
        step = _Step(patch.data, Origin(version.stamp, self._state.log.ids[version.writer], version.seq))
        value = self._count(of, step, seen) if patch.kind == COUNTER else self._merge(of, step, seen)
        return rowdocs.as_stored(self._state, self._tracked.affinity(slot), value)

    def begun(self, slot: int, first: Value, seen: dict[bytes, int]) -> Value:
        """What a counter that began anew showed to its author: its first value, and the steps from before."""
        if slot not in self._counted:
            return first
        value = counter.shown(first, self._added(slot, seen))
        return rowdocs.as_stored(self._state, self._tracked.affinity(slot), value)

    def _added(self, slot: int, seen: dict[bytes, int]) -> Sum:
        added = counter.ZERO
        for step in self._counted[slot]:
            if _is_seen(step, seen):
                added = counter.add(added, counter.decode(step.patch))
        return added

    def _count(self, of: Name, step: _Step, seen: dict[bytes, int]) -> Value:
        self._counted.setdefault(of.slot, []).append(step)
        first_steps = self._first_steps.setdefault(of, [])
        if counter.decode_before(step.patch) is not None:
            first_steps.append(step)
        seen = {**seen, step.origin.writer: step.origin.seq}
        total, real = self._added(of.slot, seen)
        begun = max((_begun(first) for first in first_steps if _is_seen(first, seen)), default=None)
        return counter.shown(self._bases[of].value, Sum(total - begun.before if begun else total, real))

    def _merge(self, of: Name, step: _Step, seen: dict[bytes, int]) -> Value:
        before = self._steps.setdefault(of, [])
        known = [each for each in before if _is_seen(each, seen)]
        jobs = [Merge(self._whole.get(of), self._bases[of], [step])]
        if len(known) < len(before):
            jobs.append(Merge(None, self._bases[of], [*known, step]))
        before.append(step)
        done = self._state.documents(of.kind).merge(jobs)
        if not isinstance(done[0], Failure):
            self._whole[of] = done[0].state
        last = done[-1]
        if isinstance(last, Failure) or any(left.origin == step.origin for left in last.left):
            return None
        return last.shown


def _begun(step: _Step) -> Begun:
    before = counter.decode_before(step.patch)
    assert before is not None, "no first step"
    return Begun(step.origin.stamp, step.origin.writer, before)


def _is_seen(step: _Step, seen: dict[bytes, int]) -> bool:
    return seen.get(step.origin.writer, 0) >= step.origin.seq
