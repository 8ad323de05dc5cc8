"""Relays on one PostgreSQL: stores side by side, and whole relays as processes that are killed under load."""

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import pytest

from crdtlog.errors import Unsupported, Usage
from peers.relay.client import Client
from peers.relay.postgres_store import PostgresStore
from peers.relay.refusals import Refused
from tests.contracts.postgres import Postgres, running
from tests.contracts.postgres import why_missing as why_no_postgres
from tests.contracts.relay_stores import PostgresMaker
from tests.peers.relay_load import Process, relays, under_load
from tests.peers.relay_world import SECONDS, blob, key, run, until

NOW = 1_800_000_000
ONE, TWO = key(1), key(2)


@pytest.fixture
def maker(postgres: Postgres) -> PostgresMaker:
    return PostgresMaker(postgres.fresh())


@pytest.fixture
def own_postgres() -> Iterator[Postgres]:
    """A server that the test may stop."""
    if reason := why_no_postgres():
        pytest.skip(reason)
    with running() as server:
        yield server


# --- stores side by side ------------------------------------------------------------------------------------------


def test_several_stores_give_each_index_once_and_without_gaps(maker: PostgresMaker) -> None:
    mailboxes = [key(mark).mailbox for mark in range(4)]

    async def scenario() -> None:
        async with maker.opened() as one, maker.opened() as two, maker.opened() as three:
            begun = [
                (
                    mailboxes[mark % 4],
                    mark,
                    (one, two, three)[mark % 3].append(mailboxes[mark % 4], blob(mark), NOW),
                )
                for mark in range(1_200)
            ]
            numbers = await asyncio.gather(*(work for _, _, work in begun))
            for mailbox in mailboxes:
                found = (await two.read(mailbox, 0, 1 << 30)).blobs
                assert [index for index, _ in found] == list(range(1, 301))
                given = {
                    number.number: blob(mark)
                    for (name, mark, _), number in zip(begun, numbers, strict=True)
                    if name == mailbox
                }
                assert dict(found) == given

    run(scenario())


def test_what_one_store_appends_the_others_are_told(maker: PostgresMaker) -> None:
    told: list[bytes] = []

    async def scenario() -> None:
        # A poll alone would be far too late for this test.
        async with maker.opened(poll_s=3600) as one, maker.opened(changed=told.append, poll_s=3600) as two:
            two.watch(ONE.mailbox, wanted=True)
            await one.append(TWO.mailbox, blob(1), NOW)
            await one.append(ONE.mailbox, blob(1), NOW)
            await until(lambda: bool(told))
            assert set(told) == {ONE.mailbox}
            assert (await two.read(ONE.mailbox, 0, 1024)).blobs == ((1, blob(1)),)

    run(scenario())


def test_news_of_many_mailboxes_at_once_all_arrive(maker: PostgresMaker) -> None:
    told: set[bytes] = set()
    mailboxes = [mark.to_bytes(32, "little") for mark in range(1_500)]

    async def scenario() -> None:
        async with maker.opened() as one, maker.opened(changed=told.add, poll_s=3600) as two:
            for mailbox in mailboxes:
                two.watch(mailbox, wanted=True)
            await asyncio.gather(*(one.append(mailbox, blob(1), NOW) for mailbox in mailboxes))
            await until(lambda: told == set(mailboxes))

    run(scenario())


def test_news_that_get_lost_are_found_by_polling(maker: PostgresMaker) -> None:
    told: list[bytes] = []

    async def scenario() -> None:
        async with maker.opened() as one, maker.opened(changed=told.append, poll_s=0.1) as two:
            assert isinstance(one, PostgresStore)
            one._tell = lambda mailboxes: None  # type: ignore[method-assign]
            two.watch(ONE.mailbox, wanted=True)
            await one.append(ONE.mailbox, blob(1), NOW)
            await until(lambda: bool(told))
            told.clear()
            await one.append(ONE.mailbox, blob(2), NOW)
            await until(lambda: bool(told))

    run(scenario())


