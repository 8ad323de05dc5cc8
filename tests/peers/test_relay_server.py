"""A relay and its clients: what it keeps, whom it lets in, what it refuses, and that it says so."""

import asyncio
import contextlib
import logging
from pathlib import Path

import pytest

from crdtlog.errors import NoPeer
from peers.relay import access, messages
from peers.relay.client import Client, RelayUrl
from peers.relay.messages import (
    Append,
    Appended,
    Blobs,
    ClientHello,
    Got,
    Hello,
    Meet,
    Open,
    Opened,
    Read,
    Refusal,
    Say,
    Subscribe,
)
from peers.relay.refusals import Refused
from peers.relay.settings import Pace, Rate, Settings
from peers.relay.store import Quota
from tests.peers.relay_world import Clock, Raw, Relay, blob, key, relay, run, until

ONE = key(1)
DAY = 86_400


async def collect(client: Client, mailbox: bytes, count: int, after: int = 0) -> list[tuple[int, bytes]]:
    """The next blobs of a subscription, until there are so many."""
    found: list[tuple[int, bytes]] = []
    pages = client.subscribe(mailbox, after)
    async for page in pages:
        found.extend(page.blobs)
        if len(found) >= count:
            break
    return found


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


# --- who may open a mailbox -----------------------------------------------------------------------------------


async def opening(raw: Raw, signature: bytes, mailbox: bytes = ONE.mailbox) -> Opened | Refusal:
    await raw.send(Open(1, mailbox, signature))
    answer = await raw.receive()
    assert isinstance(answer, (Opened, Refusal))
    return answer


