"""A home that was copied, and devices that only ever see each other through a relay: nothing of either copy is lost."""

from collections.abc import Callable, Collection
from pathlib import Path

import crdtlog
from crdtlog.proof import Fork
from peers.relay.sqlite_store import SqliteStore
from peers.relay.store import Appended, Page, Quota
from tests.peers.nodes import Machine, open_code, run, until
from tests.peers.relay_world import Relay, relay
from tests.peers.test_node_forked import copied, writer
from tests.peers.test_relaying import _little_patience, apart, exchanged, join_at

__all__ = ["_little_patience"]

MakeHome = Callable[..., Path]


class HidingStore(SqliteStore):
    """A relay's store that can hide some blobs, as if two devices wrote at the same time."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, Quota())
        self.last = 0
        self.hidden: Collection[int] = ()

    async def append(self, mailbox: bytes, blob: bytes, now: int) -> Appended:
        done = await super().append(mailbox, blob, now)
        self.last = max(self.last, done.number)
        return done

    async def read(self, mailbox: bytes, after: int, max_bytes: int) -> Page:
        page = await super().read(mailbox, after, max_bytes)
        return page._replace(blobs=tuple(blob for blob in page.blobs if blob[0] not in self.hidden))


def forks(machine: Machine) -> list[Fork]:
    with crdtlog.open(machine.path, home=machine.home, create=False) as db:
        return db.forks()


async def joined(laptop: Machine, others: Collection[Machine], at: Relay) -> None:
    """Have others join, and everybody read what there is, through a relay alone."""
    for machine in others:
        async with (
            laptop.node(relays=[at.url.base]) as node,
            open_code(node, laptop, role="writer") as (code, _, pairing),
        ):
            await join_at(machine, code, at)
            await pairing
    await visited(at, laptop, *others)


async def visited(at: Relay, *machines: Machine) -> None:
    """One after the other is online for as long as it has something to read or to leave."""
    for machine in machines:
        async with apart(machine, at) as node:
            await exchanged(node, machine)


def test_what_two_copies_left_at_a_relay_is_everywhere(
    laptop: Machine, phone: Machine, home: MakeHome, tmp_path: Path
) -> None:
    tablet = Machine.at(home("tablet"), tmp_path)
    folder = tmp_path / "relay"
    folder.mkdir()
    store = HidingStore(folder / "relay.db")

    async def scenario() -> None:
        async with relay(folder, store=store) as at:
            await joined(laptop, [phone, tablet], at)
            phone.write("p0", "before")
            await visited(at, phone, laptop, tablet)
            copy = copied(phone, home, tmp_path)
            before, last = writer(phone), store.last
            for number in range(3):
                phone.write(f"p{number + 1}", "by the phone")
                await visited(at, phone)
            await visited(at, laptop)
            laptop.write("l1", "behind the phone's")
            await visited(at, laptop)
            store.hidden = range(last + 1, store.last + 1)
            for number in range(3):
                copy.write(f"q{number + 1}", "by the copy")
                await visited(at, copy)
            await visited(at, tablet)
            assert {"q1", "q2", "q3"} <= tablet.notes().keys() and "p1" not in tablet.notes()
            tablet.write("t1", "behind the copy's")
            await visited(at, tablet)
            store.hidden = ()
            everybody = (laptop, tablet, phone, copy)
            await visited(at, *everybody)
            await visited(at, *everybody)
            assert len({before, writer(phone), writer(copy)}) == 3
            phone.write("p4", "later")
            copy.write("q4", "later")
            await visited(at, phone, copy, *everybody)
            appended = store.last
            await visited(at, *everybody)
            assert store.last == appended
            for machine in everybody:
                assert len(machine.notes()) == 11
                assert machine.notes() == laptop.notes()
                assert machine.verified() == laptop.verified() and machine.verified().ok
                assert len(forks(machine)) == 1 and forks(machine) == forks(laptop)
                assert machine.said("phone signed different entries under one number", "crdtlog join")
                assert not machine.said("passed over") and not machine.said("another entry")

    run(scenario())


def test_two_copies_that_are_online_with_everybody_else(
    laptop: Machine, phone: Machine, home: MakeHome, tmp_path: Path
) -> None:
    tablet = Machine.at(home("tablet"), tmp_path)
    folder = tmp_path / "relay"
    folder.mkdir()

    async def scenario() -> None:
        async with relay(folder) as at:
            await joined(laptop, [phone, tablet], at)
            phone.write("p0", "before")
            await visited(at, phone, laptop, tablet)
            copy = copied(phone, home, tmp_path)
            everybody = (laptop, tablet, phone, copy)
            async with apart(laptop, at) as one, apart(tablet, at), apart(phone, at), apart(copy, at):
                await exchanged(one, laptop)
                for number in range(1, 4):
                    phone.write(f"p{number}", "by the phone")
                    copy.write(f"q{number}", "by the copy")
                    await until(lambda: all(len(each.notes()) == 1 + 2 * number for each in everybody))  # noqa: B023
                await exchanged(one, laptop)
            await visited(at, *everybody)
            states = {machine.verified().state for machine in everybody}
            assert len(states) == 1
            assert all(forks(machine) == forks(laptop) for machine in everybody)

    run(scenario())
