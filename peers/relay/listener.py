"""Accepting connections: counted from the first byte on, so that strangers cannot use up all descriptors.

Knows sockets and TLS. Must not know what is served. The one idea: connections are accepted here and not by aiohttp, as
whoever can reach the port may open them: one is counted before TLS begins, and closed if it asks for nothing soon.
"""

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from asyncio import sslproto
from collections.abc import Callable
from typing import Any

from crdtlog.errors import AddressInUse, CrdtlogError, Usage

logger = logging.getLogger(__name__)

REQUEST_S = 15.0
"""So long TLS may take, and so long again the request that must follow."""
BACKLOG = 1024

TLS_BUFFER_BYTES = 16 << 10
"""A TLS record has no more."""

MayEnter = Callable[[str], bool]


class Listener:
    """Listens on one address and hands connections to an HTTP server (a factory of protocols).

    `enter(address)` says whether a connection from there may come in, and `leave(address)` is called for each that did,
    when it has asked for something or is closed.
    """

    def __init__(
        self,
        server: Callable[[], Any],
        context: ssl.SSLContext | None,
        *,
        enter: MayEnter,
        leave: Callable[[str], None],
    ) -> None:
        self._server = server
        self._context = context
        self._enter = enter
        self._leave = leave
        self._listening: socket.socket | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._greeting: set[asyncio.Task[None]] = set()
        self._waiting: dict[asyncio.BaseTransport, str] = {}

    @property
    def address(self) -> tuple[str, int]:
        """Host and port that it listens on."""
        assert self._listening is not None
        host, port = self._listening.getsockname()[:2]
        return host, port

    @property
    def is_tls(self) -> bool:
        """Whether clients must speak TLS."""
        return self._context is not None

    def start(self, host: str, port: int) -> None:
        """Listen. Raises `AddressInUse`, `Usage` (an address that is not this machine's)."""
        self._listening = listening_socket(host, port)
        self._accepting = asyncio.create_task(self._accept(self._listening), name="relay accepts")

    async def stop(self) -> None:
        """Accept nothing more."""
        if self._accepting is not None:
            self._accepting.cancel()
            for task in tuple(self._greeting):
                task.cancel()
            await asyncio.gather(self._accepting, *self._greeting, return_exceptions=True)
        if self._listening is not None:
            self._listening.close()

    def has_asked(self, transport: asyncio.BaseTransport | None) -> None:
        """A connection is a client's: it is counted elsewhere from now on."""
        if transport is not None and transport in self._waiting:
            self._leave(self._waiting.pop(transport))

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, address = await loop.sock_accept(listening)
            except OSError as error:
                logger.warning("no connection can be accepted for now: %s", error.strerror)
                await asyncio.sleep(1)
                continue
            if self._enter(address[0]):
                task = asyncio.create_task(self._greet(accepted, address[0]))
                self._greeting.add(task)
                task.add_done_callback(self._greeting.discard)
            else:
                accepted.close()

    async def _greet(self, accepted: socket.socket, address: str) -> None:
        try:
            accepted.setblocking(False)
            with contextlib.suppress(OSError):
                accepted.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                self._server,
                accepted,
                ssl=self._context,
                ssl_handshake_timeout=REQUEST_S if self._context else None,
            )
        except (OSError, asyncio.CancelledError) as error:  # ssl.SSLError and TimeoutError among them
            accepted.close()
            self._leave(address)
            if isinstance(error, asyncio.CancelledError):
                raise
            return
        self._waiting[transport] = address
        asyncio.get_running_loop().call_later(REQUEST_S, self._close_silent, transport)

    def _close_silent(self, transport: asyncio.BaseTransport) -> None:
        if transport in self._waiting:
            self._leave(self._waiting.pop(transport))
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()


def spare_memory() -> None:
    """Let TLS connections of this process share the machine: asyncio gives each a buffer of 256 KiB, used or not.

    For a process that is a relay and nothing else. Ten thousand connections at rest take 0.5 instead of 3 GiB.
    """
    sslproto.SSLProtocol.max_size = TLS_BUFFER_BYTES


def listening_socket(host: str, port: int) -> socket.socket:
    """A socket that listens on an address. Raises `AddressInUse`, `Usage` (not this machine's)."""
    shown = f"[{host}]:{port}" if ":" in host else f"{host or '*'}:{port}"
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, *_, address = found[0]
        opened = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise Usage(
            f"cannot listen on {shown}: {error.strerror}", "Check the address after --listen."
        ) from error
    try:
        opened.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # after a restart, old connections linger
        if family == socket.AF_INET6:
            # [::] takes IPv4 as well: one address to listen on for everybody.
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if host == "::" else 1)
        opened.bind(address)
        opened.listen(BACKLOG)
        opened.setblocking(False)
    except OSError as error:
        opened.close()
        raise _why(error, shown) from error
    return opened


def _why(error: OSError, shown: str) -> CrdtlogError:
    if error.errno == errno.EADDRINUSE:
        return AddressInUse(
            f"another program listens on {shown} already",
            "Choose another port with --listen, or end that program.",
        )
    return Usage(f"cannot listen on {shown}: {error.strerror}", "Check the address after --listen.")
