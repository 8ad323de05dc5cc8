"""A device that connects again and again: how often it may, what it is told, and that others notice once."""

from collections.abc import Callable
from pathlib import Path

import pytest

import crdtlog
from crdtlog.device import load_device
from peers import identity
from peers.node import pace
from peers.node.link import LIMITS
from peers.node.pace import Pace, TooOften
from peers.node.transport import SYNC_PATH, Caller
from peers.session import messages
from tests.peers.nodes import Machine, link, run, until

MakeHome = Callable[..., Path]

PHONE, TABLET = b"phone".ljust(16), b"tablet".ljust(16)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def test_a_device_may_begin_some_links_at_once_and_then_so_many_a_minute() -> None:
    clock = Clock()
    counted = Pace(clock)
    assert [counted.begin(PHONE) for _ in range(pace.LINKS_AT_ONCE)] == [None] * pace.LINKS_AT_ONCE
    assert counted.begin(PHONE) == TooOften(6, is_news=True)
    assert counted.begin(TABLET) is None  # nobody else waits for it

    begun = 0
    for _ in range(60):
        clock.now += 1
        begun += counted.begin(PHONE) is None
    assert begun == pace.LINKS_PER_MINUTE


def test_whoever_waits_as_long_as_was_said_is_let_in() -> None:
    clock = Clock()
    counted = Pace(clock)
    while (refused := counted.begin(PHONE)) is None:
        clock.now += 0.25
    clock.now += refused.seconds
    assert counted.begin(PHONE) is None


def test_a_refusal_is_news_once_until_the_device_was_calm() -> None:
    clock = Clock()
    counted = Pace(clock)

    def hammered() -> list[bool]:
        answers = []
        for _ in range(200):
            clock.now += 0.5
            answers.append(counted.begin(PHONE))
        return [answer.is_news for answer in answers if answer is not None]

    assert hammered().count(True) == 1
    assert hammered().count(True) == 0
    clock.now += 600
    assert hammered().count(True) == 1


def test_a_member_that_connects_and_drops_again_and_again_is_refused_for_some_seconds_and_named_once(
    home: MakeHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "LINKS_AT_ONCE", 4)
    laptop, phone = Machine.founding(home("laptop"), tmp_path), Machine.at(home("phone"), tmp_path)

    async def scenario() -> None:
        async with laptop.node() as node:
            await link(node, laptop, phone)
            assert node.address is not None
            caller, answers = Caller(), []
            with crdtlog.open(phone.path, home=phone.home) as db:
                hello = messages.encode(_hello(db))
            device = load_device(phone.home)
            own = identity.load_identity(phone.home, device)
            context = identity.client_context(node.sharing(laptop.path).certificates.values(), own)
            for _ in range(8):
                wire = await caller.dial(
                    node.address, SYNC_PATH, context, max_bytes=LIMITS.frame_bytes, headers={}
                )
                await wire.send(hello)
                first = await wire.receive()
                assert first is not None
                answers.append(messages.decode(first))
                await wire.close()
                await until(lambda: not node.sharing(laptop.path).links)
            await caller.close()
            (found,) = (await node.status())["files"]

        refused = [answer for answer in answers if isinstance(answer, messages.Refuse)]
        assert len(refused) >= 5 and not refused[-1].permanent and refused[-1].code == "too-often"
        assert "try again in" in refused[-1].reason
        assert sum("again and again" in line for line in laptop.lines) == 1 and laptop.said("phone connects")
        problems = {device["name"]: device["problem"] for device in found["devices"]}
        assert "again and again" in problems["phone"]

    run(scenario())


def test_a_device_that_is_told_to_wait_says_so_and_is_connected_later(
    home: MakeHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pace, "LINKS_AT_ONCE", 1)
    monkeypatch.setattr(pace, "LINKS_PER_MINUTE", 60)
    laptop, phone = Machine.founding(home("laptop"), tmp_path), Machine.at(home("phone"), tmp_path)

    async def scenario() -> None:
        async with laptop.node() as node:
            await link(node, laptop, phone)
            phone.write("a", "arrives all the same")
            async with phone.node(accepts=False) as late:
                sharing = late.sharing(phone.path)
                await until(lambda: "it may try again" in sharing.problems.get(laptop.id, ""))
                await until(lambda: laptop.notes())
                assert not sharing.problems and not phone.said("refuses us")

    run(scenario())


def _hello(db: crdtlog.Database) -> messages.Hello:
    return messages.Hello(
        versions=(messages.VERSION, messages.VERSION),
        database=db.id,
        device=db.device.id,
        place=bytes(16),
        writer=db.writer,
        nonce=bytes(32),
        name="phone",
        clock_ms=0,
        epochs=(db.epoch,),
        heads={},
        window=messages.Window(1 << 20, 64, 1 << 20),
    )
