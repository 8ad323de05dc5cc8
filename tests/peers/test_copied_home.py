"""Two machines with the keys of one device whose homes look exactly alike, as after cloning a disk."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from crdtlog.device import Home
from peers.node import known, places
from peers.node.places import Places
from peers.session.greeting import HOME_BYTES
from tests.peers.nodes import Machine, link, run, until

MakeHome = Callable[..., Path]

PHONE, TABLET = b"phone".ljust(16), b"tablet".ljust(16)
HERE, THERE = b"here".ljust(HOME_BYTES), b"there".ljust(HOME_BYTES)


def clone(machine: Machine, home: MakeHome, tmp_path: Path) -> Machine:
    """The machine again, with all that is on its disk."""
    shutil.copytree(machine.home.path, home("clone"), dirs_exist_ok=True)
    shutil.copy(machine.path, tmp_path / "clone.db")
    return Machine(Home(home("clone")), tmp_path / "clone.db", machine.name)


@pytest.fixture
def alike(monkeypatch: pytest.MonkeyPatch) -> None:
    """No home can be told from another one."""
    monkeypatch.setattr(known, "place_of", lambda home: HERE)


def test_the_two_tell_each_other_what_to_do(
    laptop: Machine, phone: Machine, home: MakeHome, tmp_path: Path, alike: None
) -> None:
    async def scenario() -> None:
        async with laptop.node() as node:
            await link(node, laptop, phone)
        second = clone(phone, home, tmp_path)
        async with phone.node() as original:
            assert original.address is not None
            async with second.node(original.address):
                await until(lambda: phone.said("keys of this device", "crdtlog join"))
                await until(lambda: second.said("keys of this device", "crdtlog join"))

    run(scenario())


def test_a_third_device_refuses_the_one_that_comes_back_after_the_other(
    laptop: Machine, phone: Machine, home: MakeHome, tmp_path: Path, alike: None
) -> None:
    async def scenario() -> None:
        async with laptop.node() as node:
            await link(node, laptop, phone)
            second = clone(phone, home, tmp_path)
            async with phone.node(), second.node():
                await until(lambda: laptop.said("keys of one device", "crdtlog join"))
                await until(
                    lambda: any(m.said("keys of one device", "crdtlog join") for m in (phone, second))
                )

    run(scenario())


def test_a_device_that_is_started_again_and_again_is_no_copy(laptop: Machine, phone: Machine) -> None:
    async def scenario() -> None:
        async with laptop.node() as node:
            await link(node, laptop, phone)
            for number in range(4):
                async with phone.node():
                    phone.write(f"n{number}")
                    await until(lambda: len(laptop.notes()) == number + 1)  # noqa: B023
        assert not laptop.said("keys of") and not phone.said("keys of")

    run(scenario())


def test_a_process_that_another_one_of_its_home_has_replaced_never_comes_back() -> None:
    found = Places()
    found.note(PHONE, HERE + b"1")
    assert not found.is_copy(PHONE, HERE + b"1", HERE + b"1")
    assert not found.is_copy(PHONE, HERE + b"2", HERE + b"1")
    found.note(PHONE, HERE + b"2")
    assert found.is_copy(PHONE, HERE + b"1", HERE + b"2") and found.is_copy(PHONE, HERE + b"1", None)
    assert not found.is_copy(PHONE, HERE + b"2", None) and not found.is_copy(TABLET, HERE + b"1", None)


def test_another_home_is_a_copy_while_the_first_is_connected() -> None:
    found = Places()
    found.note(PHONE, HERE + b"1")
    assert found.is_copy(PHONE, THERE + b"1", HERE + b"1")
    assert not found.is_copy(PHONE, THERE + b"1", None)  # somebody has moved the home


def test_the_place_of_a_home_is_as_long_as_others_expect(home: MakeHome) -> None:
    assert len(known.place_of(Home(home()).prepare())) == HOME_BYTES


def test_what_is_remembered_of_a_device_is_bounded() -> None:
    found = Places()
    for number in range(10_000):
        found.note(PHONE, HERE + number.to_bytes(16))
    assert (
        sum(found.is_copy(PHONE, HERE + number.to_bytes(16), None) for number in range(10_000))
        == places.MAX_REPLACED
    )
