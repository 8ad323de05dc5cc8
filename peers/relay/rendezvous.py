"""Rendezvous: two devices that share a code and nothing else pass messages through a channel, for some minutes.

Knows channels and their two sides. Must not know pairing: what is said is bytes. The one idea: the first side makes the
channel and it lives as long as that side stays; the second may go and another may come. Nothing of it is ever stored.
"""

import asyncio
import contextlib
import secrets
from dataclasses import dataclass

from crdtlog.errors import CrdtlogError, Malformed, NoPeer
from peers.relay.core import Core, Socket, wait_of
from peers.relay.messages import NONCE_BYTES, Left, Meet, Met, Said, Say, encode, seconds
from peers.relay.refusals import Code, Refused, refused, stopping

MISSING_RETRY_S = 5


@dataclass(eq=False, slots=True)
class _Side:
    socket: Socket
    task: "asyncio.Task[None]"
    ending: Refused | None = None

    def end(self, error: Refused) -> None:
        if self.ending is None:
            self.ending = error
            self.task.cancel()

    async def send(self, frame: bytes) -> None:
        with contextlib.suppress(NoPeer):
            await self.socket.send(frame)


@dataclass(eq=False, slots=True)
class _Channel:
    first: _Side
    expiry: asyncio.TimerHandle
    second: _Side | None = None
    messages: int = 0

    def other(self, side: _Side) -> _Side | None:
        return self.second if side is self.first else self.first

    def end(self, error: Refused) -> None:
        for side in (self.first, self.second):
            if side is not None:
                side.end(error)


class Rendezvous:
    """All channels of one relay, by name."""

    def __init__(self, core: Core) -> None:
        self._core = core
        self._channels: dict[bytes, _Channel] = {}

    def __len__(self) -> int:
        return len(self._channels)

    def stop(self) -> None:
        """The relay ends."""
        for channel in tuple(self._channels.values()):
            channel.end(stopping())

    async def serve(self, socket: Socket, name: bytes, source: str) -> None:
        """Serve one side of a channel to its end."""
        task = asyncio.current_task()
        assert task is not None
        side = _Side(socket, task)
        try:
            await self._core.greet(socket, secrets.token_bytes(NONCE_BYTES))
            meet = await self._core.next_request(socket, within_s=self._core.settings.hello_s)
            if not isinstance(meet, Meet):
                raise Malformed("this message does not belong here")
            channel = self._make(name, side, source) if meet.first else self._enter(name, side, source)
            try:
                await self._forward(channel, side)
            finally:
                await self._leave(name, channel, side)
        except (EOFError, NoPeer):
            pass
        except asyncio.CancelledError:
            if side.ending is None:
                raise
            task.uncancel()
            await side.send(self._core.refusal(side.ending))
        except Refused as error:
            await side.send(self._core.refusal(error))
        except CrdtlogError as error:
            await side.send(self._core.refusal(refused(Code.MALFORMED, str(error), temporary=False)))

    def _make(self, name: bytes, side: _Side, source: str) -> _Channel:
        self._check_pace(source)
        before = self._channels.get(name)
        if before is not None:
            wait = before.expiry.when() - asyncio.get_running_loop().time()
            raise refused(
                Code.CHANNEL_TAKEN,
                "somebody else uses this channel",
                temporary=True,
                retry_after_s=seconds(wait),
            )
        if len(self._channels) >= self._core.settings.channels:
            raise refused(Code.CHANNELS, "too many channels are open", temporary=True, retry_after_s=60)
        loop = asyncio.get_running_loop()
        expiry = loop.call_later(self._core.settings.channel_s, self._expire, name)
        channel = self._channels[name] = _Channel(side, expiry)
        return channel

    def _enter(self, name: bytes, side: _Side, source: str) -> _Channel:
        self._check_pace(source)
        channel = self._channels.get(name)
        if channel is None:
            raise _nobody("nobody waits in this channel")
        if channel.second is not None:
            raise refused(
                Code.CHANNEL_TAKEN,
                "two sides use this channel already",
                temporary=True,
                retry_after_s=MISSING_RETRY_S,
            )
        channel.second = side
        return channel

    def _check_pace(self, source: str) -> None:
        if wait := wait_of(self._core.new_channels, source):
            raise refused(
                Code.CHANNELS, "too many channels were asked for", temporary=True, retry_after_s=seconds(wait)
            )

    def _expire(self, name: bytes) -> None:
        self._channels[name].end(refused(Code.CHANNEL_EXPIRED, "the channel's time is over", temporary=False))

    async def _forward(self, channel: _Channel, side: _Side) -> None:
        if side is channel.second:
            for each in (channel.first, side):
                await each.send(encode(Met()))
        while True:
            request = await self._core.next_request(side.socket)
            if not isinstance(request, Say):
                raise Malformed("this message does not belong here")
            channel.messages += 1
            if channel.messages > self._core.settings.channel_messages:
                spent = refused(Code.CHANNEL_SPENT, "the channel has passed on enough", temporary=False)
                channel.end(spent)
                continue
            other = channel.other(side)
            if other is not None:  # who has just left hears nothing more
                await other.send(encode(Said(request.data)))

    async def _leave(self, name: bytes, channel: _Channel, side: _Side) -> None:
        other = channel.other(side)
        if side is channel.first:
            channel.expiry.cancel()
            del self._channels[name]
            if other is not None:
                other.end(_nobody("the side that made the channel has left"))
        else:
            channel.second = None
        if other is not None and other.ending is None:
            await other.send(encode(Left()))


def _nobody(reason: str) -> Refused:
    return refused(Code.NO_CHANNEL, reason, temporary=True, retry_after_s=MISSING_RETRY_S)
