"""The relay as a server: HTTP paths, WebSockets, what an operator watches, a clean end.

Knows aiohttp. Must not know what is in a mailbox, nor any database. The one idea: everything that counts is below
(`connection`, `rendezvous`, a store); here it is only reached.

    /mailbox         WebSocket: the protocol of mailboxes
    /meet/CHANNEL    WebSocket: a rendezvous channel; named by 32 hex digits in the path, so that a proxy can lead both
                     sides to one relay
    /healthz         200 while the process lives
    /readyz          200 while the store answers, otherwise 503
    /metrics         for Prometheus; to this machine only, unless on an address of its own: numbers that change with
                     every append would tell a stranger when somebody writes
"""

import asyncio
import contextlib
import ipaddress
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from crdtlog.errors import Malformed, NoPeer, TooLarge
from peers.relay.connection import Connection
from peers.relay.core import Core, Hosts, Socket, source_of
from peers.relay.listener import Listener, listening_socket
from peers.relay.messages import MAX_REQUEST_BYTES
from peers.relay.refusals import Refused
from peers.relay.rendezvous import Rendezvous
from peers.relay.settings import Settings
from peers.relay.store import Store, Usage

if TYPE_CHECKING:
    from aiohttp import web

logger = logging.getLogger(__name__)

HEARTBEAT_S = 50.0
"""A connection is asked so often whether it lives; most routers forget one after a minute or more of silence."""
CLOSE_S = 2.0
STOP_S = 8.0
USAGE_EVERY_S = 60.0


class WebSocket:
    """A server's WebSocket as a `Socket`."""

    def __init__(self, accepted: "web.WebSocketResponse") -> None:
        self._accepted = accepted

    async def send(self, frame: bytes) -> None:
        """See `Socket`."""
        try:
            await self._accepted.send_bytes(frame)
        except (OSError, RuntimeError) as error:
            raise NoPeer("the connection broke off") from error

    async def receive(self) -> bytes | None:
        """See `Socket`."""
        from aiohttp import WebSocketError, WSCloseCode, WSMsgType

        message = await self._accepted.receive()
        match message.type:
            case WSMsgType.BINARY:
                return bytes(message.data)
            case WSMsgType.TEXT:
                raise Malformed("text where frames are bytes")
            case WSMsgType.ERROR if isinstance(message.data, WebSocketError):
                if message.data.code == WSCloseCode.MESSAGE_TOO_BIG:
                    raise TooLarge("a message that is too large")
                raise Malformed("no proper WebSocket messages")
            case _:
                return None


Serve = Callable[[Socket, str, str], Awaitable[None]]


