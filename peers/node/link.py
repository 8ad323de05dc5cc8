"""One connection to one device about one file: performs the effects of a sync session.

Knows how to feed a `Session` and where its effects go: frames to the wire, entries to the file. Must not know how the
connection came about, nor which other connections there are. The one idea: the session decides, this obeys; whatever
goes wrong on the way ends the link with one `Close` that says why.
"""

import asyncio
import logging
import os
import time
from collections.abc import Coroutine, Mapping, Sequence
from typing import Any, Protocol

from crdtlog.database import Database
from crdtlog.errors import (
    AnotherHistory,
    CrdtlogError,
    EntryRefused,
    Malformed,
    TablePaused,
    Temporary,
    TooLarge,
)
from crdtlog.log import Batch
from crdtlog.versions import Head
from peers import envelope
from peers.node import giving
from peers.node.files import SharedFile
from peers.node.transport import Wire
from peers.node.wording import sentences, unacceptable
from peers.session import messages
from peers.session.machine import (
    Apply,
    CaughtUp,
    Close,
    Code,
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
)

logger = logging.getLogger(__name__)

LIMITS = Limits()
MAX_UNSENT_BYTES = 2 << 20
"""More is not read from the log while this much waits for the connection."""
RETRY_SECONDS = 1.0
FAREWELL_SECONDS = 2.0
"""So long what waits to be sent may take once a link has ended."""
YOUNG_SECONDS = 10.0
MAX_SLEEP_SECONDS = 10.0


class Owner(Protocol):
    """What a link asks and tells whoever it belongs to."""

    def admit(self, link: "Link") -> Close | None:
        """The other device has said where it lives, and nothing is exchanged yet: a Close refuses it."""

    def link_known(self, link: "Link") -> None:
        """The other device may stay; its `name` is known."""

    def link_caught_up(self, link: "Link") -> None:
        """Both sides hold the same; comes each time this becomes true again."""

    def link_received(self, link: "Link", rows: int) -> None:
        """Rows of the other device were applied."""

    def link_refused_late(self, link: "Link", close: Close) -> None:
        """After the link had ended, it turned out that the other device had sent what cannot be accepted."""

    def link_stalled(self, link: "Link", reason: str | None) -> None:
        """Nothing more is taken from the other device, or (None) it is again; sending goes on."""


