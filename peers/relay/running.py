"""A relay as a process: stores by URL, addresses, signals, a clean end.

Knows what an operator chose. Must not know files of a home, nor how things are said to a person: lines go to `tell`,
the URLs for clients to `show`.
"""

import asyncio
import ipaddress
import resource
import signal
import socket
import ssl
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from crdtlog.errors import CrdtlogError, Usage
from peers.relay import certificates
from peers.relay.access import host_name, split_host
from peers.relay.listener import spare_memory
from peers.relay.server import Server
from peers.relay.settings import Settings
from peers.relay.store import Quota, Store

DEFAULT_PORT = 4711
SPARE_FILES = 100
"""Descriptors beside those of connections: the store's, and those that are just being refused."""

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What an operator chose beside the limits.

    `listen` are hosts and ports. `certificate` and `key` are PEM files; with `pin`, the certificate is the relay's own
    and clients are told to pin it. Without a certificate the relay speaks no TLS.
    """

    store: str
    listen: tuple[tuple[str, int], ...]
    certificate: Path | None = None
    key: Path | None = None
    pin: str | None = None
    metrics: tuple[str, int] | None = None


def store_of(url: str, quota: Quota) -> Store:
    """The store at a URL: `postgresql://…`, `sqlite:FILE`, or a file's path. Raises `Usage`."""
    scheme, colon, rest = url.partition(":")
    if scheme in ("postgresql", "postgres"):
        from peers.relay.postgres_store import PostgresStore

        try:
            urlsplit(url).port  # noqa: B018  (it is checked when it is read)
        except ValueError as error:
            raise Usage(f"the URL of the store cannot be read: {error}") from error
        return PostgresStore(url, quota)
    if colon and scheme == "sqlite":
        url = rest.removeprefix("//")
    elif "://" in url:
        raise Usage(
            f"there is no store for {scheme}:// URLs",
            "Stores: FILE, or postgresql://USER@HOST/DATABASE.",
        )
    from peers.relay.sqlite_store import SqliteStore

    return SqliteStore(Path(url).absolute(), quota)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches that address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


async def run(options: Options, settings: Settings, show: Callable[[list[str]], None], tell: Say) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP reads certificate and key again. Raises what starting raises."""
    context = certificates.server_context(options.certificate, options.key) if options.certificate else None
    spare_memory()
    _allow_files(settings.connections, tell)
    server = Server(store_of(options.store, settings.quota), settings)
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    await server.start()
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stopping.set)
        loop.add_signal_handler(signal.SIGHUP, lambda: _reload(options, context, tell))
        places = [server.listen(host, port, context).address for host, port in options.listen]
        if options.metrics is not None:
            watched = await server.watch_on(*options.metrics)
            tell(f"metrics on http://{_shown(*watched)}/metrics")
        show(urls(options, settings, places))
        tell(f"listening on {', '.join(_shown(*place) for place in places)}")
        await stopping.wait()
        tell("stopping")
    finally:
        await server.stop()
    tell("stopped")


def _allow_files(connections: int, tell: Say) -> None:
    """Let the process have as many descriptors as connections need, as far as the system allows."""
    wanted = connections + SPARE_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= wanted:
        return
    allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < wanted:
        tell(f"the system allows {allowed} open files: that is fewer than {connections} connections need")


def _reload(options: Options, context: ssl.SSLContext | None, tell: Say) -> None:
    if context is None or options.certificate is None:
        return
    try:
        certificates.load(context, options.certificate, options.key)
        tell("the certificate was read again")
    except CrdtlogError as error:
        tell(f"the certificate stays as it was: {error}")


def urls(options: Options, settings: Settings, places: Sequence[tuple[str, int]]) -> list[str]:
    """What clients are given: one URL for each name and each address to reach the relay at."""
    scheme = "wss" if options.certificate or settings.behind_proxy else "ws"
    pin = f"#sha256={options.pin}" if options.pin else ""
    found = []
    for host, port in places:
        if settings.behind_proxy:
            names = [split_host(name) for name in settings.hosts]
        elif settings.hosts:
            names = [(name, given or port) for name, given in map(split_host, settings.hosts)]
        else:
            names = [(_reachable(host), port)]
        found += [f"{scheme}://{host_name(name, given, scheme)}{pin}" for name, given in names]
    return list(dict.fromkeys(found))


def _reachable(host: str) -> str:
    """An address that others can dial, for one that means all of them."""
    address = ipaddress.ip_address(host.partition("%")[0])
    if not address.is_unspecified:
        return host
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.connect(("192.0.2.1", 9))  # sends nothing: only the route is looked up (RFC 5737)
            return str(probe.getsockname()[0])
    except OSError:
        return "127.0.0.1"


def _shown(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
