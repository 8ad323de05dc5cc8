"""A client of relays: one connection, any number of mailboxes; and one side of a rendezvous.

Knows the protocol from the other end, and what URLs of relays look like. Must not know what blobs contain. The one
idea: answers are matched to requests by number, so that many may be under way; what is pushed waits in a queue for each
mailbox, and taking it acknowledges what was taken before.
"""

import asyncio
import contextlib
import ipaddress
from collections.abc import AsyncGenerator
from typing import TYPE_CHECKING, NamedTuple, TypeVar
from urllib.parse import urlsplit

from crdtlog.errors import CrdtlogError, Malformed, NoPeer, PeerRefused, Usage
from peers.relay import messages
from peers.relay.access import MailboxKey, host_name
from peers.relay.messages import (
    CHANNEL_BYTES,
    MAX_ANSWER_BYTES,
    VERSION,
    Append,
    Appended,
    Blobs,
    ClientHello,
    Got,
    Hello,
    Left,
    Meet,
    Met,
    Open,
    Opened,
    Read,
    Refusal,
    Said,
    Say,
    Subscribe,
    decode_answer,
    encode,
)
from peers.relay.refusals import Code, Refused, refused

if TYPE_CHECKING:
    import aiohttp

CONNECT_S = 15.0
HEARTBEAT_S = 40.0
CLOSE_S = 2.0
MAX_WINDOW_BYTES = 16 << 20
"""More than this is not kept for a relay, whatever it says of its window."""
_Answer = TypeVar("_Answer", Opened, Appended, Blobs)


class RelayUrl(NamedTuple):
    """Where a relay is: what to dial, the host as it is signed, and its certificate's SHA-256 if that is pinned."""

    base: str
    host: str
    pin: bytes | None

    @classmethod
    def parse(cls, text: str, *, insecure: bool = False) -> "RelayUrl":
        """Read `wss://HOST[:PORT][/PATH][#sha256=HEX]`; `ws://` only to this machine, or if `insecure`.

        Raises `Usage`.
        """
        hint = "Write wss://relay.example or wss://192.168.1.5:4711#sha256=…"
        try:
            parts = urlsplit(text)
            port = parts.port
        except ValueError as error:
            raise Usage(f"{text!r} is not the URL of a relay: {error}", hint) from error
        if parts.scheme not in ("ws", "wss") or not parts.hostname or parts.query or "@" in parts.netloc:
            raise Usage(f"{text!r} is not the URL of a relay", hint)
        host = host_name(parts.hostname, port, parts.scheme)
        pin = None
        if parts.fragment:
            name, _, value = parts.fragment.partition("=")
            try:
                pin = bytes.fromhex(value)
            except ValueError:
                pin = b""
            if name != "sha256" or len(pin) != 32 or parts.scheme != "wss":
                raise Usage("what follows # in a relay's URL is sha256= and 64 hex digits, with wss://", hint)
        if parts.scheme == "ws" and not insecure and not _is_loopback(parts.hostname):
            raise Usage(
                "ws:// is not encrypted: whoever is on the way could read along and change what is said",
                "Use wss://, or --insecure-relay if you know that nobody is.",
            )
        return cls(f"{parts.scheme}://{host}{parts.path.rstrip('/')}", host, pin)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


class _Link:
    """One WebSocket to a relay after the hellos."""

    def __init__(self, session: "aiohttp.ClientSession", socket: "aiohttp.ClientWebSocketResponse") -> None:
        self._session = session
        self._socket = socket

    @classmethod
    async def connect(cls, url: RelayUrl, path: str, token: str | None) -> tuple["_Link", Hello]:
        """Dial, and exchange hellos. Raises `NoPeer`, `PeerRefused`, `Refused`, `Malformed`."""
        import aiohttp

        session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, force_close=True))
        try:
            async with asyncio.timeout(CONNECT_S):
                socket = await session.ws_connect(
                    url.base + path,
                    ssl=aiohttp.Fingerprint(url.pin) if url.pin else True,
                    max_msg_size=MAX_ANSWER_BYTES + 1,
                    compress=0,
                    heartbeat=HEARTBEAT_S,
                    timeout=aiohttp.ClientWSTimeout(ws_close=CLOSE_S),
                )
                link = cls(session, socket)
                hello = await link.receive()
                if not isinstance(hello, Hello):
                    raise Malformed("the relay did not begin with hello")
                if not hello.versions[0] <= VERSION <= hello.versions[1]:
                    raise refused(
                        Code.VERSION,
                        f"the relay speaks versions {hello.versions[0]} to {hello.versions[1]}, this device {VERSION}",
                        temporary=False,
                    )
                await link.send(ClientHello(VERSION, token))
                return link, hello
        except BaseException as error:
            await session.close()
            if (translated := _translated(error, url.host)) is not None:
                raise translated from error
            raise

    async def send(self, message: messages.Request) -> None:
        try:
            await self._socket.send_bytes(encode(message))
        except (OSError, RuntimeError) as error:
            raise NoPeer("the connection to the relay broke off") from error

    async def receive(self) -> messages.Answer:
        """The next message; a refusal of the whole connection is raised. Raises `NoPeer`, `Malformed`, `Refused`."""
        import aiohttp

        message = await self._socket.receive()
        if message.type is not aiohttp.WSMsgType.BINARY:
            if message.type is aiohttp.WSMsgType.TEXT:
                raise Malformed("the relay sent text where frames are bytes")
            raise NoPeer("the connection to the relay broke off")
        answer = decode_answer(message.data)
        if isinstance(answer, Refusal) and answer.id is None:
            raise _error_of(answer)
        return answer

    async def close(self) -> None:
        with contextlib.suppress(OSError, RuntimeError, TimeoutError):
            async with asyncio.timeout(CLOSE_S):
                await self._socket.close()
        await self._session.close()


