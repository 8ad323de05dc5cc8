"""What a patched cell showed to its author: documents built again from the log, as far as each author had seen.

Fed with a row's writes in causal order. The one idea: where an author had seen all patches so far, as nearly always,
the next value is one patch away from the last.
"""

from typing import NamedTuple

from crdtlog import rowdocs
from crdtlog.catalog import Tracked
from crdtlog.document import Version
from crdtlog.kinds import COUNTER, Base, Failure, Merge, Merged, Origin, counter
from crdtlog.kinds.counter import Begun, Sum
from crdtlog.payload import Patch
from crdtlog.rowdocs import Name
from crdtlog.state import State
from crdtlog.values import Key, Value


class _Step(NamedTuple):
    patch: bytes
    origin: Origin


class _Whole(NamedTuple):
    """A document with all of its steps in it but those set aside, which later ones may give a place; what it shows."""

    state: bytes | None
    aside: list[_Step]
    shown: Value


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
        self._whole: dict[Name, _Whole] = {}

    def value(self, slot: int, patch: Patch, version: Version, seen: dict[bytes, int]) -> Value:
        """What the cell showed after a patch to its author, who had seen those entries.

        That is what it showed before if the patch could not be merged, or only later, with what it builds on.
        """
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
        base, before = self._bases[of], self._steps.setdefault(of, [])
        known = [each for each in before if _is_seen(each, seen)]
        whole = self._whole.get(of) or _Whole(None, [], base.value)
        jobs = [Merge(whole.state, base, [*whole.aside, step])]
        if len(known) < len(before):
            jobs.append(Merge(None, base, [*known, step]))
        before.append(step)
        done = self._state.documents(of.kind).merge(jobs)
        if done[0].tried and whole.state is not None:
            whole = _Whole(None, [], base.value)
            (done[0],) = self._state.documents(of.kind).merge([Merge(None, base, before)])
        if whole.state is None:
            whole = whole._replace(shown=base.value)
        self._whole[of] = _after(whole, done[0], [*whole.aside, step], before)
        if len(done) == 1:
            return self._whole[of].shown
        return base.value if isinstance(done[1], Failure) else done[1].shown


def _after(whole: _Whole, done: Merged | Failure, added: list[_Step], every: list[_Step]) -> _Whole:
    state, shown = (whole.state, whole.shown) if isinstance(done, Failure) else (done.state, done.shown)
    if done.tried:  # only all steps together tell what it is, with the next one too
        return _Whole(None, list(every), shown)
    left = {each.origin for each in done.left}
    return _Whole(state, [each for each in added if each.origin in left], shown)


def _begun(step: _Step) -> Begun:
    before = counter.decode_before(step.patch)
    assert before is not None, "no first step"
    return Begun(step.origin.stamp, step.origin.writer, before)


def _is_seen(step: _Step, seen: dict[bytes, int]) -> bool:
    return seen.get(step.origin.writer, 0) >= step.origin.seq
