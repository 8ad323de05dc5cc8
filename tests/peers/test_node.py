"""Nodes over TLS on loopback: live sync, forwarding, reconnection, and whom they turn away."""

import asyncio
import gc
import shutil
import socket
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import crdtlog
from crdtlog.database import Database
from crdtlog.device import Home, load_device
from crdtlog.errors import (
    AddressInUse,
    DiskFull,
    EntryRefused,
    Locked,
    Malformed,
    NoPeer,
    NotInitialised,
    Usage,
)
from peers import identity
from peers.node.files import open_shared_file
from peers.node.link import LIMITS
from peers.node.node import Node, Options
from peers.node.sharing import REPORT_AGAIN_SECONDS
from peers.node.transport import SYNC_PATH, Caller
from peers.node.wording import sentences, told, unacceptable
from peers.session import messages
from peers.session.machine import Limits
from tests.peers.nodes import Machine, link, run, until

MakeHome = Callable[..., Path]


def test_what_is_written_on_one_device_shows_on_the_other_in_both_directions(
    home: MakeHome, tmp_path: Path
) -> None:
    laptop, phone = Machine.founding(home("laptop"), tmp_path), Machine.at(home("phone"), tmp_path)

    async def scenario() -> None:
        async with laptop.node() as node:
            await link(node, laptop, phone)
            async with phone.node():
                laptop.write("a", "from the laptop")
                phone.write("b", "from the phone")
                await until(
                    lambda: laptop.notes() == phone.notes() == {"a": "from the laptop", "b": "from the phone"}
                )

    run(scenario())
    assert laptop.verified().state == phone.verified().state


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


def test_only_an_admin_gives_out_codes(home: MakeHome, tmp_path: Path) -> None:
    laptop, phone = Machine.founding(home("laptop"), tmp_path), Machine.at(home("phone"), tmp_path)

    async def scenario() -> None:
        async with laptop.node() as node:
            await link(node, laptop, phone)
        async with phone.node() as node:
            with pytest.raises(EntryRefused, match="may not add"):
                await link(node, phone, Machine.at(home("third"), tmp_path))

    run(scenario())


def test_after_a_restart_devices_find_each_other_where_they_were(home: MakeHome, tmp_path: Path) -> None:
    laptop, phone = Machine.founding(home("laptop"), tmp_path), Machine.at(home("phone"), tmp_path)

    async def scenario() -> None:
        async with laptop.node(listen=None) as node:
            await link(node, laptop, phone)
            async with phone.node(accepts=False):
                phone.write("a", "together")
                await until(lambda: laptop.notes())
        laptop.write("b", "written while apart")
        phone.write("c", "this too")
        async with phone.node(accepts=False), laptop.node(listen=None):
            await until(lambda: laptop.notes() == phone.notes() and len(phone.notes()) == 3)

    run(scenario())
    assert laptop.verified().state == phone.verified().state


def test_a_device_that_dialled_can_later_be_dialled_where_it_listens(home: MakeHome, tmp_path: Path) -> None:
    laptop, phone = Machine.founding(home("laptop"), tmp_path), Machine.at(home("phone"), tmp_path)

    async def scenario() -> None:
        async with laptop.node(listen="127.0.0.1:0") as node:
            await link(node, laptop, phone)
            laptop.lines.clear()
            async with phone.node(listen=None):
                await until(lambda: laptop.said("phone connected"))
        laptop.write("a", "dialled back")
        async with phone.node(listen=None), laptop.node(accepts=False):
            await until(lambda: phone.notes() == {"a": "dialled back"})

    run(scenario())


def test_two_devices_that_dial_each_other_keep_one_connection(home: MakeHome, tmp_path: Path) -> None:
    laptop, phone = Machine.founding(home("laptop"), tmp_path), Machine.at(home("phone"), tmp_path)

    async def scenario() -> None:
        async with laptop.node(listen=None) as node:
            await link(node, laptop, phone)
            async with phone.node(listen=None):
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
    home: MakeHome, tmp_path: Path
) -> None:
    laptop, phone = Machine.founding(home("laptop"), tmp_path), Machine.at(home("phone"), tmp_path)

    async def scenario() -> None:
        async with laptop.node() as node:
            await link(node, laptop, phone)
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


