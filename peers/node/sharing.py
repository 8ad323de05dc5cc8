"""One file of a node and all its connections: who may connect, which of two connections stays, what people are told.

Knows members, links and the dialler of one file. Must not know other files, the listener or pairing. The one idea: at
most one link per device, and which one stays when both sides dial at once follows from the two device ids alone, so
that both sides keep the same.
"""

import asyncio
import contextlib
import os
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from crdtlog.database import Database
from crdtlog.errors import CopiedHome, CrdtlogError, EntryRefused, NoPeer, PeerRefused
from peers.identity import Identity, client_context, member_of
from peers.node import notices, status
from peers.node.dialer import Dialer, Outcome
from peers.node.discovery import address as format_address
from peers.node.files import Facts, SharedFile
from peers.node.link import LIMITS, Link
from peers.node.pace import Pace, TooOften
from peers.node.places import Places
from peers.node.relay_address import RelayAddress
from peers.node.relaying import RelayLink
from peers.node.relays import FileRelays
from peers.node.tally import Tally
from peers.node.transport import PORT_HEADER, SYNC_PATH, Caller, Wire, parse_address
from peers.node.wording import sentences, told
from peers.session import messages
from peers.session.machine import Close, Code

BAN_SECONDS = 30.0
"""A device that sent what it must not is not listened to for this long."""
ANEW_SECONDS = 3600.0
"""So often one device's word is enough to begin our log anew."""
FAREWELL_SECONDS = 1.0
LAST_DRAIN_SECONDS = 5.0

PROCESS_BYTES = 16
"""Random ones at the end of our place: no clone of this machine has them, nor we when the file is served anew."""

REMOVED = "This device was removed from the database there: it gets nothing new any more."
RENAMED = "A log was forked, and both sides must know how its parts are called."
GIVEN = "This device was given what there is, and goes on like all others."
DUPLICATE = "Another connection between the two devices is kept."
_FAULTS = frozenset(
    {Code.VIOLATION, Code.WINDOW, Code.FLOOD, Code.TOO_LARGE, Code.ENTRY_REFUSED, Code.IDENTITY}
)
_ERRORS: Mapping[str, type[CrdtlogError]] = {Code.COPIED_HOME: CopiedHome, Code.ENTRY_REFUSED: EntryRefused}


class Surroundings(NamedTuple):
    """What the sharings of one node have in common.

    `place` names machine and home (`known.place_of`); `port()` is where the node listens, or None.
    """

    caller: Caller
    identity: Identity
    place: bytes
    port: Callable[[], int | None]
    uses_mdns: bool
    uses_relays: bool


