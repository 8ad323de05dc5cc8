"""A pretend world for sync sessions: devices with logs in memory, wires that deliver when told to.

The driver of these tests: it performs a session's effects, checks what every honest session must keep to,
and lets the test choose what happens next. Nothing here merges rows: an entry is its writer, number, chain
hash and context.
"""

import hashlib
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import count
from typing import NamedTuple

import msgpack

from crdtlog.errors import Malformed
from peers.session.machine import (
    Apply,
    CaughtUp,
    Close,
    Effect,
    Fetch,
    Held,
    Learn,
    Limits,
    Local,
    Look,
    PeerKnown,
    Send,
    Session,
    Show,
    State,
    greeting,
    messages,
)
from peers.session.messages import Ack, Entries, Hello, Item, Message

DATABASE = hashlib.sha256(b"the database").digest()
EPOCH = b"first epoch 0001"
NOW = 1_800_000_000.0
SMALL = Limits(window_bytes=2_000, window_batches=3, batch_bytes=700)


class Head(NamedTuple):
    seq: int
    hash: bytes


class Stored(NamedTuple):
    position: int
    writer: bytes
    seq: int
    signed: bytes


def seal(signed: bytes, *, epoch_id: bytes, salt: bytes, binding: bytes) -> bytes:
    """Hides nothing, but opens only where it was meant for."""
    assert len(salt) == 16 and len(binding) == 32
    body = epoch_id + salt + binding + signed
    return zlib.crc32(body).to_bytes(4) + body


def unseal(blob: bytes, *, binding: bytes, max_bytes: int) -> bytes:
    body = blob[4:]
    if zlib.crc32(body).to_bytes(4) != blob[:4] or body[32:64] != binding or len(body) - 64 > max_bytes:
        raise Malformed("the blob does not open")
    return body[64:]


_numbers = count(1)


def entropy(size: int) -> bytes:
    return next(_numbers).to_bytes(size)


