"""Relays as processes of their own, and clients that write and follow while something is done to them."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

from crdtlog.errors import CrdtlogError, NoPeer
from peers.relay.client import Client, RelayUrl
from peers.relay.refusals import Refused
from tests.peers.processes import ROOT
from tests.peers.relay_world import SECONDS, blob, key, until

ONE = key(1)
DEFAULT = ("--listen", "127.0.0.1:0")


class Process:
    """`crdtlog relay` as a process."""

    def __init__(self, home: Path, *arguments: object, store: str | None = None) -> None:
        home.mkdir(mode=0o700, exist_ok=True)
        environment = {
            **os.environ,
            "CRDTLOG_HOME": str(home),
            "PYTHONPATH": str(ROOT),
        }
        if store is not None:
            environment["CRDTLOG_RELAY_STORE"] = store  # not in the list of processes
        self.log = home / "relay.log"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "peers.cli", "relay", *map(str, arguments or DEFAULT)],
                env=environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self._process.stdout is not None
        self.shown = self._process.stdout.readline().strip()
        assert self.shown.startswith("ws"), self.log.read_text()
        self.url = RelayUrl.parse(self.shown)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def wait_for_line(self, part: str) -> None:
        """Wait until it has said something with this in it."""
        limit = time.monotonic() + SECONDS
        while part not in self.log.read_text():
            assert time.monotonic() < limit, self.log.read_text()
            time.sleep(0.02)

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> int:
        """Ask it to end: its exit code."""
        self._process.send_signal(signal.SIGTERM)
        code = self._process.wait(SECONDS)
        assert self._process.stdout is not None
        self._process.stdout.close()
        return code


@contextlib.asynccontextmanager
async def relays(store: str, directory: Path, count: int = 2) -> AsyncIterator[list[Process]]:
    started = [Process(directory / f"relay{number}", store=store) for number in range(count)]
    try:
        yield started
    finally:
        for process in started:
            process.kill()


class Writer:
    """Appends one blob after the other, wherever a relay answers, and remembers what was acknowledged."""

    def __init__(self, processes: list[Process], mark: int) -> None:
        self._processes = processes
        self._mark = mark << 32
        self.acknowledged: list[tuple[int, bytes]] = []
        self.refusals: list[Refused] = []
        self.broken = 0
        self._stopping = False
        self._turn = mark
        self._task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        self._stopping = True
        await self._task

    async def _run(self) -> None:
        while not self._stopping:
            self._turn += 1
            try:
                client = await Client.connect(self._processes[self._turn % len(self._processes)].url)
            except NoPeer:
                await asyncio.sleep(0.05)
                continue
            try:
                await client.open(ONE)
                while not self._stopping:
                    data = blob(self._mark + len(self.acknowledged) + 1)
                    self.acknowledged.append((await client.append(ONE.mailbox, data), data))
            except Refused as error:
                self.refusals.append(error)
                await asyncio.sleep(0.05)
            except CrdtlogError:
                self.broken += 1
            finally:
                await client.close()


class Subscriber:
    """Follows the mailbox through whichever relay answers, from where it was."""

    def __init__(self, processes: list[Process], turn: int) -> None:
        self._processes = processes
        self._turn = turn
        self.found: list[tuple[int, bytes]] = []
        self.task = asyncio.create_task(self._run())

    async def _run(self) -> None:
        while True:
            self._turn += 1
            try:
                client = await Client.connect(self._processes[self._turn % len(self._processes)].url)
            except NoPeer:
                await asyncio.sleep(0.05)
                continue
            try:
                await client.open(ONE)
                async for page in client.subscribe(ONE.mailbox, self.found[-1][0] if self.found else 0):
                    self.found.extend(page.blobs)
            except CrdtlogError:
                await asyncio.sleep(0.05)
            finally:
                await client.close()


async def under_load(
    processes: list[Process], disturb: "asyncio.Future[None] | asyncio.Task[None]"
) -> list[Writer]:
    """Write and follow while something is disturbed; then everything that was acknowledged must be there."""
    writers = [Writer(processes, mark) for mark in range(1, 5)]
    subscribers = [Subscriber(processes, turn) for turn in range(3)]
    await disturb
    before = [len(writer.acknowledged) for writer in writers]
    await until(
        lambda: all(len(writer.acknowledged) > b + 30 for writer, b in zip(writers, before, strict=True))
    )
    for writer in writers:
        await writer.stop()
    client = None
    for process in processes:
        with contextlib.suppress(NoPeer):
            client = await Client.connect(process.url)
            break
    assert client is not None
    await client.open(ONE)
    kept: list[tuple[int, bytes]] = []
    while not (page := await client.read(ONE.mailbox, len(kept))).end:
        kept.extend(page.blobs)
    kept.extend(page.blobs)
    await client.close()
    await until(lambda: all(len(subscriber.found) == len(kept) for subscriber in subscribers))

    assert [index for index, _ in kept] == list(range(1, len(kept) + 1))
    for subscriber in subscribers:
        subscriber.task.cancel()
    await asyncio.gather(*(subscriber.task for subscriber in subscribers), return_exceptions=True)
    for subscriber in subscribers:
        assert subscriber.found == kept
    for writer in writers:
        assert set(writer.acknowledged) <= set(kept)
        indexes = [index for index, _ in writer.acknowledged]
        assert indexes == sorted(indexes), "a writer's blobs are in the order in which it wrote them"
    return writers
