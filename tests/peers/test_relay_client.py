"""The client of relays: URLs, and relays that do not keep to the protocol."""

import contextlib
from collections.abc import AsyncIterator

import pytest

from crdtlog.errors import Malformed
from peers.relay import access, messages
from peers.relay.client import Client, RelayUrl
from peers.relay.messages import (
    Appended,
    Blobs,
    Hello,
    Opened,
)
from peers.relay.refusals import Refused
from tests.peers.relay_world import key, run

ONE = key(1)


# --- URLs ---------------------------------------------------------------------------------------------------------


def test_a_relay_s_url_says_where_it_is_and_whose_certificate_it_has() -> None:
    pin = "ab" * 32

    assert RelayUrl.parse("wss://Relay.Example") == ("wss://relay.example", "relay.example", None)
    assert RelayUrl.parse("wss://relay.example:443/") == ("wss://relay.example", "relay.example", None)
    assert RelayUrl.parse(f"wss://192.168.1.5:4711/x/#sha256={pin}") == (
        "wss://192.168.1.5:4711/x",
        "192.168.1.5:4711",
        bytes.fromhex(pin),
    )
    assert RelayUrl.parse("ws://[::1]:4711").host == "[::1]:4711"
    assert RelayUrl.parse("ws://localhost:4711").host == "localhost:4711"
    assert RelayUrl.parse("ws://relay.example", insecure=True).host == "relay.example"


@pytest.mark.parametrize(
    "text",
    [
        "relay.example",
        "https://relay.example",
        "wss://",
        "wss://user@relay.example",
        "wss://relay.example?x=1",
        "wss://relay.example:70000",
        "wss://relay.example:x",
        "wss://relay.example#sha256=ab",
        "wss://relay.example#sha1=" + "ab" * 32,
        "ws://127.0.0.1#sha256=" + "ab" * 32,
        "ws://relay.example",
        "ws://192.168.1.5:4711",
        "wss://[::1",
    ],
)
def test_what_is_no_url_of_a_relay_is_refused(text: str) -> None:
    from crdtlog.errors import Usage

    with pytest.raises(Usage):
        RelayUrl.parse(text)


def test_a_source_is_an_address_or_a_customer_s_network() -> None:
    from peers.relay.core import source_of

    assert source_of("192.0.2.1") == source_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert source_of("2001:db8::1") == source_of("2001:db8::ffff:0:0:1")
    assert source_of("2001:db8:0:1::1") != source_of("2001:db8::1")
    assert source_of("fe80::1%eth0") == "fe80::"
    assert source_of("") == source_of("nonsense") == "unknown"
    assert access.host_name("fe80::1%eth0", 1) == "[fe80::1]:1"


# --- a relay that does not keep to the protocol -----------------------------------------------------------------


@contextlib.asynccontextmanager
async def pretender(*frames: bytes) -> AsyncIterator[RelayUrl]:
    """A WebSocket server that says all this as soon as a mailbox is opened."""
    from aiohttp import web

    async def serve(request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        for frame in frames[:1]:
            await socket.send_bytes(frame)
        await socket.receive()
        await socket.receive()
        for frame in frames[1:]:
            await socket.send_bytes(frame)
        await socket.receive()
        return socket

    app = web.Application()
    app.router.add_get("/mailbox", serve)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield RelayUrl.parse(f"ws://127.0.0.1:{runner.addresses[0][1]}")
    finally:
        await runner.cleanup()


HELLO = Hello((1, 1), bytes(32), messages.Limits(4 << 20, 9, 1 << 60, 9, 9))


@pytest.mark.parametrize(
    "frames",
    [
        [b"\xc1"],
        [messages.encode(Opened(1, bytes(16), 1, 0))],
        [messages.encode(HELLO), b"nonsense"],
        [messages.encode(HELLO), messages.encode(Appended(1, 1))],
        [messages.encode(HELLO), messages.encode(messages.Met())],
        [messages.encode(HELLO), messages.encode(messages.Said(b"x"))],
    ],
)
def test_a_relay_that_says_what_it_must_not_is_malformed(frames: list[bytes]) -> None:
    async def scenario() -> None:
        async with pretender(*frames) as url:
            with pytest.raises(Malformed):
                client = await Client.connect(url)
                try:
                    await client.open(ONE)
                finally:
                    await client.close()

    run(scenario())


def test_a_relay_of_another_version_is_refused() -> None:
    async def scenario() -> None:
        frame = messages.encode(Hello((2, 3), bytes(32), HELLO.limits))
        async with pretender(frame) as url:
            with pytest.raises(Refused) as refused:
                await Client.connect(url)
            assert (refused.value.code, refused.value.temporary) == ("version", False)

    run(scenario())


def test_a_relay_cannot_fill_a_client_s_memory_with_what_nobody_takes() -> None:
    page = messages.encode(Blobs(None, ONE.mailbox, 1, ((1, bytes(4 << 20)),), False))

    async def scenario() -> None:
        frames = [messages.encode(HELLO), page, page, page, page, page, page, page, page]
        async with pretender(*frames) as url:
            client = await Client.connect(url)
            pages = client.subscribe(ONE.mailbox, 0)
            await anext(pages)
            with pytest.raises(Malformed, match="window"):
                while True:
                    await client.read(ONE.mailbox, 0)
            await client.close()

    run(scenario())