class Sharing:
    """One file and its links, from `start` to `close`. `on_members` is called when the members have changed."""

    def __init__(
        self,
        file: SharedFile,
        around: Surroundings,
        log: Callable[[str], None],
        on_members: Callable[[], None],
    ) -> None:
        self.file = file
        self.links: dict[bytes, Link] = {}
        self.problems: dict[bytes, str] = {}
        self._around = around
        self._log = log
        self._on_members = on_members
        self.dialer = Dialer(self._connect, self.links.__contains__)
        self._pace = Pace()
        self._place = around.place + os.urandom(PROCESS_BYTES)
        self._places = Places()
        self._static: frozenset[str] = frozenset()
        self._claims: set[bytes] = set()
        self._running: set[Link] = set()
        self._banned: dict[bytes, tuple[float, str]] = {}
        self._begun_anew: dict[bytes, float] = {}
        self._complaints: dict[str, str] = {}
        self._context: ssl.SSLContext | None = None
        self._greeted: dict[Link, Callable[[bytes], None]] = {}
        self.is_settled = False
        self._must_look_at_keys = True
        self.know_we_left: set[bytes] = set()
        self.relays = FileRelays(file, self, is_used=around.uses_relays)
        self._rows = Tally(self.say)
        self._news = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        file.on_change = self._file_changed
        file.on_rows = lambda count: self._rows.count("", count, "changed here")
        file.on_problem = self.say

    async def start(
        self,
        static: Iterable[str],
        relays: Iterable[RelayAddress] = (),
        forgotten: Iterable[RelayAddress] = (),
    ) -> None:
        """Begin to tend the file, and to dial: `static` addresses, and where devices were last reached.

        `relays` are used beside those that the file remembers, without those that are to be `forgotten`.
        """
        self.file.start()
        self._static = frozenset(static)
        self.dialer.add(self._static, named=True)
        remaining = {member.device for member in self.file.facts.members}
        for device, addresses in (await self.file.run(Database.addresses)).items():
            if device in remaining:
                self.dialer.add(addresses, device=device)
        await self.relays.start(relays, forgotten)

    async def close(self) -> None:
        """Say goodbye to the other devices, and close the file after a last drain."""
        await self.relays.close()
        self.dialer.stop_dialling()
        for link in list(self._running):
            link.stop("The other device's crdtlog was stopped.")
        if not await self._links_ended():
            for link in list(self._running):
                link.abort()
            await self._links_ended()
        await self.dialer.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=FAREWELL_SECONDS)
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        try:
            async with asyncio.timeout(LAST_DRAIN_SECONDS):
                await self.file.drain()
        except TimeoutError:
            self.say("much is left to take in; that goes on next time")
        except CrdtlogError as error:
            self.say(sentences(error, error.hint))
        self._rows.tell()
        await self.file.close()

    async def _links_ended(self) -> bool:
        """Wait a moment for all links to end; whether they have."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_SECONDS):
                await self.wait_for(lambda: not self._running)
        return not self._running

    def say(self, text: str) -> None:
        """One line for a person."""
        self._log(f"{self.file.path.name}: {text}")

    @property
    def uses_mdns(self) -> bool:
        """Whether devices are looked for on the local network."""
        return self._around.uses_mdns

    # --- members --------------------------------------------------------------------------------------------------

    @property
    def certificates(self) -> dict[bytes, bytes]:
        """Every member's certificate (DER) by device id, our own included: whoever shows it is a copy of us, or us."""
        return {member.device: member.certificate for member in self.file.facts.members}

    def name_of(self, device: bytes) -> str:
        """The name of a device that belongs or belonged."""
        return notices.name_of(self.file.facts, device)

    @property
    def is_out(self) -> bool:
        """Whether this device does not belong any more, as far as it knows."""
        return any(member.device == self.file.device.id for member in self.file.facts.removed)

    @property
    def was_removed(self) -> bool:
        """Whether another device removed this one, as far as it knows."""
        own = self.file.device.id
        return any(gone.device == own and gone.removed_by != own for gone in self.file.facts.removed)

    def _file_changed(self, before: Facts, after: Facts) -> None:
        if before.members != after.members:
            self._context = None
            self._must_look_at_keys = True
            for line in notices.changes(before, after, self.file.device.id):
                self.say(line)
            remaining = {member.device for member in after.members}
            for link in [link for link in self._running if link.device not in remaining]:
                link.stop(REMOVED, removed=True)
            for member in after.removed:
                self.dialer.forget(member.device)
            self._on_members()
        if rows := after.taken_back - before.taken_back:
            self.say(notices.taken_back(rows))
        if before.forks != after.forks:
            self._forked(before, after)
        if before.awaits_snapshot and not after.awaits_snapshot:
            for link in list(self._running):
                link.stop(GIVEN)
        if before.heads != after.heads:
            for link in list(self._running):
                link.appended(after.heads)
        self.relays.changed(before, after)
        self._tell()

    def _forked(self, before: Facts, after: Facts) -> None:
        """Name the devices whose logs are forked, and begin all sessions anew: logs have other names now."""
        known = {(fork.writer, fork.seq, fork.hashes) for fork in before.forks}
        for device in {f.device for f in after.forks if (f.writer, f.seq, f.hashes) not in known}:
            self.say(
                f"{self.name_of(device)} signed different entries under one number: its home or file was copied, or "
                "it lies; all of it counts. Keep one copy; on the other, delete home and file, then `crdtlog join`"
            )
        for link in list(self._running):
            link.stop(RENAMED)

    # --- dialling -------------------------------------------------------------------------------------------------

    def sighted(self, addresses: Iterable[str]) -> None:
        """A device that shares this file was seen on the local network."""
        addresses = list(addresses)
        self.dialer.add(addresses)
        self.dialer.poke(addresses)

    async def _connect(self, address: str, greeted: Callable[[bytes], None]) -> Outcome:
        certificates = self.certificates
        if self._context is None:
            self._context = client_context(certificates.values(), self._around.identity)
        port = self._around.port()
        headers = {PORT_HEADER: str(port)} if port else {}
        try:
            wire = await self._around.caller.dial(
                address, SYNC_PATH, self._context, max_bytes=LIMITS.frame_bytes, headers=headers
            )
        except CrdtlogError as error:
            self._complain(address, error)
            return Outcome(None, error)
        self._complaints.pop(address, None)
        device = member_of(wire.certificate, certificates)
        if device is None or device in self._claims or device in self.links:
            await wire.close()
            return Outcome(device)
        self._claims.add(device)
        link = self._new_link(wire, device, dialled=True)
        self._greeted[link] = greeted
        try:
            ended = await self._run(link)
        finally:
            self._claims.discard(device)
            del self._greeted[link]
        return _outcome(device, ended)

    def _complain(self, address: str, error: CrdtlogError) -> None:
        """Say once that an address does not work, and why; that a remembered device is off is no news."""
        text = sentences(error, error.hint)
        if self._complaints.get(address) == text:
            return
        self._complaints[address] = text
        if isinstance(error, PeerRefused):
            self.say(text)
        elif address in self._static:
            self.say(f"{error}; trying again")

    # --- accepting ------------------------------------------------------------------------------------------------

    async def accept(self, wire: Wire, first_frame: bytes) -> bool:
        """Serve a connection that another device began; False if the one who shows that certificate is no member."""
        device = member_of(wire.certificate, self.certificates)
        if device is None:
            return False
        if too_often := self._pace.begin(device):
            await self._refuse_for_now(wire, device, too_often)
        else:
            await self._run(self._new_link(wire, device, dialled=False), first_frame)
        return True

    async def _refuse_for_now(self, wire: Wire, device: bytes, too_often: TooOften) -> None:
        """Turn a device away that connects again and again; it is named once.

        Before there is a link: each costs two writes to the file, and two lines of the log.
        """
        self.problems[device] = "connects again and again, and is refused for some seconds at a time"
        if too_often.is_news:
            self.say(f"{self.name_of(device)} {self.problems[device]} ({wire.address})")
        reason = f"The other device connects again and again: it may try again in {too_often.seconds} s."
        with contextlib.suppress(CrdtlogError):
            await wire.send(messages.refusal(Code.TOO_OFTEN, reason))

    def no_hello(self, wire: Wire, error: CrdtlogError, *, is_told: bool) -> bool:
        """A connection began with what is no Hello: a member's is banned, and named unless that `is_told` already.

        Returns whether it is a member's.
        """
        device = member_of(wire.certificate, self.certificates)
        if device is None:
            return False
        was_banned = self._is_banned(device)
        reason = sentences(
            f"The other device broke the sync protocol: its first message is no Hello ({error})"
        )
        close = Close(reason, False, Code.VIOLATION)
        self._ban(device, close)
        if not (was_banned or is_told):
            self._drop(device, self.name_of(device), close)
        return True

    # --- links ----------------------------------------------------------------------------------------------------

    def _new_link(self, wire: Wire, device: bytes, *, dialled: bool) -> Link:
        return Link(self.file, wire, device, place=self._place, dialled=dialled, owner=self)

    async def _run(self, link: Link, first_frame: bytes | None = None) -> Close:
        self._running.add(link)
        try:
            ended = await link.run(first_frame)
        finally:
            self._running.discard(link)
            was_current = self.links.get(link.device) is link
            if was_current:
                del self.links[link.device]
            self.dialer.links_changed()
            self._tell()
        self._note_end(link, ended, was_current)
        if ended.code == Code.RESTORED and not ended.by_peer:
            await self._begin_anew(link)
        return ended

    async def _begin_anew(self, link: Link) -> None:
        """Put our own log right; on one device's word alone not again and again, as each time begins another log."""
        last = self._begun_anew.get(link.device)
        if last is not None and time.monotonic() - last < ANEW_SECONDS:
            self.problems[link.device] = (
                "says again that our file was restored; that is believed once an hour"
            )
            return
        self._begun_anew[link.device] = time.monotonic()
        await self.begin_anew()

    async def begin_anew(self) -> None:
        """Put our own log right: others may know other entries of it than the file holds (R11)."""
        try:
            await self.file.begin_anew()
        except CrdtlogError as error:
            self.say(sentences(error, error.hint))
        for other in list(self._running):
            other.stop("The log of this device begins anew.")  # what it was told of our old one holds no more

    def admit(self, link: Link) -> Close | None:
        """Refuse a device that is connected from another home already, or was dropped just now; see `Owner`."""
        other = self.links.get(link.device)
        assert link.peer_place is not None
        if self._places.is_copy(link.device, link.peer_place, other.peer_place if other else None):
            reason = f"Two machines or homes run with the keys of one device ('{link.name}')."
            hint = "Keep one of the two; on the other, delete the copied home and file, and join with `crdtlog join`."
            return Close(f"{reason} {hint}", True, Code.COPIED_HOME)
        if self._is_banned(link.device):
            why = self._banned[link.device][1]
            return Close(sentences(f"Not so soon after this: {why}"), False, Code.STOPPED)
        return None

    def link_known(self, link: Link) -> None:
        """Keep this link, or the one that stands already; see `Owner`."""
        other = self.links.get(link.device)
        if other is not None and other.is_young and self._initiator(other) < self._initiator(link):
            link.stop(DUPLICATE)
            return
        self.links[link.device] = link
        if link.peer_place is not None:
            self._places.note(link.device, link.peer_place)
        if other is not None:
            other.stop(DUPLICATE)
        else:
            self.say(f"{link.name} connected (direct, {link.wire.address})")
        self.problems.pop(link.device, None)
        greeted = self._greeted.get(link)
        if greeted is not None:
            greeted(link.device)
        self.dialer.links_changed()
        self._start(self._remember(link))
        self._start(self._compare_clocks(link))
        self._tell()

    async def _compare_clocks(self, link: Link) -> None:
        """If our log is ahead of both clocks, go on with a new one, so that our mistake does not win for ever (R9)."""
        peer_ms = int(time.time() * 1000) + link.clock_offset_ms
        if await self.file.hold(lambda engine: engine.begin_anew_if_ahead(peer_ms)):
            self.say(
                "our clock was far ahead for a while: what is written from now on goes by the right time"
            )

    def _initiator(self, link: Link) -> bytes:
        return self.file.device.id if link.dialled else link.device

    async def _remember(self, link: Link) -> None:
        """Write down where the device can be dialled."""
        address = link.wire.address if link.dialled else _listening_address(link.wire)
        if address is not None:
            await self.file.hold(
                lambda engine: engine.record_address(link.device, address, time.time_ns() // 1_000_000)
            )
            self.dialer.add([address], device=link.device)

    def link_caught_up(self, link: Link) -> None:
        """See `Owner`."""
        if not self.is_settled:
            self._start(self._settle())
        if self._must_look_at_keys:
            self._must_look_at_keys = False
            self._start(self._rotate_if_due())
        self._tell()

    async def _rotate_if_due(self) -> None:
        """With all that others know at hand: somebody must hand out keys that nobody removed has."""
        if await self.file.hold(Database.rotate_if_due):
            self.say("handed new keys to all members")

    async def _settle(self) -> None:
        """After the first catch-up of a file that joined, rows that were there before are taken in."""
        await self.file.hold(Database.caught_up)
        await self.file.drain()
        self.is_settled = True
        self._tell()

    def link_received(self, link: Link, rows: int) -> None:
        """See `Owner`."""
        self._rows.count("received", rows, f"from {link.name}")

    def link_refused_late(self, link: Link, close: Close) -> None:
        """See `Owner`."""
        if not self._is_banned(link.device):
            self._drop(link.device, link.name, close)
        self._ban(link.device, close)
        self._tell()

    def link_stalled(self, link: Link, reason: str | None) -> None:
        """See `Owner`."""
        self.say(
            f"nothing is taken from {link.name} for now: {reason}"
            if reason
            else f"taking from {link.name} again"
        )
        self._tell()

    # --- relays ---------------------------------------------------------------------------------------------------

    def relay_received(self, link: RelayLink, rows: int) -> None:
        """Rows came through a relay; see `relaying.Owner`."""
        self._rows.count("received", rows, "through a relay")

    def relay_changed(self, link: RelayLink) -> None:
        """A relay was reached, or something was exchanged with it; see `relaying.Owner`."""
        if link.is_exchanged and not self.is_settled:
            self._start(self._settle())
        if link.is_read and self._must_look_at_keys:
            self._must_look_at_keys = False
            self._start(self._rotate_if_due())
        self._tell()

    # --- ends -----------------------------------------------------------------------------------------------------

    def _note_end(self, link: Link, ended: Close, was_current: bool) -> None:
        is_fault = ended.code in _FAULTS and not ended.by_peer
        text = told(ended.reason, ended.hint, by_peer=ended.by_peer)
        if ended.code == Code.REMOVED and ended.by_peer and self.is_out:
            self.know_we_left.add(link.device)
            self._tell()
        if is_fault:
            self._ban(link.device, ended)
        if ended.code == Code.SELF or ended.reason in (DUPLICATE, GIVEN):
            return
        if is_fault:
            self._drop(link.device, link.name, ended)
        elif ended.permanent:
            what = "refuses us" if ended.by_peer else "was dropped"
            self.problems[link.device] = f"{what}: {text}"
            self.say(f"{link.name} {what} ({link.wire.address}): {text}")
        elif was_current:
            self.say(
                f"{link.name} disconnected"
                + ("" if ended.code in (Code.STOPPED, Code.FORK, "lost") else f": {text}")
            )
        elif ended.by_peer:
            self.problems[link.device] = text

    def _drop(self, device: bytes, name: str, close: Close) -> None:
        """Name the device that sent what it must not."""
        self.problems[device] = f"was dropped: {told(close.reason, close.hint, by_peer=False)}"
        self.say(f"{name} {self.problems[device]}")

    def _ban(self, device: bytes, close: Close) -> None:
        self._banned[device] = (time.monotonic() + BAN_SECONDS, close.reason)

    def _is_banned(self, device: bytes) -> bool:
        return device in self._banned and time.monotonic() < self._banned[device][0]

    def _start(self, work: Any) -> None:
        async def guarded() -> None:
            try:
                await work
            except CrdtlogError as error:
                self.say(sentences(error, error.hint))

        task = asyncio.create_task(guarded())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # --- questions ------------------------------------------------------------------------------------------------

    def _tell(self) -> None:
        """Wake whoever waits for something to change."""
        self._news.set()
        self._news = asyncio.Event()

    async def wait_for(self, condition: Callable[[], bool]) -> None:
        """Return when the condition holds; it is asked whenever a link or the file changes."""
        while not condition():
            await self._news.wait()

    async def status(self) -> dict[str, Any]:
        """This file's part of a node's status."""
        with contextlib.suppress(CrdtlogError):  # a full disk, say: that is what is asked about
            await self.file.flush_held()
        connections = {
            device: status.Connection("direct", link.wire.address) for device, link in self.links.items()
        }
        for member in self.file.facts.members:
            if (relay := self.relays.meeting_at(member.device)) and member.device != self.file.device.id:
                connections.setdefault(member.device, status.Connection("relay", relay.shown))
        problems = self.problems | {d: link.stalled for d, link in self.links.items() if link.stalled}
        found = await self.file.run(lambda engine: status.describe(engine, connections, problems))
        return found | {"relays": self.relays.status()}


def _listening_address(wire: Wire) -> str | None:
    """Where the device that dialled us says that it listens itself."""
    port = wire.headers.get(PORT_HEADER, "")
    if not (port.isascii() and port.isdigit() and 0 < int(port[:6]) < 1 << 16):
        return None
    return format_address(parse_address(wire.address)[0], int(port))


def _outcome(device: bytes, ended: Close) -> Outcome:
    kind = _ERRORS.get(ended.code, NoPeer if not ended.permanent else PeerRefused)
    error = None if ended.reason == DUPLICATE else kind(ended.reason, ended.hint)
    hopeless = ended.permanent or ended.code in _FAULTS
    return Outcome(device, error, hopeless, is_self=ended.code == Code.SELF)
