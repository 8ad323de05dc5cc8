"""Nodes over TLS on loopback: live sync, forwarding, reconnection, and files and ports that cannot be had."""

import asyncio
import shutil
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from crdtlog.database import Database
from crdtlog.device import Home, load_device
from crdtlog.errors import AddressInUse, DiskFull, EntryRefused, Locked, NoPeer, NotInitialised, Usage
from peers.node.files import open_shared_file
from peers.node.node import Node, Options
from peers.node.tally import REPORT_AGAIN_SECONDS
from tests.peers.nodes import Machine, link, linked, run, until

MakeHome = Callable[..., Path]


def test_what_is_written_on_one_device_shows_on_the_other_in_both_directions(
    laptop: Machine, phone: Machine
) -> None:
    async def scenario() -> None:
        async with linked(laptop, phone), phone.node():
            laptop.write("a", "from the laptop")
            phone.write("b", "from the phone")
            await until(
                lambda: laptop.notes() == phone.notes() == {"a": "from the laptop", "b": "from the phone"}
            )

    run(scenario())
    assert laptop.verified().state == phone.verified().state


def test_a_device_goes_by_the_name_it_joined_with_whatever_its_home_is_called(
    laptop: Machine, phone: Machine
) -> None:
    load_device(phone.home.prepare(), name="nameless")

    async def scenario() -> None:
        async with linked(laptop, phone), phone.node():
            await until(lambda: laptop.said("phone connected"))

    run(scenario())
    assert not laptop.said("nameless")


def test_devices_that_never_meet_are_connected_by_a_third(home: MakeHome, tmp_path: Path) -> None:
    hub = Machine.founding(home("hub"), tmp_path)
    left, right = Machine.at(home("left"), tmp_path), Machine.at(home("right"), tmp_path)

    async def scenario() -> None:
        async with hub.node() as node:
            await link(node, hub, left)
            await link(node, hub, right)
            async with left.node(accepts=False), right.node(accepts=False):
                left.write("l", "left")
                right.write("r", "right")
                await until(lambda: left.notes() == right.notes() == {"l": "left", "r": "right"})
                await until(lambda: left.said("right is a member now"))

    run(scenario())
    assert left.verified().state == right.verified().state == hub.verified().state


def test_a_device_that_a_new_device_was_added_by_can_add_others_if_it_is_an_admin(
    home: MakeHome, tmp_path: Path
) -> None:
    first, second, third = (
        Machine.founding(home("first"), tmp_path),
        Machine.at(home("second"), tmp_path),
        Machine.at(home("third"), tmp_path),
    )

    async def scenario() -> None:
        async with first.node() as first_node:
            await link(first_node, first, second, role="admin")
            async with second.node() as second_node:
                await link(second_node, second, third)
                third.write("x", "from the third")
                async with third.node():
                    await until(lambda: first.notes() == {"x": "from the third"})

    run(scenario())
    assert first.said("third is a member now, as writer (added by second)")