def device_id(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()[:16]


class Log:
    """One device's copy of the database: entries in the order in which they came to stand here."""

    def __init__(self, writer: bytes) -> None:
        self.writer = writer
        self.entries: list[Stored] = []
        self.heads: dict[bytes, Head] = {}

    @property
    def vector(self) -> dict[bytes, int]:
        return {writer: head.seq for writer, head in self.heads.items()}

    def append(self, payload: bytes = b"") -> None:
        seq, last = self.heads.get(self.writer, Head(0, b""))
        self._store(msgpack.packb([self.writer, seq + 1, last, list(self.vector.items()), payload]))

    def apply(self, entries: Iterable[bytes]) -> None:
        """Refuses, as the real log does, what has a gap, breaks a chain, or came before its causes."""
        for signed in entries:
            writer, seq, last, context, _ = msgpack.unpackb(signed)
            own = self.heads.get(writer, Head(0, b""))
            if seq <= own.seq:
                continue
            assert (seq, last) == (own.seq + 1, own.hash), "a gap or a broken chain"
            assert all(self.vector.get(cause, 0) >= number for cause, number in context), "not causal"
            self._store(signed)

    def after(self, fetch: Fetch) -> tuple[list[Stored], int, bool]:
        found: list[Stored] = []
        for entry in self.entries[fetch.after_position :]:
            if entry.seq > fetch.lacking.get(entry.writer, 0):
                if found and sum(len(e.signed) for e in found) + len(entry.signed) > fetch.max_bytes:
                    return found, found[-1].position, False
                found.append(entry)
        return found, len(self.entries), True

    def hashes(self, asked: Mapping[bytes, tuple[int, ...]]) -> dict[bytes, dict[int, bytes]]:
        digests = {(entry.writer, entry.seq): hashlib.sha256(entry.signed).digest() for entry in self.entries}
        return {
            writer: {seq: digests[writer, seq] for seq in seqs if (writer, seq) in digests}
            for writer, seqs in asked.items()
        }

    def _store(self, signed: bytes) -> None:
        writer, seq = msgpack.unpackb(signed)[:2]
        self.entries.append(Stored(len(self.entries) + 1, writer, seq, signed))
        self.heads[writer] = Head(seq, hashlib.sha256(signed).digest())


class Device:
    def __init__(self, name: str, *, place: bytes = b"here", limits: Limits = SMALL) -> None:
        self.name, self.place, self.limits = name, place, limits
        self.id = device_id(name)
        self.log = Log(self.id + b"writer 1")
        self.ends: list[End] = []

    def local(self, versions: tuple[int, int] = (1, 1), epochs: tuple[bytes, ...] = (EPOCH,)) -> Local:
        return Local(
            DATABASE, self.id, self.place, self.name, self.log.writer, epochs, self.log.heads, versions
        )

    def session(self, peer: bytes, versions: tuple[int, int] = (1, 1)) -> Session:
        return Session(self.local(versions), peer, seal, unseal, entropy, self.limits)

    def notify(self, besides: "End | None" = None) -> None:
        for end in self.ends:
            if end is not besides:
                end.perform(end.session.appended(self.log.heads, NOW))

    def write(self, payload: bytes = b"", *, notify: bool = True) -> None:
        self.log.append(payload)
        if notify:
            self.notify()


class End:
    """One side of a connection, with the checks that hold for every honest session."""

    def __init__(self, device: Device, session: Session) -> None:
        self.device, self.session = device, session
        self.other: End
        self.inbox: deque[bytes] = deque()
        self.fetch: Fetch | None = None
        self.apply: Apply | None = None
        self.looks: deque[Look] = deque()
        self.closed: Close | None = None
        self.known: PeerKnown | None = None
        self.caught_up: list[dict[bytes, int]] = []
        self.frames: list[bytes] = []
        self._peer_said: dict[bytes, int] = {}
        self._unacked: deque[int] = deque()

    def perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            assert self.closed is None, "nothing comes after Close"
            match effect:
                case Send(frame):
                    self._send(frame)
                case Fetch():
                    assert self.fetch is None, "two reads at once"
                    self.fetch = effect
                case Apply(entries, total_bytes):
                    assert self.apply is None, "two writes at once"
                    assert entries and total_bytes == sum(map(len, entries))
                    self.apply = effect
                case Look():
                    self.looks.append(effect)
                case Show() | Learn():
                    raise AssertionError("logs that are the same are not forked")
                case Held(vector):
                    actual = self.other.device.log.vector
                    assert all(actual.get(writer, 0) >= seq for writer, seq in vector.items())
                case PeerKnown():
                    self.known = effect
                case CaughtUp():
                    self.caught_up.append(self.device.log.vector)
                case Close():
                    self.closed = effect

    def deliver(self) -> None:
        frame = self.inbox.popleft()
        match messages.decode(frame, (1, 2**15)):
            case Hello(heads=heads):
                self._hear({writer: head.seq for writer, head in heads.items()})
            case Entries(items):
                self._hear({item.writer: item.seq for item in items})
            case Ack(batches, held):
                self._hear(held)
                while len(self._unacked) > self._sent_batches - batches:
                    self._unacked.popleft()
        self.perform(self.session.receive(frame, NOW))

    def take_fetch(self) -> Fetch:
        assert self.fetch is not None
        fetch, self.fetch = self.fetch, None
        return fetch

    def answer_fetch(self) -> None:
        found = self.device.log.after(self.take_fetch())
        self.device.notify(besides=self)
        self.perform(self.session.fetched(*found, NOW))

    def answer_look(self) -> None:
        look = self.looks.popleft()
        self.perform(self.session.looked(look.number, self.device.log.hashes(look.asked), NOW))

    def answer_apply(self) -> None:
        assert self.apply is not None
        apply, self.apply = self.apply, None
        self.device.log.apply(apply.entries)
        self.perform(self.session.applied(self.device.log.heads, NOW))
        self.device.notify(besides=self)

    _sent_batches = 0

    def _send(self, frame: bytes) -> None:
        self.frames.append(frame)
        message = messages.decode(frame, (1, 2**15))
        if isinstance(message, Entries):
            self._check_batch(message.items, len(frame))
        self.other.inbox.append(frame)

    def _check_batch(self, items: Sequence[Item], size: int) -> None:
        for item in items:
            assert item.seq > self._peer_said.get(item.writer, 0), "the peer holds this, or was sent it"
            self._peer_said[item.writer] = item.seq
        self._sent_batches += 1
        self._unacked.append(size)
        window = self.other.device.limits
        assert len(self._unacked) <= window.window_batches
        assert sum(self._unacked) <= window.window_bytes or (len(self._unacked) == 1 and len(items) == 1)

    def _hear(self, vector: Mapping[bytes, int]) -> None:
        for writer, seq in vector.items():
            self._peer_said[writer] = max(seq, self._peer_said.get(writer, 0))


def connect(a: Device, b: Device) -> tuple[End, End]:
    """A fresh connection with a session on each side; their Hellos are on the wire."""
    ends = End(a, a.session(b.id)), End(b, b.session(a.id))
    join(*ends)
    return ends


def join(left: End, right: End) -> None:
    left.other, right.other = right, left
    for end in (left, right):
        end.device.ends.append(end)
        end.perform(end.session.start(NOW))


def cut(end: End) -> None:
    """The connection is gone, and whatever was on it."""
    for side in (end, end.other):
        side.device.ends.remove(side)


def steps(ends: Iterable[End]) -> list[Callable[[], None]]:
    """Everything that could happen next on these connections without a fault."""
    possible: list[Callable[[], None]] = []
    for end in ends:
        if end.inbox:
            possible.append(end.deliver)
        if end.looks:
            possible.append(end.answer_look)
        if end.fetch is not None:
            possible.append(end.answer_fetch)
        if end.apply is not None:
            possible.append(end.answer_apply)
    return possible


def run(*devices: Device, at_most: int = 20_000) -> None:
    """Let everything happen until nothing can."""
    for _ in range(at_most):
        possible = steps(end for device in devices for end in device.ends)
        if not possible:
            return
        possible[0]()
    raise AssertionError("the sessions never come to rest")


def closes(effects: list[Effect]) -> Close:
    assert isinstance(effects[-1], Close), effects
    return effects[-1]


def sent(effects: list[Effect]) -> list[Message]:
    return [messages.decode(effect.frame) for effect in effects if isinstance(effect, Send)]


class Script:
    """A session under test, and a peer that sends exactly what the test says."""

    def __init__(self, device: Device | None = None, versions: tuple[int, int] = (1, 1)) -> None:
        self.device = device or Device("a")
        self.id = device_id("b")
        self.writer = self.id + b"writer 1"
        self.session = self.device.session(self.id, versions)
        (send,) = self.session.start(NOW)
        assert isinstance(send, Send)
        mine = messages.decode(send.frame, versions)
        assert isinstance(mine, Hello)
        self.mine = mine
        self.hello = replace(
            mine,
            device=self.id,
            place=b"there",
            writer=self.writer,
            nonce=entropy(32),
            name="b",
            heads={},
            window=Limits().window,
        )

    def say(self, message: Message, now: float = NOW) -> list[Effect]:
        return self.session.receive(messages.encode(message), now)

    def open(self, **changes: object) -> "Script":
        self.hello = replace(self.hello, **changes)  # type: ignore[arg-type]
        self.say(self.hello)
        assert self.session.state is State.OPEN
        return self

    def item(self, seq: int, payload: bytes = b"entry", writer: bytes | None = None) -> Item:
        binding = greeting.session_id(self.mine, self.hello)
        sealed = seal(payload, epoch_id=EPOCH, salt=entropy(16), binding=binding)
        return Item(writer or self.writer, seq, sealed)
