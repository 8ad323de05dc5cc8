"""Nodes and whom they turn away: strangers, forgers, and members that send what cannot be accepted."""

import asyncio
import contextlib
import gc
import socket
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

import crdtlog
from crdtlog.database import Database
from crdtlog.device import load_device
from crdtlog.errors import Malformed, NoPeer
from peers import identity
from peers.node.link import LIMITS
from peers.node.node import Node
from peers.node.transport import SYNC_PATH, Caller, Wire, parse_address
from peers.node.wording import sentences, told, unacceptable
from peers.session import messages
from peers.session.machine import Limits
from tests.peers.nodes import SCHEMA, Machine, link, linked, run, until

MakeHome = Callable[..., Path]


@contextlib.asynccontextmanager
async def dialled(node: Node, machine: Machine) -> AsyncIterator[Wire]:
    """A connection to a node, made with the keys of a machine; the test says what it likes on it."""
    own = identity.load_identity(machine.home, load_device(machine.home))
    server = identity.load_identity(node.home, load_device(node.home))
    context = identity.client_context([server.certificate], own)
    caller = Caller()
    assert node.address is not None
    try:
        yield await caller.dial(node.address, SYNC_PATH, context, max_bytes=LIMITS.frame_bytes, headers={})
    finally:
        await caller.close()


def hello_of(sender: Machine, receiver: Machine) -> bytes:
    """The first message of a member."""
    with crdtlog.open(receiver.path, home=receiver.home) as db:
        return hello(db.id, sender.id, tuple(db.epochs()))


def hello(database: bytes, device: bytes = bytes(16), epochs: tuple[bytes, ...] = ()) -> bytes:
    """The first message of anybody, for any database."""
    window = messages.Window(1 << 20, 8, 1 << 20)
    return messages.encode(
        messages.Hello(
            (1, 1), database, device, b"place", device + bytes(8), bytes(32), "phone", 0, epochs, {}, window
        )
    )


def test_a_stranger_is_turned_away_and_told_so(laptop: Machine, home: MakeHome, tmp_path: Path) -> None:
    stranger = Machine.founding(home("stranger"), tmp_path)

    async def scenario() -> None:
        async with laptop.node() as node:
            assert node.address is not None
            async with stranger.node(node.address) as other:
                await until(lambda: stranger.said("is not a member"))
                assert (await other.sync(stranger.path))["sync"]["devices"] == []

    run(scenario())
    assert not laptop.said("connected")


def test_a_device_that_the_others_do_not_know_any_more_is_told_so(laptop: Machine, phone: Machine) -> None:
    async def scenario() -> None:
        async with linked(laptop, phone, listen=None):
            pass
        laptop.sql("DELETE FROM crdtlog__device WHERE name = 'phone'")
        async with laptop.node(listen=None), phone.node(accepts=False) as node:
            await until(lambda: phone.said("not (or no longer) a member"))
            with pytest.raises(NoPeer, match=r"not \(or no longer\) a member"):
                await node.sync(phone.path)

    run(scenario())


def test_a_certificate_alone_opens_no_other_database(laptop: Machine, phone: Machine, tmp_path: Path) -> None:
    """One node serves two databases: TLS accepts the members of both, the handler looks again."""
    private = Machine(laptop.home, tmp_path / "private.db", "laptop")

    async def scenario() -> None:
        with crdtlog.open(private.path, home=private.home) as db:
            db.execute(SCHEMA)
            db.track("notes")
            database = db.id
        async with laptop.node() as node:
            await node.add_file(private.path)
            await link(node, laptop, phone)
            async with dialled(node, phone) as wire:
                await wire.send(hello(database))
                answer = await wire.receive()

            assert answer is not None and b"not share that database" in answer

    run(scenario())


