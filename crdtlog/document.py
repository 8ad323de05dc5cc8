"""A row as a CRDT, without the row: which version of each cell shows, and which others are kept.

A document holds one multi-value register per column (slot 2, 3, …) and one for liveness (slot 0). A write with context
C drops the versions of its slots that C covers and adds its own; the version with the highest (stamp, writer) shows,
the others are the row's conflicts. Values are not here: a showing value lives in the user's table, a losing one beside
it, and `merge` answers with instructions about where values move. (Multi-value registers: Shapiro et al. 2011.)

Two forms. `Document` is the whole truth. The compact form is what a file stores, for the case that nearly always
holds: the dot of the last write, and *strata*, one for each older dot that still owns slots. A row that one entry wrote
is a dot alone. Writers are small local integers here; `ranks` maps them to what all devices compare.

Slot 1 is a row's birth, for tables keyed by INTEGER PRIMARY KEY: a register that only inserts write and whose value is
its version's own dot. Columns begin at slot 2.

Invariants:
 D1  every slot has at least one version, and its showing version is the maximum of its versions;
 D2  the compact form's own dot is the showing version of slot 0 (every write writes liveness);
 D3  `merge` depends on the set of versions and the write alone, so all causal delivery orders give one document.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, cast

from crdtlog.values import pack, unpack_own

LIVENESS = 0
BIRTH = 1
FIRST_COLUMN = 2


class Version(NamedTuple):
    """The name of one cell version: stamp first, so that versions by different writers compare by time."""

    stamp: int
    writer: int
    seq: int


class Compact(NamedTuple):
    """A document as stored beside its row; `strata` is empty when the one dot owns every slot."""

    writer: int
    seq: int
    stamp: int
    dead: bool
    strata: bytes


class Write(NamedTuple):
    """What an entry says of one row: the slots it writes (bit 0 is liveness, always written) and whether it lives."""

    version: Version
    slots: int
    alive: bool


@dataclass(slots=True)
class Document:
    """All versions of one row. `showing[slot]` for columns; `liveness` maps versions to alive; `losing` the others."""

    showing: dict[int, Version]
    liveness: dict[Version, bool]
    losing: dict[int, set[Version]] = field(default_factory=dict)


@dataclass(slots=True)
class Merged:
    """The document after a write, and what has to happen to values because of it."""

    compact: Compact
    was_alive: bool
    alive: bool
    #: slots whose showing value is now the write's
    taken: int = 0
    #: slots whose written value loses at once
    lost: int = 0
    #: the old showing version of a slot, which now loses (its value must be kept)
    pushed: list[tuple[int, Version]] = field(default_factory=list)
    #: a losing version of a slot, which now shows
    promoted: list[tuple[int, Version]] = field(default_factory=list)
    #: losing versions that the write has seen, and so ends
    dropped: list[tuple[int, Version]] = field(default_factory=list)
    #: an alive version, not seen by the delete that now shows: the row as a whole is a conflict
    unseen_alive: list[Version] = field(default_factory=list)


Rank = Callable[[Version], tuple[int, bytes, int]]
#: whether the author of a write had seen a version; asks for its dot only
Covered = Callable[[Version], bool]


def rank_by(writers: Mapping[int, bytes]) -> Rank:
    """The order in which versions win: by stamp, then by writer, alike on every device."""

    def rank(version: Version) -> tuple[int, bytes, int]:
        return (version.stamp, writers[version.writer], version.seq)

    return rank


def fresh(version: Version, *, alive: bool = True) -> Compact:
    """The document of a row that one entry wrote whole."""
    return Compact(version.writer, version.seq, version.stamp, not alive, b"")


def expand(
    compact: Compact, slots: Sequence[int], losing: Mapping[int, set[Version]] | None = None
) -> Document:
    """The whole document of a compact one, given its columns' slots and the losing versions kept beside it."""
    own = Version(compact.stamp, compact.writer, compact.seq)
    document = Document(
        {}, {own: not compact.dead}, {slot: set(versions) for slot, versions in (losing or {}).items()}
    )
    for writer, seq, stamp, bits, life in _read_strata(compact.strata):
        version = Version(stamp, writer, seq)
        if life:
            document.liveness[version] = life == 1
        for slot in slots:
            if bits >> slot & 1:
                document.showing[slot] = version
    for slot in slots:
        document.showing.setdefault(slot, own)
    return document


