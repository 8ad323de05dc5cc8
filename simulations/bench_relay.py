"""`make bench-relay`: what one relay carries, as a table and as JSON.

    python -m simulations.bench_relay [--connections N] [--seconds S] [--store URL] [--plain] [--json FILE]

The relay is a process of its own, with its limits out of the way; clients are this one. Both share the machine, so a
relay alone on it carries more. Figures that depend on the disk depend on how long it takes to say that bytes are safe.
"""

import argparse
import asyncio
import contextlib
import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

from peers.relay.access import MailboxKey
from peers.relay.client import Client, RelayUrl

BLOB = bytes(1024)
APPENDERS = 8
PIPELINE = 32
AT_ONCE = 64
"""Connections that are being made at the same time."""

Figures = dict[str, float]
Line = tuple[str, str, str]
LINES: tuple[Line, ...] = (
    ("appends a second, 8 connections with 32 each under way, 1 KiB", "appends", "/s"),
    ("the same with 16 KiB", "appends 16 KiB", "/s"),
    ("one append after the other: median", "append median", "ms"),
    ("one append after the other: 99%", "append 99%", "ms"),
    ("new mailboxes a second", "new mailboxes", "/s"),
    ("bytes of the store a mailbox with one blob of 256 bytes", "mailbox bytes", "B"),
    ("an append until all of 100 subscribers have it: median", "fan-out median", "ms"),
    ("blobs a second pushed to 100 subscribers of one mailbox", "pushed", "/s"),
    ("blobs a second read from the beginning, 1 KiB", "read", "/s"),
    ("idle connections, each subscribed to a mailbox", "idle", ""),
    ("connections a second, with TLS and a signature each", "connecting", "/s"),
    ("memory of the relay before", "memory before", "MiB"),
    ("memory of the relay with them", "memory", "MiB"),
    ("memory of each", "memory each", "KiB"),
    ("share of a core that they take at rest", "idle cpu", "%"),
    ("an append beside them: median", "append beside median", "ms"),
)


# --- the relay's process --------------------------------------------------------------------------------------------


def serve(store: str, certificate: str) -> None:
    """Run a relay with generous limits until standard input ends."""
    from peers.relay.certificates import pin_of, server_context
    from peers.relay.listener import spare_memory
    from peers.relay.running import store_of
    from peers.relay.server import Server
    from peers.relay.settings import Rate, Settings
    from peers.relay.store import Quota

    settings = Settings(
        connections=1_000_000,
        connections_per_source=1_000_000,
        requests_per_connection=Rate(1_000_000, 1.0),
        appends_per_connection=Rate(1_000_000, 1.0),
        appends_per_mailbox=Rate(1_000_000, 1.0),
        new_mailboxes_per_source=Rate(1_000_000, 1.0),
        quota=Quota(mailbox_bytes=1 << 40, mailbox_blobs=1 << 40),
    )

    async def run() -> None:
        spare_memory()
        server = Server(store_of(store, settings.quota), settings)
        await server.start()
        context = server_context(Path(certificate), None) if certificate else None
        host, port = server.listen("127.0.0.1", 0, context).address
        pin = f"#sha256={pin_of(Path(certificate).read_bytes())}" if certificate else ""
        print(f"{'wss' if certificate else 'ws'}://{host}:{port}{pin}", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        await server.stop()

    asyncio.run(run())


class Relay:
    """The relay's process, from outside."""

    def __init__(self, store: str, certificate: str) -> None:
        command = [
            sys.executable,
            "-m",
            "simulations.bench_relay",
            "--serve",
            store,
            "--certificate",
            certificate,
        ]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        line = self._process.stdout.readline().strip()
        if not line:
            raise SystemExit("the relay did not start")
        self.url = RelayUrl.parse(line)

    def memory_mib(self) -> float:
        """Its resident memory."""
        for line in Path(f"/proc/{self._process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        return float("nan")

    def cpu_s(self) -> float:
        """The processor time that it has used."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def stop(self) -> None:
        """End it."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


# --- clients ----------------------------------------------------------------------------------------------------------


def key(number: int) -> MailboxKey:
    """The key of a mailbox."""
    return MailboxKey.of(number.to_bytes(32, "big"))


@contextlib.asynccontextmanager
async def clients(url: RelayUrl, count: int) -> AsyncIterator[list[Client]]:
    """So many connections."""
    made: list[Client] = []
    gate = asyncio.Semaphore(AT_ONCE)

    async def connect() -> None:
        async with gate:
            made.append(await Client.connect(url))

    try:
        await asyncio.gather(*(connect() for _ in range(count)))
        yield made
    finally:
        await asyncio.gather(*(client.close() for client in made))


async def repeated(work: Callable[[], Awaitable[object]], workers: int, seconds: float) -> float:
    """How often a second the work was done, by so many at once."""
    end = time.perf_counter() + seconds
    done = 0

    async def worker() -> None:
        nonlocal done
        while time.perf_counter() < end:
            await work()
            done += 1

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(workers)))
    return done / (time.perf_counter() - began)


