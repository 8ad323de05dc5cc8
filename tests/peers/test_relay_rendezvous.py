"""Rendezvous channels of a relay: two sides, a few messages, some minutes, nothing kept."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from crdtlog.errors import NoPeer
from peers.relay.client import Meeting
from peers.relay.messages import Append, Left, Meet, Met, Refusal, Said, Say
from peers.relay.refusals import Refused
from peers.relay.settings import Rate, Settings
from tests.peers.relay_world import Relay, blob, key, relay, run, until

CHANNEL = bytes(range(16))


@contextlib.asynccontextmanager
async def side(here: Relay, *, first: bool, channel: bytes = CHANNEL, **named: str) -> AsyncIterator[Meeting]:
    meeting = await Meeting.enter(here.url, channel, first=first, **named)
    try:
        yield meeting
    finally:
        await meeting.close()


@contextlib.asynccontextmanager
async def both(here: Relay) -> AsyncIterator[tuple[Meeting, Meeting]]:
    async with side(here, first=True) as one:
        await until(lambda: len(here.server._rendezvous) == 1)
        async with side(here, first=False) as two:
            assert await one.receive() == Met() == await two.receive()
            yield one, two


async def refusal_of(meeting: Meeting) -> Refused:
    with pytest.raises(Refused) as refused:
        while True:
            await meeting.receive()
    return refused.value


def test_two_sides_hear_one_another(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here, both(here) as (one, two):
            await two.say(b"hello")
            assert await one.receive() == Said(b"hello")
            for size in (0, 64 << 10):
                await one.say(bytes(size))
                assert await two.receive() == Said(bytes(size))

    run(scenario())


def test_a_third_is_refused_and_hears_nothing(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here, both(here) as (one, two):
            for first in (True, False):
                async with side(here, first=first) as third:
                    await one.say(b"secret")
                    error = await refusal_of(third)
                    assert (error.code, error.temporary) == ("channel-taken", True) and error.retry_after_s
                    assert await two.receive() == Said(b"secret")

    run(scenario())


def test_there_is_no_channel_before_somebody_makes_it_nor_after_they_left(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here:
            async with side(here, first=False) as early:
                error = await refusal_of(early)
                assert (error.code, error.temporary) == ("no-channel", True)
            async with side(here, first=True) as one:
                await until(lambda: len(here.server._rendezvous) == 1)
                two = await Meeting.enter(here.url, CHANNEL, first=False)
                assert await one.receive() == Met()
            assert (await refusal_of(two)).code == "no-channel"
            await two.close()
            assert len(here.server._rendezvous) == 0
            async with both(here):
                pass

    run(scenario())


def test_the_second_side_may_go_and_another_come(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here, side(here, first=True) as one:
            await until(lambda: len(here.server._rendezvous) == 1)
            for word in (b"a", b"b"):
                async with side(here, first=False) as two:
                    assert await one.receive() == Met() == await two.receive()
                    await two.say(word)
                    assert await one.receive() == Said(word)
                assert await one.receive() == Left()
            await one.say(b"to nobody")

    run(scenario())


def test_a_channel_passes_on_so_many_messages(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path, Settings(channel_messages=4)) as here, both(here) as (one, two):
            for mark in range(4):
                await (one, two)[mark % 2].say(b"%d" % mark)
                assert await (two, one)[mark % 2].receive() == Said(b"%d" % mark)
            await one.say(b"one too many")
            for each in (one, two):
                error = await refusal_of(each)
                assert (error.code, error.temporary) == ("channel-spent", False)
            await until(lambda: len(here.server._rendezvous) == 0)

    run(scenario())


def test_a_channel_ends_after_its_time(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path, Settings(channel_s=0.2)) as here, both(here) as (one, two):
            for each in (one, two):
                assert (await refusal_of(each)).code == "channel-expired"
            await until(lambda: len(here.server._rendezvous) == 0)

    run(scenario())


def test_channels_are_limited_for_one_address_and_for_all(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path, Settings(channels=1)) as here, side(here, first=True):
            await until(lambda: len(here.server._rendezvous) == 1)
            async with side(here, first=True, channel=bytes(16)) as more:
                error = await refusal_of(more)
                assert (error.code, error.temporary) == ("channels", True)
        settings = Settings(channels_per_source=Rate(2, 3600.0))
        guessed = bytes(16)  # guessing counts, too
        async with (
            relay(tmp_path, settings) as here,
            both(here),
            side(here, first=False, channel=guessed) as more,
        ):
            error = await refusal_of(more)
            assert (error.code, error.temporary) == ("channels", True)

    run(scenario())


def test_a_token_is_asked_for_here_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path, Settings(tokens=frozenset({"horse"}))) as here:
            async with side(here, first=True) as one:
                assert (await refusal_of(one)).code == "token"
            async with side(here, first=True, token="horse"):
                await until(lambda: len(here.server._rendezvous) == 1)

    run(scenario())


@pytest.mark.parametrize("wrong", [b"", bytes(64 << 10) * 2, Append(1, key(1).mailbox, blob(1)), Meet(True)])
def test_what_does_not_belong_there_ends_one_side_alone(tmp_path: Path, wrong: bytes | Append | Meet) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here, side(here, first=True) as one:
            await until(lambda: len(here.server._rendezvous) == 1)
            async with here.raw(f"/meet/{CHANNEL.hex()}") as raw:
                await raw.greeted()
                await raw.send(Meet(False))
                assert await raw.receive() == Met() == await one.receive()
                await raw.send(wrong)
                answer = await raw.receive()
                assert isinstance(answer, Refusal) and answer.code == "malformed"
            assert await one.receive() == Left()
            async with side(here, first=False) as two:
                assert await two.receive() == Met()

    run(scenario())


def test_who_speaks_before_meeting_is_refused(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here, here.raw(f"/meet/{CHANNEL.hex()}") as raw:
            await raw.greeted()
            await raw.send(Say(b"hello"))
            answer = await raw.receive()
            assert isinstance(answer, Refusal) and answer.code == "malformed"

    run(scenario())


def test_both_sides_are_told_when_the_relay_stops(tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as here:
            one = await Meeting.enter(here.url, CHANNEL, first=True)
            await until(lambda: len(here.server._rendezvous) == 1)
            stopping = asyncio.create_task(here.server.stop())
            error = await refusal_of(one)
            assert (error.code, error.temporary) == ("stopping", True)
            await one.close()
            await stopping
            with pytest.raises((NoPeer, Refused)):
                await Meeting.enter(here.url, CHANNEL, first=True)

    run(scenario())


def test_nothing_that_is_said_reaches_the_disk(tmp_path: Path) -> None:
    said = b"not to be found anywhere " * 100

    async def scenario() -> None:
        async with relay(tmp_path) as here, both(here) as (one, two):
            await one.say(said)
            assert await two.receive() == Said(said)

    run(scenario())
    kept = list(tmp_path.iterdir())
    assert kept and not any(said[:25] in path.read_bytes() or CHANNEL in path.read_bytes() for path in kept)