def _error_of(refusal: Refusal) -> Refused:
    return refused(
        refusal.code, refusal.reason, temporary=refusal.temporary, retry_after_s=refusal.retry_after_s
    )


def _translated(error: BaseException, host: str) -> CrdtlogError | None:
    import aiohttp

    match error:
        case CrdtlogError():
            return None
        case TimeoutError():
            return NoPeer(f"the relay at {host} does not answer")
        case aiohttp.ServerFingerprintMismatch():
            return PeerRefused(
                f"the relay at {host} has another certificate than its URL says",
                "Ask its operator for the URL; if that has not changed, somebody is in between.",
            )
        case aiohttp.ClientConnectorCertificateError():
            return PeerRefused(
                f"the certificate of the relay at {host} is not trusted",
                "If it has one of its own, give its URL with #sha256=…",
            )
        case aiohttp.WSServerHandshakeError(status=503):
            after = error.headers.get("Retry-After", "") if error.headers is not None else ""
            return refused(
                Code.CONNECTIONS,
                f"the relay at {host} takes no more connections for now",
                temporary=True,
                retry_after_s=int(after) if after.isascii() and after.isdigit() and len(after) < 7 else None,
            )
        case aiohttp.WSServerHandshakeError(status=421):
            return refused(Code.HOST, f"the relay does not know itself by the name {host}", temporary=False)
        case aiohttp.WSServerHandshakeError():
            return PeerRefused(f"what answers at {host} is no relay (HTTP {error.status})", "Check the URL.")
        case aiohttp.ClientError() | OSError():
            return NoPeer(f"the relay at {host} cannot be reached")
    return None


