"""A snapshot for a device without history through a relay, when not all goes well."""

from pathlib import Path
from typing import Any

import pytest

import crdtlog
from crdtlog import members
from crdtlog.device import load_device
from crdtlog.errors import NoPeer
from peers.mailbox import uploads
from peers.mailbox.keys import Mailbox
from peers.node import giving_by_relay, relaying
from peers.node.giving_by_relay import ByRelay
from peers.relay.client import Client
from tests.peers.nodes import Machine, run, until
from tests.peers.relay_world import relay
from tests.peers.test_relaying import apart


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    for room, name, seconds in (
        (giving_by_relay, "SOON_S", 0.1),
        (giving_by_relay, "LATER_S", 0.2),
        (giving_by_relay, "AGAIN_S", 0.6),
        (relaying, "FIRST_PAUSE_S", 0.1),
        (relaying, "LONGEST_PAUSE_S", 0.4),
        (uploads, "GRACE_S", 0.2),
        (uploads, "GRACE_JITTER_S", 0.2),
    ):
        monkeypatch.setattr(room, name, seconds)


@pytest.fixture
def guest(laptop: Machine, tmp_path: Path) -> Machine:
    """A device that the laptop has let in without history, and that has nothing yet."""
    made = Machine.at(tmp_path / "guest", tmp_path)
    device = load_device(made.home.prepare(), name=made.name)
    with crdtlog.open(laptop.path, home=laptop.home, create=False) as db:
        for number in range(20):
            db.execute("INSERT INTO notes VALUES (?, hex(randomblob(100000)), 0)", (f"n{number}",))
        db.drain_all()
        db.add_member(members.newcomer_of(device, "writer"), history=False)
        crdtlog.adopt(made.path, db.welcome(device.id), home=made.home, name=made.name).close()
    return made


def test_what_broke_off_is_asked_for_again(
    laptop: Machine, guest: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave, left = ByRelay._leave, 0

    async def breaks_off(self: ByRelay, client: Client, mailbox: Mailbox, content: bytes) -> None:
        nonlocal left
        left += 1
        if left == 4:
            raise NoPeer("the relay is gone")
        await leave(self, client, mailbox, content)

    async def scenario() -> None:
        monkeypatch.setattr(ByRelay, "_leave", breaks_off)
        async with relay(tmp_path) as at, apart(laptop, at), apart(guest, at) as node:
            await until(lambda: guest.notes() == laptop.notes())
            await until(lambda: node.sharing(guest.path).relays.is_exchanged)
            with crdtlog.open(laptop.path, home=laptop.home, create=False) as db:
                await until(lambda: not db.without_snapshot())
        assert left > 4
        assert guest.verified().state == laptop.verified().state

    run(scenario())


def test_two_admins_that_both_answer_do_no_harm(
    laptop: Machine, guest: Machine, home: Any, tmp_path: Path
) -> None:
    desktop = Machine.at(tmp_path / "desktop", tmp_path)
    device = load_device(desktop.home.prepare(), name=desktop.name)
    with crdtlog.open(laptop.path, home=laptop.home, create=False) as db:
        db.add_member(members.newcomer_of(device, "admin"))
        crdtlog.adopt(desktop.path, db.welcome(), home=desktop.home, name=desktop.name).close()

    async def scenario() -> None:
        async with relay(tmp_path) as at, apart(laptop, at), apart(desktop, at):
            await until(lambda: desktop.notes() == laptop.notes())
            async with apart(guest, at):
                await until(lambda: guest.notes() == laptop.notes())
                guest.write("new", "by the guest")
                await until(lambda: desktop.notes() == laptop.notes() == guest.notes())
        states = {machine.verified().state for machine in (laptop, desktop, guest)}
        assert len(states) == 1

    run(scenario())


def test_blobs_that_say_something_else_are_passed_over(
    laptop: Machine, guest: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A liar among the admins, or a relay, puts in what is no part of a snapshot."""
    entries = giving_by_relay._entries

    def with_noise(*arguments: Any) -> Any:
        yield b"noise"
        yield from entries(*arguments)

    monkeypatch.setattr(giving_by_relay, "_entries", with_noise)

    async def scenario() -> None:
        async with relay(tmp_path) as at, apart(laptop, at), apart(guest, at):
            await until(lambda: guest.notes() == laptop.notes())

    run(scenario())
