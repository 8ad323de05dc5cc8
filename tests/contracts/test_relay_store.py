"""What `peers/relay/store.py` promises, checked on every store."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from peers.relay.refusals import Code, Refused
from peers.relay.store import Appended, Page, Quota, State, Store
from tests.contracts.postgres import Postgres
from tests.contracts.relay_stores import Maker, PostgresMaker, SqliteMaker

NOW = 1_800_000_000
TTL = 1_000
ONE, TWO = bytes([1]) * 32, bytes([2]) * 32


def blob(mark: int, size: int = 256) -> bytes:
    return mark.to_bytes(4, "big") * (size // 4)


@pytest.fixture(params=["sqlite", "postgres"])
def maker(request: pytest.FixtureRequest, tmp_path: Path) -> Maker:
    if request.param == "sqlite":
        return SqliteMaker(tmp_path)
    server: Postgres = request.getfixturevalue("postgres")
    return PostgresMaker(server.fresh())


def with_store(maker: Maker, work: Callable[[Store], Awaitable[None]], quota: Quota | None = None) -> None:
    async def within() -> None:
        async with asyncio.timeout(60), maker.opened(quota) as store:
            await work(store)

    asyncio.run(within())


def test_blobs_come_back_in_order_under_indexes_without_gaps(maker: Maker) -> None:
    async def work(store: Store) -> None:
        assert await store.append(ONE, blob(1), NOW) == Appended(1, True)
        assert await store.append(ONE, blob(2), NOW) == Appended(2, False)
        assert await store.append(TWO, blob(3), NOW) == Appended(1, True)
        assert await store.append(ONE, blob(4, 512), NOW) == Appended(3, False)

        assert await store.read(ONE, 0, 1 << 20) == Page(
            1, ((1, blob(1)), (2, blob(2)), (3, blob(4, 512))), True
        )
        assert await store.read(ONE, 2, 1 << 20) == Page(1, ((3, blob(4, 512)),), True)
        assert await store.read(TWO, 0, 1 << 20) == Page(1, ((1, blob(3)),), True)

    with_store(maker, work)


def test_a_mailbox_that_never_was_is_empty(maker: Maker) -> None:
    async def work(store: Store) -> None:
        assert await store.state(ONE, NOW) is None
        assert await store.read(ONE, 0, 1 << 20) == Page(1, (), True)
        assert await store.read(ONE, 2**63 - 1, 1 << 20) == Page(1, (), True)
        assert (await store.usage()).mailboxes == 0

    with_store(maker, work)


def test_a_page_holds_what_fits_and_at_least_one_blob(maker: Maker) -> None:
    async def work(store: Store) -> None:
        for mark in range(5):
            await store.append(ONE, blob(mark, 1024), NOW)

        assert await store.read(ONE, 0, 0) == Page(1, ((1, blob(0, 1024)),), False)
        assert await store.read(ONE, 1, 2048) == Page(1, ((2, blob(1, 1024)), (3, blob(2, 1024))), False)
        assert await store.read(ONE, 3, 2048) == Page(1, ((4, blob(3, 1024)), (5, blob(4, 1024))), True)
        assert await store.read(ONE, 5, 2048) == Page(1, (), True)
        assert await store.read(ONE, 2**63 - 1, 2048) == Page(1, (), True)

    with_store(maker, work)


def test_appends_begun_in_an_order_are_indexed_in_that_order(maker: Maker) -> None:
    async def work(store: Store) -> None:
        answers = await asyncio.gather(
            *(store.append((ONE, TWO)[mark % 2], blob(mark), NOW) for mark in range(3000))
        )
        assert [answer.number for answer in answers] == [mark // 2 + 1 for mark in range(3000)]
        assert [answer.created for answer in answers] == [True, True] + [False] * 2998
        found = await store.read(TWO, 0, 1 << 30)
        assert [data for _, data in found.blobs] == [blob(mark) for mark in range(1, 3000, 2)]

    with_store(maker, work)


def test_what_was_appended_is_there_after_closing_and_opening(maker: Maker) -> None:
    async def within() -> None:
        async with maker.opened() as store:
            await store.append(ONE, blob(1), NOW)
            before = await store.state(ONE, NOW)
        async with maker.opened() as store:
            assert await store.state(ONE, NOW) == before
            assert await store.append(ONE, blob(2), NOW) == Appended(2, False)
            assert len((await store.read(ONE, 0, 1 << 20)).blobs) == 2
            assert await store.usage() == (1, 2, 512)

    asyncio.run(within())


def test_a_mailbox_has_a_life_of_its_own(maker: Maker) -> None:
    async def work(store: Store) -> None:
        await store.append(ONE, blob(1), NOW)
        await store.append(TWO, blob(1), NOW)
        one, two = await store.state(ONE, NOW), await store.state(TWO, NOW)
        assert one is not None and two is not None
        assert one == State(one.life, 1, 1)
        assert len(one.life) == 16 and one.life != two.life

    with_store(maker, work)


def test_a_full_mailbox_refuses_for_now_and_others_are_not_full(maker: Maker) -> None:
    async def work(store: Store) -> None:
        results = await asyncio.gather(
            store.append(ONE, blob(1, 512), NOW),
            store.append(ONE, blob(2, 512), NOW),
            store.append(ONE, blob(3, 512), NOW),
            store.append(ONE, blob(4, 256), NOW),
            store.append(TWO, blob(5, 512), NOW),
            return_exceptions=True,
        )
        assert [result.number if isinstance(result, Appended) else None for result in results] == [
            1,
            2,
            None,
            3,
            1,
        ]
        error = results[2]
        assert isinstance(error, Refused)
        assert (error.code, error.temporary) == (Code.MAILBOX_FULL, True) and error.retry_after_s
        with pytest.raises(Refused):  # of four blobs it has three, but no bytes left
            await store.append(ONE, blob(6), NOW)
        for mark in range(3):
            await store.append(TWO, blob(mark), NOW)
        with pytest.raises(Refused) as refused:
            await store.append(TWO, blob(7, 0), NOW)
        assert refused.value.code == Code.MAILBOX_FULL
        assert await store.usage() == (2, 7, 1280 + 1280)

    with_store(maker, work, Quota(mailbox_bytes=1300, mailbox_blobs=4))


def test_a_full_store_refuses_for_now(maker: Maker) -> None:
    async def work(store: Store) -> None:
        await store.append(ONE, blob(1, 1024), NOW)
        with pytest.raises(Refused) as refused:
            await store.append(TWO, blob(2, 512), NOW)
        assert refused.value.code == Code.RELAY_FULL and refused.value.temporary
        assert await store.state(TWO, NOW) is None
        await store.expire(NOW + TTL + 1, TTL)
        assert await store.append(TWO, blob(2, 512), NOW) == Appended(1, True)

    with_store(maker, work, Quota(store_bytes=1300))


def test_old_blobs_expire_from_the_front_and_indexes_go_on(maker: Maker) -> None:
    async def work(store: Store) -> None:
        for mark in range(4):
            await store.append(ONE, blob(mark), NOW + 10 * mark)
        before = await store.state(ONE, NOW)
        assert before is not None

        assert await store.expire(NOW + TTL, TTL) == 0
        assert await store.expire(NOW + TTL + 11, TTL) == 2
        assert await store.state(ONE, NOW) == State(before.life, 3, 4)
        assert await store.read(ONE, 0, 1 << 20) == Page(3, ((3, blob(2)), (4, blob(3))), True)
        assert await store.usage() == (1, 2, 512)

        assert await store.expire(NOW + TTL + 31, TTL) == 2
        assert await store.state(ONE, NOW + TTL + 31) == State(before.life, 5, 4)
        assert await store.read(ONE, 0, 1 << 20) == Page(5, (), True)
        assert await store.append(ONE, blob(9), NOW + TTL) == Appended(5, False)
        assert await store.read(ONE, 2, 1 << 20) == Page(5, ((5, blob(9)),), True)

    with_store(maker, work)


def test_many_blobs_expire_in_one_call(maker: Maker) -> None:
    async def work(store: Store) -> None:
        await asyncio.gather(*(store.append(ONE, blob(mark), NOW) for mark in range(2_500)))
        await store.append(ONE, blob(9), NOW + 1)
        await asyncio.gather(
            *(store.append(mark.to_bytes(32, "big"), blob(mark), NOW) for mark in range(250))
        )
        assert await store.expire(NOW + TTL + 1, TTL) == 2_750
        assert await store.usage() == (251, 1, 256)
        assert await store.append(bytes(32), blob(1), NOW) == Appended(2, False)

    with_store(maker, work)


def test_a_blob_noted_by_a_wrong_clock_takes_none_with_it_before_its_time(maker: Maker) -> None:
    async def work(store: Store) -> None:
        await store.append(ONE, blob(1), NOW)
        await store.append(ONE, blob(2), NOW + 50)
        await store.append(ONE, blob(3), 0)
        assert await store.expire(NOW + TTL + 10, TTL) == 1
        assert await store.expire(NOW + TTL + 51, TTL) == 2

    with_store(maker, work)


DAY = 86_400


def test_an_empty_mailbox_is_forgotten_when_nobody_has_used_it_for_twice_as_long(maker: Maker) -> None:
    async def work(store: Store) -> None:
        await store.append(ONE, blob(1), NOW)
        await store.append(TWO, blob(1), NOW)
        before = await store.state(TWO, NOW)
        await store.expire(NOW + 2 * DAY, DAY)
        assert await store.usage() == (2, 0, 0)
        await store.expire(NOW + 2 * DAY + 1, DAY)
        assert await store.usage() == (0, 0, 0)
        assert await store.state(TWO, NOW) is None
        assert await store.append(TWO, blob(1), NOW) == Appended(1, True)
        after = await store.state(TWO, NOW)
        assert before is not None and after is not None
        assert after.life != before.life and after.last == 1

    with_store(maker, work)


def test_an_empty_mailbox_that_is_asked_for_or_watched_is_not_forgotten(maker: Maker) -> None:
    async def work(store: Store) -> None:
        await store.append(ONE, blob(1), NOW)
        await store.append(TWO, blob(1), NOW)
        store.watch(TWO, wanted=True)
        for days in range(2, 12, 2):
            await store.state(ONE, NOW + days * DAY)
            await store.expire(NOW + days * DAY, 2 * DAY)
        assert await store.append(ONE, blob(2), NOW) == Appended(2, False)
        assert await store.append(TWO, blob(2), NOW) == Appended(2, False)

    with_store(maker, work)


def test_changes_of_watched_mailboxes_are_told(maker: Maker) -> None:
    told: list[bytes] = []

    async def within() -> None:
        async with maker.opened(changed=told.append) as store:
            store.watch(ONE, wanted=True)
            await store.append(ONE, blob(1), NOW)
            await store.append(TWO, blob(1), NOW)
            assert set(told) == {ONE}  # once or more often
            store.watch(ONE, wanted=False)
            store.watch(TWO, wanted=False)
            told.clear()
            await store.append(ONE, blob(2), NOW)
            assert told == []

    asyncio.run(within())


def test_a_store_that_is_closed_refuses_for_now(maker: Maker) -> None:
    async def within() -> None:
        async with maker.opened() as store:
            pass
        for work in (
            lambda: store.append(ONE, blob(1), NOW),
            lambda: store.read(ONE, 0, 1),
            lambda: store.state(ONE, NOW),
            lambda: store.check(),
        ):
            with pytest.raises(Refused) as refused:
                await work()
            assert refused.value.code == Code.STORE and refused.value.temporary

    asyncio.run(within())


def test_what_was_begun_is_finished_when_the_store_is_closed(maker: Maker) -> None:
    async def within() -> None:
        async with maker.opened() as store:
            begun = [asyncio.ensure_future(store.append(ONE, blob(mark), NOW)) for mark in range(100)]
            await asyncio.sleep(0)
        assert [(await one).number for one in begun] == list(range(1, 101))
        async with maker.opened() as store:
            assert len((await store.read(ONE, 0, 1 << 20)).blobs) == 100

    asyncio.run(within())


def test_whoever_gives_up_waiting_does_not_disturb_the_others(maker: Maker) -> None:
    async def work(store: Store) -> None:
        begun = [asyncio.ensure_future(store.append(ONE, blob(mark), NOW)) for mark in range(10)]
        await asyncio.sleep(0)
        begun[3].cancel()
        done = await asyncio.gather(*begun, return_exceptions=True)
        assert isinstance(done[3], asyncio.CancelledError)
        assert [one.number for one in done if isinstance(one, Appended)] == [1, 2, 3, 5, 6, 7, 8, 9, 10]

    with_store(maker, work)


steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(0, 2), st.sampled_from([256, 512, 1024])),
        st.tuples(st.just("wait"), st.integers(1, 600), st.just(0)),
        st.tuples(st.just("expire"), st.just(0), st.just(0)),
    ),
    max_size=30,
)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps)
def test_any_history_reads_as_a_list_would(
    maker: Maker, tmp_path_factory: pytest.TempPathFactory, history: list[tuple[str, int, int]]
) -> None:
    """Against the plainest model there is: a list a mailbox, from whose front old ones are taken."""

    async def work(store: Store) -> None:
        now, mark = NOW, 0
        names = [bytes([at]) * 16 + tmp_path_factory.mktemp("x").name.encode().ljust(16) for at in range(3)]
        model: list[list[tuple[int, int, bytes]]] = [[], [], []]
        lasts = [0, 0, 0]
        for step, at, size in history:
            if step == "append":
                mark += 1
                lasts[at] += 1
                assert (await store.append(names[at], blob(mark, size), now)).number == lasts[at]
                model[at].append((lasts[at], now, blob(mark, size)))
            elif step == "wait":
                now += at
            else:
                await store.expire(now, TTL)
                model = [[one for one in blobs if one[1] >= now - TTL] for blobs in model]
        for name, blobs, last in zip(names, model, lasts, strict=True):
            found = await store.read(name, 0, 1 << 30)
            assert found.blobs == tuple((index, data) for index, _, data in blobs)
            forgotten = not blobs and await store.state(name, now) is None
            assert found.first == (blobs[0][0] if blobs else 1 if forgotten else last + 1)

    with_store(maker, work)