async def appends(url: RelayUrl, blob: bytes, seconds: float, first: int) -> float:
    """Appends a second, by several connections to a mailbox each, with many under way."""
    async with clients(url, APPENDERS) as made:
        rates = []
        for number, client in enumerate(made, first):
            await client.open(key(number))
            mailbox = key(number).mailbox

            async def append(client: Client = client, mailbox: bytes = mailbox) -> None:
                await client.append(mailbox, blob)

            rates.append(repeated(append, PIPELINE, seconds))
        return sum(await asyncio.gather(*rates))


async def latencies(client: Client, mailbox: bytes, seconds: float) -> list[float]:
    """Milliseconds of appends, one after the other."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        await client.append(mailbox, BLOB)
        found.append((time.perf_counter() - began) * 1000)
    return found


async def new_mailboxes(url: RelayUrl, count: int) -> float:
    """Mailboxes a second that are opened and begun."""
    each = count // APPENDERS

    async def begin(client: Client, first: int) -> None:
        gate = asyncio.Semaphore(PIPELINE)

        async def one(number: int) -> None:
            async with gate:
                await client.open(key(number))
                await client.append(key(number).mailbox, BLOB[:256])

        await asyncio.gather(*(one(number) for number in range(first, first + each)))

    total = 0.0
    for start in range(0, each, 250):  # a connection opens so many, and is then made anew
        async with clients(url, APPENDERS) as made:
            began = time.perf_counter()
            few = min(250, each - start)
            each, kept = few, each
            await asyncio.gather(
                *(begin(client, 1_000_000 + start + number * kept) for number, client in enumerate(made))
            )
            each = kept
            total += time.perf_counter() - began
    return each * APPENDERS / total


async def fan_out(url: RelayUrl, subscribers: int, seconds: float) -> tuple[float, float]:
    """Milliseconds from an append to the last of many subscribers; and blobs a second pushed to all together."""
    own = key(900_000)
    async with clients(url, subscribers) as made, clients(url, 1) as (writer,):
        await writer.open(own)
        counts = [0] * subscribers
        arrived = asyncio.Event()
        wanted = 0

        async def follow(number: int, client: Client) -> None:
            await client.open(own)
            async for page in client.subscribe(own.mailbox, 0):
                counts[number] += len(page.blobs)
                if counts[number] >= wanted and min(counts) >= wanted:
                    arrived.set()

        following = [asyncio.create_task(follow(number, client)) for number, client in enumerate(made)]
        delays = []
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            wanted += 1
            arrived.clear()
            began = time.perf_counter()
            await writer.append(own.mailbox, BLOB)
            if min(counts) < wanted:
                await arrived.wait()
            delays.append((time.perf_counter() - began) * 1000)
        burst = 500
        wanted += burst
        arrived.clear()
        began = time.perf_counter()
        await asyncio.gather(*(writer.append(own.mailbox, BLOB) for _ in range(burst)))
        await arrived.wait()
        pushed = burst * subscribers / (time.perf_counter() - began)
        for task in following:
            task.cancel()
        await asyncio.gather(*following, return_exceptions=True)
    return statistics.median(delays), pushed


async def reading(url: RelayUrl, number: int) -> float:
    """Blobs a second that a device reads which has been away."""
    async with clients(url, 1) as (client,):
        await client.open(key(number))
        began, count, after = time.perf_counter(), 0, 0
        while count < 20_000:
            page = await client.read(key(number).mailbox, after)
            count += len(page.blobs)
            after = page.blobs[-1][0] if page.blobs else after
            if page.end:
                break
        return count / (time.perf_counter() - began)


async def idle(relay: Relay, connections: int, seconds: float) -> Figures:
    """What connections cost that only wait."""
    before = relay.memory_mib()
    began = time.perf_counter()
    async with clients(relay.url, connections) as made:
        gate = asyncio.Semaphore(AT_ONCE)

        async def wait(number: int, client: Client) -> object:
            own = key(2_000_000 + number)
            async with gate:
                await client.open(own)
                pages = client.subscribe(own.mailbox, 0)
                await anext(pages)  # the first page is empty
            return pages

        waiting = await asyncio.gather(*(wait(number, client) for number, client in enumerate(made)))
        connecting = connections / (time.perf_counter() - began)
        await asyncio.sleep(2)
        with_them = relay.memory_mib()
        cpu, began = relay.cpu_s(), time.perf_counter()
        await asyncio.sleep(max(10.0, seconds))
        at_rest = (relay.cpu_s() - cpu) / (time.perf_counter() - began)
        await made[0].open(key(3_000_000))
        beside = await latencies(made[0], key(3_000_000).mailbox, seconds)
        del waiting
    return {
        "idle": connections,
        "connecting": connecting,
        "memory before": before,
        "memory": with_them,
        "memory each": (with_them - before) * 1024 / connections,
        "idle cpu": at_rest * 100,
        "append beside median": statistics.median(beside),
    }


async def measure(relay: Relay, connections: int, seconds: float, size: Callable[[], float]) -> Figures:
    """All figures. `size` gives the bytes of the store."""
    figures: Figures = await idle(relay, connections, seconds)
    figures["appends"] = await appends(relay.url, BLOB, seconds, 1)
    figures["appends 16 KiB"] = await appends(relay.url, bytes(16 << 10), seconds, 101)
    async with clients(relay.url, 1) as (client,):
        await client.open(key(500))
        found = sorted(await latencies(client, key(500).mailbox, seconds))
    figures["append median"] = statistics.median(found)
    figures["append 99%"] = found[len(found) * 99 // 100]
    before, count = size(), 4_000 if connections >= 1_000 else 800
    figures["new mailboxes"] = await new_mailboxes(relay.url, count)
    if before:
        figures["mailbox bytes"] = (size() - before) / count
    figures["fan-out median"], figures["pushed"] = await fan_out(relay.url, 100, seconds)
    figures["read"] = await reading(relay.url, 1)
    return figures


# --- the whole --------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def running(store: str, certificate: str) -> Iterator[Relay]:
    """A relay's process, ended at the end."""
    relay = Relay(store, certificate)
    try:
        yield relay
    finally:
        relay.stop()


