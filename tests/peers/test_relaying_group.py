"""A group that changes while its devices meet at a relay alone: who stays is not stranded, who goes gets nothing."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import crdtlog
from crdtlog.database import Database
from crdtlog.epoch_keys import EpochKeys
from crdtlog.errors import PeerRefused
from peers.mailbox import uploads
from peers.node import relaying
from tests.peers.nodes import Machine, link, linked, run, until
from tests.peers.relay_world import Relay, relay
from tests.peers.test_relaying import apart, exchanged


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "GRACE_S", 0.2)
    monkeypatch.setattr(uploads, "GRACE_JITTER_S", 0.2)
    monkeypatch.setattr(relaying, "FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr(relaying, "LONGEST_PAUSE_S", 0.4)


@pytest.fixture
def desktop(tmp_path: Path) -> Machine:
    return Machine.at(tmp_path / "desktop", tmp_path)


@contextmanager
def opened(machine: Machine) -> Iterator[Database]:
    with crdtlog.open(machine.path, home=machine.home, create=False) as db:
        yield db


async def three(laptop: Machine, phone: Machine, desktop: Machine) -> None:
    async with linked(laptop, phone) as node:
        await link(node, laptop, desktop)


async def all_exchanged(at: Relay, *machines: Machine) -> None:
    """Each device exchanges everything with the relay, one after the other."""
    for machine in machines:
        async with apart(machine, at) as node:
            await exchanged(node, machine)


def removes(remover: Machine, removed: Machine) -> None:
    device = removed.id
    with opened(remover) as db:
        db.remove_member(device)


def epoch(machine: Machine) -> bytes:
    with opened(machine) as db:
        return db.epoch


def secrets(machine: Machine) -> set[bytes]:
    with opened(machine) as db:
        return set(db.epochs())


@pytest.mark.parametrize("way", ["old mailbox", "mailbox of two"])
def test_who_was_away_finds_removal_and_rotation_at_the_relay(
    laptop: Machine,
    phone: Machine,
    desktop: Machine,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    way: str,
) -> None:
    if way == "mailbox of two":  # as if that of the epoch before had expired
        monkeypatch.setattr(EpochKeys, "farewells", lambda self: {})

    async def scenario() -> None:
        await three(laptop, phone, desktop)
        async with relay(tmp_path) as at:
            laptop.write("a", "before")
            await all_exchanged(at, laptop, desktop, phone)
            before = epoch(laptop)
            removes(laptop, phone)
            laptop.write("b", "after")
            async with apart(laptop, at) as node:
                await exchanged(node, laptop)
                if way == "mailbox of two":
                    await until(lambda: node.sharing(laptop.path).relays.is_exchanged)
            async with apart(desktop, at) as node:
                await until(lambda: desktop.notes() == {"a": "before", "b": "after"})
                await until(lambda: desktop.said("phone was removed by laptop"))
                await exchanged(node, desktop)
            assert epoch(desktop) == epoch(laptop) != before
            async with apart(phone, at):
                if way == "old mailbox":
                    await until(lambda: phone.said("this device was removed by laptop"))
            assert phone.notes() == {"a": "before"}
            assert epoch(laptop) not in secrets(phone)

    run(scenario())


def test_a_removed_device_that_syncs_is_told_so_at_once(
    laptop: Machine, phone: Machine, desktop: Machine, tmp_path: Path
) -> None:
    async def scenario() -> None:
        await three(laptop, phone, desktop)
        async with relay(tmp_path) as at:
            for machine in (laptop, phone):
                async with apart(machine, at) as node:
                    await exchanged(node, machine)
            removes(laptop, phone)
            async with apart(laptop, at) as node:
                await exchanged(node, laptop)
            async with apart(phone, at) as node:
                with pytest.raises(PeerRefused, match="this device was removed from") as refused:
                    await node.sync(phone.path, 20.0)
            assert "crdtlog pair" in refused.value.hint

    run(scenario())


def test_who_leaves_tells_the_others_through_the_relay(
    laptop: Machine, phone: Machine, desktop: Machine, tmp_path: Path
) -> None:
    async def scenario() -> None:
        await three(laptop, phone, desktop)
        async with relay(tmp_path) as at:
            await all_exchanged(at, laptop, phone, desktop)
            removes(phone, phone)
            async with apart(phone, at) as node:
                answer = await node.sync(phone.path, 20.0)
            assert answer["sync"]["complete"]
            async with apart(laptop, at) as node:
                await until(lambda: laptop.said("phone has left"))
                await exchanged(node, laptop)
            laptop.write("a", "after")
            async with apart(laptop, at) as node:
                await exchanged(node, laptop)
            async with apart(desktop, at):
                await until(lambda: desktop.notes() == {"a": "after"})
            async with apart(phone, at) as node:
                await node.sync(phone.path, 2.0)
            assert phone.notes() == {}
            assert epoch(laptop) not in secrets(phone)

    run(scenario())


def test_who_leaves_without_knowing_of_a_removal_tells_the_others_all_the_same(
    laptop: Machine, phone: Machine, desktop: Machine, tmp_path: Path
) -> None:
    async def scenario() -> None:
        await three(laptop, phone, desktop)
        async with relay(tmp_path) as at:
            await all_exchanged(at, laptop, phone, desktop)
            removes(laptop, desktop)
            async with apart(laptop, at) as node:
                await exchanged(node, laptop)
            removes(phone, phone)
            async with apart(phone, at) as node:
                answer = await node.sync(phone.path, 20.0)
            assert answer["sync"]["complete"]
            async with apart(laptop, at) as node:
                await until(lambda: laptop.said("phone has left"))

    run(scenario())


def test_two_removals_apart_are_followed_by_keys_that_neither_has(
    laptop: Machine, phone: Machine, desktop: Machine, tmp_path: Path
) -> None:
    tablet = Machine.at(tmp_path / "tablet", tmp_path)

    async def scenario() -> None:
        async with linked(laptop, phone) as node:
            await link(node, laptop, desktop, role="admin")
            await link(node, laptop, tablet)
            for machine in (phone, desktop):
                async with machine.node():
                    await until(lambda machine=machine: machine.said("tablet is a member"))
        async with relay(tmp_path) as at:
            removes(laptop, phone)
            removes(desktop, tablet)
            laptop.write("a", "by laptop")
            desktop.write("b", "by desktop")
            for _ in range(2):
                for machine in (laptop, desktop):
                    async with apart(machine, at) as node:
                        await exchanged(node, machine)
            assert laptop.notes() == desktop.notes() == {"a": "by laptop", "b": "by desktop"}
            assert epoch(laptop) == epoch(desktop)
            laptop.write("c", "when both removals were known")
            async with apart(laptop, at) as node:
                await exchanged(node, laptop)
            for machine, unknown in ((phone, "a"), (tablet, "b")):
                async with apart(machine, at):
                    await until(lambda machine=machine: machine.said("was removed"))
                assert not {"c", unknown} & set(machine.notes())
                assert epoch(laptop) not in secrets(machine)

    run(scenario())
