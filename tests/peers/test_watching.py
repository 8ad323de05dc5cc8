"""Noticing writes to files: by the system's events, and by looking where there are none."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing
from pathlib import Path

import inotify_simple
import pytest

from peers.node import watching
from peers.node.watching import Watcher


@pytest.fixture(params=["told", "looked at"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The system tells of writes, or has no room left for another watch."""
    if request.param == "looked at":

        def none_left(*_: object) -> int:
            raise OSError("no space left on device")

        monkeypatch.setattr(inotify_simple.INotify, "add_watch", none_left)
    monkeypatch.setattr(watching, "SETTLE_SECONDS", 0.0)
    return str(request.param)


@asynccontextmanager
async def watched(*paths: Path) -> AsyncIterator[Callable[[], list[str]]]:
    """Watch files; calling what it yields tells the names of those that were written since the last call."""
    woken: list[str] = []

    def waking(name: str) -> Callable[[], None]:
        return lambda: woken.append(name)

    def taken() -> list[str]:
        names, woken[:] = sorted(set(woken)), []
        return names

    watcher = Watcher()
    for path in paths:
        watcher.add(path, waking(path.name))
    try:
        await asyncio.sleep(0.2)
        taken()
        yield taken
    finally:
        await watcher.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.01)


def created(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("CREATE TABLE t (v)")
    return connection


@pytest.mark.usefixtures("way")
def test_a_commit_to_a_file_wakes_for_that_file_alone(tmp_path: Path) -> None:
    async def scenario() -> None:
        with closing(created(tmp_path / "a.db")) as a, closing(created(tmp_path / "b.db")) as b:
            async with watched(tmp_path / "a.db", tmp_path / "b.db") as taken:
                for connection, name in ((a, "a.db"), (b, "b.db"), (a, "a.db")):
                    connection.execute("INSERT INTO t VALUES (1)")
                    seen: list[str] = []
                    await until(lambda seen=seen: bool(seen.extend(taken()) or seen))  # type: ignore[misc]
                    assert seen == [name]

    asyncio.run(scenario())


@pytest.mark.usefixtures("way")
def test_files_may_come_and_go_while_others_are_watched(tmp_path: Path) -> None:
    async def scenario() -> None:
        (tmp_path / "far").mkdir()
        with closing(created(tmp_path / "a.db")) as a, closing(created(tmp_path / "far" / "b.db")) as b:
            woken: list[str] = []
            watcher = Watcher()
            watcher.add(tmp_path / "a.db", lambda: woken.append("a"))
            await asyncio.sleep(0.1)
            watcher.add(tmp_path / "far" / "b.db", lambda: woken.append("b"))
            await asyncio.sleep(0.2)
            woken.clear()
            b.execute("INSERT INTO t VALUES (1)")
            await until(lambda: "b" in woken)
            watcher.remove(tmp_path / "far" / "b.db")
            await asyncio.sleep(0.2)
            woken.clear()
            b.execute("INSERT INTO t VALUES (1)")
            a.execute("INSERT INTO t VALUES (1)")
            await until(lambda: "a" in woken)
            assert set(woken) == {"a"}
            await watcher.close()

    asyncio.run(scenario())


def test_a_directory_that_is_gone_is_said_and_other_files_are_watched_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        (tmp_path / "far").mkdir()
        with closing(created(tmp_path / "a.db")) as a:
            async with watched(tmp_path / "a.db", tmp_path / "far" / "b.db") as taken:
                (tmp_path / "far").rmdir()
                await until(lambda: "file events do not work" in caplog.text)
                a.execute("INSERT INTO t VALUES (1)")
                await until(lambda: "a.db" in taken())

    asyncio.run(scenario())


def test_that_the_system_cannot_tell_is_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tries = []

    def none_left(*_: object) -> int:
        tries.append(1)
        raise OSError("no space left on device")

    async def scenario() -> None:
        with closing(created(tmp_path / "a.db")):
            async with watched(tmp_path / "a.db"):
                await until(lambda: len(tries) > 2)

    monkeypatch.setattr(inotify_simple.INotify, "add_watch", none_left)
    monkeypatch.setattr(watching, "RETRY_SECONDS", 0.05)
    asyncio.run(scenario())
    assert caplog.text.count("file events do not work") == 1


def test_watching_needs_no_thread_that_looks_again_and_again(tmp_path: Path) -> None:
    async def scenario() -> None:
        before = threading.enumerate()
        with closing(created(tmp_path / "a.db")):
            async with watched(tmp_path / "a.db"):
                assert threading.enumerate() == before

    asyncio.run(scenario())
