"""Relays that lie, refuse or do not keep what they promise, between real nodes that nothing else connects."""

import asyncio
import os
import random
from collections.abc import Callable
from pathlib import Path

import pytest

from peers.node import relaying
from peers.node.node import Node
from peers.relay.settings import Rate, Settings
from peers.relay.sqlite_store import SqliteStore
from peers.relay.store import Appended, Page, Quota
from tests.peers.nodes import Machine, run, until
from tests.peers.relay_world import relay
from tests.peers.test_relaying import _little_patience, apart, exchanged, pair_directly

__all__ = ["_little_patience"]

Lie = Callable[[Page, bytes], Page]


class LyingStore(SqliteStore):
    """A relay's store that can be told to lie about what it holds, or to lose what it acknowledges."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, Quota())
        self.lie: Lie | None = None
        self.loses = False
        self.lies = 0

    async def append(self, mailbox: bytes, blob: bytes, now: int) -> Appended:
        done = await super().append(mailbox, blob if not self.loses else os.urandom(len(blob)), now)
        self.lies += self.loses
        return done

    async def read(self, mailbox: bytes, after: int, max_bytes: int) -> Page:
        page = await super().read(mailbox, after, max_bytes)
        if self.lie is None or not page.blobs:
            return page
        self.lies += 1
        return self.lie(page, mailbox)


RNG = random.Random(7)


def withheld(page: Page, mailbox: bytes) -> Page:
    return page._replace(blobs=page.blobs[:-1])


def skipped(page: Page, mailbox: bytes) -> Page:
    return page._replace(blobs=page.blobs[-1:])


def reordered(page: Page, mailbox: bytes) -> Page:
    blobs = [blob for _, blob in page.blobs]
    return page._replace(blobs=tuple(zip((i for i, _ in page.blobs), reversed(blobs), strict=True)))


def repeated(page: Page, mailbox: bytes) -> Page:
    return page._replace(blobs=tuple((index, page.blobs[0][1]) for index, _ in page.blobs))


def damaged(page: Page, mailbox: bytes) -> Page:
    return page._replace(blobs=tuple((i, bytes((b[0] ^ 1,)) + b[1:]) for i, b in page.blobs))


def from_elsewhere(page: Page, mailbox: bytes) -> Page:
    return page._replace(blobs=tuple((i, RNG.randbytes(len(b))) for i, b in page.blobs))


def far_ahead(page: Page, mailbox: bytes) -> Page:
    return page._replace(blobs=tuple((i + (1 << 40), b) for i, b in page.blobs))


async def lied_to(node: Node, machine: Machine) -> None:
    """Let a device hear the relay's lies for a moment; it need not come to anything."""
    sharing = node.sharing(machine.path)
    await sharing.file.drain()
    await until(lambda: sharing.relays.status()[0]["connected"])
    await asyncio.sleep(0.3)


@pytest.mark.parametrize(
    "lie",
    [withheld, skipped, reordered, repeated, damaged, from_elsewhere, far_ahead],
    ids=lambda lie: lie.__name__,
)
def test_a_relay_that_lies_about_what_it_holds_does_no_lasting_harm(
    laptop: Machine, phone: Machine, tmp_path: Path, lie: Lie
) -> None:
    store = LyingStore(tmp_path / "relay.db")

    async def scenario() -> None:
        await pair_directly(laptop, phone)
        async with relay(tmp_path, store=store) as at:
            for machine in (laptop, phone):
                machine.write(f"before by {machine.name}", "true")
                async with apart(machine, at) as node:
                    await exchanged(node, machine)
            store.lie = lie
            for number in range(2):
                for machine in (laptop, phone):
                    machine.write(f"{number} by {machine.name}", "true")
                    async with apart(machine, at) as node:
                        await lied_to(node, machine)
            assert store.lies >= 4
            store.lie = None
            for machine in (laptop, phone, laptop, phone):
                machine.write("last", f"by {machine.name}")
                async with apart(machine, at) as node:
                    await exchanged(node, machine)
            async with apart(laptop, at) as node:
                await exchanged(node, laptop)

    run(scenario())
    assert laptop.notes() == phone.notes()
    assert len(laptop.notes()) == 7
    assert {title for key, title in laptop.notes().items() if key != "last"} == {"true"}
    assert laptop.verified() == phone.verified()