def test_a_subscriber_is_told_though_another_s_read_was_first_to_see(maker: PostgresMaker) -> None:
    told: list[bytes] = []

    async def scenario() -> None:
        async with maker.opened() as one, maker.opened(changed=told.append, poll_s=3600) as two:
            assert isinstance(one, PostgresStore)
            one._tell = lambda mailboxes: None  # type: ignore[method-assign]
            two.watch(ONE.mailbox, wanted=True)
            await two.read(ONE.mailbox, 0, 1024)
            await one.append(ONE.mailbox, blob(1), NOW)
            await two.read(ONE.mailbox, 0, 1024)
            await one.append(ONE.mailbox, blob(2), NOW)
            await two.read(ONE.mailbox, 0, 1024)
            assert told

    run(scenario())


def test_a_listening_connection_that_breaks_is_made_again(
    maker: PostgresMaker, postgres: Postgres, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    told: list[bytes] = []
    database = maker.url.partition("@/")[2].partition("?")[0]
    hang_up = f"SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE datname = '{database}'"

    async def scenario() -> None:
        async with maker.opened(changed=told.append, poll_s=3600) as store:
            store.watch(ONE.mailbox, wanted=True)
            await store.append(ONE.mailbox, blob(1), NOW)
            for number in (2, 3):
                told.clear()
                await asyncio.to_thread(postgres.sql, hang_up)
                async with maker.opened() as other:
                    assert (await other.append(ONE.mailbox, blob(number), NOW)).number == number
                    # Whether by the poll after connecting again or by a message.
                    await until(lambda: bool(told))
            async with asyncio.timeout(SECONDS):
                while True:  # the pool makes its connections again, too
                    with contextlib.suppress(Refused):
                        await store.append(ONE.mailbox, blob(4), NOW)
                        break

    run(scenario())


def test_an_engine_that_cannot_listen_is_polled(
    maker: PostgresMaker, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    import asyncpg

    async def refuse(self: object, channel: str, callback: object) -> None:
        raise asyncpg.FeatureNotSupportedError("LISTEN is not supported")

    told: list[bytes] = []

    async def scenario() -> None:
        async with maker.opened() as one:
            monkeypatch.setattr(asyncpg.Connection, "add_listener", refuse)
            async with maker.opened(changed=told.append, poll_s=3600) as two:
                two.watch(ONE.mailbox, wanted=True)
                for number in (1, 2):
                    told.clear()
                    assert (await one.append(ONE.mailbox, blob(number), NOW)).number == number
                    await until(lambda: bool(told))
                    page = await two.read(ONE.mailbox, number - 1, 1024)
                    assert page.blobs == ((number, blob(number)),)

    run(scenario())
    assert 1 <= caplog.text.count("they are polled") <= 2, "once by each store"


def test_commits_wait_for_the_disk_though_the_server_s_default_is_not_to(
    maker: PostgresMaker, postgres: Postgres
) -> None:
    database = maker.url.partition("@/")[2].partition("?")[0]
    postgres.sql(f"ALTER DATABASE {database} SET synchronous_commit = off")

    async def scenario() -> None:
        async with maker.opened() as store:
            assert isinstance(store, PostgresStore) and store._pool is not None
            for _ in range(2):  # what the pool gets back, it resets
                async with store._pool.acquire() as connection:
                    assert await connection.fetchval("SHOW synchronous_commit") == "on"

    run(scenario())


def test_tables_of_a_newer_version_are_refused(maker: PostgresMaker, postgres: Postgres) -> None:
    database = maker.url.partition("@/")[2].partition("?")[0]

    async def scenario() -> None:
        async with maker.opened():
            pass
        postgres.sql("UPDATE crdtlog_relay_version SET version = 2", database)
        with pytest.raises(Unsupported):
            async with maker.opened():
                pass

    run(scenario())


def test_a_store_that_cannot_be_reached_is_said_to_be_so(postgres: Postgres) -> None:
    async def scenario() -> None:
        with pytest.raises(Usage, match="no_such_database"):
            async with PostgresMaker(postgres.url("no_such_database")).opened():
                pass
        with pytest.raises(Refused) as refused:
            async with PostgresMaker("postgresql://relay@127.0.0.1:1/relay").opened():
                pass
        assert refused.value.temporary and refused.value.exit_code == 75

    run(scenario())


def test_relays_that_start_at_once_make_the_tables_once(maker: PostgresMaker) -> None:
    async def scenario() -> None:
        for _ in range(2):  # without tables, and with them
            stores = [PostgresStore(maker.url) for _ in range(8)]
            await asyncio.gather(*(store.start(lambda mailbox: None) for store in stores))
            for store in stores:
                await store.append(ONE.mailbox, blob(1), NOW)
                await store.close()


def test_where_the_tables_are_a_relay_needs_no_right_to_make_any(
    maker: PostgresMaker, postgres: Postgres
) -> None:
    database = maker.url.partition("@/")[2].partition("?")[0]

    async def scenario() -> None:
        async with maker.opened():
            pass
        postgres.sql("CREATE ROLE humble LOGIN", database)
        tables = ", ".join(f"crdtlog_relay_{name}" for name in ("version", "mailbox", "blob"))
        postgres.sql(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {tables} TO humble", database)
        async with PostgresMaker(maker.url.replace("relay@", "humble@")).opened() as store:
            assert (await store.append(ONE.mailbox, blob(1), NOW)).number == 1
            assert await store.expire(NOW + 11, 10) == 1

    run(scenario())


def test_two_stores_expire_the_same_blobs_once(maker: PostgresMaker) -> None:
    async def scenario() -> None:
        async with maker.opened() as one, maker.opened() as two:
            for mark in range(300):
                await one.append(key(mark % 30).mailbox, blob(mark), NOW)
            dropped = await asyncio.gather(one.expire(NOW + 11, 10), two.expire(NOW + 11, 10))
            assert sum(dropped) == 300

    run(scenario())


# --- whole relays ---------------------------------------------------------------------------------------------------


def test_two_relays_on_one_database_serve_a_client_each(postgres: Postgres, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with relays(postgres.fresh(), tmp_path) as processes:
            one, two = [await Client.connect(process.url) for process in processes]
            await one.open(ONE)
            await two.open(ONE)
            pages = two.subscribe(ONE.mailbox, 0)
            assert (await anext(pages)).blobs == ()
            for number in range(1, 4):
                assert await one.append(ONE.mailbox, blob(number)) == number
                # Far sooner than the relays poll; a message has come.
                assert (await anext(pages)).blobs == ((number, blob(number)),)
            assert await two.append(ONE.mailbox, blob(4)) == 4
            assert [index for index, _ in (await one.read(ONE.mailbox, 0)).blobs] == [1, 2, 3, 4]
            await one.close()
            await two.close()
            assert [process.stop() for process in processes] == [0, 0]

    run(scenario())


def test_one_relay_killed_under_load_loses_nothing_that_was_acknowledged(
    postgres: Postgres, tmp_path: Path
) -> None:
    store = postgres.fresh()

    async def scenario() -> None:
        async with relays(store, tmp_path) as processes:

            async def disturb() -> None:
                for _ in range(2):
                    await asyncio.sleep(0.7)
                    processes[0].kill()
                    await asyncio.sleep(0.5)
                    processes[0] = await asyncio.to_thread(Process, tmp_path / "relay0", store=store)
                processes[0].kill()

            writers = await under_load(processes, asyncio.create_task(disturb()))
            assert sum(writer.broken for writer in writers) > 0, "nobody noticed the kill"

    run(scenario())


@pytest.mark.parametrize("crash", [False, True], ids=["restarted", "crashed"])
def test_postgresql_restarted_under_load_loses_nothing_that_was_acknowledged(
    own_postgres: Postgres, tmp_path: Path, crash: bool
) -> None:
    async def scenario() -> None:
        async with relays(own_postgres.fresh(), tmp_path) as processes:

            async def disturb() -> None:
                for _ in range(2):
                    await asyncio.sleep(0.7)
                    await asyncio.to_thread(own_postgres.stop, crash=crash)
                    await asyncio.sleep(0.3)
                    await asyncio.to_thread(own_postgres.start)

            writers = await under_load(processes, asyncio.create_task(disturb()))
            refusals = [error for writer in writers for error in writer.refusals]
            assert refusals, "nobody noticed the restart"
            assert all(
                error.code == "store" and error.temporary and error.retry_after_s for error in refusals
            )
            assert not any(writer.broken for writer in writers), "the relays themselves went on"
            said = "".join(process.log.read_text() for process in processes)
            assert "the relay's store cannot work: " in said and "Traceback" not in said, said
            assert [process.stop() for process in processes] == [0, 0]

    run(scenario())
