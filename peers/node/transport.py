"""Connections to other devices: WebSockets (RFC 6455) over TLS, dialled or accepted.

Knows aiohttp, addresses and what a failed connection means. Must not know sessions, pairing or databases: frames go
out, frames come in, and a certificate says who is there. The one idea: whichever side began, what is above sees the
same `Wire`.
"""

import asyncio
import contextlib
import errno
import logging
import re
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any

from crdtlog.errors import AddressInUse, CrdtlogError, Malformed, NoPeer, PeerRefused, TooLarge, Usage
from peers.identity import peer_certificate
from peers.node.discovery import address as format_address

if TYPE_CHECKING:
    import aiohttp
    from aiohttp import web

logger = logging.getLogger(__name__)

SYNC_PATH = "/sync"
PAIR_PATH = "/pair"
PORT_HEADER = "X-Crdtlog-Port"
"""Sent when dialling: where the dialler itself listens, so that it can be dialled later."""

CONNECT_SECONDS = 8.0
CLOSE_SECONDS = 2.0
# struct tcp_info of Linux: eight bytes, then numbers of 32 bits, the twelfth being tcpi_last_data_recv in ms.
_TCP_INFO_BYTES = 64
_LAST_DATA_RECEIVED = 8 + 4 * 11
MAX_CONNECTIONS = 200
"""Connections that may be open at once; whoever comes then is hung up on."""
REQUEST_SECONDS = 10.0
"""So long TLS may take, and so long again the request that must follow."""
MAX_PAIRINGS = 8
"""Connections without a certificate that are served at once."""
MAX_PAIR_FRAME_BYTES = 16 << 10
"""A joiner sends no larger frame."""


class NoSuchCode(NoPeer):
    """A device was reached, but no pairing code of that number is open there."""