def test_a_stranger_is_turned_away_and_told_so(home: MakeHome, tmp_path: Path) -> None:
    laptop, stranger = (
        Machine.founding(home("laptop"), tmp_path),
        Machine.founding(home("stranger"), tmp_path),
    )

    async def scenario() -> None:
        async with laptop.node() as node:
            assert node.address is not None
            async with stranger.node(node.address) as other:
                await until(lambda: stranger.said("is not a member"))
                assert (await other.sync(stranger.path))["sync"]["devices"] == []

    run(scenario())
    assert not laptop.said("connected")


def test_a_device_that_the_others_do_not_know_any_more_is_told_so(home: MakeHome, tmp_path: Path) -> None:
    laptop, phone = Machine.founding(home("laptop"), tmp_path), Machine.at(home("phone"), tmp_path)

    async def scenario() -> None:
        async with laptop.node(listen=None) as node:
            await link(node, laptop, phone)
        laptop.sql("DELETE FROM crdtlog__device WHERE name = 'phone'")
        async with laptop.node(listen=None), phone.node(accepts=False) as node:
            await until(lambda: phone.said("not (or no longer) a member"))
            with pytest.raises(NoPeer, match=r"not \(or no longer\) a member"):
                await node.sync(phone.path)

    run(scenario())


def test_a_certificate_alone_opens_no_other_database(home: MakeHome, tmp_path: Path) -> None:
    """One node serves two databases: TLS accepts the members of both, the handler looks again."""
    laptop, phone = Machine.founding(home("laptop"), tmp_path), Machine.at(home("phone"), tmp_path)
    private = Machine(laptop.home, tmp_path / "private.db", "laptop")

    async def scenario() -> None:
        with crdtlog.open(private.path, home=private.home) as db:
            db.execute("CREATE TABLE notes (id TEXT PRIMARY KEY, title TEXT, stars INTEGER)")
            db.track("notes")
            database = db.id
        async with laptop.node() as node:
            await node.add_file(private.path)
            await link(node, laptop, phone)
            caller = Caller()
            own = identity.load_identity(phone.home, load_device(phone.home))
            assert node.address is not None
            wire = await caller.dial(
                node.address, SYNC_PATH, _pinned(node, own), max_bytes=LIMITS.frame_bytes, headers={}
            )
            await wire.send(_hello(database))
            answer = await wire.receive()
            await caller.close()

            assert answer is not None and b"not share that database" in answer

    run(scenario())


def test_a_device_that_sends_a_forged_entry_is_dropped_and_named_while_others_go_on(
    home: MakeHome, tmp_path: Path
) -> None:
    laptop = Machine.founding(home("laptop"), tmp_path)
    honest, forger = Machine.at(home("honest"), tmp_path), Machine.at(home("forger"), tmp_path)

    async def scenario() -> None:
        async with laptop.node() as node:
            await link(node, laptop, honest)
            await link(node, laptop, forger)
            forger.write("f", "forged")
            with crdtlog.open(forger.path, home=forger.home) as db:
                db.drain_all()
            (signed,) = forger.sql("SELECT signed FROM crdtlog__log ORDER BY position DESC LIMIT 1")[0]
            broken = signed[:-1] + bytes([signed[-1] ^ 1])
            forger.sql("UPDATE crdtlog__log SET signed = ? WHERE signed = ?", broken, signed)
            async with forger.node(), honest.node():
                await until(lambda: laptop.said("forger was dropped", "signature"))
                await until(lambda: forger.said("signature"))
                honest.write("h", "fine")
                await until(lambda: laptop.notes() == {"h": "fine"})
                status = await node.status()

        problems = {device["name"]: device["problem"] for device in status["files"][0]["devices"]}
        assert "signature" in problems["forger"] and problems["honest"] is None

    run(scenario())


