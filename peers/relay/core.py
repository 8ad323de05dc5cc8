"""What all connections of a relay share: its store, its limits and how much of them was used.

Knows settings, rates, and who is connected from where. Must not know HTTP.
"""

import asyncio
import hmac
import ipaddress
import logging
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from crdtlog.errors import Malformed, Usage
from peers.relay import messages
from peers.relay.access import host_name, split_host
from peers.relay.hub import Hub
from peers.relay.messages import VERSION, ClientHello, Hello, Limits, Refusal, decode_request, encode
from peers.relay.metrics import Metrics
from peers.relay.refusals import Code, Refused, refused, stopping
from peers.relay.settings import Pace, Rate, Settings
from peers.relay.store import Store

logger = logging.getLogger(__name__)


class Socket(Protocol):
    """One WebSocket connection, as what is above sees it."""

    async def send(self, frame: bytes) -> None:
        """Send a frame; waits while the connection is full. Raises `NoPeer` when it is gone."""

    async def receive(self) -> bytes | None:
        """The next frame, None when the other side is gone. Raises `Malformed`, `TooLarge`."""


class Core:
    """The shared state of one relay. `clock` gives Unix seconds."""

    def __init__(self, store: Store, settings: Settings, *, clock: Callable[[], float] = time.time) -> None:
        self.store = store
        self.settings = settings
        self.metrics = Metrics()
        self.hub = Hub(store)
        self._clock = clock
        self.mailbox_pace = Pace(settings.appends_per_mailbox)
        self.new_mailboxes = Pace(settings.new_mailboxes_per_source)
        self.new_channels = Pace(settings.channels_per_source)
        self.connected: Counter[str] = Counter()
        self.is_stopping = False

    def now(self) -> int:
        """Unix seconds, for what is kept."""
        return int(self._clock())

    def limits(self) -> Limits:
        """What clients are told."""
        of = self.settings
        return Limits(of.largest_blob, of.mailboxes, of.window_bytes, of.requests, of.ttl_s)

    def check_token(self, given: str | None) -> None:
        """Raises `Refused` if the operator asks for a token and this is none."""
        tokens = self.settings.tokens
        if not tokens:
            return
        shown = (given or "").encode()
        if not any([hmac.compare_digest(shown, token.encode()) for token in tokens]):  # all are compared
            reason = (
                "this relay asks for a token; its operator has it"
                if given is None
                else "the token is not one of this relay"
            )
            raise refused(Code.TOKEN, reason, temporary=False)

    def take_place(self, source: str) -> Refused | None:
        """Count a connection from a source, or tell why it cannot be accepted."""
        if self.is_stopping:
            return stopping()
        of = self.settings
        if self.connected.total() >= of.connections or self.connected[source] >= of.connections_per_source:
            return refused(Code.CONNECTIONS, "too many connections", temporary=True, retry_after_s=60)
        self.connected[source] += 1
        return None

    def leave_place(self, source: str) -> None:
        """A counted connection is gone."""
        self.connected[source] -= 1
        if self.connected[source] <= 0:
            del self.connected[source]

    def refusal(self, error: Refused, of: int | None = None) -> bytes:
        """The frame that tells a refusal, which is counted."""
        self.metrics.refused(error.code)
        return encode(Refusal(of, error.code, str(error), error.temporary, error.retry_after_s))

    async def greet(self, socket: Socket, nonce: bytes) -> None:
        """Say hello and hear the other side's. Raises `Refused`, `Malformed`, EOFError."""
        await socket.send(encode(Hello((VERSION, VERSION), nonce, self.limits())))
        hello = await self.next_request(socket, within_s=self.settings.hello_s)
        if not isinstance(hello, ClientHello):
            raise Malformed("the first message must be hello")
        if hello.version != VERSION:
            raise refused(Code.VERSION, f"this relay speaks version {VERSION}", temporary=False)
        self.check_token(hello.token)

    async def next_request(self, socket: Socket, *, within_s: float | None = None) -> messages.Request:
        """The next message. Raises `Malformed`, `TooLarge`, EOFError when the other side is gone or silent too long."""
        try:
            async with asyncio.timeout(within_s):
                frame = await socket.receive()
        except TimeoutError:
            raise EOFError from None
        if frame is None:
            raise EOFError
        return decode_request(frame)


class Pacer:
    """The pace of one connection: one key, no table."""

    def __init__(self, rate: Rate) -> None:
        self._pace = Pace(rate)

    def take(self, cost: int = 1) -> float:
        """Take so many: 0, or after how many seconds there will be as many."""
        return self._pace.take(None, time.monotonic(), cost)


def wait_of(pace: Pace, key: str | bytes, cost: int = 1) -> float:
    """Take so many of a key's: 0, or after how many seconds there will be as many."""
    return pace.take(key, time.monotonic(), cost)


def source_of(address: str) -> str:
    """What counts as one source: an IPv4 address, or the /64 network that one IPv6 customer has at least."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return "unknown"
    if parsed.version == 4:
        return str(parsed)
    mapped = parsed.ipv4_mapped
    return str(mapped) if mapped else str(ipaddress.ip_network((parsed, 64), strict=False).network_address)


class Hosts:
    """By which names clients may dial a relay.

    A signature names the host that the client meant. Were any name accepted, another relay could pass our nonce on to
    its own client, and the client's answer back to us with its own name. So the names are the operator's; where none is
    given, only the address at which the connection arrived counts, or a loopback name on loopback.
    """

    def __init__(self, names: tuple[str, ...]) -> None:
        """Names as `HOST` (with the scheme's port, or the one that we listen on) or `HOST:PORT`. Raises `Usage`."""
        self._names = tuple(split_host(name) for name in names)
        for name, port in self._names:
            host_name(name, port)

    def accepted(self, header: str | None, scheme: str, own: tuple[str, int] | None) -> str | None:
        """The name in a `Host` header, as it is signed, if it is ours. `own` is where the connection arrived."""
        try:
            name, port = split_host(header or "")
            host = host_name(name, port, scheme)
        except Usage:
            return None
        return host if host in self._ours(scheme, own) else None

    def _ours(self, scheme: str, own: tuple[str, int] | None) -> set[str]:
        if self._names:
            found = {host_name(name, port, scheme) for name, port in self._names}
            if own is not None:
                found |= {host_name(name, own[1], scheme) for name, port in self._names if port is None}
            return found
        if own is None:
            return set()
        arrived = ipaddress.ip_address(own[0].partition("%")[0])
        if arrived.version == 6 and arrived.ipv4_mapped:
            arrived = arrived.ipv4_mapped
        names = [str(arrived), *(["localhost"] if arrived.is_loopback else [])]
        return {host_name(name, own[1], scheme) for name in names}