class Link:
    """One connection, from its first frame to its end. `place` is where this device lives, 1 to 64 bytes."""

    def __init__(
        self,
        file: SharedFile,
        wire: Wire,
        device: bytes,
        *,
        place: bytes,
        dialled: bool,
        owner: Owner,
    ) -> None:
        self.wire = wire
        self.device = device
        self.dialled = dialled
        self.name = next((m.name for m in file.facts.members if m.device == device), device.hex()[:12])
        self.peer_place: bytes | None = None
        self.known_at: float | None = None
        self.clock_offset_ms = 0
        self.stalled: str | None = None
        self.ended: Close | None = None
        self._file = file
        self._place = place
        self._owner = owner
        self._session = self._new_session()
        self._giving: giving.Snapshot | None = None
        self._given = 0
        self._unsent: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._unsent_bytes = 0
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._over = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def is_equal(self) -> bool:
        """Whether both sides hold the same and nothing is under way."""
        return self._session.is_caught_up and not self.ended

    @property
    def is_young(self) -> bool:
        """Whether another connection between the same two may have been begun before this one stood.

        One that comes later shows that this one is dead: its other end would not have dialled.
        """
        return self.known_at is None or time.monotonic() - self.known_at < YOUNG_SECONDS

    async def run(self, first_frame: bytes | None = None) -> Close:
        """Exchange entries until the link ends; why it ended. `first_frame` is what was read from the wire already."""
        self._perform(self._session.start(time.time()))
        if first_frame is not None:
            self._receive(first_frame)
        tasks = [self._start(self._read()), self._start(self._write()), self._start(self._tick())]
        try:
            await self._over.wait()
        finally:
            self.ended = self.ended or Close("This device stopped.", False, Code.STOPPED)
            for task in (*tasks, *self._tasks):
                task.cancel()
            await asyncio.gather(*tasks, *self._tasks, return_exceptions=True)
            if self._giving is not None:
                self._giving.close()
            await self.wire.close()
        return self.ended

    def appended(self, heads: Mapping[bytes, Head]) -> None:
        """The file's log grew."""
        self._perform(self._session.appended(heads, time.time()))

    def stop(self, reason: str, *, removed: bool = False) -> None:
        """End the link from this side, telling the other why, and whether it was `removed` from the database."""
        self._perform(self._session.stop(reason, removed=removed))

    def abort(self) -> None:
        """End the link at once, whatever waits to be sent."""
        self._finish(Close("This device stopped.", False, Code.STOPPED))
        self._over.set()

    # --- the session and its effects ------------------------------------------------------------------------------

    def _new_session(self) -> Session:
        facts, device = self._file.facts, self._file.device
        epochs = dict(facts.epochs)
        local = Local(
            database=self._file.database,
            device=device.id,
            place=self._place,
            name=device.name,
            writer=facts.writer,
            epochs=tuple(epochs),
            heads=facts.heads,
            unconfirmed=facts.unconfirmed,
        )

        def seal(signed: bytes, *, epoch_id: bytes, salt: bytes, binding: bytes) -> bytes:
            return envelope.seal(
                signed, epoch_id=epoch_id, secret=epochs[epoch_id], salt=salt, binding=binding
            )

        def unseal(blob: bytes, *, binding: bytes, max_bytes: int) -> bytes:
            return envelope.open_sealed(blob, epochs, binding, max_bytes)

        return Session(local, self.device, seal, unseal, os.urandom, LIMITS)

    def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(frame):
                    self._unsent_bytes += len(frame)
                    self._unsent.put_nowait(frame)
                    self._note_room()
                case Fetch():
                    self._start(self._fetch(effect))
                case Apply(entries):
                    self._start(self._apply(entries))
                case Look(number, asked):
                    self._start(self._look(number, asked))
                case Show(writer, seq):
                    self._start(self._show(writer, seq))
                case Learn(signed):
                    self._start(self._learn(signed))
                case Held(vector):
                    self._file.note_held(self.device, vector)
                case PeerKnown(clock_offset_ms=offset_ms):
                    self.known_at = time.monotonic()
                    self.clock_offset_ms = offset_ms
                    self._owner.link_known(self)
                case CaughtUp():
                    self._owner.link_caught_up(self)
                case Close():
                    self._finish(effect)

    def _finish(self, close: Close) -> None:
        """Remember why, and end once everything that waits is sent."""
        if self.ended is None:
            self.ended = close
            self._unsent.put_nowait(None)
            # A peer that does not read must not keep the link, its memory and its place for as long as TCP waits.
            asyncio.get_running_loop().call_later(FAREWELL_SECONDS, self._over.set)

    def _start(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.create_task(self._guarded(work))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _guarded(self, work: Coroutine[Any, Any, None]) -> None:
        try:
            await work
        except Exception as error:
            logger.exception("the connection to %s met a fault of ours", self.name)
            self._finish(Close(f"An internal fault: {error!r}", False, "internal"))

    # --- the wire -------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while self.ended is None:
            try:
                frame = await self.wire.receive()
            except (TooLarge, Malformed) as error:
                self._perform(
                    self._session.refused(
                        sentences(f"The other device broke the sync protocol: {error}"), time.time()
                    )
                )
                return
            if frame is None:
                self._finish(Close("The connection broke off.", False, "lost"))
                self._over.set()
                return
            self._receive(frame)

    def _receive(self, frame: bytes) -> None:
        if self.peer_place is None:
            refused = self._greeted(frame)
            if refused is not None:
                frame = messages.refusal(refused.code, refused.reason, permanent=refused.permanent)
                self._perform([Send(frame), refused])
                return
        if self.ended is None:
            self._perform(self._session.receive(frame, time.time()))

    def _greeted(self, frame: bytes) -> Close | None:
        """Look where the other device lives before the session hears of it."""
        try:
            hello = messages.decode(frame)
        except Malformed:
            return None  # the session finds the same, and has the words for it
        if not isinstance(hello, messages.Hello):
            return None
        self.peer_place = hello.place
        return self._owner.admit(self)

    async def _write(self) -> None:
        while (frame := await self._unsent.get()) is not None:
            try:
                await self.wire.send(frame)
            except CrdtlogError as error:
                self._finish(Close(sentences(error), False, "lost"))
                break
            self._unsent_bytes -= len(frame)
            self._note_room()
        self._over.set()

    def _note_room(self) -> None:
        if self._unsent_bytes > MAX_UNSENT_BYTES:
            self._has_room.clear()
        else:
            self._has_room.set()

    async def _tick(self) -> None:
        while self.ended is None:
            pause = self._session.wake_at - time.time()
            await asyncio.sleep(min(max(pause, 0.05), MAX_SLEEP_SECONDS))
            if self.wire.is_receiving(MAX_SLEEP_SECONDS):
                self._session.heard(time.time())
            self._perform(self._session.tick(time.time()))

    # --- the file -------------------------------------------------------------------------------------------------

    async def _fetch(self, fetch: Fetch) -> None:
        await self._has_room.wait()

        def read(engine: Database) -> Batch | None:
            batch = engine.entries_after(fetch.after_position, fetch.lacking, fetch.max_bytes)
            return batch if engine.confirm() else None  # what is sent must be marked before (R11)

        try:
            if self._giving is not None or await self._file.run(
                lambda engine: engine.must_give(self.device, fetch.lacking)
            ):
                batch = await self._give(fetch.max_bytes)
            else:
                batch = await self._file.run(read)
        except CrdtlogError as error:
            self._perform(self._session.stop(sentences(error, error.hint)))
            return
        if batch is None:
            self._finish(Close("This file was restored from a backup, or copied.", False, Code.RESTORED))
            return
        self._perform(self._session.fetched(batch.entries, batch.position, batch.end, time.time()))

    async def _give(self, max_bytes: int) -> Batch | None:
        """Parts of a snapshot, for a device that was let in without history; none from one that is no admin."""
        own = self._file.device.id
        if not any(member.device == own and member.role == "admin" for member in self._file.facts.members):
            return Batch([], 0, True)
        if self._giving is None:
            self._giving = await giving.snapshot(self._file)
            self._given = 0
        if self._giving is None:
            return None
        batch = self._giving.batch(self._given, max_bytes)
        self._given = batch.position
        return batch._replace(position=0)

    async def _look(self, number: int, asked: Mapping[bytes, tuple[int, ...]]) -> None:
        found = await self._file.run(lambda engine: engine.hashes(asked))
        self._perform(self._session.looked(number, found, time.time()))

    async def _show(self, writer: bytes, seq: int) -> None:
        def read(engine: Database) -> bytes | None:
            try:
                return engine.signed_entry(writer, seq, to=self.device)
            except EntryRefused:
                return None  # it is not held, or not for that device to read

        self._perform(self._session.shown(writer, seq, await self._file.run(read), time.time()))

    async def _learn(self, signed: bytes) -> None:
        try:
            await self._file.hold(lambda engine: engine.learn_fork(signed), self._refuse_late)
        except (EntryRefused, Malformed, TooLarge) as error:
            self._perform(self._session.refused(unacceptable(error, error.hint), time.time()))
        except CrdtlogError as error:
            self._perform(self._session.refused(sentences(error, error.hint), time.time(), permanent=False))
        else:
            self._perform(self._session.learned(time.time()))

    async def _apply(self, entries: tuple[bytes, ...]) -> None:
        rest: list[bytes] = list(entries)
        while rest:
            try:
                await self._file.apply(
                    rest, lambda rows: self._owner.link_received(self, rows), self._refuse_late
                )
            except TablePaused as error:
                self._stall(sentences(error, error.hint))
                await self._file.schema_may_have_changed()
            except Temporary as error:
                self._stall(sentences(error, error.hint))
                await asyncio.sleep(RETRY_SECONDS)
            except AnotherHistory as error:
                self._perform(self._session.refused(sentences(error, error.hint), time.time(), is_fork=True))
                return
            except (EntryRefused, Malformed, TooLarge) as error:
                if self.ended is not None:
                    self._refuse_late(error)
                self._perform(self._session.refused(unacceptable(error, error.hint), time.time()))
                return
            except CrdtlogError as error:
                self._perform(
                    self._session.refused(sentences(error, error.hint), time.time(), permanent=False)
                )
                return
        self._stall(None)
        self._perform(self._session.applied(self._file.facts.heads, time.time()))

    def _refuse_late(self, error: BaseException) -> None:
        """The link is over, but who sent this is named and left alone for a while as if it were not."""
        if isinstance(error, EntryRefused | Malformed | TooLarge):
            close = Close(unacceptable(error, error.hint), True, Code.ENTRY_REFUSED)
            self._owner.link_refused_late(self, close)
        else:
            logger.debug("the connection to %s is over, and work for it failed: %r", self.name, error)

    def _stall(self, reason: str | None) -> None:
        """Nothing more is taken from the other device while there is a reason; sending goes on."""
        if reason != self.stalled:
            self.stalled = reason
            self._owner.link_stalled(self, reason)
