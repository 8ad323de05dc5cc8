"""A file that cannot take the database: the device that was let in may try again with its code, and nobody else may."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from crdtlog.device import Device, device_from_secrets
from crdtlog.errors import PairingFailed, SchemaRefused
from peers.node.joining import join
from peers.pairing.codes import Code
from peers.pairing.effects import Approve, Burned, Done
from peers.pairing.frames import Reason
from peers.pairing.machines import CODE_SECONDS, Offer, OfferState
from tests.peers.nodes import SCHEMA, Machine, open_code, run, until
from tests.peers.pairing_world import CODE, NOW, PHONE, WRONG, Exchange, make_issuer, make_joiner, seen
from tests.peers.processes import Daemon

ROOT = Path(__file__).resolve().parents[2]
OTHER_SCHEMA = "CREATE TABLE notes (id TEXT PRIMARY KEY, other TEXT)"
NAMESAKE = device_from_secrets("phone", b"x" * 32, b"y" * 32)


# --- the machines -------------------------------------------------------------------------------------------------


def exchange(
    offer: Offer, code: Code = CODE, device: Device = PHONE, *, now: float = NOW, problem: str | None = None
) -> Exchange:
    """One try to join, which the person approves, and which `problem` keeps from adopting the database."""
    tried = Exchange(make_issuer(offer, now=now), make_joiner(code, device))
    tried.adoption_error = problem
    return tried.run(now)


@pytest.fixture
def offer() -> Offer:
    """A code whose joiner could not take the database."""
    offer = Offer(CODE, NOW + CODE_SECONDS)
    assert exchange(offer, problem="table notes does not fit").reasons()[0] is Reason.NOT_ADOPTED
    return offer


def test_the_code_stays_open_for_the_device_that_was_let_in(offer: Offer) -> None:
    assert offer.is_open(NOW)
    assert exchange(offer, problem="still not").reasons()[0] is Reason.NOT_ADOPTED
    assert seen(exchange(offer).issuer_saw, Done) and offer.state is OfferState.USED
    assert exchange(offer).reasons() == (Reason.USED, Reason.USED)


def test_another_device_is_refused_although_it_knows_the_code(offer: Offer) -> None:
    other = exchange(offer, device=NAMESAKE)
    assert other.reasons() == (Reason.USED, Reason.USED) and not seen(other.issuer_saw, Approve)
    assert seen(exchange(offer).issuer_saw, Done)


@pytest.mark.parametrize("device", [PHONE, NAMESAKE], ids=["of the same device", "of another device"])
def test_a_wrong_guess_still_ends_the_code(offer: Offer, device: Device) -> None:
    assert seen(exchange(offer, WRONG, device).issuer_saw, Burned) and offer.state is OfferState.BURNED
    assert exchange(offer).reasons() == (Reason.WITHDRAWN, Reason.WITHDRAWN)


def test_it_expires_when_it_would_have(offer: Offer) -> None:
    assert exchange(offer, now=NOW + CODE_SECONDS).reasons()[0] is Reason.EXPIRED


# --- devices ------------------------------------------------------------------------------------------------------


@pytest.fixture
def phone(phone: Machine) -> Machine:
    """A device whose file has a table that does not fit."""
    phone.sql(OTHER_SCHEMA)
    return phone


async def joining(machine: Machine, code: str, address: str) -> None:
    await join(code, machine.path, home=machine.home, name=machine.name, peers=[address], mdns=False)


def test_a_table_that_does_not_fit_is_said_on_both_sides_and_changes_nothing(
    laptop: Machine, phone: Machine
) -> None:
    told: list[str] = []

    async def tell(line: str) -> None:
        told.append(line)

    async def scenario() -> None:
        async with laptop.node() as node, open_code(node, laptop, tell=tell) as (code, address, pairing):
            with pytest.raises(SchemaRefused, match="notes") as caught:
                await joining(phone, code, address)
            assert "The code stays open for this device" in caught.value.hint
            await until(lambda: told)
            assert "phone" in told[0] and "does not fit" in told[0] and not pairing.done()

    run(scenario())
    assert phone.sql("SELECT name FROM sqlite_master WHERE type = 'table'") == [("notes",)]


def test_the_same_command_works_once_the_table_is_out_of_the_way(laptop: Machine, phone: Machine) -> None:
    laptop.write("a", "hello")
    asked: list[str] = []

    async def approve(name: str, fingerprint: str) -> bool:
        asked.append(name)
        return True

    async def scenario() -> None:
        async with (
            laptop.node() as node,
            open_code(node, laptop, approve=approve) as (code, address, pairing),
        ):
            with pytest.raises(SchemaRefused):
                await joining(phone, code, address)
            phone.sql("DROP TABLE notes")
            phone.sql(SCHEMA)
            await joining(phone, code, address)
            assert (await pairing)["device"]["name"] == "phone"

    run(scenario())
    assert phone.notes() == {"a": "hello"}
    assert asked == [
        "phone"
    ]  # it is a member since then: a second question would promise what a no cannot do
    assert len(laptop.sql("SELECT * FROM crdtlog_devices")) == 2


def test_a_code_that_expires_after_that_says_what_went_wrong(laptop: Machine, phone: Machine) -> None:
    async def scenario() -> None:
        async with laptop.node() as node, open_code(node, laptop, expires_s=3.0) as (code, address, pairing):
            with pytest.raises(SchemaRefused):
                await joining(phone, code, address)
            with pytest.raises(PairingFailed, match="could not take the database"):
                await pairing

    run(scenario())


@pytest.mark.parametrize("by_daemon", [True, False])
def test_the_person_who_made_the_code_reads_it(laptop: Machine, phone: Machine, by_daemon: bool) -> None:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "CRDTLOG_NO_MDNS": "1",
        "CRDTLOG_LISTEN": "127.0.0.1:0",
    }

    def command(machine: Machine, *arguments: object) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "peers.cli", *map(str, arguments)],
            env={**environment, "CRDTLOG_HOME": str(machine.home.path)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    daemon = Daemon(laptop, laptop.path) if by_daemon else None
    pairing = command(laptop, "pair", laptop.path, "--yes")
    try:
        assert pairing.stdout is not None and pairing.stderr is not None
        code = pairing.stdout.readline().strip()
        address = next(line for line in pairing.stderr if "--peer" in line).split()[-1]
        for fails in (1, 0):
            joined = command(phone, "join", code, phone.path, "--device", "phone", "--peer", address)
            _, told = joined.communicate(timeout=60)
            assert joined.returncode == fails, told
            assert ("stays open for this device" in told) == bool(fails)
            phone.sql("DROP TABLE IF EXISTS notes")
        said = pairing.stderr.read()
        assert pairing.wait(60) == 0
        assert "phone: The new device could not take the database" in said
        assert said.count("wants to join") == 1
    finally:
        pairing.kill()
        pairing.communicate()
        if daemon is not None:
            daemon.kill()
