"""The side of pairing that is a member already: open codes, and the devices that try them.

Knows codes, the `Issuer` machine and how its effects are performed. Must not know who may dial, or how the person is
asked: `show_code` and `approve` come in. The one idea: the new member is written into the log before it is told that it
is one.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from crdtlog.database import Database
from crdtlog.errors import CrdtlogError, EntryRefused, PairingFailed
from crdtlog.membership import Newcomer
from peers.identity import readable
from peers.node import welcoming
from peers.node.meeting import MeetingWire
from peers.node.sharing import Sharing
from peers.node.transport import Wire
from peers.node.wording import sentences
from peers.pairing.codes import MAX_NAMEPLATE, Code, make_code
from peers.pairing.effects import NEW_CODE, Approve, Burned, Close, Done, Effect, Failed, Send
from peers.pairing.machines import CODE_SECONDS, FINISH_SECONDS, Issuer, Offer, OfferState, Reason

ShowCode = Callable[[str, str], Awaitable[None]]
"""Shows a code, and the address at which this device can be reached (`host:port`), to the person."""
ApproveDevice = Callable[[str, str], Awaitable[bool]]
"""Asks the person whether the device of this name and fingerprint may join."""
Tell = Callable[[str], Awaitable[None]]
"""Tells the person that the device could not take the database, while the code stays open for it."""


async def tell_nobody(line: str) -> None:
    """A `Tell` where there is no person."""


@dataclass(eq=False, slots=True)
class OpenCode:
    """A code that is open, and what it is for."""

    offer: Offer
    sharing: Sharing
    role: str
    approve: ApproveDevice
    tell: Tell
    result: asyncio.Future[dict[str, Any]]
    invited: str = ""
    """The person for whom the code is, as this side's log should name them; empty if nobody was named."""
    history: bool = True
    """Whether the device may read what was written before."""
    why_not: CrdtlogError | None = None
    """Why the device that was let in has not taken the database."""


class Issuing:
    """The open codes of one node. `certificate` (DER) is what its listener shows."""

    def __init__(self, certificate: bytes) -> None:
        self._certificate = certificate
        self._open: dict[int, OpenCode] = {}

    def has(self, nameplate: int) -> bool:
        """Whether a code of that number is open."""
        return nameplate in self._open

    @contextlib.contextmanager
    def _opened(
        self,
        sharing: Sharing,
        role: str,
        approve: ApproveDevice,
        tell: Tell,
        expires_s: float,
        invited: str,
        history: bool,
    ) -> Iterator[OpenCode]:
        code = make_code(os.urandom)
        if len(self._open) >= MAX_NAMEPLATE:
            raise PairingFailed("All codes are in use.", "End some of the `crdtlog pair` commands that wait.")
        while code.nameplate in self._open:
            code = make_code(os.urandom)
        offer = Offer(code, time.time() + expires_s)
        result = asyncio.get_running_loop().create_future()
        opened = OpenCode(offer, sharing, role, approve, tell, result, invited, history)
        self._open[code.nameplate] = opened
        try:
            yield opened
        finally:
            del self._open[code.nameplate]
            opened.result.cancel()

    async def pair(
        self,
        sharing: Sharing,
        role: str,
        *,
        show: Callable[[Code], Awaitable[None]],
        approve: ApproveDevice,
        tell: Tell,
        expires_s: float = CODE_SECONDS,
        invited: str = "",
        history: bool = True,
    ) -> dict[str, Any]:
        """Open a code, and return when a device has joined with it: its id, name, role and fingerprint, and
        whether it came through a relay (`relayed`).

        `invited` is a person's name, for the line of this side's log; without `history` the device gets nothing that
        was written before. Raises `PairingFailed` (a wrong guess, not
        approved, expired), `EntryRefused` (this device may not add others).
        """
        _require_admin(sharing)
        with self._opened(sharing, role, approve, tell, expires_s, invited, history) as opened:
            await show(opened.offer.code)
            await asyncio.wait([opened.result], timeout=expires_s)
            if opened.offer.state in (OfferState.USED, OfferState.IN_USE):
                await asyncio.wait([opened.result], timeout=FINISH_SECONDS)
            if opened.result.done():
                return opened.result.result()
            expired = f"The code has expired. {opened.why_not or ''}".strip()
            raise PairingFailed(expired, NEW_CODE)

    async def serve(self, nameplate: int, wire: Wire | MeetingWire) -> None:
        """Talk to a device that tries the code of that number."""
        opened = self._open.get(nameplate)
        if opened is None:
            return
        certificate = None if isinstance(wire, MeetingWire) else self._certificate
        error = await _Conversation(opened, wire, certificate).run()
        if opened.result.done():
            return
        if error is not None and not opened.offer.is_open(time.time()):
            opened.result.set_exception(error)
        elif error is not None:
            opened.sharing.say(f"a device tried to join from {wire.address}: {error}")


