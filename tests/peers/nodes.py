"""Devices for tests of nodes: homes of their own, real files, real TLS on loopback.

laptop = Machine.founding(home("laptop"), directory / "laptop.db")
async with laptop.node() as node: ...
"""

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import crdtlog
from crdtlog.check import Verified
from crdtlog.device import Home
from peers.node.issuing import tell_nobody
from peers.node.joining import join
from peers.node.node import Node, Options

SCHEMA = "CREATE TABLE notes (id TEXT PRIMARY KEY, title TEXT, stars INTEGER)"
SECONDS = 20.0
"""Patience: tests share their machine with others."""


def run(work: Coroutine[Any, Any, None]) -> None:
    """Run an asyncio test, to an end."""

    async def within() -> None:
        async with asyncio.timeout(100):
            await work

    asyncio.run(within())


@dataclass
class Machine:
    """One device: its home, its file, and the lines that its nodes logged."""

    home: Home
    path: Path
    name: str
    lines: list[str] = field(default_factory=list)

    @classmethod
    def at(cls, home: Path, directory: Path) -> "Machine":
        """A device that has nothing yet, named like its home."""
        return cls(Home(home), directory / f"{home.name}.db", home.name)

    @classmethod
    def founding(cls, home: Path, directory: Path) -> "Machine":
        """A device with a database of one table, `notes`."""
        machine = cls.at(home, directory)
        with crdtlog.open(machine.path, home=machine.home, name=machine.name) as db:
            db.execute(SCHEMA)
            db.track("notes")
        return machine

    @property
    def id(self) -> bytes:
        """The device id."""
        with crdtlog.open(self.path, home=self.home, create=False) as db:
            return db.device.id

    def sql(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        """What any program would do: plain SQL on a connection of its own."""
        connection = sqlite3.connect(self.path, timeout=5.0, isolation_level=None)
        try:
            return connection.execute(statement, parameters).fetchall()
        finally:
            connection.close()

    def write(self, key: str, title: str = "") -> None:
        """Put one note."""
        self.sql("INSERT OR REPLACE INTO notes VALUES (?, ?, 0)", key, title)

    def notes(self) -> dict[str, str]:
        """All notes: key and title."""
        return dict(self.sql("SELECT id, title FROM notes"))

    def verified(self) -> Verified:
        """The digest of all documents, with everything captured taken in."""
        with crdtlog.open(self.path, home=self.home, create=False) as db:
            db.drain_all()
            return db.verify()

    def log(self, line: str) -> None:
        """Keep a line of the log."""
        self.lines.append(line)

    def said(self, *words: str) -> bool:
        """Whether some line of the log holds all these words."""
        return any(all(word in line for word in words) for line in self.lines)

    @contextlib.asynccontextmanager
    async def node(
        self,
        *peers: str,
        listen: str | None = "127.0.0.1:0",
        accepts: bool = True,
        mdns: bool = False,
        relays: Sequence[str] = (),
    ) -> AsyncIterator[Node]:
        """A running node that serves the file."""
        options = Options(listen=listen, peers=peers, mdns=mdns, accepts=accepts, relays=relays)
        node = Node(self.home, options, self.log)
        try:
            await node.start()
            await node.add_file(self.path)
            yield node
        finally:
            await node.stop()


async def approve_all(name: str, fingerprint: str) -> bool:
    return True


@contextlib.asynccontextmanager
async def open_code(
    node: Node,
    machine: Machine,
    *,
    role: str = "writer",
    approve: Callable[[str, str], Any] = approve_all,
    expires_s: float = 60.0,
    tell: Callable[[str], Any] = tell_nobody,
) -> AsyncIterator[tuple[str, str, "asyncio.Task[dict[str, Any]]"]]:
    """A code that is open on a node: the code, the address, and the task that ends with the pairing."""
    shown: asyncio.Future[tuple[str, str]] = asyncio.get_running_loop().create_future()

    async def show(code: str, address: str) -> None:
        shown.set_result((code, address))

    pairing = asyncio.create_task(node.pair(machine.path, role, show, approve, expires_s, tell))
    await asyncio.wait((pairing, shown), return_when=asyncio.FIRST_COMPLETED)
    if not shown.done():
        await pairing
    try:
        yield (*shown.result(), pairing)
    finally:
        pairing.cancel()
        await asyncio.gather(pairing, return_exceptions=True)


async def link(node: Node, issuer: Machine, joiner: Machine, *, role: str = "writer") -> dict[str, Any]:
    """Pair: the joiner gets a code of the issuer's node and joins."""
    async with open_code(node, issuer, role=role) as (code, address, pairing):
        joined = await join(
            code,
            joiner.path,
            home=joiner.home,
            name=joiner.name,
            peers=[address],
            mdns=False,
            progress=joiner.log,
        )
        await pairing
        return joined


@contextlib.asynccontextmanager
async def linked(
    issuer: Machine, joiner: Machine, *, listen: str | None = "127.0.0.1:0"
) -> AsyncIterator[Node]:
    """A running node of one device, whose database the other has just joined."""
    async with issuer.node(listen=listen) as node:
        await link(node, issuer, joiner)
        yield node


async def until(condition: Callable[[], object], seconds: float = SECONDS) -> None:
    """Wait until something holds; fails the test if it takes too long."""
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "it did not come true in time"
        await asyncio.sleep(0.01)
