"""A relay and its clients: what it keeps and gives, and how it is operated."""

import asyncio
import logging
import socket
from pathlib import Path

import pytest

from crdtlog.errors import AddressInUse
from peers.relay import listener
from peers.relay.client import Client, RelayUrl
from peers.relay.messages import (
    Blobs,
    Got,
    Open,
    Opened,
    Read,
    Subscribe,
)
from peers.relay.refusals import Refused
from peers.relay.settings import Settings
from tests.peers.relay_world import Clock, Relay, blob, collect, key, relay, run, until

ONE = key(1)


DAY = 86_400


# --- mailboxes ------------------------------------------------------------------------------------------------


def test_what_one_client_appends_another_reads_later(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here:
            async with here.client() as laptop:
                assert await laptop.open(ONE) == Opened(1, bytes(16), 1, 0)
                assert await laptop.append(ONE.mailbox, blob(1)) == 1
                assert await laptop.append(ONE.mailbox, blob(2, 4096)) == 2
            async with here.client() as phone:
                opened = await phone.open(ONE)
                assert (opened.first, opened.last) == (1, 2) and opened.life != bytes(16)
                page = await phone.read(ONE.mailbox, 0)
                assert page.blobs == ((1, blob(1)), (2, blob(2, 4096))) and page.end
                assert (await phone.read(ONE.mailbox, 2)).blobs == ()

    run(scenario())


def test_a_relay_that_is_started_again_has_what_it_had(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here, here.client() as client:
            await client.open(ONE)
            await client.append(ONE.mailbox, blob(1))
        async with relay(tmp_path) as here, here.client() as client:
            await client.open(ONE)
            assert (await client.read(ONE.mailbox, 0)).blobs == ((1, blob(1)),)

    run(scenario())


def test_a_subscriber_gets_what_is_there_and_what_comes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here, here.client() as laptop, here.client() as phone:
            await laptop.open(ONE)
            await phone.open(ONE)
            await laptop.append(ONE.mailbox, blob(1))
            reading = asyncio.create_task(collect(phone, ONE.mailbox, 3))
            await until(lambda: here.server.core.hub.subscriptions == 1)
            await laptop.append(ONE.mailbox, blob(2))
            await laptop.append(ONE.mailbox, blob(3))
            assert await reading == [(1, blob(1)), (2, blob(2)), (3, blob(3))]

    run(scenario())


def test_the_first_page_of_a_subscription_comes_even_if_it_is_empty(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here, here.client() as client:
            await client.open(ONE)
            async for page in client.subscribe(ONE.mailbox, 0):
                assert page == Blobs(None, ONE.mailbox, 1, (), True)
                break

    run(scenario())


def test_many_subscribers_of_one_mailbox_get_everything_in_order(tmp_path: Path) -> None:
    count, subscribers = 200, 60

    async def scenario() -> None:
        async with relay(tmp_path) as here, here.client() as laptop:
            await laptop.open(ONE)
            clients = [await Client.connect(here.url) for _ in range(subscribers)]
            for client in clients:
                await client.open(ONE)
            reading = [asyncio.create_task(collect(client, ONE.mailbox, count)) for client in clients]
            await asyncio.gather(*(laptop.append(ONE.mailbox, blob(mark)) for mark in range(count)))
            for found in await asyncio.gather(*reading):
                assert found == [(mark + 1, blob(mark)) for mark in range(count)]
            for client in clients:
                await client.close()
            await until(lambda: here.server.core.hub.subscriptions == 0)

    run(scenario())


def test_a_subscriber_that_acknowledges_nothing_is_sent_no_more_than_its_window(tmp_path: Path) -> None:
    settings = Settings(window_bytes=8192)

    async def scenario() -> None:
        async with relay(tmp_path, settings) as here, here.client() as laptop, here.raw() as raw:
            nonce = await raw.greeted()
            await laptop.open(ONE)
            for mark in range(10):
                await laptop.append(ONE.mailbox, blob(mark, 4096))
            await raw.send(Open(1, ONE.mailbox, ONE.sign(nonce, here.url.host)))
            await raw.receive()
            await raw.send(Subscribe(2, ONE.mailbox, 0))
            page = await raw.receive()
            assert isinstance(page, Blobs) and [index for index, _ in page.blobs] == [1, 2]
            await raw.send(Read(3, ONE.mailbox, 9, 1))  # its answer comes next: nothing else was pushed
            answer = await raw.receive()
            assert isinstance(answer, Blobs) and answer.id == 3
            await raw.send(Got(ONE.mailbox, 1))
            page = await raw.receive()
            assert isinstance(page, Blobs) and [index for index, _ in page.blobs] == [3]
            await raw.send(Got(ONE.mailbox, 3))
            page = await raw.receive()
            assert isinstance(page, Blobs) and [index for index, _ in page.blobs] == [4, 5]

    run(scenario())


def test_a_blob_larger_than_the_window_is_pushed_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path, Settings(window_bytes=1024)) as here, here.client() as client:
            await client.open(ONE)
            for mark in range(3):
                await client.append(ONE.mailbox, blob(mark, 8192))
            assert [index for index, _ in await collect(client, ONE.mailbox, 3)] == [1, 2, 3]

    run(scenario())


def test_a_mailbox_can_be_subscribed_anew_from_another_place(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here, here.client() as client:
            await client.open(ONE)
            for mark in range(3):
                await client.append(ONE.mailbox, blob(mark))
            assert [index for index, _ in await collect(client, ONE.mailbox, 1, after=2)] == [3]
            assert [index for index, _ in await collect(client, ONE.mailbox, 3)] == [1, 2, 3]
            assert here.server.core.hub.subscriptions == 1

    run(scenario())


def test_blobs_expire_and_the_client_is_told_where_what_is_kept_begins(tmp_path: Path) -> None:
    clock = Clock()
    settings = Settings(ttl_s=10 * DAY, expire_every_s=0.05)

    async def scenario() -> None:
        async with relay(tmp_path, settings, clock=clock) as here, here.client() as client:
            before = await client.open(ONE)
            await client.append(ONE.mailbox, blob(1))
            clock.now += 9 * DAY
            await client.append(ONE.mailbox, blob(2))
            clock.now += 2 * DAY
            async with asyncio.timeout(30):
                while (page := await client.read(ONE.mailbox, 0)).first == 1:
                    await asyncio.sleep(0.02)
            assert page.blobs == ((2, blob(2)),) and page.first == 2
            opened = await client.open(ONE)
            assert (opened.first, opened.last) == (2, 2) and before.last == 0
            assert await here.metric("expired_blobs_total") == 1

    run(scenario())


# --- operating ------------------------------------------------------------------------------------------------


def test_a_relay_that_stops_answers_appends_and_tells_its_clients(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here:
            client = await Client.connect(here.url)
            await client.open(ONE)
            appends = [asyncio.create_task(client.append(ONE.mailbox, blob(mark))) for mark in range(50)]
            await until(lambda: here.server.core.metrics._counts["appends_total"] > 0)
            stopping = asyncio.create_task(here.server.stop())
            done = await asyncio.gather(*appends, return_exceptions=True)
            with pytest.raises(Refused) as refused:
                while True:
                    await client.read(ONE.mailbox, 0)
            assert (refused.value.code, refused.value.temporary) == ("stopping", True)
            assert refused.value.retry_after_s
            await stopping
            await client.close()
            acknowledged = [index for index in done if isinstance(index, int)]
        async with relay(tmp_path) as here, here.client() as client:
            await client.open(ONE)
            kept = [index for index, _ in (await client.read(ONE.mailbox, 0)).blobs]
            assert acknowledged and set(acknowledged) <= set(kept)

    run(scenario())


@pytest.mark.parametrize(("listen", "dial"), [("::1", "[::1]"), ("::", "[::1]"), ("::", "127.0.0.1")])
def test_ipv6_and_both_at_once(tmp_path: Path, listen: str, dial: str) -> None:
    if not socket.has_ipv6 or not _has_ipv6_loopback():
        pytest.skip("there is no IPv6 here")

    async def scenario() -> None:
        async with relay(tmp_path) as here:
            _, port = here.server.listen(listen, 0, None).address
            client = await Client.connect(RelayUrl.parse(f"ws://{dial}:{port}"))
            await client.open(ONE)
            assert await client.append(ONE.mailbox, blob(1)) == 1
            await client.close()

    run(scenario())


def _has_ipv6_loopback() -> bool:
    with socket.socket(socket.AF_INET6) as probe:
        try:
            probe.bind(("::1", 0))
        except OSError:
            return False
    return True


def test_a_connection_that_asks_for_nothing_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "REQUEST_S", 0.1)

    async def scenario() -> None:
        async with relay(tmp_path, Settings(connections_per_source=2)) as here, here.client() as client:
            silent = await asyncio.open_connection("127.0.0.1", here.port)
            assert await silent[0].read() == b""
            assert here.server.core.connected.total() == 1
            await client.open(ONE)  # a client that is one stays
            silent[1].close()

    run(scenario())


def test_a_taken_address_is_said_to_be_taken(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here:
            with pytest.raises(AddressInUse):
                here.server.listen("127.0.0.1", here.port, None)

    run(scenario())


def test_health_readiness_and_metrics(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here:
            async with here.client() as client:
                await client.open(ONE)
                await client.append(ONE.mailbox, blob(1, 512))
                await client.read(ONE.mailbox, 0)
                assert await here.get("/healthz") == (200, "ok\n")
                assert await here.get("/readyz") == (200, "ok\n")
                for name, value in {
                    "connections": 1,
                    "mailboxes": 1,
                    "blobs": 1,
                    "bytes": 512,
                    "appends_total": 1,
                    "appended_bytes_total": 512,
                    "sent_blobs_total": 1,
                    "append_seconds_count": 1,
                    'append_seconds_bucket{le="+Inf"}': 1,
                    "store_up": 1,
                }.items():
                    assert await here.metric(name) == value, name
                _, text = await here.get("/metrics")
                assert ONE.mailbox.hex() not in text and "127.0.0.1" not in text
            host, port = await here.server.watch_on("127.0.0.1", 0)
            elsewhere = Relay(here.server, here.store, port)
            assert (await elsewhere.get("/metrics"))[0] == 200
            assert (await elsewhere.get("/mailbox"))[0] == 404
            await here.store.close()
            assert (await here.get("/healthz"))[0] == 200
            assert (await here.get("/readyz"))[0] == 503
            assert host == "127.0.0.1"

    run(scenario())


def test_logs_name_neither_mailboxes_nor_tokens_nor_addresses(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    settings = Settings(tokens=frozenset({"correct horse"}))

    async def scenario() -> None:
        async with relay(tmp_path, settings) as here:
            async with here.client("correct horse") as client:
                await client.open(ONE)
                await client.append(ONE.mailbox, blob(1))
                with pytest.raises(Refused):
                    await client.append(ONE.mailbox, b"x")
            with pytest.raises(Refused):
                async with here.client("wrong horse") as client:
                    await client.open(ONE)
            for line in (b"GET /mailbox\r\n\r\n", b"\x16\x03\x01 no HTTP at all\r\n\r\n"):
                reader, writer = await asyncio.open_connection("127.0.0.1", here.port)
                writer.write(line)
                await reader.read(100)
                writer.close()
            await here.store.close()  # a fault of the store is told
            async with here.client("correct horse") as client:
                with pytest.raises(Refused) as refused:
                    await client.open(ONE)
                assert refused.value.code == "store"

    run(scenario())
    said = "\n".join(
        caplog.handler.format(record)
        for record in caplog.records
        if record.name.startswith(("peers", "aiohttp"))
    )
    for secret in (ONE.mailbox.hex(), repr(ONE.mailbox)[2:20], "horse", "127.0.0.1"):
        assert secret not in said