class _Conversation:
    """One connection of a joiner: performs the effects of an `Issuer`."""

    def __init__(self, opened: OpenCode, wire: Wire | MeetingWire, certificate: bytes | None) -> None:
        self._opened = opened
        self._wire = wire
        file = opened.sharing.file
        self._machine = Issuer(
            opened.offer,
            file.device,
            database_id=file.database,
            role=opened.role,
            server_certificate=certificate,
            random=os.urandom,
            now=time.time(),
        )
        self._asked: Approve | None = None
        self._answer: asyncio.Task[bool] | None = None
        self._error: CrdtlogError | None = None
        self._is_over = False

    async def run(self) -> CrdtlogError | None:
        """Until it is over; the error that ended it, or None when the device has joined."""
        incoming = asyncio.create_task(self._frame())
        try:
            while not self._is_over:
                waiting = [task for task in (incoming, self._answer) if task is not None]
                pause = min(max(self._machine.deadline - time.time(), 0.0), 3600.0)
                done, _ = await asyncio.wait(waiting, timeout=pause, return_when=asyncio.FIRST_COMPLETED)
                if self._answer in done:
                    await self._perform(await self._decide())
                elif incoming in done:
                    frame = incoming.result()
                    if frame is None:
                        await self._perform(self._machine.lost())
                        break
                    await self._perform(self._machine.receive(frame, time.time()))
                    incoming = asyncio.create_task(self._frame())
                else:
                    await self._perform(self._machine.tick(time.time()))
        finally:
            for task in (incoming, self._answer):
                if task is not None:
                    task.cancel()
            await self._perform(self._machine.lost())
        return self._error

    async def _frame(self) -> bytes | None:
        try:
            return await self._wire.receive()
        except CrdtlogError:
            return None

    async def _approved(self, name: str, fingerprint: str) -> bool:
        """Ask the person; not again when the device comes back, as it is a member since it was approved."""
        return self._opened.offer.admitted is not None or await self._opened.approve(name, fingerprint)

    async def _tell_not_adopted(self, error: CrdtlogError) -> None:
        assert self._asked is not None
        self._opened.why_not = error
        if self._opened.offer.is_open(time.time()):
            await self._opened.tell(f"{self._asked.name}: {sentences(error, error.hint)}")
        else:
            error.hint = NEW_CODE

    async def _decide(self) -> Sequence[Effect]:
        assert self._answer is not None and self._asked is not None
        answer, self._answer = self._answer, None
        if not answer.result():
            return self._machine.decline("", time.time())
        asked, file = self._asked, self._opened.sharing.file
        newcomer = Newcomer(asked.name, asked.role, asked.sign_key, asked.receive_key, asked.certificate)
        try:
            note = f"invited as {self._opened.invited}" if self._opened.invited else ""
            history = self._opened.history
            welcome = await file.hold(lambda engine: _added(engine, newcomer, note, history=history))
            self._opened.sharing.relays.poke()  # the new device may know no other way to what is here
            relays = [address.text for address in self._opened.sharing.relays.addresses]
            return self._machine.approve(welcoming.packed(welcome, relays), time.time())
        except CrdtlogError as error:
            effects = self._machine.decline(str(error), time.time())
            self._error = error
            return [effect for effect in effects if not isinstance(effect, Failed)]

    async def _perform(self, effects: Sequence[Effect]) -> None:
        for effect in effects:
            match effect:
                case Send(frame):
                    with contextlib.suppress(CrdtlogError):
                        await self._wire.send(frame)
                case Approve():
                    self._asked = effect
                    shown = readable(effect.fingerprint)
                    self._answer = asyncio.ensure_future(self._approved(effect.name, shown))
                case Done():
                    self._tell_joined()
                case Failed():
                    self._error = self._error or effect.error()
                    if effect.reason is Reason.NOT_ADOPTED:
                        await self._tell_not_adopted(self._error)
                case Close():
                    self._is_over = True
                case Burned():
                    pass  # the Failed beside it says the same

    def _tell_joined(self) -> None:
        assert self._asked is not None
        asked = self._asked
        joined = {
            "id": asked.device_id.hex(),
            "name": asked.name,
            "role": asked.role,
            "fingerprint": readable(asked.fingerprint),
            "relayed": isinstance(self._wire, MeetingWire),
        }
        if not self._opened.result.done():
            self._opened.result.set_result(joined)


def _require_admin(sharing: Sharing) -> None:
    own = sharing.file.device.id
    if not any(member.device == own and member.role == "admin" for member in sharing.file.facts.members):
        raise EntryRefused("this device may not add others", "Run `crdtlog pair` on an admin's device.")


def _added(engine: Database, newcomer: Newcomer, note: str, *, history: bool) -> bytes:
    engine.add_member(newcomer, note, history=history)
    return engine.welcome(newcomer.device)