def compact(document: Document, rank: Rank) -> Compact:
    """The inverse of `expand`, canonical for one numbering of writers."""
    own = max(document.liveness, key=rank)
    owned: dict[Version, int] = {}
    for slot, version in document.showing.items():
        if version != own:
            owned[version] = owned.get(version, 0) | 1 << slot
    for version in document.liveness:
        if version != own:
            owned.setdefault(version, 0)
    strata = [
        [v.writer, v.seq, v.stamp, _bits_out(bits), _life(document.liveness.get(v))]
        for v, bits in sorted(owned.items(), key=lambda item: rank(item[0]))
    ]
    return Compact(
        own.writer, own.seq, own.stamp, not document.liveness[own], pack(strata) if strata else b""
    )


def merge(document: Document, write: Write, covered: Covered, rank: Rank) -> Merged:
    """Merge a write into a document (changing it) and tell where values must move.

    `covered(version)` says whether the write's author had seen that version.
    """
    was = document.liveness[max(document.liveness, key=rank)]
    new = write.version
    document.liveness = {v: alive for v, alive in document.liveness.items() if not covered(v)}
    document.liveness[new] = write.alive
    merged = Merged(Compact(0, 0, 0, False, b""), was, False)
    for slot in document.showing:
        if write.slots >> slot & 1:
            _merge_slot(document, slot, new, covered, rank, merged)
    merged.compact = compact(document, rank)
    merged.alive = not merged.compact.dead
    if not merged.alive:
        merged.unseen_alive = sorted(v for v, alive in document.liveness.items() if alive)
    return merged


class Plain(NamedTuple):
    """The result of `merge_plain`: as `Merged`, with slots as bit sets; `pushed` gives each old version its slots."""

    compact: Compact
    was_alive: bool
    alive: bool
    taken: int
    lost: int
    pushed: list[tuple[int, Version]]
    unseen_alive: bool


def merge_plain(before: Compact, write: Write, every: int, covered: Covered, rank: Rank) -> Plain:
    """`merge` for a document without losing versions, on its compact form: work by strata, not by slots.

    `every` is the bit set of all slots, liveness included. Equal to `merge` there (a property test says so).
    """
    new = write.version
    cells = write.slots & every & ~1
    strata = _read_strata(before.strata)
    owned = every & ~1
    for stratum in strata:
        owned &= ~stratum[3]
    strata.append((before.writer, before.seq, before.stamp, owned, 2 if before.dead else 1))
    kept: list[tuple[tuple[int, bytes, int], Version, int, int]] = []
    pushed: list[tuple[int, Version]] = []
    lost = 0
    new_rank = rank(new)
    for writer, seq, stamp, bits, life in strata:
        version = Version(stamp, writer, seq)
        place = rank(version)
        overlap = bits & cells
        if covered(version):
            life = 0
            bits &= ~cells
        elif overlap:
            if place < new_rank:
                pushed.append((overlap, version))
                bits &= ~cells
            else:
                lost |= overlap
        if bits or life:
            kept.append((place, version, bits, life))
    taken = cells & ~lost
    kept.append((new_rank, new, taken, 1 if write.alive else 2))
    kept.sort()
    own = len(kept) - 1
    while not kept[own][3]:
        own -= 1
    _, version, _, life = kept.pop(own)
    after = Compact(version.writer, version.seq, version.stamp, life == 2, b"")
    if kept:
        others = [[v.writer, v.seq, v.stamp, _bits_out(bits), alive] for _, v, bits, alive in kept]
        after = after._replace(strata=pack(others))
    unseen = life == 2 and any(item[3] == 1 for item in kept)
    return Plain(after, not before.dead, life == 1, taken, lost, pushed, unseen)


Strata = tuple[tuple[int, int, int, int | bytes, int], ...]
"""Strata as unpacked: writer, seq, stamp, slots, life; the stamp may be a rank."""


class Ranked(NamedTuple):
    """A document without losing versions, with the ranks of its stamps in their place, and its strata unpacked."""

    writer: int
    seq: int
    stamp: int
    dead: bool
    strata: Strata