def test_what_a_relay_acknowledges_and_does_not_keep_is_uploaded_again(
    laptop: Machine, phone: Machine, tmp_path: Path
) -> None:
    store = LyingStore(tmp_path / "relay.db")

    async def scenario() -> None:
        await pair_directly(laptop, phone)
        async with relay(tmp_path, store=store) as at:
            store.loses = True
            async with apart(laptop, at) as node:
                laptop.write("a")
                await until(lambda: store.lies > 2)
                assert not node.sharing(laptop.path).relays.is_exchanged
                store.loses = False
                await exchanged(node, laptop)
            async with apart(phone, at) as node:
                await exchanged(node, phone)

    run(scenario())
    assert phone.notes() == {"a": ""}


def test_a_relay_that_takes_few_appends_gets_everything_in_time(
    laptop: Machine, phone: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relaying, "FIRST_QUIET_S", 0.1)
    settings = Settings(appends_per_mailbox=Rate(2, 1.0))

    async def scenario() -> None:
        await pair_directly(laptop, phone)
        async with relay(tmp_path, settings) as at, apart(laptop, at) as node, apart(phone, at):
            for number in range(5):
                laptop.write(f"n{number}")
                await node.sharing(laptop.path).file.drain()
            await until(lambda: len(phone.notes()) == 5)

    run(scenario())


def test_a_full_mailbox_is_told_once_and_reading_goes_on(
    laptop: Machine, phone: Machine, tmp_path: Path
) -> None:
    settings = Settings(quota=Quota(mailbox_bytes=4096))

    async def scenario() -> None:
        await pair_directly(laptop, phone)
        async with relay(tmp_path, settings) as at, apart(laptop, at) as node:
            for number in range(12):
                laptop.write(f"n{number}", os.urandom(300).hex())
                await node.sharing(laptop.path).file.drain()
            await until(lambda: laptop.said("nothing is uploaded", "full"))
            relays = node.sharing(laptop.path).relays
            assert "nothing" not in str(relays.status()[0]["url"])
            assert relays.status()[0]["connected"]
            assert relays.status()[0]["problem"]

    run(scenario())
    assert len([line for line in laptop.lines if "nothing is uploaded" in line]) == 1


def test_a_relay_that_wants_a_token_is_told_of_once(laptop: Machine, tmp_path: Path) -> None:
    settings = Settings(tokens=frozenset({"the right one, and long"}))

    async def scenario() -> None:
        async with relay(tmp_path, settings) as at:
            async with apart(laptop, at) as node:
                await until(lambda: laptop.said("token"))
                assert not node.sharing(laptop.path).relays.status()[0]["connected"]
            url = f"{at.url.base}#token=the%20right one, and long".replace("%20", " ")
            async with laptop.node(accepts=False, relays=[url]) as node:
                relays = node.sharing(laptop.path).relays
                await until(lambda: any(state["connected"] for state in relays.status()))
                assert all("right one" not in str(state["url"]) for state in relays.status())

    run(scenario())


def test_a_file_from_a_backup_reads_again_and_its_log_begins_anew(
    laptop: Machine, phone: Machine, tmp_path: Path
) -> None:
    async def scenario() -> None:
        await pair_directly(laptop, phone)
        async with relay(tmp_path) as at:
            for machine in (laptop, phone):
                async with apart(machine, at) as node:
                    await exchanged(node, machine)
            phone.sql("VACUUM INTO ?", str(tmp_path / "backup"))
            phone.write("after the backup")
            async with apart(phone, at) as node:
                await exchanged(node, phone)
            for path in (phone.path, Path(f"{phone.path}-wal"), Path(f"{phone.path}-shm")):
                path.unlink(missing_ok=True)
            (tmp_path / "backup").rename(phone.path)
            for mark in (phone.home.state / "marks").rglob("*"):
                if mark.is_file():
                    mark.unlink()  # the home is of that time, too
            phone.write("after restoring")
            async with apart(phone, at) as node:
                await exchanged(node, phone)
            async with apart(laptop, at) as node:
                await exchanged(node, laptop)

    run(scenario())
    assert phone.said("restored from a backup")
    assert phone.notes() == laptop.notes()
    assert set(phone.notes()) == {"after the backup", "after restoring"}


def test_a_paused_table_stops_reading_and_nothing_else(
    laptop: Machine, phone: Machine, tmp_path: Path
) -> None:
    async def scenario() -> None:
        await pair_directly(laptop, phone)
        phone.sql("ALTER TABLE notes ADD COLUMN own TEXT")
        laptop.write("a")
        async with relay(tmp_path) as at, apart(laptop, at), apart(phone, at):
            await until(lambda: phone.said("nothing is taken from relay"))
            phone.sql("ALTER TABLE notes DROP COLUMN own")
            await until(lambda: phone.notes() == {"a": ""})

    run(scenario())
