"""Entries that were read from a mailbox and are not applied yet: which may be now, and which wait for others.

Knows what an entry says of itself, unverified. Must not know mailboxes or sealing. The one idea: what waits is bounded,
and what there was no room for is not lost but named, so that the mailbox is read again from there once something could
be applied.

An entry names others as its author called their logs. Where a device's logs are forked (R11), others may call them
otherwise: then only the hashes tell what is held, and somebody has to look for them (`Sought`).
"""

import hashlib
from collections.abc import Collection, Iterator, Mapping
from typing import NamedTuple

from crdtlog import entry, proof
from crdtlog.errors import AnotherHistory, CrdtlogError, EntryRefused, Malformed
from crdtlog.versions import Head, Named, device_of
from peers.mailbox.forked import Forked, Sought

MAX_WAITING = 20_000
MAX_WAITING_BYTES = 64 << 20
MAX_RIVALS = 3
"""So many different entries of one dot may wait, and one more for each fork that is known: members could make any
number."""


class Candidate(NamedTuple):
    """A signed entry of a mailbox, its dot, SHA-256 and what it builds on, and the index of its first blob.

    The hash by which logs name it will not do as `digest`: it does not cover the signature, which somebody may have
    spoilt. `named` begins with the entry before it in its log. `proof` is the signed entry that proves a fork, if it
    came with one.
    """

    writer: bytes
    seq: int
    digest: bytes
    hash: bytes
    previous: bytes
    named: tuple[Named, ...]
    signed: bytes
    proof: bytes | None
    blob: int

    @property
    def dot(self) -> tuple[bytes, int]:
        """Its name."""
        return self.writer, self.seq


def candidate(signed: bytes, database: bytes, index: int) -> Candidate:
    """What an entry says of itself; nothing is verified. Raises `Malformed`, `EntryRefused` (another database's)."""
    try:
        split, beside = proof.split(signed)
        item = entry.decode(split.body)
    except Malformed:
        raise
    except (CrdtlogError, UnicodeError) as error:
        raise Malformed(str(error)) from None
    if item.database != database:
        raise EntryRefused("an entry of another database")
    named = item.context
    if item.seq > 1:
        named = (Named(item.writer, item.seq - 1, item.previous[:8]), *named)
    return Candidate(
        item.writer,
        item.seq,
        hashlib.sha256(signed).digest(),
        split.hash,
        item.previous,
        named,
        signed,
        None if beside is None else beside.bytes(),
        index,
    )


class _Batch:
    """Entries that can be applied one after the other, and what will be held then."""

    def __init__(self, heads: Mapping[bytes, Head], max_bytes: int) -> None:
        self.items: list[Candidate] = []
        self.heads = dict(heads)
        self._hashes: set[tuple[bytes, int, bytes]] = set()
        self._digests: set[bytes] = set()
        self._left = max_bytes

    def add(self, item: Candidate) -> bool:
        """Whether there was room for one more; there is for a first."""
        if self.items and len(item.signed) > self._left:
            return False
        self._left -= len(item.signed)
        self.items.append(item)
        self.heads[item.writer] = Head(item.seq, item.hash)
        self._hashes.add((device_of(item.writer), item.seq, item.hash[:8]))
        self._digests.add(item.digest)
        return True

    def __contains__(self, item: Candidate) -> bool:
        return item.digest in self._digests

    def holds(self, named: Named) -> bool:
        """Whether it brings the very entry that is named, whatever its log is called."""
        return (device_of(named.writer), named.seq, named.hash8) in self._hashes

    def covers(self, named: Named) -> bool:
        """Whether a log reaches that far, by its name."""
        head = self.heads.get(named.writer)
        return head is not None and head.seq >= named.seq


