"""The two directions of a sync session: what goes out under the peer's window, what comes in under ours.

Bookkeeping only: no message formats, no keys, no clock but the `now` that is passed to the token buckets.
The one idea: both sides count the same frames with the same numbers, so an honest sender cannot overrun an
honest receiver, and who overruns is not honest. Entries move under these invariants:

    I1  An entry that the peer is known to hold (it said so, it sent it, or we sent it) is not sent.
    I2  Hence no entry is sent twice in a session, and per writer what is sent rises without a gap.
    I3  Unacknowledged frames fit the receiver's window, or are one frame (which then holds one entry).
    I4  At most one Fetch and one Apply are outstanding; no Fetch while fetched entries wait.
    I5  Memory is bounded: out, one fetched batch; in, one window.
    I6  An acknowledged batch is durable here; batches are acknowledged in the order in which they came.
"""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from peers.session.effects import Close, Code, Fetch, SessionEnds, violation
from peers.session.messages import FRAME_OVERHEAD_BYTES, ITEM_OVERHEAD_BYTES, MAX_ENTRIES, Item, Window

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Limits:
    """All numbers of a session. Those of the receiving side are told to the peer in the Hello."""

    window_bytes: int = 4 * MIB
    window_batches: int = 64
    batch_bytes: int = 1 * MIB
    entry_bytes: int = 64 * MIB
    frame_bytes: int = 80 * MIB
    """Room for a sealed and padded entry of entry_bytes."""
    hello_within_s: float = 30.0
    ping_after_s: float = 20.0
    dead_after_s: float = 60.0
    slowest_bytes_per_s: int = 32 << 10
    """A peer may stay silent longer while frames of ours are on a line as slow as this."""
    small_burst: int = 20
    small_per_s: float = 1.0
    small_burst_bytes: int = 1 * MIB
    small_bytes_per_s: float = 64 << 10
    """Messages that move nothing (pings, repeated acks): a peer that sends more is cut off."""

    @property
    def window(self) -> Window:
        """What we tell the peer."""
        return Window(self.window_bytes, self.window_batches, self.frame_bytes)


def raise_to(vector: dict[bytes, int], other: Mapping[bytes, int]) -> dict[bytes, int]:
    """Raise `vector` to the maximum of both; the writers that grew, with their new numbers."""
    grown = {writer: seq for writer, seq in other.items() if seq > vector.get(writer, 0)}
    vector.update(grown)
    return grown


class Bucket:
    """A token bucket: `burst` at once, `per_s` in the long run."""

    def __init__(self, burst: float, per_s: float) -> None:
        self._burst = burst
        self._per_s = per_s
        self._tokens = float(burst)
        self._at: float | None = None

    def take(self, amount: float, now: float) -> bool:
        """Whether `amount` is still allowed at `now` (Unix seconds; a clock set back gives nothing)."""
        passed = 0.0 if self._at is None else max(0.0, now - self._at)
        self._at = now
        self._tokens = min(self._burst, self._tokens + passed * self._per_s) - amount
        return self._tokens >= 0


class Outgoing:
    """What the peer lacks, on its way from the log into the peer's window."""

    def __init__(self, window: Window, batch_bytes: int, held: Mapping[bytes, int]) -> None:
        self.known = dict(held)  # what the peer holds or has been sent (I1)
        self._window = window
        self._batch_bytes = min(batch_bytes, window.frame_bytes)
        self._waiting: deque[Item] = deque()
        self._flying: deque[int] = deque()  # bytes of each unacknowledged frame
        self._flying_bytes = 0
        self._acked = 0
        self._position = 0
        self._fetching = False
        self._unread = True  # the log may hold something behind _position

    @property
    def flying_bytes(self) -> int:
        """Bytes sent and not yet acknowledged."""
        return self._flying_bytes

    @property
    def fetching(self) -> bool:
        """Whether a Fetch is outstanding."""
        return self._fetching

    @property
    def idle(self) -> bool:
        """Nothing waits, is being read, or is under way."""
        return not (self._waiting or self._flying or self._fetching)

    def log_grew(self) -> None:
        """The local log has new entries; they lie behind every position read so far."""
        self._unread = True

    def next_fetch(self, ours: Mapping[bytes, int]) -> Fetch | None:
        """The read that is due, if any (I4)."""
        if self._fetching or self._waiting or not self._unread:
            return None
        if all(seq <= self.known.get(writer, 0) for writer, seq in ours.items()):
            return None
        self._fetching, self._unread = True, False
        return Fetch(self._position, dict(self.known), self._batch_bytes)

    def fetched(self, items: Iterable[Item], position: int, end: bool) -> None:
        """The outstanding Fetch brought `items`; the log is read up to `position`."""
        self._fetching = False
        self._waiting.extend(items)
        self._position = max(self._position, position)
        self._unread = self._unread or not end

    def lacks(self, writer: bytes, seq: int) -> bool:
        """Whether the peer is not known to hold this entry."""
        return seq > self.known.get(writer, 0)

    def next_batch(self) -> tuple[Item, ...]:
        """The entries to send now, from here on counted as known to the peer; () if none or no room."""
        batch: list[Item] = []
        room, size = self._room(), FRAME_OVERHEAD_BYTES
        while self._waiting and len(batch) < MAX_ENTRIES and len(self._flying) < self._window.batches:
            item = self._waiting[0]
            size += ITEM_OVERHEAD_BYTES + len(item.sealed)
            if not self.lacks(item.writer, item.seq):
                size -= ITEM_OVERHEAD_BYTES + len(item.sealed)
            elif size <= room or (not batch and self._fits_alone(item, size)):
                batch.append(item)
                self.known[item.writer] = item.seq
            else:
                break
            self._waiting.popleft()
        return tuple(batch)

    def sent(self, frame_bytes: int) -> None:
        """A batch went out as a frame of this size."""
        self._flying.append(frame_bytes)
        self._flying_bytes += frame_bytes

    def acknowledged(self, batches: int) -> bool:
        """The peer has dealt with the first `batches` batches of the session; whether that is news."""
        if not self._acked <= batches <= self._acked + len(self._flying):
            raise violation(f"it acknowledged {batches} batches of {self._acked + len(self._flying)}")
        news = batches > self._acked
        while self._acked < batches:
            self._flying_bytes -= self._flying.popleft()
            self._acked += 1
        return news

    def _fits_alone(self, item: Item, size: int) -> bool:
        if size > self._window.frame_bytes:
            raise too_large(item.writer, item.seq, len(item.sealed))
        return not self._flying or self._flying_bytes + size <= self._window.total_bytes

    def _room(self) -> int:
        return min(self._batch_bytes, self._window.total_bytes - self._flying_bytes)


