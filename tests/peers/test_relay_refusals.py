"""Whom a relay lets in, and what it refuses: it always says why, and whether for now or for good."""

import asyncio
import contextlib
from pathlib import Path

import pytest

from crdtlog.errors import NoPeer
from peers.relay import messages
from peers.relay.client import Client
from peers.relay.messages import (
    Append,
    Appended,
    Blobs,
    ClientHello,
    Got,
    Hello,
    Meet,
    Opened,
    Read,
    Refusal,
    Say,
    Subscribe,
)
from peers.relay.refusals import Refused
from peers.relay.settings import Pace, Rate, Settings
from peers.relay.store import Quota
from tests.peers.relay_world import blob, collect, key, opening, relay, run, until

ONE = key(1)


# --- who may open a mailbox -----------------------------------------------------------------------------------


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


def test_a_large_blob_counts_like_many_appends(tmp_path: Path) -> None:
    settings = Settings(appends_per_connection=Rate(10, 1000.0))

    async def scenario() -> None:
        async with relay(tmp_path, settings) as here, here.client() as client:
            await client.open(ONE)
            await client.append(ONE.mailbox, bytes(64 << 10))
            await client.append(ONE.mailbox, bytes(512 << 10))
            await client.append(ONE.mailbox, bytes(256))
            with pytest.raises(Refused) as refused:
                await client.append(ONE.mailbox, bytes(256))
            assert refused.value.code == "rate"
        async with relay(tmp_path, settings) as here, here.client() as client:
            await client.open(ONE)
            with pytest.raises(Refused) as refused:
                await client.append(ONE.mailbox, bytes(1 << 20))
            assert refused.value.code == "rate"

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
