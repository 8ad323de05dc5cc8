"""What only the SQLite store can do wrong."""

import asyncio
import sqlite3
import stat
from pathlib import Path

import pytest

from crdtlog.errors import Locked, NotADatabase, ReadOnly, Unsupported
from peers.relay.refusals import Code, Refused
from peers.relay.sqlite_store import SqliteStore
from tests.contracts.relay_stores import SqliteMaker

NOW = 1_800_000_000
ONE = bytes(32)


def start(path: Path) -> None:
    async def within() -> None:
        store = SqliteStore(path)
        try:
            await store.start(lambda mailbox: None)
        finally:
            await store.close()

    asyncio.run(within())


def test_a_second_relay_is_refused_while_the_first_runs(tmp_path: Path) -> None:
    async def within() -> None:
        maker = SqliteMaker(tmp_path)
        async with maker.opened():
            with pytest.raises(Locked):
                async with maker.opened():
                    pass
        async with maker.opened():
            pass

    asyncio.run(within())


def test_other_users_cannot_read_the_file(tmp_path: Path) -> None:
    start(tmp_path / "relay.db")

    assert stat.S_IMODE((tmp_path / "relay.db").stat().st_mode) == 0o600


def test_a_file_of_something_else_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE notes (id)")
    connection.close()
    with pytest.raises(NotADatabase):
        start(path)
    path.write_bytes(b"no database at all" * 100)
    with pytest.raises(NotADatabase):
        start(path)
    with pytest.raises(ReadOnly):
        start(tmp_path / "missing" / "relay.db")


def test_a_newer_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "relay.db"
    start(path)
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 2")
    connection.close()
    with pytest.raises(Unsupported):
        start(path)


def test_a_full_disk_refuses_for_now_and_nothing_is_left_behind(tmp_path: Path) -> None:
    async def within() -> None:
        async with SqliteMaker(tmp_path).opened() as store:
            assert isinstance(store, SqliteStore)
            await store.append(ONE, bytes(256), NOW)
            pages = store._writer.execute("PRAGMA page_count").fetchone()[0]
            store._writer.execute(f"PRAGMA max_page_count = {pages + 2}")
            with pytest.raises(Refused) as refused:
                await store.append(ONE, bytes(1 << 20), NOW)
            assert refused.value.code == Code.STORE and refused.value.temporary
            assert await store.usage() == (1, 1, 256)
            store._writer.execute("PRAGMA max_page_count = 1000000")
            assert (await store.append(ONE, bytes(1 << 20), NOW)).number == 2

    asyncio.run(within())


def test_every_commit_waits_for_the_disk(tmp_path: Path) -> None:
    async def within() -> None:
        async with SqliteMaker(tmp_path).opened() as store:
            assert isinstance(store, SqliteStore)
            assert store._writer.execute("PRAGMA synchronous").fetchone() == (2,)
            assert store._writer.execute("PRAGMA journal_mode").fetchone() == ("wal",)

    asyncio.run(within())
