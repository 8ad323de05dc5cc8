"""Entries that were read from a mailbox and are not applied yet: which may be now, and which wait for others.

Knows what an entry says of itself, unverified. Must not know mailboxes or sealing. The one idea: what waits is bounded,
and what there was no room for is not lost but named, so that the mailbox is read again from there once something could
be applied.
"""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from crdtlog import entry, proof
from crdtlog.errors import CrdtlogError, EntryRefused, Malformed
from crdtlog.versions import Head, device_of

MAX_WAITING = 20_000
MAX_WAITING_BYTES = 64 << 20
MAX_RIVALS = 3
"""So many different entries of one dot may wait: members could make any number."""


class Candidate(NamedTuple):
    """A signed entry of a mailbox, its dot, SHA-256 and what it builds on, and the index of its first blob.

    The hash by which logs name it will not do: it does not cover the signature, which somebody may have spoilt."""

    writer: bytes
    seq: int
    digest: bytes
    named: tuple[tuple[bytes, int], ...]
    signed: bytes
    blob: int

    @property
    def dot(self) -> tuple[bytes, int]:
        """Its name."""
        return self.writer, self.seq


def candidate(signed: bytes, database: bytes, index: int) -> Candidate:
    """What an entry says of itself; nothing is verified. Raises `Malformed`, `EntryRefused` (another database's)."""
    try:
        split, _ = proof.split(signed)
        item = entry.decode(split.body)
    except Malformed:
        raise
    except (CrdtlogError, UnicodeError) as error:
        raise Malformed(str(error)) from None
    if item.database != database:
        raise EntryRefused("an entry of another database")
    named = tuple((one.writer, one.seq) for one in item.context)
    return Candidate(item.writer, item.seq, hashlib.sha256(signed).digest(), named, signed, index)


class Waiting:
    """Candidates behind the heads held here."""

    def __init__(self) -> None:
        self._by_dot: dict[tuple[bytes, int], list[Candidate]] = {}  # what came last is the last
        self._logs: Counter[bytes] = Counter()
        self._size = 0
        self._members: Collection[bytes] = ()
        self._tried: set[bytes] = set()  # digests of strangers' entries that were refused, with these members
        self.lost_from: int | None = None
        """The lowest index of a candidate for which there was no room."""

    def __len__(self) -> int:
        return len(self._by_dot)

    def add(self, item: Candidate) -> None:
        """Keep a candidate; the oldest goes where there are too many."""
        rivals = self._by_dot.get(item.dot)
        if rivals is None:
            rivals = self._by_dot[item.dot] = []
            self._logs[item.writer] += 1
        if any(item.digest == rival.digest for rival in rivals) or len(rivals) >= MAX_RIVALS:
            return
        rivals.append(item)
        self._size += len(item.signed)
        while len(self._by_dot) > MAX_WAITING or (self._size > MAX_WAITING_BYTES and len(self._by_dot) > 1):
            oldest = next(iter(self._by_dot))
            lost = min(rival.blob for rival in self._by_dot[oldest])
            self.lost_from = min(lost, self.lost_from or lost)
            self._forget(oldest)

    def remove(self, item: Candidate) -> None:
        """This candidate is dealt with."""
        rivals = self._by_dot.get(item.dot, [])
        if item in rivals:
            rivals.remove(item)
            self._size -= len(item.signed)
            if not rivals:
                self._forget(item.dot)

    def held(self, heads: Mapping[bytes, Head]) -> list[Candidate]:
        """Those that are not ahead of the heads any more, which wait no longer."""
        found: list[Candidate] = []
        for dot in [dot for dot in self._by_dot if dot[0] in heads and dot[1] <= heads[dot[0]].seq]:
            found.extend(self._by_dot[dot])
            self._forget(dot)
        return found

    def ready(
        self, heads: Mapping[bytes, Head], members: Collection[bytes], max_bytes: int
    ) -> list[Candidate]:
        """Those that can be applied one after the other now, of about so many bytes, at least one if there is any.

        Entries by a device that is none of `members` come by themselves, when nothing else is ready: who may write is
        not decided here (a former member could), and the record that lets their author in may be behind them.
        """
        if members != self._members:
            self._members = members
            self._tried.clear()
        reached = {writer: head.seq for writer, head in heads.items()}
        found: list[Candidate] = []
        size = 0
        moved = True
        while moved:
            moved = False
            for writer in self._logs:
                if device_of(writer) not in members:
                    continue
                while (item := self._next(writer, reached)) is not None:
                    if found and size + len(item.signed) > max_bytes:
                        return found
                    found.append(item)
                    size += len(item.signed)
                    reached[writer] = item.seq
                    moved = True
        return found or self._strangers(reached, max_bytes)

    def _strangers(self, reached: dict[bytes, int], max_bytes: int) -> list[Candidate]:
        found: list[Candidate] = []
        size = 0
        for writer in self._logs:
            if found or device_of(writer) in self._members:
                continue
            while (item := self._next(writer, reached)) is not None and item.digest not in self._tried:
                if found and size + len(item.signed) > max_bytes:
                    break
                found.append(item)
                size += len(item.signed)
                reached[writer] = item.seq
        return found

    def keep(self, item: Candidate) -> bool:
        """Whether an entry that was refused waits on: a stranger's does, until the members have changed."""
        if device_of(item.writer) in self._members:
            return False
        self._tried.add(item.digest)
        return True

    def _next(self, writer: bytes, reached: Mapping[bytes, int]) -> Candidate | None:
        rivals = self._by_dot.get((writer, reached.get(writer, 0) + 1), ())
        return next((item for item in rivals if _is_covered(item.named, reached)), None)

    def first_index(self) -> int | None:
        """The lowest index of those that wait or were lost."""
        indexes = [item.blob for rivals in self._by_dot.values() for item in rivals]
        return min([*indexes, *([self.lost_from] if self.lost_from is not None else [])], default=None)

    def of(self, writer: bytes) -> list[Candidate]:
        """Those of one log."""
        if writer not in self._logs:
            return []
        return [item for rivals in self._by_dot.values() for item in rivals if item.writer == writer]

    def digest(self) -> bytes:
        """What tells one set of waiting entries from another."""
        return hashlib.sha256(
            b"".join(sorted(i.digest for rivals in self._by_dot.values() for i in rivals))
        ).digest()

    def clear(self) -> None:
        """Forget all of them."""
        self._by_dot.clear()
        self._logs.clear()
        self._tried.clear()
        self._size = 0
        self.lost_from = None

    def _forget(self, dot: tuple[bytes, int]) -> None:
        self._size -= sum(len(item.signed) for item in self._by_dot.pop(dot))
        self._logs[dot[0]] -= 1
        if not self._logs[dot[0]]:
            del self._logs[dot[0]]


def _is_covered(named: Iterable[tuple[bytes, int]], reached: Mapping[bytes, int]) -> bool:
    return all(reached.get(writer, 0) >= seq for writer, seq in named)
