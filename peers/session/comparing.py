"""Whether two devices mean the same by the names of logs, and where a log parts that is not the same on both.

Of each log that both hold, whoever holds more (or both, if equal) looks whether the other's last entry is its own under
that number too. If not, the log is forked, and one of the two does not know: then both look for the first entry that
differs. Who asks sends hashes of entries spread over the range that is left; who answers finds two neighbours of them,
the one the same here and the next one not, and asks back within. At the end it shows its own entry, the other shows
its own, and each has the proof. Both learn from it how the logs are called, and begin a new session.

Pure functions and values; the frames and effects are `machine`'s.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from peers.session.effects import Close, Code, SessionEnds, violation
from peers.session.greeting import Head
from peers.session.messages import HEAD_HASH_BYTES, MAX_COMPARED, Compare, HeadSeen

MAX_COMPARES = 40
"""So many answers one device gives in a session: by then a range of any size is down to one entry."""

Hashes = Mapping[bytes, Mapping[int, bytes]]
"""By writer and number, the hashes of entries that we hold."""


class Range(NamedTuple):
    """Where a log parts: behind `same`, and not behind `differs`."""

    writer: bytes
    same: int
    differs: int


def to_look_at(ours: Mapping[bytes, Head], theirs: Mapping[bytes, HeadSeen]) -> dict[bytes, tuple[int, ...]]:
    """The other's last entries that we hold too, or should."""
    return {
        writer: (seen.seq,)
        for writer, seen in theirs.items()
        if writer in ours and ours[writer].seq >= seen.seq
    }


def parted(found: Hashes, theirs: Mapping[bytes, HeadSeen]) -> Range | None:
    """The first log of one name that is not the same on both."""
    for writer, hashes in sorted(found.items()):
        seen = theirs[writer]
        digest = hashes.get(seen.seq)
        if digest is not None and not _same(digest, seen):
            return Range(writer, 0, seen.seq)
    return None


def spread(within: Range) -> tuple[int, ...]:
    """The numbers to compare next, the last of which is known to differ."""
    count = min(MAX_COMPARED, within.differs - within.same)
    size = within.differs - within.same
    return tuple(within.same + size * (place + 1) // count for place in range(count))


def compare(within: Range, found: Hashes) -> Compare:
    """The question, from our hashes of the numbers in `spread`."""
    hashes = found.get(within.writer, {})
    seen = tuple(HeadSeen(seq, hashes[seq][:HEAD_HASH_BYTES]) for seq in spread(within) if seq in hashes)
    if not seen:
        raise violation("it compares a log beyond its end")
    return Compare(within.writer, within.same, seen)


def narrowed(asked: Compare, found: Hashes) -> Range:
    """Where the log parts, as far as a question tells. Raises SessionEnds if it parts nowhere there."""
    hashes = found.get(asked.writer, {})
    same = asked.same
    for seen in asked.seen:
        digest = hashes.get(seen.seq)
        if digest is None:
            break
        if not _same(digest, seen):
            return Range(asked.writer, same, seen.seq)
        same = seen.seq
    raise violation("it compares a log that is the same on both devices")


def forked(writer: bytes, seq: int) -> SessionEnds:
    """The end of a session in which both have learned of a fork; the next one goes on with the right names."""
    reason = (
        f"A device signed two different entries {seq} of one log (its file or home was copied or restored): "
        "both count, under names of their own."
    )
    return SessionEnds(Close(reason, False, Code.FORK, "See: crdtlog verify FILE", writer=writer, seq=seq))


def _same(digest: bytes, seen: HeadSeen) -> bool:
    return digest[:HEAD_HASH_BYTES] == seen.hash


def numbers(asked: Compare) -> dict[bytes, tuple[int, ...]]:
    """What has to be looked at for an answer."""
    return {asked.writer: tuple(_numbers(asked.seen))}


def _numbers(seen: Iterable[HeadSeen]) -> Iterable[int]:
    return (each.seq for each in seen)