class Shape(NamedTuple):
    """A document and the stamp of a write to it, as ranks.

    A merge asks only which of two stamps is later, so `merge_plain` does the same to all documents of one shape, and
    `dated` gives the stamps back (a property test says so).
    """

    writer: int
    seq: int
    own: int
    dead: bool
    strata: Strata
    stamp: int

    def merge(self, write: Write, every: int, covered: Covered, rank: Rank) -> Plain:
        """`merge_plain` of a write whatever its stamp; stamps in the result are ranks."""
        strata = pack(self.strata) if self.strata else b""
        before = Compact(self.writer, self.seq, self.own, bool(self.dead), strata)
        version = write.version._replace(stamp=self.stamp)
        return merge_plain(before, write._replace(version=version), every, covered, rank)


def shape_of(
    writer: int, seq: int, own: int, dead: bool, packed: bytes | None, stamp: int
) -> tuple[Shape, list[int]]:
    """The shape of a document, given in the parts of its compact form, and of a write's stamp; the stamps by rank."""
    strata = unpack_own(packed) if packed else ()
    stamps = sorted({own, stamp, *[stratum[2] for stratum in strata]})
    rank = stamps.index
    ranks = tuple([(w, s, rank(at), bits, life) for w, s, at, bits, life in strata])
    return Shape(writer, seq, rank(own), dead, ranks, rank(stamp)), stamps


def ranked(compact: Compact) -> Ranked:
    """A document whose stamps are ranks already."""
    strata = unpack_own(compact.strata) if compact.strata else ()
    return Ranked(compact.writer, compact.seq, compact.stamp, compact.dead, tuple(map(tuple, strata)))


def dated(strata: Strata, stamps: Sequence[int]) -> bytes:
    """Strata in compact form, with stamps in place of their ranks."""
    return pack([(w, s, stamps[at], bits, life) for w, s, at, bits, life in strata])


def slots_in(bits: int, slots: Sequence[int]) -> list[int]:
    """Those of some slots that a bit set holds."""
    return [slot for slot in slots if bits >> slot & 1]


def _merge_slot(
    document: Document,
    slot: int,
    new: Version,
    covered: Covered,
    rank: Rank,
    merged: Merged,
) -> None:
    old = document.showing[slot]
    losing = document.losing.get(slot, set())
    kept = {version for version in losing if not covered(version)}
    old_kept = not covered(old)
    best = max([new, *kept, old] if old_kept else [new, *kept], key=rank)
    merged.dropped += [(slot, version) for version in losing - kept]
    if best == new:
        merged.taken |= 1 << slot
    else:
        merged.lost |= 1 << slot
        kept.add(new)
    if old_kept and best != old:
        merged.pushed.append((slot, old))
        kept.add(old)
    if best in kept:
        kept.discard(best)
        merged.promoted.append((slot, best))
    document.showing[slot] = best
    if kept:
        document.losing[slot] = kept
    else:
        document.losing.pop(slot, None)


def slots_to_bits(slots: Sequence[int]) -> int:
    """The bit set of some slots, liveness included."""
    bits = 1
    for slot in slots:
        bits |= 1 << slot
    return bits


def owned(writer: int, seq: int, strata: bytes | None, every: int, dot: tuple[int, int]) -> int:
    """The bit set of the columns that show the version of a dot, in a document given in parts of its compact form."""
    known = _read_strata(strata or b"")
    if (writer, seq) == dot:
        own = every & ~1
        for stratum in known:
            own &= ~stratum[3]
        return own
    return next((bits & ~1 for w, s, _, bits, _ in known if (w, s) == dot), 0)


def strata_versions(strata: bytes) -> list[Version]:
    """The versions that a compact form's strata name."""
    return [Version(stamp, writer, seq) for writer, seq, stamp, _, _ in _read_strata(strata)]


def _life(alive: bool | None) -> int:
    return 0 if alive is None else 1 if alive else 2


def _bits_out(bits: int) -> int | bytes:
    return bits if bits < 1 << 63 else bits.to_bytes((bits.bit_length() + 7) // 8, "big")


def _read_strata(strata: bytes) -> list[tuple[int, int, int, int, int]]:
    if not strata:
        return []
    return [
        (writer, seq, stamp, int.from_bytes(bits, "big") if isinstance(bits, bytes) else bits, life)
        for writer, seq, stamp, bits, life in cast(
            "list[tuple[int, int, int, int | bytes, int]]", unpack_own(strata)
        )
    ]
