"""Devices find each other by multicast DNS on loopback, and strangers learn nothing from it."""

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from peers import envelope
from peers.node import discovery
from peers.node.discovery import Discovery, PairingSighting, Sighting

LOOPBACK = ["127.0.0.1"]
NOTES, TASKS = b"notes" * 6 + b"id", b"tasks" * 6 + b"id"
KEYS = {NOTES: envelope.discovery_key(b"1" * 32), TASKS: envelope.discovery_key(b"2" * 32)}


def multicast_on_loopback() -> str | None:
    """None if a multicast datagram comes back on loopback, or why not."""
    group = "224.0.0.251"
    try:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as receiver,
            socket.socket(type=socket.SOCK_DGRAM) as sender,
        ):
            receiver.bind(("", 0))
            member = socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
            receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
            receiver.settimeout(2)
            sender.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_IF, socket.inet_aton("127.0.0.1"))
            sender.sendto(b"?", (group, receiver.getsockname()[1]))
            receiver.recv(1)
    except OSError as error:
        return str(error)
    return None


needs_multicast = pytest.mark.skipif(
    (why := multicast_on_loopback()) is not None, reason=f"no multicast on loopback here: {why}"
)


def run(test: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(test, 30))


async def wait_until(condition: Callable[[], object], seconds: float = 15) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


class Lan:
    """Some devices on loopback, all closed at the end."""

    def __init__(self) -> None:
        self.devices: list[Discovery] = []

    async def device(
        self, keys: Mapping[bytes, bytes], port: int | None = None, **options: Any
    ) -> tuple[Discovery, list[Sighting]]:
        seen: list[Sighting] = []
        device = Discovery(on_peer=seen.append, interfaces=LOOPBACK, **options)
        self.devices.append(device)
        await device.announce(keys, port)
        await device.start()
        return device, seen

    async def __aenter__(self) -> "Lan":
        return self

    async def __aexit__(self, *exception: object) -> None:
        closing: list[Awaitable[None]] = [device.close() for device in self.devices]
        await asyncio.gather(*closing)


@needs_multicast
def test_members_find_each_other_and_only_in_shared_databases() -> None:
    async def test() -> None:
        async with Lan() as lan:
            _, laptop_saw = await lan.device(KEYS, 4001)
            _, phone_saw = await lan.device({NOTES: KEYS[NOTES]}, 4002)
            _, stranger_saw = await lan.device({NOTES: bytes(32)}, 4003)
            await wait_until(lambda: laptop_saw and phone_saw)
            await asyncio.sleep(0.5)

            assert set(laptop_saw) == {Sighting(("127.0.0.1:4002",), frozenset({NOTES}))}
            assert set(phone_saw) == {Sighting(("127.0.0.1:4001",), frozenset({NOTES}))}
            assert stranger_saw == []

    run(test())


@needs_multicast
def test_a_device_that_only_dials_sees_and_is_not_seen() -> None:
    async def test() -> None:
        async with Lan() as lan:
            _, listener_saw = await lan.device(KEYS, 4001)
            _, dialer_saw = await lan.device(KEYS, None)
            await wait_until(lambda: dialer_saw)
            assert dialer_saw[0].databases == {NOTES, TASKS} and listener_saw == []

    run(test())


@needs_multicast
def test_a_database_added_later_is_recognised_in_what_was_seen_before() -> None:
    async def test() -> None:
        async with Lan() as lan:
            await lan.device(KEYS, 4001)
            phone, phone_saw = await lan.device({}, None)
            await wait_until(lambda: phone._seen)
            assert phone_saw == []
            await phone.announce({TASKS: KEYS[TASKS]}, None)
            assert phone_saw == [Sighting(("127.0.0.1:4001",), frozenset({TASKS}))]

    run(test())