@pytest.mark.parametrize("nonsense", [b"\xc1 no message", b"\x92\x02\x90"])
def test_a_device_that_sends_nonsense_is_dropped_and_named(
    home: MakeHome, tmp_path: Path, nonsense: bytes
) -> None:
    laptop, phone = Machine.founding(home("laptop"), tmp_path), Machine.at(home("phone"), tmp_path)

    async def scenario() -> None:
        async with laptop.node() as node:
            await link(node, laptop, phone)
            own = identity.load_identity(phone.home, load_device(phone.home))
            caller = Caller()
            assert node.address is not None
            wire = await caller.dial(
                node.address, SYNC_PATH, _pinned(node, own), max_bytes=LIMITS.frame_bytes, headers={}
            )
            with crdtlog.open(laptop.path, home=laptop.home) as db:
                await wire.send(_hello_of(db, phone))
            await wire.send(nonsense)
            await until(lambda: laptop.said("phone was dropped", "broke the sync protocol"))
            await caller.close()

    run(scenario())


def test_a_member_whose_first_message_is_no_hello_is_named_once_and_not_listened_to(
    home: MakeHome, tmp_path: Path
) -> None:
    laptop, phone = Machine.founding(home("laptop"), tmp_path), Machine.at(home("phone"), tmp_path)

    async def scenario() -> None:
        async with laptop.node() as node:
            await link(node, laptop, phone)
            own = identity.load_identity(phone.home, load_device(phone.home))
            caller = Caller()
            assert node.address is not None
            for _ in range(2):
                wire = await caller.dial(
                    node.address, SYNC_PATH, _pinned(node, own), max_bytes=LIMITS.frame_bytes, headers={}
                )
                await wire.send(b"\xc1 no hello")
                assert await wire.receive() is None
            phone.lines.clear()
            async with phone.node():
                await until(lambda: phone.said("laptop disconnected"))
                assert not node.sharing(laptop.path).links
            await caller.close()

    run(scenario())
    lines = [line for line in laptop.lines if "phone was dropped: it broke the sync protocol" in line]
    assert len(lines) == 1 and lines[0].endswith(").") and "no Hello" in lines[0]


