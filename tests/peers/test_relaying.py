"""Devices that meet at a relay: real nodes, a real relay, and no way to reach one another directly."""

import asyncio
import contextlib
import os
import sqlite3
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

import crdtlog
from crdtlog import epochs, rotation
from crdtlog.errors import Malformed, NoPeer, PairingFailed
from crdtlog.values import pack
from peers.mailbox import uploads
from peers.node import meeting, relaying, welcoming
from peers.node.joining import join
from peers.node.node import Node
from peers.node.relay_address import RelayAddress
from peers.relay import core
from peers.relay.messages import (
    Append,
    ClientHello,
    Got,
    Meet,
    Open,
    Request,
    Say,
    Subscribe,
    decode_request,
)
from tests.peers.nodes import SCHEMA, Machine, link, linked, open_code, run, until
from tests.peers.relay_world import Relay, relay


@pytest.fixture(autouse=True)
def _little_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waiting for others to upload, and to try again, is not what is tested."""
    monkeypatch.setattr(uploads, "GRACE_S", 0.2)
    monkeypatch.setattr(uploads, "GRACE_JITTER_S", 0.2)
    monkeypatch.setattr(relaying, "FIRST_PAUSE_S", 0.1)
    monkeypatch.setattr(relaying, "LONGEST_PAUSE_S", 0.4)


@contextlib.asynccontextmanager
async def apart(machine: Machine, *relays: Relay) -> AsyncIterator[Node]:
    """A node that nobody can reach, and that knows these relays."""
    urls = [f"ws://127.0.0.1:{relay.port}" for relay in relays]
    async with machine.node(accepts=False, relays=urls) as node:
        yield node


async def exchanged(node: Node, machine: Machine) -> None:
    """Wait until everything was exchanged with all relays."""
    relays = node.sharing(machine.path).relays
    await node.sharing(machine.path).file.drain()
    await until(lambda: relays.is_exchanged and relays.is_settled)


async def pair_directly(laptop: Machine, phone: Machine) -> None:
    async with linked(laptop, phone):
        pass


def test_two_devices_that_are_never_online_at_the_same_time_converge(
    laptop: Machine, phone: Machine, tmp_path: Path
) -> None:
    async def scenario() -> None:
        await pair_directly(laptop, phone)
        async with relay(tmp_path) as at:
            for machine, note in [(laptop, "a"), (phone, "b"), (laptop, "c"), (phone, "d"), (laptop, "e")]:
                machine.write(note, f"by {machine.name}")
                async with apart(machine, at) as node:
                    await exchanged(node, machine)
            async with apart(phone, at) as node:
                await exchanged(node, phone)

    run(scenario())
    assert laptop.notes() == phone.notes()
    assert sorted(laptop.notes()) == ["a", "b", "c", "d", "e"]
    assert laptop.verified() == phone.verified()


def test_while_both_are_there_a_row_is_pushed_at_once(
    laptop: Machine, phone: Machine, tmp_path: Path
) -> None:
    async def scenario() -> None:
        await pair_directly(laptop, phone)
        async with relay(tmp_path) as at, apart(laptop, at), apart(phone, at):
            laptop.write("a")
            await until(lambda: phone.notes() == {"a": ""})
            phone.write("b")
            await until(lambda: len(laptop.notes()) == 2)

    run(scenario())
    assert phone.said("received", "through a relay")


def test_the_relay_is_remembered_and_reading_goes_on_where_it_stopped(
    laptop: Machine, phone: Machine, tmp_path: Path
) -> None:
    async def scenario() -> None:
        await pair_directly(laptop, phone)
        async with relay(tmp_path) as at:
            async with apart(laptop, at) as node:
                await exchanged(node, laptop)
            laptop.write("a")
            async with laptop.node(accepts=False) as node:
                await exchanged(node, laptop)
                appended = await at.metric("appends_total")
            async with laptop.node(accepts=False) as node:
                await exchanged(node, laptop)
                assert await at.metric("appends_total") == appended
            async with apart(phone, at) as node:
                await exchanged(node, phone)

    run(scenario())
    assert phone.notes() == {"a": ""}


def test_when_the_relay_is_down_devices_go_on_directly_and_catch_up_later(
    laptop: Machine, phone: Machine, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as at:
            port = at.port
        async with linked(laptop, phone) as node:
            await node.sharing(laptop.path).relays.add(RelayAddress.parse(f"ws://127.0.0.1:{port}"))
            await until(lambda: laptop.said("cannot be reached", "trying again"))
            async with phone.node(node.address or ""):
                laptop.write("direct")
                await until(lambda: phone.notes() == {"direct": ""})
            async with relay(tmp_path, port=port) as at:
                await exchanged(node, laptop)
                assert laptop.said("relay", "connected")
                assert await at.metric("appends_total") > 0
        assert len([line for line in laptop.lines if "cannot be reached" in line]) == 1

    run(scenario())


def test_a_relay_that_lost_everything_gets_it_again(laptop: Machine, phone: Machine, tmp_path: Path) -> None:
    laptop.write("a")

    async def scenario() -> None:
        await pair_directly(laptop, phone)
        async with relay(tmp_path) as at, apart(laptop, at) as node:
            await exchanged(node, laptop)
        for file in tmp_path.glob("relay.db*"):
            file.unlink()
        laptop.write("b")
        async with relay(tmp_path, port=at.port) as again:
            async with laptop.node(accepts=False) as node:
                await exchanged(node, laptop)
            async with apart(phone, again) as node:
                await exchanged(node, phone)

    run(scenario())
    assert laptop.said("has lost what it kept")
    assert phone.notes() == {"a": "", "b": ""}


def test_a_second_relay_gets_everything(laptop: Machine, phone: Machine, tmp_path: Path) -> None:
    laptop.write("a")

    async def scenario() -> None:
        await pair_directly(laptop, phone)
        phone.write("only near")
        async with laptop.node() as node, phone.node(node.address or ""):
            await until(lambda: len(laptop.notes()) == 2)
        one, two = tmp_path / "one", tmp_path / "two"
        one.mkdir()
        two.mkdir()
        async with relay(one) as first, relay(two) as second:
            async with apart(laptop, first) as node:
                await exchanged(node, laptop)
            async with apart(laptop, second) as node:
                await exchanged(node, laptop)
                assert await first.metric("bytes") == await second.metric("bytes") > 0

    run(scenario())


def test_large_values_travel_in_pieces(laptop: Machine, phone: Machine, tmp_path: Path) -> None:
    large = os.urandom(3 << 20).hex()

    async def scenario() -> None:
        await pair_directly(laptop, phone)
        laptop.write("large", large)
        async with relay(tmp_path) as at, apart(laptop, at), apart(phone, at):
            await until(lambda: phone.notes().get("large") == large, 60)

    run(scenario())


def test_nothing_of_names_ids_and_values_can_be_recognised_at_the_relay(
    laptop: Machine, phone: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "relay"
    folder.mkdir()
    heard: list[bytes] = []

    def hear(frame: bytes) -> Request:
        heard.append(frame)
        return decode_request(frame)

    monkeypatch.setattr(core, "decode_request", hear)

    async def scenario() -> None:
        laptop.write("key-of-a-row", "a value that nobody else should read " * 3)
        async with relay(folder) as at:
            async with (
                laptop.node(relays=[at.url.base]) as node,
                open_code(node, laptop) as (code, _, pairing),
            ):
                await join_at(phone, code, at)
                await pairing
                codes.append(code.partition("-")[2].encode())
            phone.write("key-of-phone", "another")
            async with apart(laptop, at), apart(phone, at):
                await until(lambda: len(laptop.notes()) == len(phone.notes()) == 2)

    codes: list[bytes] = []
    run(scenario())
    seen = b"".join(heard) + b"".join(path.read_bytes() for path in folder.iterdir())
    ids = [laptop.id, phone.id, *codes]
    with contextlib.closing(sqlite3.connect(laptop.path)) as connection:
        ids += [
            row[0] for row in connection.execute("SELECT value FROM crdtlog__meta WHERE name = 'database'")
        ]
        ids += [row[0] for row in connection.execute("SELECT writer FROM crdtlog__writer")]
        ids += [row[0] for row in connection.execute("SELECT sign_key FROM crdtlog__device")]
        ids += [row[0] for row in connection.execute("SELECT receive_key FROM crdtlog__device")]
    assert len(seen) > 10_000
    assert {decode_request(frame).__class__ for frame in heard} == {
        ClientHello, Open, Append, Subscribe, Got, Meet, Say,
    }  # fmt: skip
    for secret in (*ids, *(some.hex().encode() for some in ids)):
        assert len(secret) >= 10
        assert secret not in seen
    for word in (b"laptop", b"phone", b"notes", b"key-of", b"nobody else", b"crdtlog__"):
        assert word not in seen


# --- pairing through a relay --------------------------------------------------------------------------------------


async def join_at(machine: Machine, code: str, at: Relay) -> dict[str, Any]:
    """Join with a code through a relay alone."""
    return await join(
        code,
        machine.path,
        home=machine.home,
        name=machine.name,
        mdns=False,
        relays=[at.url.base],
        progress=machine.log,
    )


def test_a_device_joins_and_is_brought_up_wholly_through_a_relay(
    laptop: Machine, phone: Machine, home: Callable[..., Path], tmp_path: Path
) -> None:
    tablet = Machine.at(home("tablet"), tmp_path)
    for number in range(40):
        laptop.write(f"n{number}")
    phone.sql(SCHEMA)
    phone.write("mine", "from before joining")

    async def scenario() -> None:
        async with relay(tmp_path) as at:
            async with (
                laptop.node(relays=[at.url.base]) as node,
                open_code(node, laptop, role="admin") as (code, _, pairing),
            ):
                joined = (await join_at(phone, code, at))["joined"]
                device = (await pairing)["device"]
                assert joined["complete"], joined["why"]
                assert (device["name"], joined["issuer"]["name"]) == ("phone", "laptop")
                await until(lambda: "mine" in laptop.notes())
            # A third one is let in while only relays connect it with anybody, by a device that only joined through one.
            async with phone.node(listen="127.0.0.1:0") as node, open_code(node, phone) as (code, _, pairing):
                await join_at(tablet, code, at)
                await pairing
            async with apart(tablet) as node:
                await exchanged(node, tablet)

    run(scenario())
    assert len(phone.notes()) == len(tablet.notes()) == 41
    assert laptop.notes() == phone.notes() == tablet.notes()
    with crdtlog.open(phone.path, home=phone.home) as db:
        assert db.addresses() == {}


def test_a_wrong_code_through_a_relay_burns_the_code(laptop: Machine, phone: Machine, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with (
            relay(tmp_path) as at,
            laptop.node(relays=[at.url.base]) as node,
            open_code(node, laptop) as (code, _, pairing),
        ):
            wrong = f"{code.partition('-')[0]}-abandon-abandon-ability"
            with pytest.raises(PairingFailed, match="code is wrong"):
                await join_at(phone, wrong, at)
            with pytest.raises(PairingFailed, match="wrong code"):
                await pairing

    run(scenario())
    assert not phone.path.exists()


def test_a_device_that_is_declined_does_not_get_in_through_a_relay(
    laptop: Machine, phone: Machine, tmp_path: Path
) -> None:
    async def decline(name: str, fingerprint: str) -> bool:
        return False

    async def scenario() -> None:
        async with (
            relay(tmp_path) as at,
            laptop.node(relays=[at.url.base]) as node,
            open_code(node, laptop, approve=decline) as (code, _, pairing),
        ):
            with pytest.raises(PairingFailed, match="declined"):
                await join_at(phone, code, at)
            with pytest.raises(PairingFailed, match="declined"):
                await pairing

    run(scenario())
    assert not phone.path.exists()


def test_who_sits_in_the_channel_does_not_keep_others_out(
    laptop: Machine, phone: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "LEAVING_S", 0.1)
    monkeypatch.setattr(meeting, "FIND_PAUSE_S", 0.5)

    async def scenario() -> None:
        async with (
            relay(tmp_path) as at,
            laptop.node(relays=[at.url.base]) as node,
            open_code(node, laptop) as (code, _, pairing),
        ):
            stranger = await meeting.find(RelayAddress.parse(at.url.base), int(code.partition("-")[0]))
            await stranger.send(b"nonsense")
            assert await stranger.receive()
            await join_at(phone, code, at)
            await pairing
            await stranger.close()

    run(scenario())
    assert phone.path.exists()


def test_nobody_waits_at_a_relay(
    laptop: Machine, phone: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meeting, "FIND_PAUSE_S", 0.01)

    async def scenario() -> None:
        async with relay(tmp_path) as at:
            with pytest.raises(NoPeer, match="nobody has this code open"):
                await join_at(phone, "417-abandon-zebra-lucky", at)

    run(scenario())
    assert not phone.path.exists()


def test_what_is_handed_over_is_a_welcome_and_relays() -> None:
    assert welcoming.unpacked(welcoming.packed(pack([1]), [])) == (pack([1]), ())
    assert welcoming.unpacked(welcoming.packed(b"welcome", ["wss://a"])) == (b"welcome", ("wss://a",))
    for wrong in (pack(["relays", b"w", [1]]), pack(["relays", b"w", ["x" * 3000]])):
        with pytest.raises(Malformed):
            welcoming.unpacked(wrong)
    assert welcoming.unpacked(pack([1, b"w"])) == (pack([1, b"w"]), ())


# --- epochs -------------------------------------------------------------------------------------------------------


def begin_epoch(machine: Machine, secret: bytes) -> None:
    """Have a device hold one more epoch, and write under it, as if it had been rotated to."""
    with crdtlog.open(machine.path, home=machine.home, create=False) as db:
        epochs.Keys(machine.home, db.id).keep({rotation.epoch_id(secret): secret})
    machine.sql("UPDATE crdtlog__meta SET value = ? WHERE name = 'epoch'", rotation.epoch_id(secret))


def test_mailboxes_of_earlier_epochs_are_read_and_the_current_one_is_written(
    laptop: Machine, phone: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def scenario() -> None:
        await pair_directly(laptop, phone)
        laptop.write("under the first")
        async with relay(tmp_path) as at:
            async with apart(laptop, at) as node:
                await exchanged(node, laptop)
            assert await at.metric("new_mailboxes_total") == 1
            begin_epoch(phone, bytes(32))
            async with apart(phone, at) as node:
                await exchanged(node, phone)
                assert phone.notes() == {"under the first": ""}
            begin_epoch(laptop, bytes(32))
            phone.write("under the second")
            async with apart(phone, at) as node, apart(laptop, at) as other:
                await exchanged(node, phone)
                await exchanged(other, laptop)
                await until(lambda: "under the second" in laptop.notes())
            assert await at.metric("new_mailboxes_total") == 2
            async with apart(laptop, at) as node:
                await exchanged(node, laptop)
                looks: list[object] = []

                async def look(*what: object) -> None:
                    looks.append(what)

                (link,) = node.sharing(laptop.path).relays.links
                monkeypatch.setattr(link, "_save_soon", look)
                for box in link._boxes.values():
                    box.sync.uploads._due_at = 0.0  # as when an epoch ends while something is to be uploaded
                link._wake()
                await asyncio.sleep(1)
                assert len(looks) < 20, "nothing has to be done, and it is done again and again"

    run(scenario())


# --- sync and several devices -------------------------------------------------------------------------------------


def test_what_a_device_writes_that_knows_no_relay_comes_to_one_through_another(
    laptop: Machine, phone: Machine, home: Callable[..., Path], tmp_path: Path
) -> None:
    tablet = Machine.at(home("tablet"), tmp_path)

    async def scenario() -> None:
        async with relay(tmp_path) as at, laptop.node() as node:
            await link(node, laptop, phone)  # before there was a relay, so it is told of none
            await node.sharing(laptop.path).relays.add(RelayAddress.parse(at.url.base))
            async with open_code(node, laptop) as (code, _, pairing):
                await join_at(tablet, code, at)
                await pairing
            async with phone.node(node.address or ""), apart(tablet):
                phone.write("near")
                await until(lambda: "near" in tablet.notes())
                tablet.write("far")
                await until(lambda: "far" in phone.notes())

    run(scenario())
    assert not phone.said("relay")


def test_sync_counts_a_relay_as_reached_and_waits_for_it(
    laptop: Machine, phone: Machine, tmp_path: Path
) -> None:
    async def scenario() -> None:
        await pair_directly(laptop, phone)
        async with relay(tmp_path) as at:
            laptop.write("a")
            async with apart(laptop, at) as node:
                result = (await node.sync(laptop.path, 20))["sync"]
                assert result["complete"]
                assert [device["state"] for device in result["devices"]] == ["relay"]
                assert result["relays"] == [{"url": at.url.base, "state": "equal", "why": None}]
            async with apart(phone, at) as node:
                await node.sync(phone.path, 20)
                assert phone.notes() == {"a": ""}
        async with laptop.node(accepts=False) as node:
            with pytest.raises(NoPeer, match="no other device"):
                await node.sync(laptop.path, 20)
        async with laptop.node() as node, phone.node(node.address or "") as other:
            result = (await other.sync(phone.path, 20))["sync"]
            assert result["complete"]
            assert [found["state"] for found in result["relays"]] == ["unreachable"]
            assert "cannot be reached" in result["relays"][0]["why"]

    run(scenario())


def test_status_names_the_relay_and_the_devices_that_meet_there(
    laptop: Machine, phone: Machine, tmp_path: Path
) -> None:
    async def scenario() -> None:
        await pair_directly(laptop, phone)
        phone.write("a")
        async with relay(tmp_path) as at, apart(laptop, at) as node:
            async with apart(phone, at) as other:
                await exchanged(other, phone)
                await until(lambda: "a" in laptop.notes())
            laptop.write("b")
            await exchanged(node, laptop)
            found = await node.sharing(laptop.path).status()
            (device,) = (device for device in found["devices"] if not device["self"])
            assert (device["path"], device["address"], device["connected"]) == ("relay", at.url.base, False)
            assert device["lag"] == 1
            assert found["relays"] == [{"url": at.url.base, "connected": True, "problem": None}]

    run(scenario())


def test_a_relay_that_is_named_with_another_token_takes_the_place_of_itself(
    laptop: Machine, tmp_path: Path
) -> None:
    async def scenario() -> None:
        async with relay(tmp_path) as at:
            url = f"ws://127.0.0.1:{at.port}"
            for named in (f"{url}#token=old", f"{url}#token=new", url):
                async with laptop.node(accepts=False, relays=[named]) as node:
                    await until(lambda: len(node.sharing(laptop.path).relays.addresses) == 1)
            async with laptop.node(accepts=False) as node:
                (address,) = node.sharing(laptop.path).relays.addresses
                assert address.token == "new"
                await node.sharing(laptop.path).relays.add(RelayAddress.parse(f"{url}#token=newer"))
                (address,) = node.sharing(laptop.path).relays.addresses
                assert address.token == "newer"

    run(scenario())


def test_what_becomes_due_while_the_file_is_slow_is_uploaded_all_the_same(
    laptop: Machine, phone: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uploads, "GRACE_S", 0.1)
    monkeypatch.setattr(uploads, "GRACE_JITTER_S", 0.0)

    async def slowly(self: relaying.RelayLink, box: Any) -> None:
        await asyncio.sleep(0.3)  # and there is nothing to write down

    async def scenario() -> None:
        await pair_directly(laptop, phone)
        phone.write("by the phone")
        async with laptop.node() as near, phone.node(near.address or ""):
            await until(lambda: "by the phone" in laptop.notes())
        monkeypatch.setattr(relaying.RelayLink, "_save_soon", slowly)
        async with relay(tmp_path) as at, apart(laptop, at) as node:
            await until(lambda: node.sharing(laptop.path).relays.is_exchanged)

    run(scenario())
