"""What a mailbox lacks, as blobs to append, and when: own entries at once, those of others after a while.

Knows what the mailbox holds and what is held here. Must not know reading. The one idea: an entry is appended only once
what it builds on is there or under way, so that whoever reads from the beginning can apply all as it comes; and that it
is there, is believed when it was read back, not when the relay says so.
"""

from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import NamedTuple

from crdtlog import entry, proof
from crdtlog.log import LogEntry
from crdtlog.versions import Head
from peers import envelope
from peers.mailbox import contents
from peers.mailbox.holding import Holding
from peers.mailbox.keys import Mailbox

GRACE_S = 2.0
"""So long at least an entry's author, or another member, gets to upload what we could upload for them."""
GRACE_JITTER_S = 4.0
"""Some more, at random, so that of many devices one is first."""
MOST_GRACE_S = 30.0
"""While others upload, we wait on, but not longer than this."""


class Due(Enum):
    """What is to be uploaded now."""

    OWN = "own entries"
    ALL = "all entries that the mailbox lacks"


class Upload(NamedTuple):
    """Blobs to append in this order, and the dots of the entries that are in the mailbox when all of them are."""

    blobs: tuple[bytes, ...]
    dots: tuple[tuple[bytes, int], ...]


class Uploads:
    """Decides for one mailbox. `random` gives n bytes from a secure source."""

    def __init__(self, mailbox: Mailbox, holding: Holding, random: Callable[[int], bytes]) -> None:
        self._mailbox = mailbox
        self._holding = holding
        self._random = random
        self._since: float | None = None
        self._due_at: float | None = None
        self._own_tried: tuple[int, int] | None = None
        self._under_way: dict[
            tuple[bytes, int], int
        ] = {}  # appended, not read back; with the index of its last blob
        self.is_hurried = False
        """Somebody waits: what others wrote is uploaded at once, too."""

    def lacks_any(self, heads: Mapping[bytes, Head]) -> bool:
        """Whether the mailbox is not known to hold all that is held here."""
        vector = self._holding.vector()
        return any(head.seq > vector.get(writer, 0) for writer, head in heads.items())

    def _reached(self) -> dict[bytes, int]:
        """Of each log, up to which entry it is there or under way without a gap."""
        reached = dict(self._holding.vector())
        for writer, _ in self._under_way:
            while (writer, reached.get(writer, 0) + 1) in self._under_way:
                reached[writer] = reached.get(writer, 0) + 1
        return reached

    def others_upload(self) -> None:
        """Somebody else has just uploaded what we hold: they get more time."""
        self._due_at = None

    def due(self, heads: Mapping[bytes, Head], own: bytes, now: float) -> Due | None:
        """What is to be uploaded at `now` (seconds of any clock); `own` is this device's writer."""
        reached = self._reached()
        if all(head.seq <= reached.get(writer, 0) for writer, head in heads.items()):
            self._since = self._due_at = None
            return None
        head = heads.get(own)
        is_own_lacking = head is not None and head.seq > reached.get(own, 0)
        if head is not None and is_own_lacking and self._own_tried != (head.seq, self._holding.changes):
            return Due.OWN
        if self._since is None:
            self._since = now
        if self._due_at is None:
            share = int.from_bytes(self._random(2), "big") / 0xFFFF
            self._due_at = min(now + GRACE_S + share * GRACE_JITTER_S, self._since + MOST_GRACE_S)
        return Due.ALL if self.is_hurried or now >= self._due_at else None

    @property
    def wake_at(self) -> float | None:
        """When to ask again, if nothing else happens."""
        return self._due_at

    def lacking(self, due: Due, heads: Mapping[bytes, Head], own: bytes) -> dict[bytes, int]:
        """The vector behind which the log is to be read for this."""
        reached = self._reached()
        if due is Due.ALL:
            return reached
        return {writer: head.seq for writer, head in heads.items()} | {own: reached.get(own, 0)}

    def plan(self, entries: Iterable[LogEntry], due: Due, largest: int) -> list[Upload]:
        """The blobs, none above the relay's `largest`, for entries in causal order that the mailbox lacks.

        Raises `TooLarge` for an entry that the relay cannot take in any number of blobs.
        """
        planned: set[tuple[bytes, int]] = set()
        batch = _Batch()
        uploads: list[Upload] = []

        def flush() -> None:
            nonlocal batch
            if batch.entries:
                content = contents.of_entries(batch.entries)
                uploads.append(Upload((self._sealed(content),), tuple(batch.dots)))
            batch = _Batch()

        batch_room = contents.room(contents.largest_size(largest, contents.BATCH_BYTES))
        blob_room = contents.room(contents.largest_size(largest))
        for item in entries:
            dot = item.writer, item.seq
            if self._is_there(dot) or (due is Due.OWN and not self._is_covered(item, planned)):
                continue
            planned.add(dot)
            if (
                contents.length_with(batch.length, item.signed) > batch_room
                or len(batch.entries) == contents.MAX_ENTRIES
            ):
                flush()
            if contents.length_with(0, item.signed) <= blob_room:
                batch.length = contents.length_with(batch.length, item.signed)
                batch.entries.append(item.signed)
                batch.dots.append(dot)
            else:
                pieces = contents.cut(
                    item.signed, self._random(contents.NAME_BYTES), contents.largest_size(largest)
                )
                uploads.append(Upload(tuple(map(self._sealed, pieces)), (dot,)))
        flush()
        return uploads

    def appended(self, upload: Upload, last_index: int) -> None:
        """The relay says that all blobs of an upload are durable, the last under that index."""
        for dot in upload.dots:
            if not self._holding.has(*dot):
                self._under_way[dot] = last_index

    def read_back(self, index: int) -> None:
        """The mailbox was read up to that index: what should have been there and was not is lacking again."""
        for dot in [dot for dot, last in self._under_way.items() if last <= index or self._holding.has(*dot)]:
            del self._under_way[dot]

    def opened(self) -> None:
        """The mailbox is read first: what is under way is found there, or is lacking."""
        self._under_way.clear()
        self._own_tried = None

    def done(self, due: Due, heads: Mapping[bytes, Head], own: bytes) -> None:
        """All that could be uploaded for this has been."""
        if due is Due.ALL:
            self._since = self._due_at = None
        elif own in heads:
            self._own_tried = heads[own].seq, self._holding.changes

    def _sealed(self, content: bytes) -> bytes:
        return self._mailbox.seal(content, self._random(envelope.SALT_BYTES))

    def _is_covered(self, item: LogEntry, planned: set[tuple[bytes, int]]) -> bool:
        """Whether the mailbox holds what an own entry builds on, or will before it."""
        body = entry.decode(proof.split(item.signed)[0].body)
        before = [(named.writer, named.seq) for named in body.context]
        if item.seq > 1:
            before.append((item.writer, item.seq - 1))
        return all(dot in planned or self._is_there(dot) for dot in before)

    def _is_there(self, dot: tuple[bytes, int]) -> bool:
        return dot in self._under_way or self._holding.has(*dot)


class _Batch:
    def __init__(self) -> None:
        self.entries: list[bytes] = []
        self.dots: list[tuple[bytes, int]] = []
        self.length = 0
