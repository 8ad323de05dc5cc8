"""Documents are a join semilattice: whatever causal order writes arrive in, every replica ends with the same document.

`history` is what several writers did to one row: each write names the vector its author had seen. `Replica` receives
writes as the engine does (compact form, losing versions and values kept apart, writers numbered in order of arrival);
`expected` says by definition what the row must be: all versions that no other write has covered, the highest shows.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import permutations
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog import document
from crdtlog.document import BIRTH, LIVENESS, Compact, Merged, Version, Write

SLOTS = (BIRTH, 2, 3, 70)
ALL = document.slots_to_bits(SLOTS)


class Event(NamedTuple):
    """A write to the row: its dot, stamp, what it writes, and its author's vector before it."""

    writer: bytes
    seq: int
    stamp: int
    bits: int
    alive: bool
    seen: Mapping[bytes, int]

    @property
    def name(self) -> tuple[int, bytes, int]:
        """Its version's name, in the order in which versions win."""
        return (self.stamp, self.writer, self.seq)

    def saw(self, other: "Event") -> bool:
        """Whether its author had seen another write."""
        return self.seen.get(other.writer, 0) >= other.seq


@st.composite
def history(draw: st.DrawFn, max_steps: int = 9) -> list[Event]:
    """What two to four writers with skewed clocks did to one row, in one causal order."""
    writers = [bytes([65 + n]) for n in range(draw(st.integers(2, 4)))]
    seen: dict[bytes, dict[bytes, int]] = {writer: {} for writer in writers}
    clock = {writer: draw(st.integers(0, 3)) for writer in writers}
    events: list[Event] = []
    for _ in range(draw(st.integers(2, max_steps))):
        writer = draw(st.sampled_from(writers))
        other = draw(st.sampled_from([None, *writers]))
        if other is not None:
            for name, seq in seen[other].items():
                seen[writer][name] = max(seen[writer].get(name, 0), seq)
        first = not seen[writer]
        # The first write of a row is its insert; later ones may touch no column (a delete, or a rewrite that revives).
        slots = SLOTS if first else draw(st.sampled_from([(), (2,), (3,), (70,), (2, 3), SLOTS]))
        alive = True if slots else draw(st.booleans())
        clock[writer] += draw(st.integers(1, 3))
        seq = seen[writer].get(writer, 0) + 1
        events.append(
            Event(writer, seq, clock[writer], document.slots_to_bits(slots), alive, dict(seen[writer]))
        )
        seen[writer][writer] = seq
    return events


def delivery(events: list[Event], choose: st.DataObject) -> list[Event]:
    """The events in some other order that respects causality."""
    left, order = list(events), list[Event]()
    while left:
        ready = [event for event in left if not any(event.saw(other) for other in left if other is not event)]
        order.append(choose.draw(st.sampled_from(ready)))
        left.remove(order[-1])
    return order


@dataclass
class Replica:
    """One device's row: compact document, losing versions, and the values that merge's instructions moved around."""

    numbers: dict[bytes, int] = field(default_factory=dict)
    compact: Compact | None = None
    losing: dict[int, set[Version]] = field(default_factory=dict)
    shown: dict[int, object] = field(default_factory=dict)
    kept: dict[tuple[int, Version], object] = field(default_factory=dict)
    last: Merged | None = None

    def receive(self, event: Event) -> None:
        # Numbers differ from device to device, as local writer numbers do.
        number = self.numbers.setdefault(event.writer, 9 - len(self.numbers))
        write = Write(Version(event.stamp, number, event.seq), event.bits, event.alive)
        if self.compact is None:
            self.compact = document.fresh(write.version, alive=event.alive)
            self.shown = {slot: event.name for slot in SLOTS}
            return
        whole = document.expand(self.compact, SLOTS, self.losing)
        seen = {self.numbers[writer]: seq for writer, seq in event.seen.items() if writer in self.numbers}
        merged = document.merge(
            whole, write, lambda version: seen.get(version.writer, 0) >= version.seq, self._rank()
        )
        self._move_values(merged, event, write.version)
        self.compact, self.losing, self.last = merged.compact, whole.losing, merged

    def _rank(self) -> document.Rank:
        return document.rank_by({number: writer for writer, number in self.numbers.items()})

    def _move_values(self, merged: Merged, event: Event, new: Version) -> None:
        """Obey the instructions literally: a value that is asked for must be where the instructions left it."""
        before = dict(self.shown)
        for item in merged.dropped:
            del self.kept[item]
        for slot, version in merged.pushed:
            self.kept[slot, version] = before[slot]
        for slot in SLOTS:
            assert not (merged.taken >> slot & 1 and merged.lost >> slot & 1)
            if merged.taken >> slot & 1:
                self.shown[slot] = event.name
            if merged.lost >> slot & 1:
                self.kept[slot, new] = event.name
        for slot, version in merged.promoted:
            self.shown[slot] = self.kept.pop((slot, version))

    def content(self) -> "Content":
        """The document in names that all devices share, with the values it shows and keeps."""
        assert self.compact is not None
        names = {number: writer for writer, number in self.numbers.items()}
        whole = document.expand(self.compact, SLOTS, self.losing)

        def name(version: Version) -> tuple[int, bytes, int]:
            return (version.stamp, names[version.writer], version.seq)

        return Content(
            {slot: name(version) for slot, version in whole.showing.items()},
            {slot: {name(version) for version in versions} for slot, versions in whole.losing.items()},
            {name(version): alive for version, alive in whole.liveness.items()},
            dict(self.shown),
            {(slot, name(version)): value for (slot, version), value in self.kept.items()},
        )