def test_only_a_signature_of_this_connection_s_nonce_opens_a_mailbox(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here, here.raw() as raw, here.raw() as other:
            nonce, others = await raw.greeted(), await other.greeted()
            host = here.url.host
            assert nonce != others
            for wrong in (
                bytes(64),
                key(2).sign(nonce, host),
                ONE.sign(others, host),
                ONE.sign(nonce, "relay.example"),
                ONE.sign(nonce, "127.0.0.1"),
            ):
                refusal = await opening(raw, wrong)
                assert isinstance(refusal, Refusal)
                assert (refusal.code, refusal.temporary, refusal.id) == ("signature", False, 1)
            assert isinstance(await opening(raw, ONE.sign(nonce, host)), Opened)
            # A signature that was seen on one connection is worth nothing on another.
            assert isinstance(await opening(other, ONE.sign(nonce, host)), Refusal)

    run(scenario())


def test_a_connection_that_signs_wrongly_again_and_again_is_closed(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here, here.raw() as raw:
            await raw.greeted()
            for _ in range(9):
                assert isinstance(await opening(raw, bytes(64)), Refusal)
            assert await raw.receive() is None

    run(scenario())


def test_a_relay_in_between_cannot_use_what_its_client_signed(tmp_path: Path) -> None:
    """It passes the true relay's nonce on, and the answer back: with its own name, or with the true one's."""

    async def scenario() -> None:
        async with relay(tmp_path, Settings(hosts=("relay.example",))) as here:
            with pytest.raises(Exception, match="421"):
                async with here.raw(Host="evil.example"):
                    pass
            with pytest.raises(Refused) as refused:
                await Client.connect(here.url)
            assert refused.value.code == "host" and not refused.value.temporary
            async with here.raw(Host="relay.example:80") as raw:  # the default port is not part of the name
                nonce = await raw.greeted()
                signed_for_evil = ONE.sign(nonce, "evil.example")
                assert isinstance(await opening(raw, signed_for_evil), Refusal)
                assert isinstance(await opening(raw, ONE.sign(nonce, "relay.example")), Opened)

    run(scenario())


def test_without_names_only_the_address_counts_at_which_the_connection_arrived(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here:
            for host in (f"127.0.0.1:{here.port}", f"LOCALHOST:{here.port}"):
                async with here.raw(Host=host) as raw:
                    await raw.greeted()
            for host in ("127.0.0.1", f"evil.example:{here.port}", "127.0.0.2", "", "a b"):
                with pytest.raises(Exception, match=r"421|400"):
                    async with here.raw(Host=host):
                        pass
            status, text = await here.get("/mailbox", Host="evil.example")
            assert status == 421 and "--host" in text

    run(scenario())


def test_a_mailbox_that_is_not_open_can_neither_be_read_nor_appended_to(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here, here.client() as owner, here.client() as other:
            await owner.open(ONE)
            await owner.append(ONE.mailbox, blob(1))
            await other.open(key(2))
            for work in (
                other.append(ONE.mailbox, blob(2)),
                other.read(ONE.mailbox, 0),
                anext(aiter(other.subscribe(ONE.mailbox, 0))),
            ):
                with pytest.raises(Refused) as refused:
                    await work
                assert refused.value.code == "not-open" and not refused.value.temporary
            assert (await owner.open(ONE)).last == 1

    run(scenario())


def test_an_operator_s_token_is_asked_for(tmp_path: Path) -> None:
    settings = Settings(tokens=frozenset({"correct horse", "battery staple"}))

    async def scenario() -> None:
        async with relay(tmp_path, settings) as here:
            for token in ("correct horse", "battery staple"):
                async with here.client(token) as client:
                    await client.open(ONE)
            for wrong in (None, "", "correct", "Correct horse", "ü"):
                with pytest.raises(Refused, match="token") as refused:
                    async with here.client(wrong) as client:
                        await client.open(ONE)
                assert refused.value.code == "token" and not refused.value.temporary

    run(scenario())


# --- limits -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 1, 255, 257, 300, 16384, 4 << 20])
def test_a_blob_must_have_one_of_the_sizes(tmp_path: Path, size: int) -> None:
    async def scenario() -> None:
        async with relay(tmp_path, Settings(largest_blob=8192)) as here, here.client() as client:
            assert client.limits.largest_blob == 8192
            await client.open(ONE)
            with pytest.raises(Refused) as refused:
                await client.append(ONE.mailbox, bytes(size))
            assert refused.value.code == "blob-size" and not refused.value.temporary
            assert await client.append(ONE.mailbox, bytes(8192)) == 1

    run(scenario())


def test_the_largest_blob_goes_through(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here, here.client() as client:
            await client.open(ONE)
            await client.append(ONE.mailbox, bytes(4 << 20))
            assert (await client.read(ONE.mailbox, 0)).blobs == ((1, bytes(4 << 20)),)
            assert await collect(client, ONE.mailbox, 1) == [(1, bytes(4 << 20))]

    run(scenario())


def test_a_full_mailbox_is_said_to_be_full_for_now(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path, Settings(quota=Quota(mailbox_bytes=600))) as here, here.client() as client:
            await client.open(ONE)
            await client.append(ONE.mailbox, blob(1))
            await client.append(ONE.mailbox, blob(2))
            with pytest.raises(Refused) as refused:
                await client.append(ONE.mailbox, blob(3))
            error = refused.value
            assert (error.code, error.temporary) == ("mailbox-full", True) and error.retry_after_s
            assert await here.metric('refusals_total{code="mailbox-full"}') == 1

    run(scenario())


@pytest.mark.parametrize("which", ["appends_per_connection", "appends_per_mailbox"])
def test_too_many_appends_are_refused_for_some_seconds(tmp_path: Path, which: str) -> None:
    settings = Settings()._replace(**{which: Rate(5, 500.0)})

    async def scenario() -> None:
        async with relay(tmp_path, settings) as here, here.client() as client:
            await client.open(ONE)
            for mark in range(5):
                await client.append(ONE.mailbox, blob(mark))
            with pytest.raises(Refused) as refused:
                await client.append(ONE.mailbox, blob(9))
            error = refused.value
            assert (error.code, error.temporary) == ("rate", True)
            assert error.retry_after_s is not None and 1 <= error.retry_after_s <= 100
            async with here.client() as second:
                await second.open(ONE)
                if which == "appends_per_mailbox":
                    with pytest.raises(Refused):
                        await second.append(ONE.mailbox, blob(9))
                else:
                    await second.append(ONE.mailbox, blob(9))

    run(scenario())


def test_one_address_may_begin_so_many_mailboxes_and_use_those_that_are(tmp_path: Path) -> None:
    settings = Settings(new_mailboxes_per_source=Rate(3, 3600.0))

    async def scenario() -> None:
        async with relay(tmp_path, settings) as here:
            async with here.client() as client:
                for mark in range(5):
                    await client.open(key(mark))  # opening begins none
                await asyncio.gather(*(client.append(key(0).mailbox, blob(mark)) for mark in range(9)))
                await client.append(key(1).mailbox, blob(1))
                await client.append(key(2).mailbox, blob(1))
                with pytest.raises(Refused) as refused:
                    await client.append(key(3).mailbox, blob(1))
                assert (refused.value.code, refused.value.temporary) == ("new-mailboxes", True)
                assert await client.append(key(2).mailbox, blob(2)) == 2
            async with here.client() as client:
                await client.open(key(1))
                assert await client.append(key(1).mailbox, blob(2)) == 2
                await client.open(key(4))
                with pytest.raises(Refused):
                    await client.append(key(4).mailbox, blob(1))

    run(scenario())


def test_a_mailbox_that_could_not_begin_is_not_counted(tmp_path: Path) -> None:
    settings = Settings(new_mailboxes_per_source=Rate(1, 3600.0), quota=Quota(mailbox_bytes=300))

    async def scenario() -> None:
        async with relay(tmp_path, settings) as here, here.client() as client:
            await client.open(ONE)
            for _ in range(3):
                with pytest.raises(Refused) as refused:
                    await client.append(ONE.mailbox, blob(1, 512))
                assert refused.value.code == "mailbox-full"
            assert await client.append(ONE.mailbox, blob(1)) == 1

    run(scenario())


def test_a_connection_opens_so_many_mailboxes(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path, Settings(mailboxes=2)) as here, here.client() as client:
            for mark in (1, 2, 1):
                await client.open(key(mark))
            with pytest.raises(Refused) as refused:
                await client.open(key(3))
            assert refused.value.code == "mailboxes" and not refused.value.temporary

    run(scenario())


def test_one_address_has_so_many_connections_and_may_come_back(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path, Settings(connections_per_source=3)) as here:
            async with here.client(), here.client():
                async with here.client():
                    with pytest.raises(NoPeer):  # hung up before anything is said
                        await Client.connect(here.url)
                await until(lambda: here.server.core.connected.total() == 2)
                async with here.client() as client:
                    await client.open(ONE)
            await until(lambda: here.server.core.connected.total() == 0)

    run(scenario())


def test_behind_a_proxy_the_address_is_the_one_it_adds(tmp_path: Path) -> None:
    settings = Settings(hosts=("relay.example",), behind_proxy=True, connections_per_source=1)

    async def scenario() -> None:
        async with relay(tmp_path, settings) as here:
            ada, bob = "6.6.6.6, 192.0.2.1", "192.0.2.1, 2001:db8::1"
            same = "2001:db8::2"
            async with (
                here.raw(Host="relay.example", **{"X-Forwarded-For": ada}),
                here.raw(Host="relay.example", **{"X-Forwarded-For": bob}),
            ):
                for again in (ada, same):
                    with pytest.raises(Exception, match="503"):
                        async with here.raw(Host="relay.example", **{"X-Forwarded-For": again}):
                            pass
            assert (await here.get("/metrics", **{"X-Forwarded-For": "192.0.2.9"}))[0] == 403

    run(scenario())


def test_who_says_nothing_is_hung_up_on(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path, Settings(hello_s=0.1)) as here:
            async with here.raw() as raw:
                assert isinstance(await raw.receive(), Hello)
                assert await raw.receive() is None
            await until(lambda: here.server.core.connected.total() == 0)

    run(scenario())


def test_requests_beyond_the_pace_wait(tmp_path: Path) -> None:
    async def scenario() -> None:
        settings = Settings(requests_per_connection=Rate(4, 0.4))
        async with relay(tmp_path, settings) as here, here.client() as client:
            await client.open(ONE)
            answers = await asyncio.gather(*(client.read(ONE.mailbox, 0) for _ in range(12)))
            assert len(answers) == 12

    run(scenario())


def test_a_pace_counts_for_each_key_and_forgets_those_at_rest() -> None:
    pace = Pace(Rate(10, 100.0))

    assert [pace.take("a", 1000.0) for _ in range(10)] == [0.0] * 10
    assert pace.take("a", 1000.0) == pytest.approx(10.0)
    assert pace.take("b", 1000.0) == 0.0
    assert pace.take("a", 1009.9) > 0.0
    assert pace.take("a", 1010.0) == 0.0
    pace.give_back("a")
    assert pace.take("a", 1010.0) == 0.0
    for number in range(5_000):
        pace.take(number, 2000.0 + 20.0 * number)
    assert len(pace) <= 1_001


# --- hostile frames -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        b"\x91" * 5000,
        messages.encode(Appended(1, 1)),
        messages.encode(ClientHello(1, None)),
        messages.encode(Meet(True)),
        messages.encode(Say(b"")),
        bytes(messages.MAX_REQUEST_BYTES),
    ],
    ids=["empty", "reserved", "deep", "an answer", "hello again", "meet", "say", "large"],
)
def test_what_is_no_request_ends_the_connection_and_says_why(tmp_path: Path, frame: bytes) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here:
            async with here.raw() as raw:
                await raw.greeted()
                await raw.send(frame)
                answer = await raw.receive()
                assert isinstance(answer, Refusal)
                assert (answer.id, answer.code, answer.temporary) == (None, "malformed", False)
                assert await raw.receive() is None
            async with here.client() as client:
                await client.open(ONE)

    run(scenario())


def test_text_too_large_messages_and_requests_before_hello_end_the_connection(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here:
            async with here.raw() as raw:
                await raw.greeted()
                await raw.socket.send_str("hello")
                answer = await raw.receive()
                assert isinstance(answer, Refusal) and answer.code == "malformed"
            async with here.raw() as raw:
                await raw.greeted()
                with contextlib.suppress(OSError):  # hung up on before all is said
                    await raw.send(bytes(messages.MAX_REQUEST_BYTES + 1))
                answer = await raw.receive()
                assert answer is None or (isinstance(answer, Refusal) and answer.code == "malformed")
                assert await raw.receive() is None
            async with here.raw() as raw:
                await raw.receive()
                await raw.send(Read(1, ONE.mailbox, 0, 1))
                answer = await raw.receive()
                assert isinstance(answer, Refusal) and answer.code == "malformed"
            async with here.raw() as raw:
                await raw.receive()
                await raw.send(ClientHello(2, None))
                answer = await raw.receive()
                assert isinstance(answer, Refusal) and (answer.code, answer.temporary) == ("version", False)

    run(scenario())


def test_acknowledging_what_was_never_pushed_frees_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here, here.raw() as raw:
            nonce = await raw.greeted()
            await raw.send(Got(ONE.mailbox, messages.MAX_INT))
            assert isinstance(await opening(raw, ONE.sign(nonce, here.url.host)), Opened)
            await raw.send(Subscribe(2, ONE.mailbox, messages.MAX_INT))
            assert isinstance(await raw.receive(), Blobs)
            for _ in range(3):
                await raw.send(Got(ONE.mailbox, messages.MAX_INT))
            await raw.send(Append(3, ONE.mailbox, blob(1)))
            assert await raw.receive() == Appended(3, 1)

    run(scenario())


def test_other_paths_and_methods_are_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here:
            assert (await here.get("/"))[0] == 404
            assert (await here.get("/meet/xyz"))[0] == 404
            assert (await here.get("/mailbox"))[0] == 426

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