def test_only_an_admin_gives_out_codes(
    laptop: Machine, phone: Machine, home: MakeHome, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with linked(laptop, phone):
            pass
        async with phone.node() as node:
            with pytest.raises(EntryRefused, match="may not add"):
                await link(node, phone, Machine.at(home("third"), tmp_path))

    run(scenario())


def test_after_a_restart_devices_find_each_other_where_they_were(laptop: Machine, phone: Machine) -> None:
    async def scenario() -> None:
        async with linked(laptop, phone, listen=None), phone.node(accepts=False):
            phone.write("a", "together")
            await until(lambda: laptop.notes())
        laptop.write("b", "written while apart")
        phone.write("c", "this too")
        async with phone.node(accepts=False), laptop.node(listen=None):
            await until(lambda: laptop.notes() == phone.notes() and len(phone.notes()) == 3)

    run(scenario())
    assert laptop.verified().state == phone.verified().state


def test_a_device_that_dialled_can_later_be_dialled_where_it_listens(laptop: Machine, phone: Machine) -> None:
    async def scenario() -> None:
        async with linked(laptop, phone):
            laptop.lines.clear()
            async with phone.node(listen=None):
                await until(lambda: laptop.said("phone connected"))
        laptop.write("a", "dialled back")
        async with phone.node(listen=None), laptop.node(accepts=False):
            await until(lambda: phone.notes() == {"a": "dialled back"})

    run(scenario())


def test_two_devices_that_dial_each_other_keep_one_connection(laptop: Machine, phone: Machine) -> None:
    async def scenario() -> None:
        async with linked(laptop, phone, listen=None), phone.node(listen=None):
            await until(lambda: laptop.said("phone connected"))
        for machine in (laptop, phone):
            machine.lines.clear()
        async with laptop.node(listen=None) as one, phone.node(listen=None) as other:
            await until(lambda: laptop.said("phone connected") and phone.said("laptop connected"))
            await asyncio.sleep(1.5)

            assert len(one.sharing(laptop.path).links) == len(other.sharing(phone.path).links) == 1
            assert not laptop.said("disconnected") and not phone.said("disconnected")
            laptop.write("a", "still connected")
            await until(lambda: phone.notes())

    run(scenario())


def test_a_copied_home_is_refused_by_the_third_device_and_by_the_original(
    laptop: Machine, phone: Machine, home: MakeHome, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with linked(laptop, phone) as node:
            copied = home("copy")
            shutil.copytree(phone.home.path, copied, dirs_exist_ok=True)
            shutil.copy(phone.path, tmp_path / "copy.db")
            copy = Machine(Home(copied), tmp_path / "copy.db", "phone")
            async with phone.node() as original:
                await until(lambda: laptop.said("phone connected"))
                assert original.address is not None
                async with copy.node(original.address) as second:
                    await until(lambda: copy.said("keys of one device", "crdtlog join"))
                    await until(lambda: laptop.said("keys of one device", "crdtlog join"))
                    await until(lambda: phone.said("keys of this device", "crdtlog join"))
                    copy.write("x", "must not travel")
                    phone.write("y", "goes on")
                    await until(lambda: laptop.notes() == {"y": "goes on"})
                    assert second.sharing(copy.path).links == {}
                    status = await node.status()

        device = next(d for d in status["files"][0]["devices"] if d["name"] == "phone")
        assert device["connected"] and "copied home" in device["problem"]

    run(scenario())


def test_a_full_disk_shows_at_the_device_that_nothing_is_taken_from(
    laptop: Machine, phone: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*arguments: object) -> None:
        raise DiskFull("the disk is full", "Free some space.")

    async def scenario() -> None:
        async with linked(laptop, phone) as node:
            phone.write("a", "has no room")
            with monkeypatch.context() as patch:
                patch.setattr(Database, "record_held", full)
                async with phone.node():
                    await until(lambda: laptop.said("phone connected"))
                    patch.setattr(Database, "apply", full)
                    phone.write("b", "has no room either")
                    await until(lambda: laptop.said("nothing is taken from phone"))
                    (found,) = (await node.status())["files"]

        problems = {device["name"]: device["problem"] for device in found["devices"]}
        assert problems == {"laptop": None, "phone": "the disk is full. Free some space."}

    run(scenario())


def test_rows_that_keep_coming_are_told_of_now_and_then(laptop: Machine) -> None:
    async def scenario() -> None:
        async with laptop.node():
            for number in range(30):
                laptop.write(str(number))
                await asyncio.sleep(0.1)

    run(scenario())
    told_of = [line for line in laptop.lines if "changed here" in line]
    assert REPORT_AGAIN_SECONDS > 3 and len(told_of) == 2, "one after a second, one at the end"


def test_a_table_that_does_not_fit_stops_what_comes_in_until_it_fits_again(
    laptop: Machine, phone: Machine
) -> None:
    async def scenario() -> None:
        async with linked(laptop, phone):
            phone.sql("ALTER TABLE notes ADD COLUMN extra TEXT")
            async with phone.node() as phone_node:
                laptop.write("a", "waits")
                await until(lambda: phone.said("nothing is taken from laptop", "notes"))
                (device,) = (await phone_node.sync(phone.path))["sync"]["devices"]
                assert device["state"] == "behind" and "notes" in device["why"]

                phone.sql("ALTER TABLE notes DROP COLUMN extra")
                await until(lambda: phone.notes() == {"a": "waits"})
                await until(lambda: phone.said("taking from laptop again"))

    run(scenario())


def test_sync_returns_when_all_reachable_devices_are_equal_and_names_the_others(
    laptop: Machine, phone: Machine, home: MakeHome, tmp_path: Path
) -> None:
    tablet = Machine.at(home("tablet"), tmp_path)

    async def scenario() -> None:
        async with linked(laptop, phone, listen=None) as node:
            await link(node, laptop, tablet)
            phone.write("a", "news")
            async with phone.node(accepts=False) as phone_node:
                result = (await phone_node.sync(phone.path))["sync"]

                assert laptop.notes() == {"a": "news"}
                assert not result["complete"]
                assert {d["name"]: d["state"] for d in result["devices"]} == {
                    "laptop": "equal",
                    "tablet": "unreachable",
                }
                lag = {d["name"]: d["lag"] for d in (await phone_node.status())["files"][0]["devices"]}
                assert lag["laptop"] == 0 and lag["tablet"] > 0

    run(scenario())


def test_sync_that_reaches_nobody_says_why(laptop: Machine, phone: Machine) -> None:
    async def scenario() -> None:
        async with linked(laptop, phone):
            pass
        async with phone.node(accepts=False) as node:
            with pytest.raises(NoPeer, match=r"laptop: 127\.0\.0\.1:\d+ cannot be reached") as caught:
                await node.sync(phone.path)

        assert "--peer" in caught.value.hint

    run(scenario())


def test_a_port_that_is_taken_is_named(laptop: Machine) -> None:
    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = f"127.0.0.1:{other.getsockname()[1]}"
            with pytest.raises(AddressInUse, match=taken):
                async with laptop.node(listen=taken):
                    pass

    run(scenario())


def test_the_port_of_last_time_is_used_again_unless_it_is_taken(laptop: Machine) -> None:
    async def scenario() -> None:
        async with laptop.node(listen=None) as node:
            first = node.port
        async with laptop.node(listen=None) as node:
            assert node.port == first
        with socket.create_server(("0.0.0.0", first or 0)):
            async with laptop.node(listen=None) as node:
                assert node.port not in (None, first)

    run(scenario())


def test_an_address_that_is_none_is_refused_before_anything_starts(home: MakeHome) -> None:
    with pytest.raises(Usage, match="not an address"):
        Node(Home(home("laptop")), Options(peers=["somewhere"]), print)


def test_one_process_at_a_time_exchanges_a_file(laptop: Machine) -> None:
    async def scenario() -> None:
        async with laptop.node():
            with pytest.raises(Locked, match=r"process \d+"):
                async with laptop.node():
                    pass
        async with laptop.node():
            pass

    run(scenario())


def test_homes_that_are_copies_do_not_exchange_one_file_at_once(laptop: Machine, home: MakeHome) -> None:
    copied = home("copy")
    shutil.copytree(laptop.home.path, copied, dirs_exist_ok=True)

    async def scenario() -> None:
        async with laptop.node():
            with pytest.raises(Locked, match=rf"of another home, is exchanging {laptop.path} .*process \d+"):
                await open_shared_file(laptop.path, Home(copied))
        await (await open_shared_file(laptop.path, Home(copied))).close()

    run(scenario())


def test_a_file_that_is_no_crdtlog_database_is_not_served(laptop: Machine, tmp_path: Path) -> None:
    sqlite3.connect(tmp_path / "other.db").close()

    async def scenario() -> None:
        async with laptop.node() as node:
            with pytest.raises(NotInitialised, match="not a crdtlog database"):
                await node.add_file(tmp_path / "other.db")

    run(scenario())


def test_a_file_that_vanishes_is_not_served_any_more_and_deletes_nothing_elsewhere(
    laptop: Machine, phone: Machine, tmp_path: Path
) -> None:
    laptop.write("a", "stays")

    async def scenario() -> None:
        async with linked(laptop, phone), phone.node() as phone_node:
            phone.path.rename(tmp_path / "moved.db")
            await until(lambda: phone.said("the file is gone"))
            await until(lambda: phone_node.files() == [])

    run(scenario())
    assert laptop.notes() == {"a": "stays"}