class Content(NamedTuple):
    """A whole row: showing and losing versions by slot, liveness, and the values in table and beside it."""

    showing: dict[int, tuple[int, bytes, int]]
    losing: dict[int, set[tuple[int, bytes, int]]]
    liveness: dict[tuple[int, bytes, int], bool]
    shown: dict[int, object]
    kept: dict[tuple[int, tuple[int, bytes, int]], object]


def expected(events: list[Event]) -> Content:
    """The row by definition (a value is named by the version that wrote it)."""
    showing, losing = {}, {}
    for slot in SLOTS:
        versions = uncovered([event for event in events if event.bits >> slot & 1])
        showing[slot] = max(versions)
        if len(versions) > 1:
            losing[slot] = versions - {max(versions)}
    liveness = uncovered(events)
    return Content(
        showing,
        losing,
        {event.name: event.alive for event in events if event.name in liveness},
        dict(showing),
        {(slot, name): name for slot, names in losing.items() for name in names},
    )


def uncovered(events: list[Event]) -> set[tuple[int, bytes, int]]:
    """The names of the writes that no other one's author had seen."""
    return {event.name for event in events if not any(other.saw(event) for other in events)}


def received(events: list[Event]) -> Replica:
    replica = Replica()
    for event in events:
        replica.receive(event)
    return replica


@given(history(), st.data())
def test_any_causal_delivery_order_gives_the_document_that_the_definition_gives(
    events: list[Event], choose: st.DataObject
) -> None:
    order = delivery(events, choose)

    assert received(order).content() == expected(events)


@given(history(max_steps=5))
def test_all_causal_delivery_orders_give_one_document(events: list[Event]) -> None:
    orders = [
        list(order)
        for order in permutations(events)
        if not any(early.saw(late) for at, early in enumerate(order) for late in order[at + 1 :])
    ]

    assert orders
    for order in orders:
        assert received(order).content() == expected(events)


@given(history(), st.data())
def test_at_every_step_the_document_is_that_of_what_has_arrived(
    events: list[Event], choose: st.DataObject
) -> None:
    replica, arrived = Replica(), list[Event]()
    for event in delivery(events, choose):
        replica.receive(event)
        arrived.append(event)

        assert replica.content() == expected(arrived)


@given(history(), st.data())
def test_a_write_that_arrives_again_at_once_changes_nothing(
    events: list[Event], choose: st.DataObject
) -> None:
    replica = Replica()
    for event in delivery(events, choose):
        replica.receive(event)
        before = replica.content()
        replica.receive(event)

        assert replica.content()[:3] == before[:3]


@given(history(), st.data())
def test_the_compact_form_is_canonical_and_loses_nothing(events: list[Event], choose: st.DataObject) -> None:
    replica = received(delivery(events, choose))
    assert replica.compact is not None
    whole = document.expand(replica.compact, SLOTS, replica.losing)

    again = document.compact(whole, replica._rank())

    assert again == replica.compact
    assert document.expand(again, SLOTS, replica.losing) == whole
    own = Version(again.stamp, again.writer, again.seq)
    assert max(whole.liveness, key=replica._rank()) == own  # D2
    assert set(document.strata_versions(again.strata)) <= {*whole.showing.values(), *whole.liveness}