def test_a_refusal_that_comes_after_the_link_has_ended_still_names_the_sender(
    home: MakeHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laptop, phone = Machine.founding(home("laptop"), tmp_path), Machine.at(home("phone"), tmp_path)
    applying, gone = threading.Event(), threading.Event()
    faults: list[object] = []

    def refuse(*arguments: object) -> None:
        applying.set()
        gone.wait(20)
        raise Malformed("previous hash: not 0 bytes")

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
        async with laptop.node() as node:
            await link(node, laptop, phone)
            monkeypatch.setattr(Database, "apply", refuse)
            phone.write("a", "refused")
            async with phone.node():
                await until(applying.is_set)
                (standing,) = node.sharing(laptop.path).links.values()
                standing.abort()
                await until(lambda: laptop.said("phone disconnected"))
                gone.set()
                await until(lambda: laptop.said("phone was dropped"))
        gc.collect()

    run(scenario())
    assert laptop.said(
        "phone was dropped: it sent something that cannot be accepted (previous hash: not 0 bytes)."
    )
    assert faults == []


def test_reasons_end_with_one_full_stop_and_are_told_from_the_readers_side() -> None:
    reason = unacceptable(Malformed("previous hash: not 0 bytes."), "Look there")

    assert told(reason, by_peer=False) == (
        "it sent something that cannot be accepted (previous hash: not 0 bytes). Look there."
    )
    assert told(reason, by_peer=True).startswith("this device sent something")
    assert sentences("one", "", "two.") == "one. two."


def test_a_full_disk_shows_at_the_device_that_nothing_is_taken_from(
    home: MakeHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laptop, phone = Machine.founding(home("laptop"), tmp_path), Machine.at(home("phone"), tmp_path)

    def full(*arguments: object) -> None:
        raise DiskFull("the disk is full", "Free some space.")

    async def scenario() -> None:
        async with laptop.node() as node:
            await link(node, laptop, phone)
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


def test_rows_that_keep_coming_are_told_of_now_and_then(home: MakeHome, tmp_path: Path) -> None:
    laptop = Machine.founding(home("laptop"), tmp_path)

    async def scenario() -> None:
        async with laptop.node():
            for number in range(30):
                laptop.write(str(number))
                await asyncio.sleep(0.1)

    run(scenario())
    told_of = [line for line in laptop.lines if "changed here" in line]
    assert REPORT_AGAIN_SECONDS > 3 and len(told_of) == 2, "one after a second, one at the end"


def test_a_message_that_is_too_large_is_not_read_and_its_sender_is_named(
    home: MakeHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    laptop, phone = Machine.founding(home("laptop"), tmp_path), Machine.at(home("phone"), tmp_path)
    monkeypatch.setattr("peers.node.node.LIMITS", Limits(frame_bytes=100_000))

    async def scenario() -> None:
        async with laptop.node() as node:
            await link(node, laptop, phone)
            own = identity.load_identity(phone.home, load_device(phone.home))
            caller = Caller()
            assert node.address is not None
            wire = await caller.dial(
                node.address, SYNC_PATH, _pinned(node, own), max_bytes=LIMITS.frame_bytes, headers={}
            )
            with crdtlog.open(laptop.path, home=laptop.home) as db:
                await wire.send(_hello_of(db, phone))
            await wire.send(bytes(200_000))
            await until(lambda: laptop.said("phone was dropped", "too large"))
            await caller.close()

    run(scenario())


def test_a_table_that_does_not_fit_stops_what_comes_in_until_it_fits_again(
    home: MakeHome, tmp_path: Path
) -> None:
    laptop, phone = Machine.founding(home("laptop"), tmp_path), Machine.at(home("phone"), tmp_path)

    async def scenario() -> None:
        async with laptop.node() as node:
            await link(node, laptop, phone)
            phone.sql("ALTER TABLE notes ADD COLUMN extra TEXT")
            async with phone.node() as phone_node:
                laptop.write("a", "waits")
                await until(lambda: phone.said("nothing is taken from laptop", "notes"))
                (device,) = (await phone_node.sync(phone.path))["sync"]["devices"]
                assert device["state"] == "behind" and "notes" in device["why"]

                phone.sql("ALTER TABLE notes DROP COLUMN extra")
                await until(lambda: phone.notes() == {"a": "waits"})

    run(scenario())
    assert phone.said("taking from laptop again")


def test_sync_returns_when_all_reachable_devices_are_equal_and_names_the_others(
    home: MakeHome, tmp_path: Path
) -> None:
    laptop = Machine.founding(home("laptop"), tmp_path)
    phone, tablet = Machine.at(home("phone"), tmp_path), Machine.at(home("tablet"), tmp_path)

    async def scenario() -> None:
        async with laptop.node(listen=None) as node:
            await link(node, laptop, phone)
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


def test_sync_that_reaches_nobody_says_why(home: MakeHome, tmp_path: Path) -> None:
    laptop, phone = Machine.founding(home("laptop"), tmp_path), Machine.at(home("phone"), tmp_path)

    async def scenario() -> None:
        async with laptop.node() as node:
            await link(node, laptop, phone)
        async with phone.node(accepts=False) as node:
            with pytest.raises(NoPeer, match=r"laptop: 127\.0\.0\.1:\d+ cannot be reached") as caught:
                await node.sync(phone.path)

        assert "--peer" in caught.value.hint

    run(scenario())


def test_a_port_that_is_taken_is_named(home: MakeHome, tmp_path: Path) -> None:
    laptop = Machine.founding(home("laptop"), tmp_path)

    async def scenario() -> None:
        with socket.create_server(("127.0.0.1", 0)) as other:
            taken = f"127.0.0.1:{other.getsockname()[1]}"
            with pytest.raises(AddressInUse, match=taken):
                async with laptop.node(listen=taken):
                    pass

    run(scenario())


def test_the_port_of_last_time_is_used_again_unless_it_is_taken(home: MakeHome, tmp_path: Path) -> None:
    laptop = Machine.founding(home("laptop"), tmp_path)

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


def test_one_process_at_a_time_exchanges_a_file(home: MakeHome, tmp_path: Path) -> None:
    laptop = Machine.founding(home("laptop"), tmp_path)

    async def scenario() -> None:
        async with laptop.node():
            with pytest.raises(Locked, match=r"process \d+"):
                async with laptop.node():
                    pass
        async with laptop.node():
            pass

    run(scenario())


def test_homes_that_are_copies_do_not_exchange_one_file_at_once(home: MakeHome, tmp_path: Path) -> None:
    laptop, copied = Machine.founding(home("laptop"), tmp_path), home("copy")
    shutil.copytree(laptop.home.path, copied, dirs_exist_ok=True)

    async def scenario() -> None:
        async with laptop.node():
            with pytest.raises(Locked, match=rf"of another home, is exchanging {laptop.path} .*process \d+"):
                await open_shared_file(laptop.path, Home(copied))
        await (await open_shared_file(laptop.path, Home(copied))).close()

    run(scenario())


def test_a_file_that_is_no_crdtlog_database_is_not_served(home: MakeHome, tmp_path: Path) -> None:
    laptop = Machine.founding(home("laptop"), tmp_path)
    sqlite3.connect(tmp_path / "other.db").close()

    async def scenario() -> None:
        async with laptop.node() as node:
            with pytest.raises(NotInitialised, match="not a crdtlog database"):
                await node.add_file(tmp_path / "other.db")

    run(scenario())


def test_a_file_that_vanishes_is_not_served_any_more_and_deletes_nothing_elsewhere(
    home: MakeHome, tmp_path: Path
) -> None:
    laptop, phone = Machine.founding(home("laptop"), tmp_path), Machine.at(home("phone"), tmp_path)
    laptop.write("a", "stays")

    async def scenario() -> None:
        async with laptop.node() as node:
            await link(node, laptop, phone)
            async with phone.node() as phone_node:
                phone.path.rename(tmp_path / "moved.db")
                await until(lambda: phone.said("the file is gone"))
                await until(lambda: phone_node.files() == [])

    run(scenario())
    assert laptop.notes() == {"a": "stays"}


def _pinned(node: Node, own: identity.Identity) -> "identity.ssl.SSLContext":
    server = identity.load_identity(node.home, load_device(node.home))
    return identity.client_context([server.certificate], own)


def _hello_of(db: crdtlog.Database, machine: Machine) -> bytes:
    return _hello(db.id, machine.id, tuple(db.epochs()))


def _hello(database: bytes, device: bytes = bytes(16), epochs: tuple[bytes, ...] = ()) -> bytes:
    window = messages.Window(1 << 20, 8, 1 << 20)
    return messages.encode(
        messages.Hello(
            (1, 1), database, device, b"place", device + bytes(8), bytes(32), "phone", 0, epochs, {}, window
        )
    )


def test_connections_that_ask_for_nothing_are_counted_and_closed(
    home: MakeHome, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peers.node.transport.MAX_CONNECTIONS", 3)
    monkeypatch.setattr("peers.node.transport.REQUEST_SECONDS", 0.3)
    laptop, phone = Machine.founding(home("laptop"), tmp_path), Machine.at(home("phone"), tmp_path)

    async def scenario() -> None:
        async with laptop.node() as node:
            host, _, port = str(node.address).rpartition(":")
            idle = [await asyncio.open_connection(host, int(port)) for _ in range(6)]
            for reader, writer in idle:
                assert await asyncio.wait_for(reader.read(), 5) == b""
                writer.close()
            await link(node, laptop, phone)  # and then there is room again

    run(scenario())