class Waiting:
    """Candidates behind the heads held here."""

    def __init__(self) -> None:
        self._by_dot: dict[tuple[bytes, int], list[Candidate]] = {}  # what came last is the last
        self._logs: dict[bytes, set[int]] = {}
        self._size = 0
        self._members: Collection[bytes] = ()
        self._tried: set[bytes] = set()  # digests of strangers' entries that were refused, with these members
        self._forked = Forked()
        self._apart: set[bytes] = set()  # digests of what rests on another history than those known
        self.sought = Sought(self._forked)
        """What has to be looked for where logs are forked."""
        self.lost_from: int | None = None
        """The lowest index of a candidate for which there was no room."""

    def __len__(self) -> int:
        return len(self._by_dot)

    def add(self, item: Candidate) -> None:
        """Keep a candidate; the oldest goes where there are too many."""
        rivals = self._by_dot.get(item.dot)
        if rivals is None:
            rivals = self._by_dot[item.dot] = []
            self._logs.setdefault(item.writer, set()).add(item.seq)
        most = MAX_RIVALS + self._forked.branches(device_of(item.writer))
        if any(item.digest == rival.digest for rival in rivals) or len(rivals) >= most:
            return
        rivals.append(item)
        self.sought.want(item.named)
        self._size += len(item.signed)
        while len(self._by_dot) > MAX_WAITING or (self._size > MAX_WAITING_BYTES and len(self._by_dot) > 1):
            oldest = next(iter(self._by_dot))
            lost = min(rival.blob for rival in self._by_dot[oldest])
            self.lost_from = min(lost, self.lost_from or lost)
            self._forget(oldest)

    def set_apart(self, item: Candidate) -> None:
        """Keep a candidate that rests on another history of a log than those known, until more is known."""
        self.add(item)
        if item in self._by_dot.get(item.dot, ()):
            self._apart.add(item.digest)

    def remove(self, item: Candidate) -> None:
        """This candidate is dealt with."""
        rivals = self._by_dot.get(item.dot, [])
        if item in rivals:
            rivals.remove(item)
            self._leave(item)
            if not rivals:
                self._forget(item.dot)

    def unplaced(self, heads: Mapping[bytes, Head]) -> list[Candidate]:
        """Those that do not continue their logs as these are held here, by now; they wait no longer."""
        found: list[Candidate] = []
        for dot in list(self._by_dot):
            head = heads.get(dot[0])
            if head is None or dot[1] > head.seq + 1 or device_of(dot[0]) in self._forked:
                continue
            for item in list(self._by_dot[dot]):
                if not _continues(item, head) and item.digest not in self._apart:
                    found.append(item)
                    self.remove(item)
        return found

    def begin(self, forked: Forked) -> None:
        """Forget all of them: of these devices logs have other names now."""
        self.clear()
        self._forked, self.sought = forked, Sought(forked)

    # --- what can be applied --------------------------------------------------------------------------------------

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
        batch = _Batch(heads, max_bytes)
        moved = True
        while moved:
            moved = False
            for writer in self._logs:
                if device_of(writer) not in members:
                    continue
                for item in self._following(writer, batch):
                    if not batch.add(item):
                        return batch.items
                    moved = True
        return batch.items or self._strangers(batch)

    def _strangers(self, batch: _Batch) -> list[Candidate]:
        for writer in self._logs:
            if batch.items or device_of(writer) in self._members:
                continue
            for item in self._following(writer, batch):
                if not batch.add(item):
                    break
        return batch.items

    def _following(self, writer: bytes, batch: _Batch) -> Iterator[Candidate]:
        """The entries of a log that can be applied behind a batch, each when the one before was added to it."""
        if device_of(writer) in self._forked:
            for seq in sorted(self._logs[writer]):
                yield from (
                    item
                    for item in self._by_dot[writer, seq]
                    if item not in batch and self._is_ready(item, batch)
                )
            return
        while True:
            head = batch.heads.get(writer, Head(0, b""))
            rivals = self._by_dot.get((writer, head.seq + 1), ())
            found = next((i for i in rivals if _continues(i, head) and self._is_ready(i, batch)), None)
            if found is None:
                return
            yield found

    def _is_ready(self, item: Candidate, batch: _Batch) -> bool:
        if item.digest in self._apart or item.digest in self._tried:
            return False
        return all(
            named in self.sought or batch.holds(named)
            if device_of(named.writer) in self._forked
            else batch.covers(named)
            for named in item.named
        )

    def keep(self, item: Candidate, error: CrdtlogError) -> bool:
        """Whether an entry that was refused waits on: a stranger's does, until the members have changed.

        One that builds on another history of a log does, until more is known of that.
        """
        if isinstance(error, AnotherHistory):
            self.set_apart(item)
            return True
        if device_of(item.writer) in self._members:
            return False
        self._tried.add(item.digest)
        return True

    def first_index(self) -> int | None:
        """The lowest index of those that wait or were lost."""
        indexes = [item.blob for rivals in self._by_dot.values() for item in rivals]
        return min([*indexes, *([self.lost_from] if self.lost_from is not None else [])], default=None)

    def of(self, writer: bytes) -> list[Candidate]:
        """Those of one log."""
        return [item for seq in self._logs.get(writer, ()) for item in self._by_dot[writer, seq]]

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
        self._apart.clear()
        self.sought = Sought(self._forked)
        self._size = 0
        self.lost_from = None

    def _forget(self, dot: tuple[bytes, int]) -> None:
        for item in self._by_dot.pop(dot):
            self._leave(item)
        seqs = self._logs[dot[0]]
        seqs.discard(dot[1])
        if not seqs:
            del self._logs[dot[0]]

    def _leave(self, item: Candidate) -> None:
        self._size -= len(item.signed)
        self._apart.discard(item.digest)
        self.sought.leave(item.named)


def _continues(item: Candidate, head: Head) -> bool:
    return item.seq == head.seq + 1 and (item.seq == 1 or item.previous == head.hash)