@given(history(), st.data())
def test_a_delete_that_wins_names_every_living_write_that_it_had_not_seen(
    events: list[Event], choose: st.DataObject
) -> None:
    replica = received(delivery(events, choose))
    content = expected(events)
    alive = content.liveness[max(content.liveness)]
    if replica.last is None:
        return

    assert replica.last.alive is alive
    names = {number: writer for writer, number in replica.numbers.items()}
    unseen = {(v.stamp, names[v.writer], v.seq) for v in replica.last.unseen_alive}
    assert unseen == (set() if alive else {name for name, lives in content.liveness.items() if lives})


@given(history(), st.data())
def test_merging_by_strata_equals_merging_by_slots(events: list[Event], choose: st.DataObject) -> None:
    """The engine's way for rows without losing versions says the same as `merge`."""
    replica = Replica()
    for event in delivery(events, choose):
        if replica.compact is not None and not replica.losing:
            compact, numbers = replica.compact, {**replica.numbers}
            number = numbers.setdefault(event.writer, 9 - len(numbers))
            rank = document.rank_by({number: writer for writer, number in numbers.items()})
            seen = {numbers[writer]: seq for writer, seq in event.seen.items() if writer in numbers}
            write = Write(Version(event.stamp, number, event.seq), event.bits, event.alive)

            def covered(version: Version, seen: dict[int, int] = seen) -> bool:
                return seen.get(version.writer, 0) >= version.seq

            whole = document.merge(document.expand(compact, SLOTS), write, covered, rank)
            plain = document.merge_plain(compact, write, ALL, covered, rank)

            assert plain.compact == whole.compact
            assert (plain.was_alive, plain.alive) == (whole.was_alive, whole.alive)
            assert (plain.taken, plain.lost) == (whole.taken, whole.lost)
            pushed = {
                (slot, version) for bits, version in plain.pushed for slot in document.slots_in(bits, SLOTS)
            }
            assert pushed == set(whole.pushed)
            assert plain.unseen_alive == bool(whole.unseen_alive)
            shape, stamps = document.shape_of(*compact, event.stamp)
            alike = shape.merge(write._replace(version=write.version._replace(stamp=0)), ALL, covered, rank)
            after = document.ranked(alike.compact)
            packed = document.dated(after.strata, stamps) if after.strata else b""
            assert plain.compact == (after.writer, after.seq, stamps[after.stamp], after.dead, packed)
            pushed_alike = [(bits, v._replace(stamp=stamps[v.stamp])) for bits, v in alike.pushed]
            assert alike._replace(compact=plain.compact, pushed=pushed_alike) == plain
        replica.receive(event)


def test_a_later_write_that_saw_both_ends_the_conflict_even_with_a_clock_far_behind() -> None:
    insert = Event(b"A", 1, 1_000, ALL, True, {})
    mine = Event(b"A", 2, 2_000, 0b101, True, {b"A": 1})
    theirs = Event(b"B", 1, 9_999, 0b101, True, {b"A": 1})
    late = Event(b"A", 3, 2_001, 0b101, True, {b"A": 2, b"B": 1})

    content = received([insert, mine, theirs, late]).content()

    assert content.showing[2] == late.name
    assert content.losing == {}


@pytest.mark.parametrize("order", list(permutations(range(2))))
def test_of_two_writes_with_one_stamp_the_higher_writer_shows_and_the_other_is_kept(
    order: tuple[int, int],
) -> None:
    insert = Event(b"A", 1, 1, ALL, True, {})
    both = [Event(b"B", 1, 5, 0b101, True, {b"A": 1}), Event(b"C", 1, 5, 0b101, True, {b"A": 1})]

    content = received([insert, *(both[at] for at in order)]).content()

    assert content.showing[2] == both[1].name
    assert content.losing == {2: {both[0].name}}


def test_a_row_that_one_entry_wrote_is_a_dot_alone() -> None:
    compact = document.fresh(Version(7, 1, 3))

    assert compact == Compact(1, 3, 7, False, b"")
    assert document.expand(compact, SLOTS).showing == dict.fromkeys(SLOTS, Version(7, 1, 3))
    assert document.expand(compact, SLOTS).liveness == {Version(7, 1, 3): True}


def test_liveness_is_written_by_every_write() -> None:
    assert document.slots_to_bits(()) >> LIVENESS & 1
    assert document.slots_to_bits((2, 70)) == 1 | 1 << 2 | 1 << 70