def table(figures: Figures) -> list[str]:
    """The figures as lines of text."""
    width = max(len(what) for what, _, _ in LINES)
    return [
        f"{what:{width}}  {figures[name]:>10,.{0 if figures[name] >= 100 else 2}f} {unit}".rstrip()
        for what, name, unit in LINES
        if name in figures
    ]


def _pages(file: Path) -> float:
    """The bytes of an SQLite file, with what still is in its log."""
    with contextlib.closing(sqlite3.connect(file)) as connection:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (size,) = connection.execute("PRAGMA page_size").fetchone()
    return float(pages * size)


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="What one relay carries.")
    parser.add_argument("--connections", type=int, default=10_000, help="idle connections")
    parser.add_argument("--seconds", type=float, default=5.0, help="how long each figure is measured")
    parser.add_argument("--store", default="", help="postgresql://… instead of a temporary SQLite file")
    parser.add_argument("--plain", action="store_true", help="without TLS")
    parser.add_argument("--json", type=Path, default=None, help="where to write the figures")
    parser.add_argument("--serve", default="", help=argparse.SUPPRESS)
    parser.add_argument("--certificate", default="", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        serve(arguments.serve, arguments.certificate)
        return 0
    from peers.relay.certificates import self_signed

    with tempfile.TemporaryDirectory(prefix="crdtlog-bench-") as name:
        file, certificate = Path(name) / "relay.db", Path(name) / "relay.pem"
        certificate.touch(mode=0o600)
        certificate.write_bytes(self_signed())
        with running(arguments.store or str(file), "" if arguments.plain else str(certificate)) as relay:
            size = (lambda: 0.0) if arguments.store else (lambda: _pages(file))
            figures = asyncio.run(measure(relay, arguments.connections, arguments.seconds, size))
    kind = "PostgreSQL" if arguments.store else "SQLite"
    print(f"one relay on {kind}, {'without' if arguments.plain else 'with'} TLS, {os.cpu_count()} cores")
    print("\n".join(table(figures)))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
