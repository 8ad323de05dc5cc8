"""A home that was copied and runs twice: both copies send entries under one number, and nothing of either is lost."""

import shutil
from collections.abc import Callable
from pathlib import Path

import crdtlog
from crdtlog.device import Home
from peers.cli import doctor
from tests.crdtlog.devices import closing_connection
from tests.peers.nodes import Machine, link, run, until

MakeHome = Callable[..., Path]


def copied(machine: Machine, home: MakeHome, tmp_path: Path) -> Machine:
    """The same device once more, in a home of its own."""
    shutil.copytree(machine.home.path, home("copy"), dirs_exist_ok=True, ignore=shutil.ignore_patterns("run"))
    with closing_connection(machine.path) as source, closing_connection(tmp_path / "copy.db") as target:
        source.backup(target)
    return Machine(Home(home("copy")), tmp_path / "copy.db", machine.name)


def writer(machine: Machine) -> bytes:
    with crdtlog.open(machine.path, home=machine.home, create=False) as db:
        return db.writer


def test_what_two_copies_sent_to_two_devices_is_everywhere_once_these_meet(
    laptop: Machine, phone: Machine, home: MakeHome, tmp_path: Path
) -> None:
    tablet = Machine.at(home("tablet"), tmp_path)

    async def scenario() -> None:
        async with laptop.node() as node:
            await link(node, laptop, phone)
            await link(node, laptop, tablet)
            async with phone.node(), tablet.node():
                phone.write("p0", "before")
                await until(lambda: "p0" in laptop.notes() and "p0" in tablet.notes())
        copy = copied(phone, home, tmp_path)
        before = writer(phone)
        async with laptop.node() as node, phone.node(node.address):
            phone.write("p1", "by the phone")
            await until(lambda: "p1" in laptop.notes())
            phone.write("p2", "by the phone")
            await until(lambda: "p2" in laptop.notes())
        async with tablet.node() as node, copy.node(node.address):
            copy.write("q1", "by the copy")
            await until(lambda: "q1" in tablet.notes())
        async with laptop.node() as node, tablet.node(node.address):
            await until(lambda: {"p1", "p2", "q1"} <= laptop.notes().keys())
            await until(lambda: laptop.notes() == tablet.notes())
            assert laptop.said("phone", "different entries under one number", "crdtlog join")
            assert len([line for line in laptop.lines if "different entries" in line]) == 1
            async with phone.node(node.address):
                await until(lambda: laptop.notes() == phone.notes())
                phone.write("p3", "later")
                await until(lambda: "p3" in laptop.notes() and "p3" in tablet.notes())
            async with copy.node(node.address):
                await until(lambda: laptop.notes() == copy.notes())
                copy.write("q2", "later")
                await until(lambda: "q2" in laptop.notes() and "q2" in tablet.notes())
            async with phone.node(node.address):
                await until(lambda: laptop.notes() == phone.notes() == tablet.notes())
        assert len({before, writer(phone), writer(copy)}) == 3
        assert len(laptop.notes()) == 6
        with crdtlog.open(laptop.path, home=laptop.home, create=False) as db:
            (found,) = doctor._forks(db)
        assert (found.state, "phone signed different entries" in found.message) == ("note", True)
        states = {machine.verified().state for machine in (laptop, phone, tablet)}
        assert len(states) == 1 and laptop.verified().ok and phone.verified().ok

    run(scenario())
