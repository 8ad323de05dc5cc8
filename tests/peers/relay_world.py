"""Relays of tests: real servers on loopback, and clients for them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import aiohttp

from peers.relay.access import MailboxKey
from peers.relay.client import Client, RelayUrl
from peers.relay.messages import (
    MAX_ANSWER_BYTES,
    Answer,
    ClientHello,
    Hello,
    Open,
    Opened,
    Refusal,
    Request,
    decode_answer,
    encode,
)
from peers.relay.server import Server
from peers.relay.settings import Settings
from peers.relay.sqlite_store import SqliteStore
from peers.relay.store import Store

SECONDS = 30.0
"""Patience: tests share their machine with others."""


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run an asyncio test, to an end."""

    async def within() -> None:
        async with asyncio.timeout(100):
            await work

    asyncio.run(within())


async def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    async with asyncio.timeout(SECONDS):
        while not holds():
            await asyncio.sleep(0.01)


def key(mark: int) -> MailboxKey:
    """The key of a mailbox of a test's."""
    return MailboxKey.of(mark.to_bytes(32, "big"))


def blob(mark: int, size: int = 256) -> bytes:
    """A blob that can be told from others."""
    return mark.to_bytes(8, "big") * (size // 8)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self, now: float = 1_800_000_000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


class Relay:
    """A running relay."""

    def __init__(self, server: Server, store: Store, port: int) -> None:
        self.server = server
        self.store = store
        self.port = port
        self.url = RelayUrl.parse(f"ws://127.0.0.1:{port}")
        self.http = f"http://127.0.0.1:{port}"

    @contextlib.asynccontextmanager
    async def client(self, token: str | None = None) -> AsyncIterator[Client]:
        """A connection of a proper client."""
        client = await Client.connect(self.url, token)
        try:
            yield client
        finally:
            await client.close()

    @contextlib.asynccontextmanager
    async def raw(self, path: str = "/mailbox", **headers: str) -> AsyncIterator["Raw"]:
        """A connection on which a test says what it likes."""
        async with (
            aiohttp.ClientSession() as session,
            session.ws_connect(self.http + path, headers=headers, max_msg_size=MAX_ANSWER_BYTES) as socket,
        ):
            yield Raw(socket)

    async def get(self, path: str, **headers: str) -> tuple[int, str]:
        """Status and text of a page."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.http + path, headers=headers) as answer,
        ):
            return answer.status, await answer.text()

    async def metric(self, name: str) -> float:
        """One number of `/metrics`."""
        _, text = await self.get("/metrics")
        (line,) = (line for line in text.splitlines() if line.startswith(f"crdtlog_relay_{name} "))
        return float(line.rpartition(" ")[2])


class Raw:
    """A WebSocket without a client's manners."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.socket = socket

    async def send(self, message: Request | bytes) -> None:
        """Send a message, or any bytes."""
        await self.socket.send_bytes(message if isinstance(message, bytes) else encode(message))

    async def receive(self) -> Answer | None:
        """The next message, None at the end."""
        message = await self.socket.receive(SECONDS)
        return decode_answer(message.data) if message.type is aiohttp.WSMsgType.BINARY else None

    async def greeted(self, token: str | None = None) -> bytes:
        """Exchange hellos: the nonce."""
        hello = await self.receive()
        assert isinstance(hello, Hello)
        await self.send(ClientHello(1, token))
        return hello.nonce


@contextlib.asynccontextmanager
async def relay(
    directory: Path,
    settings: Settings | None = None,
    *,
    store: Store | None = None,
    clock: Callable[[], float] | None = None,
    port: int = 0,
) -> AsyncIterator[Relay]:
    """A relay on loopback, without TLS."""
    used = store or SqliteStore(directory / "relay.db", (settings or Settings()).quota)
    server = Server(used, settings or Settings(), clock=clock)
    await server.start()
    try:
        listener = server.listen("127.0.0.1", port, None)
        yield Relay(server, used, listener.address[1])
    finally:
        await server.stop()


async def collect(client: Client, mailbox: bytes, count: int, after: int = 0) -> list[tuple[int, bytes]]:
    """The next blobs of a subscription, until there are so many."""
    found: list[tuple[int, bytes]] = []
    async for page in client.subscribe(mailbox, after):
        found.extend(page.blobs)
        if len(found) >= count:
            break
    return found


async def opening(raw: Raw, signature: bytes, mailbox: bytes | None = None) -> Opened | Refusal:
    """What a relay answers to a signature; the mailbox of `key(1)` if nothing else is said."""
    await raw.send(Open(1, mailbox or key(1).mailbox, signature))
    answer = await raw.receive()
    assert isinstance(answer, (Opened, Refusal))
    return answer
