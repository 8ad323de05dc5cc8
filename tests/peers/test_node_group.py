"""Running devices while their group changes: who is removed gets nothing more, and everybody is told."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import crdtlog
from crdtlog.database import Database
from tests.peers.nodes import Machine, link, linked, run, until


@pytest.fixture
def desktop(tmp_path: Path) -> Machine:
    return Machine.at(tmp_path / "desktop", tmp_path)


@pytest.fixture
def tablet(tmp_path: Path) -> Machine:
    return Machine.at(tmp_path / "tablet", tmp_path)


@contextmanager
def opened(machine: Machine) -> Iterator[Database]:
    """The file in another process's way, beside the node that serves it."""
    with crdtlog.open(machine.path, home=machine.home, create=False) as db:
        yield db


def epoch_of(machine: Machine) -> bytes:
    with opened(machine) as db:
        return db.epoch


def secrets_of(machine: Machine) -> set[bytes]:
    with opened(machine) as db:
        return set(db.epochs())


def test_a_removed_device_is_cut_off_at_once_and_all_are_told(
    laptop: Machine, phone: Machine, desktop: Machine
) -> None:
    async def scenario() -> None:
        async with linked(laptop, phone) as node:
            await link(node, laptop, desktop)
            phone_id = phone.id
            async with phone.node(), desktop.node():
                laptop.write("a", "before")
                await until(lambda: phone.notes() == desktop.notes() == {"a": "before"})
                before = epoch_of(laptop)

                with opened(laptop) as db:
                    db.remove_member(phone_id)

                await until(lambda: laptop.said("phone was removed by laptop"))
                await until(lambda: desktop.said("phone was removed by laptop"))
                await until(lambda: phone.said("removed from the database"))
                laptop.write("b", "after")
                await until(lambda: desktop.notes() == {"a": "before", "b": "after"})
                phone.write("c", "late")
                await until(lambda: epoch_of(desktop) == epoch_of(laptop) != before)
            assert phone.notes() == {"a": "before", "c": "late"}  # it keeps what it had read
            assert "c" not in laptop.notes()
        with opened(phone) as db:
            assert epoch_of(laptop) not in db.epochs()
        assert laptop.verified().state == desktop.verified().state

    run(scenario())


def test_a_device_that_was_away_during_removal_and_rotation_finds_both_at_any_member(
    laptop: Machine, phone: Machine, desktop: Machine, tablet: Machine
) -> None:
    async def scenario() -> None:
        async with linked(laptop, phone) as node:
            await link(node, laptop, tablet)
            await link(node, laptop, desktop)
            phone_id = phone.id
            async with tablet.node():
                with opened(laptop) as db:
                    db.remove_member(phone_id)
                laptop.write("a", "after")
                await until(lambda: tablet.notes() == {"a": "after"})
        # The one that was away meets another than the one who removed.
        async with tablet.node() as node, desktop.node(f"127.0.0.1:{node.port}"):
            await until(lambda: desktop.notes() == {"a": "after"})
            await until(lambda: desktop.said("phone was removed by laptop"))
        assert epoch_of(tablet) == epoch_of(laptop) == epoch_of(desktop)

    run(scenario())


def test_a_device_that_leaves_tells_the_others_and_is_done(laptop: Machine, phone: Machine) -> None:
    async def scenario() -> None:
        async with linked(laptop, phone) as node:
            async with phone.node(f"127.0.0.1:{node.port}") as at_phone:
                await until(lambda: laptop.said("phone connected"))
                with opened(phone) as db:
                    db.remove_member(db.device.id)
                await until(lambda: laptop.said("phone has left"))
                await until(lambda: phone.said("this device has left"))
                assert (await at_phone.sync(phone.path, 20))["sync"]["complete"]
                laptop.write("a", "after")
            assert phone.notes() == {}
            await node.sharing(laptop.path).file.drain()
            assert epoch_of(laptop) not in secrets_of(phone)

    run(scenario())


def test_a_role_that_changes_is_told_and_a_readers_writes_are_undone_and_told(
    laptop: Machine, phone: Machine
) -> None:
    async def scenario() -> None:
        async with linked(laptop, phone), phone.node():
            phone.write("a", "mine")
            await until(lambda: laptop.notes() == {"a": "mine"})
            phone_id = phone.id
            with opened(laptop) as db:
                db.change_role(phone_id, "reader")
            await until(lambda: laptop.said("phone is reader now (was writer)"))
            await until(lambda: phone.said("this device is reader now"))
            phone.write("a", "not any more")
            await until(lambda: phone.said("may only read", "put aside"))
            await until(lambda: phone.notes() == {"a": "mine"})
            assert phone.sql('SELECT key, "column", value FROM crdtlog_aside') == [
                ("a", "title", "not any more")
            ]
            laptop.write("b", "on")
            await until(lambda: phone.notes() == {"a": "mine", "b": "on"})

    run(scenario())


def test_what_is_taken_back_because_others_had_made_this_a_reader_is_told(
    laptop: Machine, phone: Machine
) -> None:
    async def scenario() -> None:
        async with linked(laptop, phone):
            pass
        phone_id = phone.id
        with opened(laptop) as db:
            db.change_role(phone_id, "reader")
        with opened(phone) as db:
            db.execute("INSERT INTO notes (id, title) VALUES ('a', 'offline'), ('b', 'offline')")
            db.drain_all()
        async with laptop.node() as node, phone.node(str(node.address)):
            await until(lambda: phone.notes() == {})
            await until(lambda: phone.said("made a reader, before others had this", "put aside (2 rows)"))

    run(scenario())
