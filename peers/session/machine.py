"""A sync session: two devices of one database bring each other up to date over one ordered, reliable
connection.

The machine is sans-IO: frames, facts about the local log and the time come in, effects go out. It knows no
sockets, files, clocks or keys, and it does not know which side it plays: both run the same machine. The
connection has already proved the peer's device id, and the driver has checked that it is a member.

States and transitions; whatever is not in this table is a violation and ends the session:

    state     event                                      next      what happens
    NEW       start                                      GREETING  send Hello
    GREETING  Hello, acceptable (greeting.judge)         OPEN      PeerKnown, Look; if the logs agree, go on
    GREETING  Hello, not acceptable                      CLOSED    send Refuse (not to ourselves), Close
    OPEN      Entries                                    OPEN      check, open, queue; Apply if none is due
    OPEN      Ack                                        OPEN      Held; the window moves
    OPEN      Ping                                       OPEN      send Pong
    OPEN      Pong, if one is due                        OPEN
    OPEN      Compare                                    OPEN      stop the flows; Compare or Fork (comparing.py)
    OPEN      Fork                                       CLOSED    Fork, unless sent; Learn, Close
    GREETING, OPEN  Refuse                               CLOSED    Close (by_peer)
    any       stop, refused, silence, violation          CLOSED    send Refuse, Close
    CLOSED    anything                                   CLOSED    nothing

While OPEN, and unless logs are compared, two loops run that never wait for each other (invariants I1-I6 in flow.py):

    outgoing  log_grew -> Fetch -> fetched -> Entries ... -> Ack -> room -> Entries ... -> Fetch
    incoming  Entries -> queue -> Apply -> applied -> Ack -> Apply

A log position never comes back: entries that are appended while a Fetch is outstanding lie behind the
position that it returns, so reading on from there misses nothing. Two devices with equal heads exchange
two Hellos and nothing else.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from enum import Enum
from typing import Any, Protocol

from crdtlog.errors import CrdtlogError, Malformed
from peers.session import comparing, greeting, messages
from peers.session.effects import (
    Apply,
    CaughtUp,
    Close,
    Code,
    Effect,
    Fetch,
    Held,
    Learn,
    Look,
    PeerKnown,
    Send,
    SessionEnds,
    Show,
    violation,
)
from peers.session.flow import Bucket, Incoming, Limits, Outgoing, Received, raise_to, too_large
from peers.session.greeting import Head, Local
from peers.session.messages import (
    Ack,
    Compare,
    Entries,
    Fork,
    HeadSeen,
    Hello,
    Item,
    Message,
    Ping,
    Pong,
    Refuse,
    Stranger,
)

__all__ = [
    "Apply",
    "CaughtUp",
    "Close",
    "Code",
    "Effect",
    "Entropy",
    "Fetch",
    "Head",
    "Held",
    "Learn",
    "Limits",
    "Local",
    "LogEntry",
    "Look",
    "PeerKnown",
    "Seal",
    "Send",
    "Session",
    "Show",
    "State",
    "Unseal",
]

SALT_BYTES = 16


class Seal(Protocol):
    """Encrypts a signed entry for one session. Must accept every epoch id of `Local.epochs`."""

    def __call__(self, signed: bytes, *, epoch_id: bytes, salt: bytes, binding: bytes) -> bytes: ...


class Unseal(Protocol):
    """Opens what `Seal` made, to at most `max_bytes`; raises a CrdtlogError when it cannot."""

    def __call__(self, blob: bytes, *, binding: bytes, max_bytes: int) -> bytes: ...


class LogEntry(Protocol):
    """One entry as read from the local log."""

    @property
    def writer(self) -> bytes: ...
    @property
    def seq(self) -> int: ...
    @property
    def signed(self) -> bytes: ...


Entropy = Callable[[int], bytes]
"""So many unpredictable bytes."""


class State(Enum):
    """Where a session stands; see the table above."""

    NEW = "new"
    GREETING = "greeting"
    OPEN = "open"
    CLOSED = "closed"


class Session:
    """One sync session. Every method returns effects to perform in order; none raises for what a peer does.

    `now` is always the time in Unix seconds. Once a Close was returned, all methods return nothing.
    """

    def __init__(
        self,
        me: Local,
        peer: bytes,
        seal: Seal,
        unseal: Unseal,
        entropy: Entropy,
        limits: Limits = Limits(),  # noqa: B008 (frozen)
    ) -> None:
        self.state = State.NEW
        self._me = me
        self._peer = peer
        self._seal = seal
        self._unseal = unseal
        self._entropy = entropy
        self._limits = limits
        self._heads = dict(me.heads)
        self._ours = {writer: head.seq for writer, head in me.heads.items() if head.seq}
        self._told = dict(self._ours)  # what the peer knows us to hold
        self._theirs: dict[bytes, int] = {}  # what the peer holds durably
        self._mine: Hello | None = None
        self._binding = b""
        self._epoch = b""
        self._outgoing = Outgoing(limits.window, limits.batch_bytes, {})
        self._incoming = Incoming(limits.window, limits.batch_bytes, self._told)
        self._small = Bucket(limits.small_burst, limits.small_per_s)
        self._small_bytes = Bucket(limits.small_burst_bytes, limits.small_bytes_per_s)
        self._heard_at = 0.0
        self._pinged_at: float | None = None
        self._pongs_due = 0
        self._acked_batches = 0
        self._caught_up = False
        # While logs are compared nothing is taken or sent: their names may not mean the same on both sides.
        self._comparing = False
        self._unsure: dict[bytes, int] = {}
        self._compares = 0
        self._looks: list[Callable[[comparing.Hashes], None] | None] = []
        self._showing: set[tuple[bytes, int]] = set()
        self._shown: set[tuple[bytes, int]] = set()
        self._proof: tuple[Fork, bytes] | None = None
        self._effects: list[Effect] = []

    # --- what the driver calls --------------------------------------------------------------------------

    def start(self, now: float) -> list[Effect]:
        """The connection stands: say hello."""
        return self._perform(lambda: self._on_start(now))

    def receive(self, frame: bytes, now: float) -> list[Effect]:
        """A frame came."""
        return self._perform(lambda: self._on_frame(frame, now))

    def fetched(self, entries: Iterable[LogEntry], position: int, end: bool, now: float) -> list[Effect]:
        """Answers Fetch: the entries, the position up to which the log is read, and whether it ends there."""
        return self._perform(lambda: self._on_fetched(entries, position, end))

    def applied(self, heads: Mapping[bytes, Head], now: float) -> list[Effect]:
        """Answers Apply: all its entries are durable here (or were before); `heads` is what we hold now."""
        return self._perform(lambda: self._on_applied(heads))

    def refused(
        self, reason: str, now: float, *, permanent: bool = True, is_fork: bool = False
    ) -> list[Effect]:
        """Answers Apply or Learn: the log refuses an entry. Ends the session, and tells the peer why.

        With `is_fork` it rests on another history of a log than ours: the next session compares the logs.
        """
        if is_fork and self._comparing:
            return []
        code = Code.FORK if is_fork else Code.ENTRY_REFUSED
        return self._perform(lambda: self._end(Close(reason, permanent and not is_fork, code)))

    def looked(self, number: int, found: comparing.Hashes, now: float) -> list[Effect]:
        """Answers Look."""
        return self._perform(lambda: self._on_looked(number, found))

    def shown(self, writer: bytes, seq: int, signed: bytes | None, now: float) -> list[Effect]:
        """Answers Show."""
        return self._perform(lambda: self._on_shown(writer, seq, signed))

    def learned(self, now: float) -> list[Effect]:
        """Answers Learn: the logs have their names."""
        return self._perform(self._on_learned)

    def appended(self, heads: Mapping[bytes, Head], now: float) -> list[Effect]:
        """The local log grew by other ways than this session; `heads` is what we hold now. Never shrinks."""
        return self._perform(lambda: self._note(heads))

    def heard(self, now: float) -> None:
        """Some bytes arrived that are not a whole frame yet: the peer is alive."""
        self._heard_at, self._pinged_at = now, None

    def tick(self, now: float) -> list[Effect]:
        """Time passed. Call at `wake_at`, or as often as you like."""
        return self._perform(lambda: self._on_tick(now))

    def stop(self, reason: str = "The session was stopped.", *, removed: bool = False) -> list[Effect]:
        """End the session from this side; the peer may come back, unless it was `removed` from the database."""
        close = Close(reason, removed, Code.REMOVED if removed else Code.STOPPED)
        return self._perform(lambda: self._end(close))

    @property
    def is_caught_up(self) -> bool:
        """Whether both sides hold the same and nothing is under way."""
        return self.state is State.OPEN and self._caught_up

    @property
    def wake_at(self) -> float:
        """When `tick` has something to do if nothing is heard until then (Unix seconds)."""
        if self.state is State.CLOSED:
            return math.inf
        if self.state is not State.OPEN:
            return self._heard_at + self._limits.hello_within_s
        if self._pinged_at is None:
            return self._heard_at + self._limits.ping_after_s
        return max(self._heard_at + self._patience_s, self._pinged_at + self._pong_within_s)

    # --- the frame of every call ------------------------------------------------------------------------

    def _perform(self, step: Callable[[], None]) -> list[Effect]:
        if self.state is State.CLOSED:
            return []
        try:
            step()
            if self.state is State.OPEN:
                self._advance()
        except SessionEnds as end:
            self._end(end.close)
        effects, self._effects = self._effects, []
        return effects

    def _advance(self) -> None:
        """Do whatever has become possible. Acks go first: they make room on the other side."""
        if self._comparing:
            return
        self._advance_incoming()
        self._advance_outgoing()
        caught_up = self._ours == self._theirs and self._outgoing.idle and self._incoming.idle
        if caught_up and not self._caught_up:
            self._effects.append(CaughtUp())
        self._caught_up = caught_up

    def _advance_incoming(self) -> None:
        fresh = self._incoming.next_apply(self._ours)
        if self._incoming.done > self._acked_batches:
            self._acked_batches = self._incoming.done
            self._send(Ack(self._acked_batches, raise_to(self._told, self._ours)))
        if fresh:
            self._effects.append(Apply(fresh, sum(map(len, fresh))))

    def _advance_outgoing(self) -> None:
        while batch := self._outgoing.next_batch():
            self._outgoing.sent(self._send(Entries(batch)))
            raise_to(self._told, {item.writer: item.seq for item in batch})
        if fetch := self._outgoing.next_fetch(self._ours):
            self._effects.append(fetch)

    def _send(self, message: Message) -> int:
        frame = messages.encode(message)
        self._effects.append(Send(frame))
        return len(frame)

    def _end(self, close: Close) -> None:
        if self.state in (State.GREETING, State.OPEN) and not close.by_peer and close.code != Code.SELF:
            self._send(Refuse(close.code, close.reason, close.permanent, self._me.versions))
        self._effects.append(close)
        self.state = State.CLOSED

    # --- what the driver tells --------------------------------------------------------------------------

    def _on_start(self, now: float) -> None:
        if self.state is not State.NEW:
            raise RuntimeError("a session starts once")
        nonce = self._entropy(messages.NONCE_BYTES)
        self._mine = greeting.hello(self._me, nonce, max(0, int(now * 1000)), self._limits.window)
        self.state = State.GREETING
        self._heard_at = now
        self._send(self._mine)

    def _on_fetched(self, entries: Iterable[LogEntry], position: int, end: bool) -> None:
        if not self._outgoing.fetching:
            raise RuntimeError("no Fetch is outstanding")
        items: list[Item] = []
        for entry in entries:
            raise_to(self._ours, {entry.writer: entry.seq})  # the log may be ahead of what we were told
            if self._outgoing.lacks(entry.writer, entry.seq):
                items.append(Item(entry.writer, entry.seq, self._sealed(entry)))
        self._outgoing.fetched(items, position, end)

    def _sealed(self, entry: LogEntry) -> bytes:
        if len(entry.signed) > self._limits.entry_bytes:
            raise too_large(entry.writer, entry.seq, len(entry.signed))
        salt = self._entropy(SALT_BYTES)
        return self._seal(entry.signed, epoch_id=self._epoch, salt=salt, binding=self._binding)

    def _on_applied(self, heads: Mapping[bytes, Head]) -> None:
        if not self._incoming.applying:
            raise RuntimeError("no Apply is outstanding")
        self._note(heads)
        self._incoming.applied()

    def _note(self, heads: Mapping[bytes, Head]) -> None:
        grown = {w: head for w, head in heads.items() if head.seq > self._ours.get(w, 0)}
        raise_to(self._ours, {writer: head.seq for writer, head in grown.items()})
        if self.state in (State.NEW, State.GREETING):
            self._heads.update(grown)
        if grown:
            self._outgoing.log_grew()

    def _on_tick(self, now: float) -> None:
        self._heard_at = min(self._heard_at, now)  # the clock may have been set back
        silent_s = now - self._heard_at
        if self.state is State.GREETING and silent_s >= self._limits.hello_within_s:
            raise _silence("The other device did not say hello.")
        if self.state is not State.OPEN:
            return
        if self._pinged_at is None:
            if silent_s >= self._limits.ping_after_s:
                self._pinged_at = now
                self._pongs_due += 1
                self._send(Ping())
        elif silent_s >= self._patience_s and now - self._pinged_at >= self._pong_within_s:
            raise _silence(f"The other device has been silent for {silent_s:.0f} seconds.")

    @property
    def _patience_s(self) -> float:
        return self._limits.dead_after_s + self._outgoing.flying_bytes / self._limits.slowest_bytes_per_s

    @property
    def _pong_within_s(self) -> float:
        """A ping gets this long even if the clock jumped or the machine slept meanwhile."""
        return self._limits.dead_after_s - self._limits.ping_after_s

    # --- what the peer tells ----------------------------------------------------------------------------

    def _on_frame(self, frame: bytes, now: float) -> None:
        if self.state is State.NEW:
            raise RuntimeError("a session starts before it receives")
        if len(frame) > self._limits.frame_bytes:
            raise violation(f"a frame of {len(frame)} bytes where {self._limits.frame_bytes} are allowed")
        try:
            message = messages.decode(frame, self._me.versions)
        except Malformed as error:
            raise violation(str(error)) from None
        self.heard(now)
        handle = _TABLE.get((self.state, type(message)))
        if handle is None:
            raise violation(f"{type(message).__name__} came while the session is {self.state.value}")
        handle(self, message, len(frame), now)

    def _on_hello(self, hello: Hello, frame_bytes: int, now: float) -> None:
        assert self._mine is not None
        greeting.judge(self._me, self._peer, self._mine, hello, self._heads)
        version = messages.common_version(self._me.versions, hello.versions)
        assert version is not None  # else it had been read as a Stranger
        self._epoch = greeting.sealing_epoch(self._me, hello)
        self._binding = greeting.session_id(self._mine, hello)
        held = {writer: head.seq for writer, head in hello.heads.items()}
        self._outgoing = Outgoing(hello.window, self._limits.batch_bytes, held)
        self.state = State.OPEN
        offset_ms = hello.clock_ms - int(now * 1000)
        known = PeerKnown(hello.name, hello.device, hello.writer, version, hello.versions, offset_ms)
        self._effects.append(known)
        self._begin_comparing(hello.heads, held)

    # --- whether names of logs mean the same (comparing.py) ----------------------------------------------

    def _begin_comparing(self, theirs: Mapping[bytes, HeadSeen], held: Mapping[bytes, int]) -> None:
        self._comparing = True
        asked = comparing.to_look_at(self._heads, theirs)
        known = {w: {seq: self._heads[w].hash} for w, (seq,) in asked.items() if self._heads[w].seq == seq}

        def compared(found: comparing.Hashes) -> None:
            parted = comparing.parted({**known, **found}, theirs)
            if parted is not None:
                if parted.writer == self._me.writer:
                    greeting.check_unsent(self._me, theirs[parted.writer])
                self._search(parted)
            elif not self._compares and self._proof is None:
                self._comparing = False
                raise_to(self._unsure, held)
                self._peer_holds(self._unsure)

        self._look({writer: seqs for writer, seqs in asked.items() if writer not in known}, compared)

    def _look(self, asked: Mapping[bytes, tuple[int, ...]], then: Callable[[comparing.Hashes], None]) -> None:
        if not asked:
            then({})
            return
        self._looks.append(then)
        self._effects.append(Look(len(self._looks) - 1, dict(asked)))

    def _on_looked(self, number: int, found: comparing.Hashes) -> None:
        then, self._looks[number] = self._looks[number], None
        if then is None:
            raise RuntimeError("no such Look is outstanding")
        then(found)

    def _search(self, within: comparing.Range) -> None:
        if within.differs - within.same == 1:
            self._show(within.writer, within.differs)
            return
        asked = {within.writer: comparing.spread(within)}

        def ask(found: comparing.Hashes) -> None:
            self._send(comparing.compare(within, found))

        self._look(asked, ask)

    def _on_compare(self, question: Compare, frame_bytes: int, now: float) -> None:
        self._compares += 1
        if self._compares > comparing.MAX_COMPARES:
            raise violation("it compares a log again and again", Code.FLOOD)
        self._comparing = True
        self._look(
            comparing.numbers(question), lambda found: self._search(comparing.narrowed(question, found))
        )

    def _show(self, writer: bytes, seq: int) -> None:
        if (writer, seq) not in self._showing:
            self._showing.add((writer, seq))
            self._effects.append(Show(writer, seq))

    def _on_shown(self, writer: bytes, seq: int, signed: bytes | None) -> None:
        if signed is None:
            raise violation(f"it shows entry {seq} of log {writer.hex()} beside one that is not held")
        if len(signed) > self._limits.entry_bytes:
            raise too_large(writer, seq, len(signed))
        salt = self._entropy(SALT_BYTES)
        sealed = self._seal(signed, epoch_id=self._epoch, salt=salt, binding=self._binding)
        self._send(Fork(writer, seq, sealed))
        self._shown.add((writer, seq))
        self._learn()

    def _on_fork(self, fork: Fork, frame_bytes: int, now: float) -> None:
        if self._proof is not None:
            raise violation("it shows more than one fork")
        self._comparing = True
        self._proof = fork, self._opened(Item(fork.writer, fork.seq, fork.sealed)).signed
        self._show(fork.writer, fork.seq)
        self._learn()

    def _learn(self) -> None:
        """Once our entry is on its way: whoever has both goes on alone."""
        if self._proof is not None and (self._proof[0].writer, self._proof[0].seq) in self._shown:
            self._effects.append(Learn(self._proof[1]))

    def _on_learned(self) -> None:
        if self._proof is None:
            raise RuntimeError("no Learn is outstanding")
        raise comparing.forked(self._proof[0].writer, self._proof[0].seq)

    # --- what else the peer tells -------------------------------------------------------------------------

    def _on_stranger(self, stranger: Stranger, frame_bytes: int, now: float) -> None:
        raise greeting.refuse_stranger(self._me, stranger)

    def _on_refuse(self, refuse: Refuse, frame_bytes: int, now: float) -> None:
        hint = ""
        if messages.common_version(self._me.versions, refuse.versions) is None:
            hint = greeting.refuse_stranger(self._me, Stranger(refuse.versions, b"")).close.hint
        raise SessionEnds(Close(refuse.reason, refuse.permanent, refuse.code, hint, by_peer=True))

    def _on_entries(self, entries: Entries, frame_bytes: int, now: float) -> None:
        named = self._incoming.admit(frame_bytes, entries.items, self._ours)
        self._peer_holds(named)
        fresh = [item for item in entries.items if item.seq > self._ours.get(item.writer, 0)]
        self._incoming.push(frame_bytes, [self._opened(item) for item in fresh])

    def _opened(self, item: Item) -> Received:
        try:
            signed = self._unseal(item.sealed, binding=self._binding, max_bytes=self._limits.entry_bytes)
        except CrdtlogError as error:
            raise violation(f"entry {item.seq} of log {item.writer.hex()} does not open: {error}") from None
        return Received(item.writer, item.seq, signed)

    def _on_ack(self, ack: Ack, frame_bytes: int, now: float) -> None:
        if not self._outgoing.acknowledged(ack.batches):
            self._spend(frame_bytes, now)
        self._peer_holds(ack.held)

    def _on_ping(self, ping: Ping, frame_bytes: int, now: float) -> None:
        self._spend(frame_bytes, now)
        self._send(Pong())

    def _on_pong(self, pong: Pong, frame_bytes: int, now: float) -> None:
        if not self._pongs_due:
            raise violation("a Pong came that no Ping asked for")
        self._pongs_due -= 1

    def _peer_holds(self, vector: Mapping[bytes, int]) -> None:
        greeting.check_not_restored(self._me.writer, self._ours.get(self._me.writer, 0), vector)
        raise_to(self._outgoing.known, vector)
        if self._comparing:
            raise_to(self._unsure, vector)
            return
        if grown := raise_to(self._theirs, vector):
            if len(self._theirs) > messages.MAX_WRITERS:
                raise violation(f"it names over {messages.MAX_WRITERS} logs")
            self._effects.append(Held(grown))

    def _spend(self, frame_bytes: int, now: float) -> None:
        """Account for a message that moves nothing."""
        if not (self._small.take(1, now) and self._small_bytes.take(frame_bytes, now)):
            raise violation("it floods us with messages that move nothing", Code.FLOOD)


def _silence(reason: str) -> SessionEnds:
    return SessionEnds(Close(reason, False, Code.SILENT))


_Handler = Callable[[Session, Any, int, float], None]

_TABLE: dict[tuple[State, type[Message]], _Handler] = {
    (State.GREETING, Hello): Session._on_hello,
    (State.GREETING, Stranger): Session._on_stranger,
    (State.GREETING, Refuse): Session._on_refuse,
    (State.OPEN, Entries): Session._on_entries,
    (State.OPEN, Ack): Session._on_ack,
    (State.OPEN, Ping): Session._on_ping,
    (State.OPEN, Pong): Session._on_pong,
    (State.OPEN, Refuse): Session._on_refuse,
    (State.OPEN, Compare): Session._on_compare,
    (State.OPEN, Fork): Session._on_fork,
}
