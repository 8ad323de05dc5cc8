"""What one write does to many documents without losing versions, worked out once for all that are alike.

Rows that one statement wrote differ in little but their stamps, and a merge asks only for the order of these: what it
does is worked out once for each shape (a *way*), and dated for each document (a *step*).
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from crdtlog import clock, document
from crdtlog.catalog import Tracked
from crdtlog.connection import Row
from crdtlog.document import BIRTH, Rank, Ranked, Shape, Version, Write, slots_in
from crdtlog.payload import Section
from crdtlog.values import HASH_BYTES


class Loser(NamedTuple):
    """A version that loses, as it is kept beside every row that goes that way."""

    slot: int
    writer: int
    seq: int
    #: its stamp, as the rank among the step's
    rank: int
    #: where its value and the showing one stand: among the cells read, in the section; -1 for a birth, which has none
    cell: int
    column: int
    #: whether the written value loses, and not the row's
    written: bool


@dataclass(frozen=True, eq=False, slots=True)
class Way:
    """What a write does to all documents of one shape."""

    #: the document afterwards
    after: Ranked
    contested: bool
    dies: bool
    #: slots whose written values show from now on, and for each the section's column and its hash's place in a row's
    taken: tuple[int, ...]
    splice: list[tuple[int, int]]
    losers: list[Loser]


class Step(NamedTuple):
    """What a write does to documents that are alike, stamps included."""

    way: Way
    #: stamp and strata of the document afterwards, as stored; its writer, seq and dead are the way's
    at: int
    strata: bytes | None
    #: by rank, as stored
    stamps: list[int]


class Steps(dict[Row, Step]):
    """Steps by what a document's row and the section hold: writer, seq, stamp, dead, strata; the write's stamp.

    `read` are the slots whose cells are at hand, in that order: the section's, or all.
    """

    def __init__(
        self,
        tracked: Tracked,
        section: Section,
        write: Write,
        covered: document.Covered,
        rank: Rank,
        read: Sequence[int],
    ) -> None:
        super().__init__()
        self._tracked = tracked
        self._section = section
        self._write = write
        self._covered = covered
        self._rank = rank
        self._every = document.slots_to_bits(tracked.slots)
        self._ways: dict[Shape, Way] = {}
        self._places = {slot: at * HASH_BYTES for at, slot in enumerate(tracked.cell_slots)}
        self._cells = {slot: at for at, slot in enumerate(read)}
        self._columns = {slot: index for index, slot in enumerate(section.slots)}

    @property
    def ways(self) -> Collection[Way]:
        """The ways of all steps so far."""
        return self._ways.values()

    def __missing__(self, name: Row) -> Step:
        writer, seq, at, dead, strata, stamp = name
        shape, stamps = document.shape_of(writer, seq, clock.from_sql(at), dead, strata, stamp)
        way = self._ways.get(shape)
        if way is None:
            way = self._ways[shape] = self._way(shape)
        stored = [clock.to_sql(each) for each in stamps]
        after = document.dated(way.after.strata, stamps) if way.after.strata else None
        step = self[name] = Step(way, stored[way.after.stamp], after, stored)
        return step

    def _way(self, shape: Shape) -> Way:
        merged = shape.merge(self._write, self._every, self._covered, self._rank)
        slots = self._tracked.slots
        taken = tuple(slot for slot in self._section.slots if merged.taken >> slot & 1)
        losers = [
            self._loser(slot, version, written=False)
            for bits, version in merged.pushed
            for slot in slots_in(bits, slots)
        ]
        own = self._write.version._replace(stamp=shape.stamp)
        losers += [self._loser(slot, own, written=True) for slot in slots_in(merged.lost, slots)]
        return Way(
            document.ranked(merged.compact),
            contested=not merged.was_alive or merged.unseen_alive,
            dies=merged.was_alive and not merged.alive,
            taken=taken,
            splice=[(self._columns[slot], self._places[slot]) for slot in taken],
            losers=losers,
        )

    def _loser(self, slot: int, version: Version, *, written: bool) -> Loser:
        cell = -1 if slot == BIRTH else self._cells[slot]
        return Loser(
            slot, version.writer, version.seq, version.stamp, cell, self._columns.get(slot, -1), written
        )
