"""Pairing through a relay: the frames of a pairing over a rendezvous channel, from either side.

Knows channels, and how a frame is cut to what a channel passes on. Must not know what frames mean. The one idea: to the
machines of pairing a channel is a connection like any other, but without TLS of the issuer's: they do not need it, and
the relay is as much of a stranger to them as any network.

    name of a channel   the first 16 bytes of SHA-256("crdtlog rendezvous 1" ‖ nameplate as decimal digits)
    each message        0x00 (more of the frame follows) or 0x01 (its end) ‖ up to 65,535 bytes
"""

import asyncio
import contextlib
import hashlib
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from crdtlog.errors import CrdtlogError, Malformed, NoPeer, TooLarge
from peers.node.relay_address import RelayAddress
from peers.pairing.frames import MAX_FRAME_BYTES
from peers.relay.client import Meeting
from peers.relay.messages import CHANNEL_BYTES, MAX_SAID_BYTES, Left, Met, Said
from peers.relay.refusals import Code, Refused

_DOMAIN = b"crdtlog rendezvous 1"
_MORE, _END = b"\0", b"\1"
_ROOM = MAX_SAID_BYTES - 1
SETTLING_S = 1.5
"""A relay that refuses the channel does so within this time; then the code is shown."""
LEAVING_S = 3.0
"""Whoever is done and does not leave the channel within this time loses it."""
RETRY_S = 5.0
FIND_TRIES = 4
FIND_PAUSE_S = 2.0


def channel_of(nameplate: int) -> bytes:
    """The name of the channel (16 bytes) where devices with this nameplate meet."""
    return hashlib.sha256(_DOMAIN + str(nameplate).encode()).digest()[:CHANNEL_BYTES]


class MeetingWire:
    """One visit in a channel, as a connection for pairing. `address` is the relay's URL."""

    certificate: None = None

    def __init__(
        self, meeting: Meeting, address: RelayAddress, next_said: Callable[[], Awaitable[bytes | None]]
    ) -> None:
        self.address = address.shown
        self._meeting = meeting
        self._next_said = next_said

    async def send(self, frame: bytes) -> None:
        """Send a frame. Raises `NoPeer` when the relay is gone."""
        for start in range(0, max(len(frame), 1), _ROOM):
            mark = _END if start + _ROOM >= len(frame) else _MORE
            await self._meeting.say(mark + frame[start : start + _ROOM])

    async def receive(self) -> bytes | None:
        """The next frame; None when the other side or the relay is gone. Raises `TooLarge`, `Malformed`."""
        frame = b""
        while (said := await self._next_said()) is not None:
            if said[:1] not in (_MORE, _END):
                raise Malformed("a message of another form came through the relay")
            frame += said[1:]
            if len(frame) > MAX_FRAME_BYTES:
                raise TooLarge("it sent a message that is too large")
            if said[:1] == _END:
                return frame
        return None

    async def close(self) -> None:
        """Leave the channel."""
        await self._meeting.close()


Visit = Callable[[MeetingWire], Awaitable[None]]
"""Serves one device that has come into the channel, until it is done or the device has left."""


class Host:
    """Keeps a nameplate's channel open at one relay, from `start` to `close`: the side that shows the code.

    `say` is told once if that does not work.
    """

    def __init__(
        self, address: RelayAddress, nameplate: int, visit: Visit, say: Callable[[str], None]
    ) -> None:
        self._address = address
        self._channel = channel_of(nameplate)
        self._visit = visit
        self._say = say
        self._told: str | None = None
        self._entered = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Open the channel; returns when it is open, or does not open at once."""
        self._task = asyncio.create_task(self._keep(), name=f"meeting at {self._address.url.host}")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SETTLING_S):
                await self._entered.wait()

    async def close(self) -> None:
        """Close the channel."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _keep(self) -> None:
        while True:
            pause = 0.0
            try:
                url, token = self._address.url, self._address.token
                meeting = await Meeting.enter(url, self._channel, first=True, token=token)
                try:
                    await self._serve(meeting)
                finally:
                    await meeting.close()
            except CrdtlogError as error:
                self._tell(error)
                pause = RETRY_S
                if isinstance(error, Refused):
                    pause = max(pause, min(float(error.retry_after_s or 0), 60.0))
            await asyncio.sleep(pause)

    async def _serve(self, meeting: Meeting) -> None:
        """Serve whoever comes, one after the other; returns when one stays who is done, and keeps others out."""
        visit: asyncio.Future[None] | None = None
        said: asyncio.Queue[bytes | None] = asyncio.Queue()
        settling = asyncio.get_running_loop().call_later(SETTLING_S / 3, self._entered.set)
        coming = asyncio.ensure_future(meeting.receive())
        try:
            while True:
                if visit is not None and visit.done():
                    await asyncio.wait((coming,), timeout=LEAVING_S)
                    if not coming.done():
                        return
                    visit = None
                else:
                    waiting: list[asyncio.Future[Any]] = [coming, *([visit] if visit is not None else [])]
                    await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                    if not coming.done():
                        continue
                match coming.result():
                    case Met():
                        await _over(visit)
                        said = asyncio.Queue()
                        visit = asyncio.ensure_future(
                            self._visit(MeetingWire(meeting, self._address, said.get))
                        )
                    case Said(data):
                        said.put_nowait(data)
                    case Left():
                        said.put_nowait(None)
                coming = asyncio.ensure_future(meeting.receive())
        finally:
            settling.cancel()
            coming.cancel()
            await asyncio.gather(coming, return_exceptions=True)
            await _over(visit)

    def _tell(self, error: CrdtlogError) -> None:
        text = str(error).rstrip(".")
        if text != self._told:
            self._told = text
            self._say(
                f"the code cannot be used through relay {self._address.shown} for now: {text}; trying again"
            )


async def find(address: RelayAddress, nameplate: int) -> MeetingWire:
    """Meet whoever has the code of that nameplate open at a relay.

    Raises `NoPeer` (nobody waits there, or the relay cannot be reached), `Refused`, `Malformed`, `PeerRefused`.
    """
    for left in reversed(range(FIND_TRIES)):
        meeting = await Meeting.enter(address.url, channel_of(nameplate), first=False, token=address.token)
        try:
            if not isinstance(await meeting.receive(), Met):
                raise Malformed("the relay said what does not belong here")
        except Refused as error:
            await meeting.close()
            if error.code not in (Code.NO_CHANNEL, Code.CHANNEL_TAKEN):
                raise
            if not left:
                raise NoPeer(f"nobody has this code open at {address.shown}") from error
            await asyncio.sleep(FIND_PAUSE_S)
        except BaseException:
            await meeting.close()
            raise
        else:
            return MeetingWire(meeting, address, partial(_said, meeting))
    raise AssertionError("the last try returns or raises")


async def _said(meeting: Meeting) -> bytes | None:
    """The next message of the side that made the channel; None when it, or the relay, is gone."""
    try:
        answer = await meeting.receive()
    except (NoPeer, Refused):
        return None
    return answer.data if isinstance(answer, Said) else None


async def _over(visit: "asyncio.Future[None] | None") -> None:
    if visit is not None:
        visit.cancel()
        await asyncio.gather(visit, return_exceptions=True)
