"""Joining by a code: what makes it work, every way in which it does not, and what is left behind then."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

import crdtlog
import peers
from crdtlog.device import Home
from crdtlog.errors import NoPeer, NotADatabase, PairingFailed, ReadOnly, Usage, WrongDevice
from peers.control_server import Server
from peers.daemon import Commands
from peers.node import known
from peers.node.joining import join, open_shared
from peers.node.node import Options
from peers.node.standalone import pair_once
from tests.peers.nodes import SCHEMA, Machine, approve_all, link, linked, open_code, run, until

MakeHome = Callable[..., Path]


async def joining(machine: Machine, code: str, *addresses: str) -> None:
    await join(code, machine.path, home=machine.home, name=machine.name, peers=addresses, mdns=False)


def test_joining_brings_the_rows_and_tells_both_sides(laptop: Machine, phone: Machine) -> None:
    laptop.write("a", "hello")

    async def scenario() -> None:
        async with laptop.node() as node, open_code(node, laptop, role="reader") as (code, address, pairing):
            joined = (
                await join(
                    code,
                    phone.path,
                    home=phone.home,
                    name="phone",
                    peers=[address],
                    mdns=False,
                    progress=phone.log,
                )
            )["joined"]
            paired = (await pairing)["device"]

        assert joined["complete"] and joined["role"] == "reader" and joined["issuer"]["name"] == "laptop"
        assert (
            paired["id"] == joined["device"]
            and paired["name"] == "phone"
            and len(paired["fingerprint"]) == 39
        )

    run(scenario())
    assert phone.notes() == {"a": "hello"}
    assert known.known_files(phone.home) == [phone.path]


def test_the_joiner_may_bring_rows_of_its_own(laptop: Machine, phone: Machine) -> None:
    laptop.write("both", "laptop's, and newer")
    phone.sql(SCHEMA)
    phone.write("mine", "phone's")

    async def scenario() -> None:
        async with linked(laptop, phone):
            await until(lambda: laptop.notes() == phone.notes())

    run(scenario())
    assert phone.notes() == {"both": "laptop's, and newer", "mine": "phone's"}


def test_a_wrong_code_is_refused_on_both_sides_and_withdrawn(laptop: Machine, phone: Machine) -> None:
    async def scenario() -> None:
        async with laptop.node() as node, open_code(node, laptop) as (code, address, pairing):
            wrong = f"{code.partition('-')[0]}-abandon-abandon-ability"
            with pytest.raises(PairingFailed, match="code is wrong"):
                await joining(phone, wrong, address)
            with pytest.raises(PairingFailed, match="wrong code"):
                await pairing
            with pytest.raises(PairingFailed, match="was used, has expired or was never made"):
                await joining(phone, code, address)

    run(scenario())
    assert not phone.path.exists()


def test_a_code_works_once(laptop: Machine, phone: Machine, home: MakeHome, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with laptop.node() as node, open_code(node, laptop) as (code, address, pairing):
            await joining(phone, code, address)
            await pairing
            with pytest.raises(PairingFailed, match="was used") as caught:
                await joining(Machine.at(home("tablet"), tmp_path), code, address)
            assert "Codes work once" in caught.value.hint

    run(scenario())


def test_a_code_expires(laptop: Machine, phone: Machine) -> None:
    async def scenario() -> None:
        async with laptop.node() as node, open_code(node, laptop, expires_s=0.3) as (code, address, pairing):
            with pytest.raises(PairingFailed, match="expired"):
                await pairing
            with pytest.raises(PairingFailed, match="has expired"):
                await joining(phone, code, address)

    run(scenario())


def test_a_device_that_is_not_approved_stays_outside(laptop: Machine, phone: Machine) -> None:
    async def decline(name: str, fingerprint: str) -> bool:
        return False

    async def scenario() -> None:
        async with (
            laptop.node() as node,
            open_code(node, laptop, approve=decline) as (code, address, pairing),
        ):
            with pytest.raises(PairingFailed, match="declined"):
                await joining(phone, code, address)
            with pytest.raises(PairingFailed, match="declined"):
                await pairing

    run(scenario())
    assert not phone.path.exists()
    assert laptop.sql("SELECT name FROM crdtlog_devices") == [("laptop",)]


def test_a_joiner_that_goes_away_frees_the_code(laptop: Machine, phone: Machine) -> None:
    asked = asyncio.Event()

    async def think(name: str, fingerprint: str) -> bool:
        if not asked.is_set():
            asked.set()
            await asyncio.sleep(60)
        return True

    async def scenario() -> None:
        async with laptop.node() as node, open_code(node, laptop, approve=think) as (code, address, pairing):
            impatient = asyncio.create_task(joining(phone, code, address))
            await asked.wait()
            impatient.cancel()
            await asyncio.gather(impatient, return_exceptions=True)
            await until(lambda: laptop.said("tried to join"))
            await joining(phone, code, address)
            assert (await pairing)["device"]["name"] == "phone"

    run(scenario())


def test_nobody_there_is_said_with_what_was_tried(phone: Machine) -> None:
    async def scenario() -> None:
        with pytest.raises(NoPeer, match=r"127\.0\.0\.1:9 cannot be reached") as caught:
            await joining(phone, "7-abandon-zebra-lucky", "127.0.0.1:9")
        assert "--peer" in caught.value.hint

    run(scenario())
    assert not phone.path.exists()


@pytest.mark.parametrize("typed", ["", "12345", "7-abandon-zebra", "7-abandon-zebra-luckyy"])
def test_what_is_no_code_is_said_at_once(phone: Machine, typed: str) -> None:
    with pytest.raises(Usage):
        run(joining(phone, typed))


def test_a_file_of_another_database_is_refused_before_the_code_is_spent(
    laptop: Machine, home: MakeHome, tmp_path: Path
) -> None:
    other = Machine.founding(home("other"), tmp_path)

    async def scenario() -> None:
        async with laptop.node() as node, open_code(node, laptop) as (code, address, pairing):
            with pytest.raises(WrongDevice, match="belongs to a database already"):
                await joining(other, code, address)
            assert not pairing.done()

    run(scenario())


def test_places_where_no_file_can_be_are_refused_before_the_code_is_spent(
    phone: Machine, tmp_path: Path
) -> None:
    phone.path = tmp_path / "nowhere" / "phone.db"
    with pytest.raises(ReadOnly, match="does not exist"):
        run(joining(phone, "7-abandon-zebra-lucky", "127.0.0.1:9"))
    phone.path = tmp_path / "text.db"
    phone.path.write_text("This is no database, but a text that is long enough to be one." * 20)
    with pytest.raises(NotADatabase):
        run(joining(phone, "7-abandon-zebra-lucky", "127.0.0.1:9"))


def test_without_a_daemon_pairing_serves_the_new_device_until_it_has_the_rows(
    laptop: Machine, phone: Machine
) -> None:
    laptop.sql(
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 6000) "
        "INSERT INTO notes SELECT i, 'row', 0 FROM n"
    )
    phone.sql(SCHEMA)
    phone.write("mine", "from before")

    async def scenario() -> None:
        shown: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()

        async def show(code: str, address: str) -> None:
            shown.set_result((code, address))

        options = Options(listen="127.0.0.1:0", mdns=False)
        pairing = asyncio.create_task(
            pair_once(
                laptop.path, "writer", home=laptop.home, show_code=show, approve=approve_all, options=options
            )
        )
        code, address = await shown
        result = await join(code, phone.path, home=phone.home, name="phone", peers=[address], mdns=False)
        await pairing
        assert result["joined"]["complete"]

    run(scenario())
    assert len(phone.notes()) == 6_001
    assert laptop.notes() == phone.notes()


def test_when_the_issuer_vanishes_after_pairing_the_file_is_whole_and_a_sync_goes_on(
    laptop: Machine, phone: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("peers.node.joining.CATCH_UP_PAUSE_SECONDS", 0.05)
    laptop.write("a", "later")
    stopping: list[asyncio.Task[None]] = []

    async def scenario() -> None:
        async with laptop.node() as node, open_code(node, laptop) as (code, address, pairing):

            def hang_up(line: str) -> None:
                if line.startswith("joined"):
                    assert node._listener is not None
                    stopping.append(asyncio.create_task(node._listener.stop_accepting()))

            result = await join(
                code, phone.path, home=phone.home, name="phone", peers=[address], mdns=False, progress=hang_up
            )
            await pairing
        assert not result["joined"]["complete"] and "cannot be reached" in result["joined"]["why"]
        async with laptop.node() as node, phone.node(node.address or "", accepts=False) as phone_node:
            await phone_node.sync(phone.path)

    run(scenario())
    assert phone.notes() == {"a": "later"}


def test_a_daemon_of_the_joiners_home_takes_the_file_over(
    laptop: Machine, phone: Machine, tmp_path: Path
) -> None:
    laptop.write("a", "hello")
    other = Machine(phone.home, tmp_path / "other.db", "phone")
    with crdtlog.open(other.path, home=other.home, name="phone"):
        pass

    async def scenario() -> None:
        async with laptop.node() as node, other.node() as phone_node:
            server = Server(phone.home, Commands(phone_node, asyncio.Event()).by_name)
            await server.start()
            await link(node, laptop, phone)
            assert phone.path in phone_node.files()
            laptop.write("b", "live")
            await until(lambda: phone.notes() == {"a": "hello", "b": "live"})
            await server.close()

    run(scenario())


def test_open_shared_joins_once_and_then_just_opens(laptop: Machine, phone: Machine) -> None:
    laptop.write("a", "hello")

    async def scenario() -> None:
        async with laptop.node() as node, open_code(node, laptop) as (code, address, pairing):

            def program() -> list[object]:
                with open_shared(
                    phone.path, code=code, home=phone.home, name="phone", peers=[address], mdns=False
                ) as db:
                    return db.execute("SELECT title FROM notes").fetchall()

            assert await asyncio.to_thread(program) == [("hello",)]
            await pairing
            assert await asyncio.to_thread(program) == [("hello",)]

    run(scenario())


def test_open_shared_is_what_the_package_offers_and_without_a_code_it_founds(
    home: MakeHome, tmp_path: Path
) -> None:
    solo = Home(home("solo"))
    with peers.open_shared(tmp_path / "new.db", home=solo, name="solo", recovery=b"k" * 32) as db:
        assert [member.name for member in db.members()] == ["solo"]
        assert db.recovery == b"k" * 32