def test_a_device_that_sends_a_forged_entry_is_dropped_and_named_while_others_go_on(
    laptop: Machine, home: MakeHome, tmp_path: Path
) -> None:
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
    laptop: Machine, phone: Machine, nonsense: bytes
) -> None:
    async def scenario() -> None:
        async with linked(laptop, phone) as node, dialled(node, phone) as wire:
            await wire.send(hello_of(phone, laptop))
            await wire.send(nonsense)
            await until(lambda: laptop.said("phone was dropped", "broke the sync protocol"))

    run(scenario())


def test_a_member_whose_first_message_is_no_hello_is_named_once_and_not_listened_to(
    laptop: Machine, phone: Machine
) -> None:
    async def scenario() -> None:
        async with linked(laptop, phone) as node:
            for _ in range(2):
                async with dialled(node, phone) as wire:
                    await wire.send(b"\xc1 no hello")
                    assert await wire.receive() is None
            phone.lines.clear()
            async with phone.node():
                await until(lambda: phone.said("laptop disconnected"))
                assert not node.sharing(laptop.path).links

    run(scenario())
    lines = [line for line in laptop.lines if "phone was dropped: it broke the sync protocol" in line]
    assert len(lines) == 1 and lines[0].endswith(").") and "no Hello" in lines[0]


def test_a_refusal_that_comes_after_the_link_has_ended_still_names_the_sender(
    laptop: Machine, phone: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    applying, gone = threading.Event(), threading.Event()
    faults: list[object] = []

    def refuse(*arguments: object) -> None:
        applying.set()
        gone.wait(20)
        raise Malformed("previous hash: not 0 bytes")

    async def scenario() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda loop, context: faults.append(context))
        async with linked(laptop, phone) as node:
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


def test_a_message_that_is_too_large_is_not_read_and_its_sender_is_named(
    laptop: Machine, phone: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peers.node.node.LIMITS", Limits(frame_bytes=100_000))

    async def scenario() -> None:
        async with linked(laptop, phone) as node, dialled(node, phone) as wire:
            await wire.send(hello_of(phone, laptop))
            await wire.send(bytes(200_000))
            await until(lambda: laptop.said("phone was dropped", "too large"))

    run(scenario())


def test_connections_over_the_limit_are_hung_up_on_even_if_all_come_at_once(
    laptop: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peers.node.transport.MAX_CONNECTIONS", 3)
    monkeypatch.setattr("peers.node.transport.REQUEST_SECONDS", 100.0)

    async def scenario() -> None:
        async with laptop.node() as node:
            address = parse_address(str(node.address))
            with contextlib.ExitStack() as stack:
                # Nothing is awaited meanwhile, so that all are there before the node accepts the first.
                idle = [stack.enter_context(socket.create_connection(address)) for _ in range(6)]
                for one in idle:
                    one.setblocking(False)
                await until(lambda: all(is_hung_up(one) for one in idle[3:]))
                assert not any(is_hung_up(one) for one in idle[:3])

    run(scenario())


def is_hung_up(connection: socket.socket) -> bool:
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False


@pytest.mark.parametrize("begins_tls", [False, True])
def test_connections_that_ask_for_nothing_are_closed_and_others_have_room_again(
    laptop: Machine, phone: Machine, monkeypatch: pytest.MonkeyPatch, begins_tls: bool
) -> None:
    monkeypatch.setattr("peers.node.transport.MAX_CONNECTIONS", 3)
    monkeypatch.setattr("peers.node.transport.REQUEST_SECONDS", 0.3)
    own = identity.load_identity(laptop.home, load_device(laptop.home))
    tls = (
        {"ssl": identity.client_context([own.certificate], own), "server_hostname": ""} if begins_tls else {}
    )

    async def scenario() -> None:
        async with laptop.node() as node:
            host, port = parse_address(str(node.address))
            for reader, writer in [await asyncio.open_connection(host, port, **tls) for _ in range(3)]:
                with contextlib.suppress(ConnectionError):
                    assert await asyncio.wait_for(reader.read(), 20) == b""
                writer.close()
            await link(node, laptop, phone)

    run(scenario())