@needs_multicast
def test_ids_and_names_change_with_the_slot_and_members_still_recognise_them() -> None:
    async def test() -> None:
        now = [1_760_000_000.0]
        async with Lan() as lan:
            laptop, _ = await lan.device(KEYS, 4001, clock=lambda: now[0], check_seconds=0.05)
            phone, phone_saw = await lan.device(KEYS, None, clock=lambda: now[0])
            await wait_until(lambda: phone_saw)
            (first,) = phone._seen
            first_texts = phone._seen[first].texts
            now[0] += 900
            await wait_until(lambda: any(name != first for name in phone._seen))
            (second,) = set(phone._seen) - {first}

            assert not set(discovery.ids_in(first_texts)) & set(discovery.ids_in(phone._seen[second].texts))
            assert phone_saw[-1] == phone_saw[0]
            assert laptop.is_working

    run(test())


@needs_multicast
def test_an_open_code_is_found_by_its_nameplate_until_it_is_withdrawn() -> None:
    async def test() -> None:
        codes: list[PairingSighting] = []
        joiner = Discovery(on_pairing=codes.append, interfaces=LOOPBACK)
        issuer = Discovery(interfaces=LOOPBACK)
        await issuer.start()
        await joiner.start()
        await issuer.announce_pairing(417, 4009)
        await wait_until(lambda: codes)
        assert set(codes) == {PairingSighting(417, ("127.0.0.1:4009",))}
        await issuer.withdraw_pairing(417)
        assert issuer._infos == {}
        await asyncio.gather(issuer.close(), joiner.close())

    run(test())


@needs_multicast
def test_what_is_announced_names_nobody() -> None:
    async def test() -> None:
        async with Lan() as lan:
            laptop, _ = await lan.device(KEYS, 4001)
            (info,) = laptop._infos.values()
            told = info.name + str(info.server) + str(info.decoded_properties)
            assert socket.gethostname().split(".")[0] not in told
            assert not [d for d in KEYS if d.hex() in told or d.hex()[:16] in told]

    run(test())


def test_without_multicast_one_line_is_logged_and_life_goes_on(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    attempts = []

    def no_multicast(interfaces: object) -> None:
        attempts.append(interfaces)
        raise OSError(19, "No such device")

    monkeypatch.setattr(discovery, "_open_zeroconf", no_multicast)

    async def test() -> None:
        device = Discovery(on_peer=lambda sighting: None, check_seconds=0.01)
        await device.start()
        await device.announce(KEYS, 4001)
        await device.announce_pairing(5, 4001)
        await wait_until(lambda: len(attempts) > 3)
        await device.withdraw_pairing(5)
        assert not device.is_working
        await device.close()

    with caplog.at_level(logging.WARNING):
        run(test())
    assert [record.getMessage().split(" (")[0] for record in caplog.records] == ["No multicast here"]


@needs_multicast
def test_multicast_that_comes_back_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    real = discovery._open_zeroconf
    failures = [1, 1]

    def flaky(interfaces: Any) -> Any:
        if failures:
            failures.pop()
            raise OSError(101, "Network is unreachable")
        return real(interfaces)

    monkeypatch.setattr(discovery, "_open_zeroconf", flaky)

    async def test() -> None:
        async with Lan() as lan:
            laptop, _ = await lan.device(KEYS, 4001, check_seconds=0.05)
            assert not laptop.is_working
            await wait_until(lambda: laptop.is_working and laptop._infos)

    run(test())


@given(st.lists(st.from_regex(r"[0-9a-f]{16}", fullmatch=True), max_size=70))
def test_ids_read_back_from_a_txt_record_up_to_the_limit(ids: list[str]) -> None:
    texts = discovery.peer_texts(ids)
    assert discovery.ids_in(texts) == ids[:60]
    assert all(len(key) + 1 + len(value) <= 255 for key, value in texts.items())


@given(st.dictionaries(st.sampled_from(["v", "n", "d0", "d1", "d9"]), st.text(max_size=300)))
def test_foreign_txt_records_are_read_without_trouble(texts: dict[str, str]) -> None:
    assert all(len(found) == 16 for found in discovery.ids_in(texts))
    nameplate = discovery.nameplate_in(texts)
    assert nameplate is None or 0 <= nameplate <= 999


def test_addresses_are_written_as_they_are_dialled() -> None:
    assert discovery.address("192.0.2.1", 80) == "192.0.2.1:80"
    assert discovery.address("fe80::1%eth0", 80) == "[fe80::1%eth0]:80"
    assert discovery.own_hosts()