def parse_address(text: str) -> tuple[str, int]:
    """Host and port of `host:port`, `[v6]:port` or `:port` (any host). Raises `Usage`."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        colon = ""
    # Python makes no number of thousands of digits, and a port has five.
    if not colon or not re.fullmatch(r"0*[0-9]{1,5}", port) or int(port[-5:]) >= 1 << 16:
        raise Usage(
            f"{text!r} is not an address.", "Write HOST:PORT, such as 192.168.1.5:4567 or [fe80::1]:4567."
        )
    return host, int(port[-5:])


class Wire:
    """One open connection: binary frames in order, and the certificate of the other side.

    `address` is `host:port` of the other end, `certificate` its DER bytes or None, `headers` what an accepted
    connection's request carried.
    """

    def __init__(
        self,
        socket: "web.WebSocketResponse | aiohttp.ClientWebSocketResponse",
        address: str,
        certificate: bytes | None,
        headers: Mapping[str, str] | None = None,
        *,
        plain: Any = None,
    ) -> None:
        self._socket = socket
        self._plain = plain  # the TCP socket below
        self.address = address
        self.certificate = certificate
        self.headers: Mapping[str, str] = headers or {}

    async def send(self, frame: bytes) -> None:
        """Send a frame; waits while the connection is full. Raises `NoPeer` when it is gone."""
        try:
            await self._socket.send_bytes(frame)
        except (OSError, RuntimeError) as error:
            raise NoPeer(f"the connection to {self.address} broke off") from error

    async def receive(self) -> bytes | None:
        """The next frame, or None when the other side has closed or vanished. Raises `TooLarge`, `Malformed`."""
        from aiohttp import WebSocketError, WSCloseCode, WSMsgType

        message = await self._socket.receive()
        match message.type:
            case WSMsgType.BINARY:
                return bytes(message.data)
            case WSMsgType.TEXT:
                raise Malformed("it sent text where frames are bytes")
            case WSMsgType.ERROR if isinstance(message.data, WebSocketError):
                if message.data.code == WSCloseCode.MESSAGE_TOO_BIG:
                    raise TooLarge("it sent a message that is too large")
                raise Malformed(f"it sent no proper WebSocket messages ({message.data})")
            case _:
                return None

    def is_receiving(self, within_s: float) -> bool:
        """Whether any bytes arrived within that time, be it a part of a large frame. False where nobody can tell."""
        try:
            info = self._plain.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _TCP_INFO_BYTES)
            (silent_ms,) = struct.unpack_from("=I", info, _LAST_DATA_RECEIVED)
        except (OSError, struct.error, AttributeError):  # gone, or not Linux
            return False
        return bool(silent_ms < within_s * 1000)

    async def close(self) -> None:
        """Close, without waiting long for the other side to agree."""
        with contextlib.suppress(OSError, RuntimeError, TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._socket.close()


# --- dialling -----------------------------------------------------------------------------------------------------


class Caller:
    """Dials. One per process and event loop; `close` at the end."""

    def __init__(self) -> None:
        self._session: aiohttp.ClientSession | None = None

    async def dial(
        self, address: str, path: str, context: ssl.SSLContext, *, max_bytes: int, headers: Mapping[str, str]
    ) -> Wire:
        """Connect to `host:port`.

        Raises `NoPeer` (nobody answers), `NoSuchCode` (a pairing path that is not open), `PeerRefused` (TLS or the
        other device refuses: one of both is no member in the other's eyes), `Usage` (not an address).
        """
        from aiohttp import ClientWSTimeout

        host, port = parse_address(address)
        url = f"wss://{format_address(host, port)}{path}"
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                found = await self._opened().ws_connect(
                    url,
                    ssl=context,
                    headers=headers,
                    max_msg_size=max_bytes,
                    compress=0,
                    timeout=ClientWSTimeout(ws_close=CLOSE_SECONDS),
                )
        except (Exception, asyncio.CancelledError) as error:
            translated = _translated(error, address)
            if translated is None:
                raise
            raise translated from error
        certificate = peer_certificate(found.get_extra_info("ssl_object"))
        return Wire(found, address, certificate, plain=found.get_extra_info("socket"))

    async def close(self) -> None:
        """Close what is still open."""
        if self._session is not None:
            await self._session.close()

    def _opened(self) -> "aiohttp.ClientSession":
        if self._session is None:
            from aiohttp import ClientSession, TCPConnector

            self._session = ClientSession(
                connector=TCPConnector(limit=0, force_close=True, use_dns_cache=False)
            )
        return self._session


def _translated(error: BaseException, address: str) -> CrdtlogError | None:
    """What a failed dial means for a person; None for an error that is none of the network's."""
    import aiohttp

    match error:
        case TimeoutError():
            return NoPeer(f"{address} does not answer")
        case aiohttp.ClientConnectorCertificateError() | ssl.SSLCertVerificationError():
            return PeerRefused(
                f"the device at {address} is not a member of this database, as far as this device knows",
                "Pair with it: `crdtlog pair` there or here; or sync with a device that knows both.",
            )
        case aiohttp.ClientConnectorSSLError() | ssl.SSLError():
            return PeerRefused(
                f"{address} does not speak crdtlog's TLS ({_short(error)})", "Check address and port."
            )
        case aiohttp.ClientConnectorError():
            return NoPeer(f"{address} cannot be reached ({_short(error)})")
        case aiohttp.WSServerHandshakeError(status=404):
            return NoSuchCode(f"no pairing code of that number is open at {address}")
        case aiohttp.WSServerHandshakeError(status=503):
            return NoPeer(f"the device at {address} is busy")
        case aiohttp.ServerDisconnectedError() | aiohttp.ClientOSError() | ConnectionError():
            return PeerRefused(
                f"the device at {address} hung up: this device is not (or no longer) a member there, or not known yet",
                "If it was added on another device just now, this passes; otherwise pair again with `crdtlog pair`.",
            )
        case aiohttp.ClientError() | ValueError():
            return NoPeer(f"what answers at {address} is not crdtlog ({_short(error)})")
        case OSError():
            return NoPeer(f"{address} cannot be reached ({_short(error)})")
    return None


def _short(error: BaseException) -> str:
    cause = getattr(error, "os_error", error)
    text = getattr(cause, "strerror", None) or str(cause)
    return text.partition(" [")[0] if text.startswith("Connect call failed") else text


# --- listening ----------------------------------------------------------------------------------------------------

Serve = Callable[[Wire], Awaitable[None]]
ServePairing = Callable[[int, Wire], Awaitable[None]]


class Listener:
    """Accepts connections on one port: `serve_sync` gets those of devices that show a certificate; pairing
    connections go to `serve_pairing`, with the nameplate that was asked for, while `has_nameplate` says so.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        serve_sync: Serve,
        serve_pairing: ServePairing,
        has_nameplate: Callable[[int], bool],
        max_bytes: int,
    ) -> None:
        self._context = context
        self._serve_sync = serve_sync
        self._serve_pairing = serve_pairing
        self._has_nameplate = has_nameplate
        self._max_bytes = max_bytes
        self._pairings = 0
        self._runner: web.AppRunner | None = None
        self._sockets: list[socket.socket] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._in_handshake = 0
        self._asked: set[asyncio.BaseTransport] = set()
        self.host = ""
        self.port = 0

    async def start(self, listen: str | None, preferred_port: int = 0) -> None:
        """Listen on `host:port`, or if None on all addresses and, if it is free, the preferred port.

        Raises `AddressInUse`, `Usage`, `NoPeer` (an address that is not this machine's).
        """
        from aiohttp import web

        sockets = _listening_sockets(listen, preferred_port)
        self.host, self.port = sockets[0].getsockname()[:2]
        app = web.Application()
        app.router.add_get(SYNC_PATH, self._on_sync)
        app.router.add_get(PAIR_PATH + r"/{nameplate:\d{1,3}}", self._on_pair)
        self._runner = web.AppRunner(app, handle_signals=False, access_log=None, shutdown_timeout=1.0)
        await self._runner.setup()
        self._sockets = sockets
        for listening in sockets:
            listening.setblocking(False)
            self._start(self._accept(listening))

    # Connections are accepted here and not by aiohttp, as whoever can reach the port may open them: they are counted
    # before TLS begins, and one that asks for nothing soon is closed, so that strangers cannot use up all descriptors.

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        while True:
            try:
                accepted, _ = await loop.sock_accept(listening)
            except OSError as error:
                logger.warning("no connection can be accepted for now: %s", error)
                await asyncio.sleep(1)
                continue
            assert self._runner is not None and self._runner.server is not None
            if self._in_handshake + len(self._runner.server.connections) >= MAX_CONNECTIONS:
                accepted.close()
            else:
                # Counted here and not by the task, which begins later than the next connection is accepted.
                self._in_handshake += 1
                self._start(self._greet(accepted))

    async def _greet(self, accepted: socket.socket) -> None:
        """TLS, and then a request, both within some seconds."""
        assert self._runner is not None and self._runner.server is not None
        try:
            transport, _ = await asyncio.get_running_loop().connect_accepted_socket(
                self._runner.server, accepted, ssl=self._context, ssl_handshake_timeout=REQUEST_SECONDS
            )
        except OSError as error:  # ssl.SSLError, ConnectionError and TimeoutError among them
            logger.info("a connection ended before it began: %s", error)
            accepted.close()
            return
        finally:
            self._in_handshake -= 1
        await asyncio.sleep(REQUEST_SECONDS)
        if transport in self._asked:
            self._asked.discard(transport)
        else:
            transport.abort()

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def stop_accepting(self) -> None:
        """Stop listening; what is open stays so."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for listening in self._sockets:
            listening.close()

    async def close(self) -> None:
        """Stop listening, and close what is open."""
        await self.stop_accepting()
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    async def _on_sync(self, request: "web.Request") -> "web.StreamResponse":
        from aiohttp import web

        certificate = self._certificate(request)
        if certificate is None:
            raise web.HTTPForbidden(text="a member's certificate is needed")
        return await self._upgraded(request, certificate, self._max_bytes, self._serve_sync)

    async def _on_pair(self, request: "web.Request") -> "web.StreamResponse":
        from aiohttp import web

        nameplate = int(request.match_info["nameplate"])
        if not self._has_nameplate(nameplate):
            raise web.HTTPNotFound(text="no code of that number is open here")
        if self._pairings >= MAX_PAIRINGS:
            raise web.HTTPServiceUnavailable(text="too many devices try to join at once")
        self._pairings += 1
        try:
            return await self._upgraded(
                request, None, MAX_PAIR_FRAME_BYTES, lambda wire: self._serve_pairing(nameplate, wire)
            )
        finally:
            self._pairings -= 1

    async def _upgraded(
        self, request: "web.Request", certificate: bytes | None, max_bytes: int, serve: Serve
    ) -> "web.StreamResponse":
        from aiohttp import web

        if request.transport is not None:
            self._asked.add(request.transport)
        accepted = web.WebSocketResponse(compress=False, max_msg_size=max_bytes, timeout=CLOSE_SECONDS)
        await accepted.prepare(request)
        plain = request.transport.get_extra_info("socket") if request.transport is not None else None
        wire = Wire(accepted, _peer_address(request), certificate, request.headers, plain=plain)
        try:
            await serve(wire)
        finally:
            await wire.close()
        return accepted

    @staticmethod
    def _certificate(request: "web.Request") -> bytes | None:
        transport = request.transport
        return peer_certificate(transport.get_extra_info("ssl_object")) if transport is not None else None


def _peer_address(request: "web.Request") -> str:
    transport = request.transport
    name = transport.get_extra_info("peername") if transport is not None else None
    return format_address(*name[:2]) if name else "?"


def _listening_sockets(listen: str | None, preferred_port: int) -> list[socket.socket]:
    if listen is not None:
        host, port = parse_address(listen)
        return [_listening(host or "0.0.0.0", port, listen)]
    try:
        first = _listening("0.0.0.0", preferred_port, f"port {preferred_port}")
    except AddressInUse:
        first = _listening("0.0.0.0", 0, "any port")
    found = [first]
    with contextlib.suppress(AddressInUse, NoPeer):  # no IPv6 here, or the port is taken there: IPv4 will do
        found.append(_listening("::", first.getsockname()[1], "IPv6"))
    return found


def _listening(host: str, port: int, shown: str) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0][0]
        opened = socket.socket(family, socket.SOCK_STREAM)
    except OSError as error:
        raise NoPeer(
            f"cannot listen on {shown}: {error.strerror}", "Check the address after --listen."
        ) from error
    try:
        if family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        opened.setsockopt(
            socket.SOL_SOCKET, socket.SO_REUSEADDR, 1
        )  # after a restart, old connections linger
        opened.bind((host, port))
        opened.listen(128)
    except OSError as error:
        opened.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"another program listens on {shown} already",
                "Choose another port with --listen, or end that program.",
            ) from error
        raise NoPeer(
            f"cannot listen on {shown}: {error.strerror}", "Check the address after --listen."
        ) from error
    return opened