def too_large(writer: bytes, seq: int, size: int) -> SessionEnds:
    """The end of a session in which an entry is due that cannot be sent."""
    reason = f"Entry {seq} of log {writer.hex()} has {size} bytes, more than can be sent to the other device."
    hint = "Update crdtlog on both devices; values of this size need a version that allows them."
    return SessionEnds(Close(reason, True, Code.TOO_LARGE, hint, writer=writer, seq=seq))


class Received(NamedTuple):
    """An opened entry that waits to be applied."""

    writer: bytes
    seq: int
    signed: bytes


class _Batch(NamedTuple):
    frame_bytes: int
    entries: Sequence[Received]


class Incoming:
    """What the peer sent, on its way into the log."""

    def __init__(self, window: Window, batch_bytes: int, told: Mapping[bytes, int]) -> None:
        self.done = 0  # batches dealt with, to be acknowledged
        self._window = window
        self._batch_bytes = batch_bytes
        self._sent = dict(told)  # per writer, the least the peer knew us to hold when it sent (I2)
        self._queue: deque[_Batch] = deque()
        self._applying: list[_Batch] = []
        self._bytes = 0
        self._batches = 0

    @property
    def idle(self) -> bool:
        """Nothing waits or is being applied."""
        return not (self._queue or self._applying)

    @property
    def applying(self) -> bool:
        """Whether an Apply is outstanding."""
        return bool(self._applying)

    def admit(self, frame_bytes: int, items: Sequence[Item], ours: Mapping[bytes, int]) -> dict[bytes, int]:
        """Check a batch against window and order before anything is opened; the vector that it names."""
        if self._batches >= self._window.batches:
            raise violation(f"it sent over {self._window.batches} unacknowledged batches", Code.WINDOW)
        single = not self._batches and len(items) == 1
        if self._bytes + frame_bytes > self._window.total_bytes and not single:
            raise violation(f"it sent over {self._window.total_bytes} unacknowledged bytes", Code.WINDOW)
        named: dict[bytes, int] = {}
        for writer, seq, _ in items:
            last = self._sent.get(writer, 0)
            # A log that left another one at a fork begins behind that: its name is all that can be told here.
            is_new = writer not in self._sent and writer not in ours
            if not (is_new or last < seq <= max(last, ours.get(writer, 0)) + 1):
                raise violation(f"entry {seq} of log {writer.hex()} came after {last}")
            self._sent[writer] = named[writer] = seq
        return named

    def push(self, frame_bytes: int, entries: Sequence[Received]) -> None:
        """Queue an admitted batch; `entries` are those of it that are not held yet."""
        self._queue.append(_Batch(frame_bytes, entries))
        self._bytes += frame_bytes
        self._batches += 1

    def next_apply(self, ours: Mapping[bytes, int]) -> tuple[bytes, ...]:
        """The signed entries to apply now (I4). Batches that brought nothing new are done at once."""
        while self._queue and not self._applying:
            taken = [self._queue.popleft()]
            size = taken[0].frame_bytes
            while self._queue and size + self._queue[0].frame_bytes <= self._batch_bytes:
                size += self._queue[0].frame_bytes
                taken.append(self._queue.popleft())
            fresh = tuple(e.signed for batch in taken for e in batch.entries if e.seq > ours.get(e.writer, 0))
            if fresh:
                self._applying = taken
                return fresh
            self._finish(taken)
        return ()

    def applied(self) -> None:
        """What `next_apply` gave is durable (I6)."""
        taken, self._applying = self._applying, []
        self._finish(taken)

    def _finish(self, batches: Sequence[_Batch]) -> None:
        self.done += len(batches)
        self._batches -= len(batches)
        self._bytes -= sum(batch.frame_bytes for batch in batches)
