"""The dialler alone, with connections that are pretended: which addresses it tries, and how often."""

import asyncio
from collections import Counter
from collections.abc import Callable

import pytest

from crdtlog.errors import NoPeer
from peers.node import dialer
from peers.node.dialer import Dialer, Outcome
from tests.peers.nodes import run, until

PHONE = b"phone".ljust(16)


class World:
    """Who answers where: an address maps to a device that stays connected until told otherwise."""

    def __init__(self) -> None:
        self.dialled: Counter[str] = Counter()
        self.connected: set[bytes] = set()
        self.answers: dict[str, bytes] = {}
        self.hang_up = asyncio.Event()
        self.dialer = Dialer(self.connect, self.connected.__contains__, jitter=lambda: 0.0)

    async def connect(self, address: str, greeted: Callable[[bytes], None]) -> Outcome:
        self.dialled[address] += 1
        device = self.answers.get(address)
        if device is None:
            return Outcome(None, NoPeer(f"{address} does not answer"))
        if device in self.connected:
            return Outcome(device)
        self.connected.add(device)
        greeted(device)
        await self.hang_up.wait()
        self.connected.discard(device)
        return Outcome(device, NoPeer("it went away"))


def test_an_address_that_fails_is_tried_again_at_growing_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialer, "FIRST_PAUSE_SECONDS", 0.02)

    async def scenario() -> None:
        world = World()
        world.dialer.add(["10.0.0.1:1"], named=True)
        await asyncio.sleep(0.5)
        await world.dialer.close()

        assert 4 <= world.dialled["10.0.0.1:1"] <= 7  # after 10, 30, 70, 150, 310 ms

    run(scenario())


def test_all_addresses_race_and_one_connection_is_enough() -> None:
    async def scenario() -> None:
        world = World()
        world.answers = {"10.0.0.1:1": PHONE, "[fe80::1]:1": PHONE}
        world.dialer.add(world.answers, named=True)
        await asyncio.sleep(0.3)

        assert world.dialled == {"10.0.0.1:1": 1, "[fe80::1]:1": 1}
        await world.dialer.close()

    run(scenario())


def test_when_a_connection_ends_its_device_is_dialled_again() -> None:
    async def scenario() -> None:
        world = World()
        world.answers = {"10.0.0.1:1": PHONE}
        world.dialer.add(world.answers, device=PHONE)
        await until(lambda: PHONE in world.connected)
        world.hang_up.set()
        await until(lambda: world.dialled["10.0.0.1:1"] >= 2)
        await world.dialer.close()

    run(scenario())


def test_a_device_that_dialled_us_is_not_dialled() -> None:
    async def scenario() -> None:
        world = World()
        world.connected.add(PHONE)
        world.dialer.add(["10.0.0.1:1"], device=PHONE)
        await asyncio.sleep(0.1)
        assert not world.dialled

        world.connected.clear()
        world.dialer.links_changed()
        await until(lambda: world.dialled)
        await world.dialer.close()

    run(scenario())


def test_a_sighting_tries_an_address_at_once_however_often_it_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialer, "FIRST_PAUSE_SECONDS", 30.0)

    async def scenario() -> None:
        world = World()
        world.dialer.add(["10.0.0.1:1"])
        await until(lambda: world.dialled)
        world.answers["10.0.0.1:1"] = PHONE
        world.dialer.poke(["10.0.0.1:1"])
        await until(lambda: PHONE in world.connected)
        await world.dialer.close()

    run(scenario())


def test_trying_all_returns_when_each_address_was_tried_or_leads_to_a_connected_device() -> None:
    async def scenario() -> None:
        world = World()
        world.answers = {"10.0.0.1:1": PHONE}
        world.dialer.add(["10.0.0.1:1", "10.0.0.2:1"], named=True)
        await until(lambda: len(world.dialled) == 2)
        world.dialled.clear()
        async with asyncio.timeout(5):
            await world.dialer.try_all()

        assert world.dialled == {"10.0.0.2:1": 1}
        assert "10.0.0.2:1 does not answer" in str(world.dialer.why_unreachable(b"tablet".ljust(16)))
        await world.dialer.close()

    run(scenario())


def test_a_sighted_address_that_never_answers_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialer, "FIRST_PAUSE_SECONDS", 0.001)
    monkeypatch.setattr(dialer, "LONGEST_PAUSE_SECONDS", 0.001)

    async def scenario() -> None:
        world = World()
        world.dialer.add(["10.0.0.1:1"])
        await until(lambda: world.dialled["10.0.0.1:1"] > dialer.FORGET_AFTER_FAILURES)
        await asyncio.sleep(0.05)
        dialled = world.dialled["10.0.0.1:1"]
        await asyncio.sleep(0.05)

        assert world.dialled["10.0.0.1:1"] == dialled
        await world.dialer.close()

    run(scenario())


def test_only_the_newest_addresses_of_a_device_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dialer, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(dialer, "LONGEST_PAUSE_SECONDS", 0.01)
    newest = [f"10.0.0.{number}:1" for number in range(8)]

    async def scenario() -> None:
        world = World()
        world.dialer.add(["10.0.1.1:1"], named=True)
        for number in range(40):  # it says each time that it listens on another port
            world.dialer.add([f"10.0.0.9:{number}"], device=PHONE)
        world.dialer.add([*newest, "10.0.0.99:1"], device=PHONE)
        world.dialled.clear()
        await asyncio.sleep(0.1)

        assert set(world.dialled) == {*newest, "10.0.1.1:1"}
        await world.dialer.close()

    run(scenario())


def test_addresses_of_other_devices_stay_when_one_has_too_many() -> None:
    async def scenario() -> None:
        world = World()
        world.dialer.add(["10.0.1.1:1"], device=b"tablet".ljust(16))
        world.dialer.add(["10.0.1.2:1"])
        for number in range(20):
            world.dialer.add([f"10.0.0.9:{number}"], device=PHONE)
        await until(lambda: len(world.dialled) >= 10)

        assert {"10.0.1.1:1", "10.0.1.2:1"} <= set(world.dialled) and len(world.dialled) == 10
        await world.dialer.close()

    run(scenario())


def test_a_connection_outlasts_newer_addresses_of_its_device() -> None:
    async def scenario() -> None:
        world = World()
        world.answers = {"10.0.0.1:1": PHONE}
        world.dialer.add(world.answers)
        await until(lambda: PHONE in world.connected)
        for number in range(20):
            world.dialer.add([f"10.0.0.9:{number}"], device=PHONE)
        await asyncio.sleep(0.05)

        assert PHONE in world.connected and set(world.dialled) == {"10.0.0.1:1"}
        await world.dialer.close()

    run(scenario())


def test_addresses_that_turn_out_to_be_one_devices_are_counted_as_its_own() -> None:
    async def scenario() -> None:
        world = World()
        world.connected.add(PHONE)
        world.answers = {f"10.0.0.{number}:1": PHONE for number in range(20)}
        world.dialer.add(world.answers)
        await until(lambda: len(world.dialled) == 20)
        await asyncio.sleep(0.05)
        world.dialled.clear()
        world.answers.clear()
        world.connected.clear()
        world.dialer.links_changed()
        await until(lambda: world.dialled)
        await asyncio.sleep(0.05)

        assert len(world.dialled) == dialer.MAX_ADDRESSES_PER_DEVICE
        await world.dialer.close()

    run(scenario())