class Client:
    """One connection to a relay. `connect`, then `open` each mailbox; `close` at the end.

    Everything raises `Refused` (see its `temporary` and `retry_after_s`), `NoPeer` when the connection is gone, and
    `Malformed` for a relay that does not speak as it should; then the connection is gone, too.
    """

    def __init__(self, link: _Link, hello: Hello, host: str) -> None:
        self._link = link
        self._hello = hello
        self._host = host
        self._next_id = 0
        self._answers: dict[int, asyncio.Future[messages.Answer]] = {}
        self._pushed: dict[bytes, asyncio.Queue[Blobs | None]] = {}
        self._unread = 0
        self._gone: CrdtlogError | None = None
        self._receiving = asyncio.create_task(self._receive(), name="relay client")

    @classmethod
    async def connect(cls, url: RelayUrl, token: str | None = None) -> "Client":
        """Dial a relay. Raises `NoPeer`, `PeerRefused`, `Refused`, `Malformed`."""
        link, hello = await _Link.connect(url, "/mailbox", token)
        return cls(link, hello, url.host)

    @property
    def limits(self) -> messages.Limits:
        """What the relay says of its limits."""
        return self._hello.limits

    async def close(self) -> None:
        """Close the connection."""
        self._receiving.cancel()
        await asyncio.gather(self._receiving, return_exceptions=True)
        await self._link.close()

    async def open(self, key: MailboxKey) -> Opened:
        """Open a mailbox: what is kept there."""
        signature = key.sign(self._hello.nonce, self._host)
        return await self._ask(Open(self._take_id(), key.mailbox, signature), Opened)

    async def append(self, mailbox: bytes, blob: bytes) -> int:
        """Put a blob of one of `messages.SIZES` at the end of an open mailbox: its index, once it is durable."""
        return (await self._ask(Append(self._take_id(), mailbox, blob), Appended)).index

    async def read(self, mailbox: bytes, after: int, max_bytes: int = messages.MAX_PAGE_BYTES) -> Blobs:
        """Blobs of an open mailbox behind an index."""
        return await self._ask(Read(self._take_id(), mailbox, after, max_bytes), Blobs)

    async def subscribe(self, mailbox: bytes, after: int) -> AsyncGenerator[Blobs, None]:
        """All blobs of an open mailbox behind an index, and those to come.

        The first page comes at once, be it empty. Asking for the next page acknowledges the one before.
        """
        queue: asyncio.Queue[Blobs | None] = asyncio.Queue()
        self._pushed[mailbox] = queue
        answer = self._expect(request := Subscribe(self._take_id(), mailbox, after))
        answer.add_done_callback(lambda _: queue.put_nowait(None))
        await self._send(request)
        try:
            while True:
                page = await queue.get()
                if page is None:
                    raise answer.exception() or NoPeer("the connection to the relay is gone")
                self._unread -= _size(page)
                yield page
                if page.blobs:
                    await self._send(Got(mailbox, page.blobs[-1][0]))
        finally:
            self._answers.pop(request.id, None)
            if self._pushed.get(mailbox) is queue:
                del self._pushed[mailbox]
            while not queue.empty():
                self._unread -= _size(queue.get_nowait())

    def _take_id(self) -> int:
        self._next_id = (self._next_id + 1) & messages.MAX_ID
        return self._next_id

    def _expect(self, request: Open | Append | Read | Subscribe) -> "asyncio.Future[messages.Answer]":
        if self._gone is not None:
            raise self._gone
        answer: asyncio.Future[messages.Answer] = asyncio.get_running_loop().create_future()
        self._answers[request.id] = answer
        return answer

    async def _ask(self, request: Open | Append | Read, kind: type[_Answer]) -> _Answer:
        answer = self._expect(request)
        try:
            await self._send(request)
            found = await answer
        finally:
            self._answers.pop(request.id, None)
        if not isinstance(found, kind):
            raise Malformed("the relay answered something else than was asked")
        return found

    async def _send(self, request: messages.Request) -> None:
        try:
            await self._link.send(request)
        except NoPeer as error:
            if self._receiving.done() and self._gone is not None:
                raise self._gone from error
            raise

    async def _receive(self) -> None:
        try:
            while True:
                self._take(await self._link.receive())
        except CrdtlogError as error:
            self._gone = error
            await self._link.close()
        finally:
            gone = self._gone or NoPeer("the connection to the relay is closed")
            self._gone = gone
            for answer in tuple(self._answers.values()):
                if not answer.done():
                    answer.set_exception(gone)
                    answer.exception()  # nobody may be waiting

    def _take(self, answer: messages.Answer) -> None:
        match answer:
            case Blobs(id=None):
                if (queue := self._pushed.get(answer.mailbox)) is not None:
                    self._unread += _size(answer)
                    if self._unread > min(self.limits.window_bytes, MAX_WINDOW_BYTES) + MAX_ANSWER_BYTES:
                        raise Malformed("the relay pushes more than its window")
                    queue.put_nowait(answer)
            case Opened() | Appended() | Blobs() | Refusal():
                waiting = self._answers.pop(answer.id if answer.id is not None else -1, None)
                if waiting is None or waiting.done():
                    return  # whoever asked has given up
                if isinstance(answer, Refusal):
                    waiting.set_exception(_error_of(answer))
                else:
                    waiting.set_result(answer)
            case _:
                raise Malformed("the relay said what does not belong here")


def _size(page: Blobs | None) -> int:
    return sum(len(blob) for _, blob in page.blobs) if page is not None else 0


class Meeting:
    """One side of a rendezvous channel. `first` makes it; `close` at the end."""

    def __init__(self, link: _Link) -> None:
        self._link = link

    @classmethod
    async def enter(
        cls, url: RelayUrl, channel: bytes, *, first: bool, token: str | None = None
    ) -> "Meeting":
        """Take one side of a channel, named by 16 bytes. Whether it was granted, the first `receive` tells."""
        if len(channel) != CHANNEL_BYTES:
            raise ValueError("a channel's name has 16 bytes")
        link, _ = await _Link.connect(url, f"/meet/{channel.hex()}", token)
        await link.send(Meet(first))
        return cls(link)

    async def say(self, data: bytes) -> None:
        """Send up to 64 KiB to the other side. Raises `NoPeer`."""
        await self._link.send(Say(data))

    async def receive(self) -> Met | Said | Left:
        """What happens next. Raises `Refused`, `NoPeer`, `Malformed`."""
        answer = await self._link.receive()
        if not isinstance(answer, (Met, Said, Left)):
            raise Malformed("the relay said what does not belong here")
        return answer

    async def close(self) -> None:
        """Leave the channel."""
        await self._link.close()