class Server:
    """One relay over one store. `start`, `listen`, and `stop` at the end."""

    def __init__(self, store: Store, settings: Settings, *, clock: Callable[[], float] | None = None) -> None:
        self.core = Core(store, settings, clock=clock or time.time)
        self._store = store
        self._settings = settings
        self._hosts = Hosts(settings.hosts)
        self._rendezvous = Rendezvous(self.core)
        self._connections: set[Connection] = set()
        self._serving: set[asyncio.Task[None]] = set()
        self._runner: web.AppRunner | None = None
        self._watch_runners: list[web.AppRunner] = []
        self._listeners: list[Listener] = []
        self._expiring: asyncio.Task[None] | None = None
        self._usage = Usage(0, 0, 0)
        self._usage_at = float("-inf")

    async def start(self) -> None:
        """Open the store. Raises what the store raises."""
        from aiohttp import web

        await self._store.start(self.core.hub.changed)
        app = web.Application()
        app.router.add_get("/mailbox", self._on_mailbox)
        app.router.add_get("/meet/{channel:[0-9a-f]{32}}", self._on_meet)
        app.router.add_get("/healthz", self._on_healthz)
        app.router.add_get("/readyz", self._on_readyz)
        app.router.add_get("/metrics", self._on_metrics)
        self._runner = web.AppRunner(
            app,
            handle_signals=False,
            access_log=None,
            logger=_quiet_logger(),
            keepalive_timeout=5.0,
            shutdown_timeout=1.0,
        )
        await self._runner.setup()
        self._expiring = asyncio.create_task(self._expire(), name="relay expires")

    def listen(self, host: str, port: int, context: ssl.SSLContext | None) -> Listener:
        """Accept clients on an address. Raises `AddressInUse`, `Usage`."""
        assert self._runner is not None and self._runner.server is not None
        listener = Listener(self._runner.server, context, enter=self._enter, leave=self._leave)
        listener.start(host, port)
        self._listeners.append(listener)
        return listener

    async def watch_on(self, host: str, port: int) -> tuple[str, int]:
        """Serve `/healthz`, `/readyz` and `/metrics` on an address of their own, in the clear; where that is."""
        from aiohttp import web

        app = web.Application()
        app.router.add_get("/healthz", self._on_healthz)
        app.router.add_get("/readyz", self._on_readyz)
        app.router.add_get("/metrics", self._metrics_text)
        runner = web.AppRunner(app, handle_signals=False, access_log=None, logger=_quiet_logger())
        await runner.setup()
        listening = listening_socket(host, port)
        await web.SockSite(runner, listening).start()
        self._watch_runners.append(runner)
        bound: tuple[str, int] = listening.getsockname()[:2]
        return bound

    async def stop(self) -> None:
        """Accept nothing more, answer what was appended, tell everybody, and close the store."""
        self.core.is_stopping = True
        for listener in self._listeners:
            await listener.stop()
        if self._expiring is not None:
            self._expiring.cancel()
            await asyncio.gather(self._expiring, return_exceptions=True)
        for connection in tuple(self._connections):
            connection.stop()
        self._rendezvous.stop()
        if self._serving:
            await asyncio.wait(self._serving, timeout=STOP_S)
        for runner in (*self._watch_runners, *([self._runner] if self._runner else ())):
            await runner.cleanup()
        await self._store.close()

    # --- who may come in --------------------------------------------------------------------------------------------

    def _enter(self, address: str) -> bool:
        # Behind a proxy all come from its address, and the request says from where.
        source = "proxy" if self._settings.behind_proxy else source_of(address)
        if self._settings.behind_proxy:
            return self.core.connected.total() < 2 * self._settings.connections
        if (error := self.core.take_place(source)) is not None:
            self.core.metrics.refused(error.code)
            return False
        return True

    def _leave(self, address: str) -> None:
        if not self._settings.behind_proxy:
            self.core.leave_place(source_of(address))

    def _source(self, request: "web.Request") -> str:
        if self._settings.behind_proxy:
            # The last is what our proxy has added; those before it anybody can write.
            return source_of(request.headers.get("X-Forwarded-For", "").rpartition(",")[2].strip())
        name = _extra(request, "peername")
        return source_of(name[0]) if name else "unknown"

    async def _on_mailbox(self, request: "web.Request") -> "web.StreamResponse":
        async def serve(socket: Socket, host: str, source: str) -> None:
            connection = Connection(self.core, socket, host, source)
            self._connections.add(connection)
            try:
                await connection.serve()
            finally:
                self._connections.discard(connection)

        return await self._upgraded(request, serve)

    async def _on_meet(self, request: "web.Request") -> "web.StreamResponse":
        name = bytes.fromhex(request.match_info["channel"])
        return await self._upgraded(
            request, lambda socket, host, source: self._rendezvous.serve(socket, name, source)
        )

    async def _upgraded(self, request: "web.Request", serve: Serve) -> "web.StreamResponse":
        from aiohttp import web

        scheme = "wss" if self._settings.behind_proxy or _extra(request, "sslcontext") else "ws"
        host = self._hosts.accepted(request.headers.get("Host"), scheme, _extra(request, "sockname"))
        if host is None:
            self.core.metrics.refused("host")
            raise web.HTTPMisdirectedRequest(
                text="this relay is not known by that name: start it with --host NAME, or dial its address\n"
            )
        for listener in self._listeners:
            listener.has_asked(request.transport)
        source = self._source(request)
        if (error := self.core.take_place(source)) is not None:
            raise self._busy(error)
        current = asyncio.current_task()
        assert current is not None
        self._serving.add(current)
        try:
            accepted = web.WebSocketResponse(
                compress=False, max_msg_size=MAX_REQUEST_BYTES + 1, timeout=CLOSE_S, heartbeat=HEARTBEAT_S
            )
            if not accepted.can_prepare(request):
                raise web.HTTPUpgradeRequired(text="this path speaks WebSocket\n")
            await accepted.prepare(request)
            self.core.metrics.count("connections_total")
            await serve(WebSocket(accepted), host, source)
            with contextlib.suppress(OSError, RuntimeError, TimeoutError):
                async with asyncio.timeout(CLOSE_S):
                    await accepted.close()
            return accepted
        finally:
            self._serving.discard(current)
            self.core.leave_place(source)

    def _busy(self, error: Refused) -> "web.HTTPException":
        from aiohttp import web

        self.core.metrics.refused(error.code)
        return web.HTTPServiceUnavailable(
            text=f"{error}\n", headers={"Retry-After": str(error.retry_after_s or 1)}
        )

    # --- what an operator watches -----------------------------------------------------------------------------------

    async def _on_healthz(self, request: "web.Request") -> "web.StreamResponse":
        from aiohttp import web

        return web.Response(text="ok\n")

    async def _on_readyz(self, request: "web.Request") -> "web.StreamResponse":
        from aiohttp import web

        try:
            if self.core.is_stopping:
                return web.Response(status=503, text="stopping\n")
            async with asyncio.timeout(5):
                await self._store.check()
        except (Refused, TimeoutError):
            return web.Response(status=503, text="the store does not answer\n")
        return web.Response(text="ok\n")

    async def _on_metrics(self, request: "web.Request") -> "web.StreamResponse":
        from aiohttp import web

        name = _extra(request, "peername")
        is_near = name is not None and ipaddress.ip_address(name[0].partition("%")[0]).is_loopback
        if not is_near or "X-Forwarded-For" in request.headers or "Forwarded" in request.headers:
            raise web.HTTPForbidden(text="metrics are for the machine of the relay; see --metrics\n")
        return await self._metrics_text(request)

    async def _metrics_text(self, request: "web.Request") -> "web.StreamResponse":
        from aiohttp import web

        loop = asyncio.get_running_loop()
        is_up = 1
        if loop.time() - self._usage_at > USAGE_EVERY_S:
            try:
                self._usage = await self._store.usage()
                self._usage_at = loop.time()
            except Refused:
                is_up = 0
        gauges = {
            "connections": len(self._serving),
            "subscriptions": self.core.hub.subscriptions,
            "channels": len(self._rendezvous),
            **self._usage._asdict(),
            "store_up": is_up,
        }
        return web.Response(
            text=self.core.metrics.text(gauges),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def _expire(self) -> None:
        while True:
            try:
                dropped = await self._store.expire(self.core.now(), self._settings.ttl_s)
                self.core.metrics.count("expired_blobs_total", dropped)
            except Refused as error:
                logger.warning("old blobs could not be dropped: %s", error)
            except Exception:  # a defect, which must not end what keeps the disk from filling
                logger.exception("dropping old blobs failed")
            await asyncio.sleep(self._settings.expire_every_s)


def _extra(request: "web.Request", name: str) -> "tuple[str, int] | None":
    """A fact about a request's connection; None once it is gone."""
    found = request.transport.get_extra_info(name) if request.transport is not None else None
    return found[:2] if isinstance(found, tuple) else found


def _quiet_logger() -> logging.Logger:
    quiet = logging.getLogger("peers.relay.http")
    if not quiet.filters:
        quiet.addFilter(_without_addresses)
    return quiet


def _without_addresses(record: logging.LogRecord) -> bool:
    """aiohttp's messages name clients' addresses: what happened is told without them."""
    kind = record.exc_info[0] if record.exc_info else None
    expected = kind is None or not issubclass(kind, Exception) or kind.__module__.startswith("aiohttp")
    record.msg = f"a request could not be served ({kind.__name__ if kind else 'no error'})"
    record.args = ()
    if expected:
        record.exc_info = None
        record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return not expected or logging.getLogger(record.name).isEnabledFor(logging.DEBUG)
