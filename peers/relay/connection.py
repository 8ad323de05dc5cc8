"""One client's connection: requests in, answers and pushed blobs out.

Knows the protocol's rules. Must not know HTTP or a database. The one idea: appends go to the store in the order of the
requests and are answered as they become durable; everything else is done one after the other, so that a client that
asks faster than it reads is simply read more slowly.
"""

import asyncio
import contextlib
import logging
import secrets
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from crdtlog.errors import CrdtlogError, Malformed, NoPeer
from peers.relay.access import is_signed
from peers.relay.core import Core, Pacer, Socket, wait_of
from peers.relay.messages import (
    MAX_PAGE_BYTES,
    NONCE_BYTES,
    SIZES,
    Append,
    Appended,
    Blobs,
    Got,
    Open,
    Opened,
    Read,
    Request,
    Subscribe,
    encode,
    seconds,
)
from peers.relay.refusals import Code, Refused, refused, stopping
from peers.relay.settings import APPEND_COST_BYTES

logger = logging.getLogger(__name__)

APPEND_BYTES = 8 << 20
"""Blobs of one connection that wait for the store have no more bytes together, unless it is a single one."""
WRONG_SIGNATURES = 8
"""A connection with more of them ends: nobody signs wrongly again and again by accident."""
FINISH_S = 5.0


@dataclass(slots=True)
class _Subscription:
    """How far a mailbox was pushed, what of it is not acknowledged as (index, bytes), and whether nothing was yet."""

    after: int
    is_fresh: bool = True
    open: deque[tuple[int, int]] = field(default_factory=deque)


class Connection:
    """Serves one client from hello to the end. `host` is the name by which it dialled us, `source` from where."""

    def __init__(self, core: Core, socket: Socket, host: str, source: str) -> None:
        self._core = core
        self._socket = socket
        self._host = host
        self._source = source
        self._nonce = secrets.token_bytes(NONCE_BYTES)
        self._opened: dict[bytes, bool] = {}  # whether something was ever appended, as far as we know
        self._wrong_signatures = 0
        self._requests = Pacer(core.settings.requests_per_connection)
        self._appends_pace = Pacer(core.settings.appends_per_connection)
        self._appends: set[asyncio.Task[None]] = set()
        self._append_bytes = 0
        self._subscriptions: dict[bytes, _Subscription] = {}
        self._unacknowledged = 0
        self._behind: OrderedDict[bytes, None] = OrderedDict()  # mailboxes that may have more to push
        self._pump: asyncio.Task[None] | None = None
        self._serving: asyncio.Task[None] | None = None
        self._ending: Refused | None = None

    async def serve(self) -> None:
        """Until the client is gone, says what it must not, or `stop` is called."""
        self._serving = current = asyncio.current_task()
        assert current is not None
        try:
            await self._core.greet(self._socket, self._nonce)
            while True:
                await self._answer(await self._core.next_request(self._socket))
        except EOFError:
            pass
        except asyncio.CancelledError:
            if self._ending is None:
                raise
            current.uncancel()
            if self._appends:
                await asyncio.wait(self._appends, timeout=FINISH_S)
            await self._tell(self._ending)
        except NoPeer:
            pass
        except Refused as error:
            await self._tell(error)
        except CrdtlogError as error:  # Malformed, TooLarge
            await self._tell(refused(Code.MALFORMED, str(error), temporary=False))
        finally:
            for mailbox in self._subscriptions:
                self._core.hub.remove(mailbox, self._wake)
            self._subscriptions.clear()
            if self._pump is not None:
                self._pump.cancel()

    def stop(self) -> None:
        """The relay ends: what was appended is still answered, then the client is told."""
        self._end(stopping())

    def _end(self, error: Refused) -> None:
        if self._serving is not None and self._ending is None:
            self._ending = error
            self._serving.cancel()

    async def _tell(self, error: Refused) -> None:
        with contextlib.suppress(NoPeer):
            await self._socket.send(self._core.refusal(error))

    async def _answer(self, request: Request) -> None:
        if (wait := self._requests.take()) > 0:
            await asyncio.sleep(wait)
            self._requests.take()
        if isinstance(request, Got):
            self._on_got(request)
            return
        if not isinstance(request, (Open, Append, Read, Subscribe)):
            raise Malformed("this message does not belong here")
        try:
            match request:
                case Open():
                    await self._on_open(request)
                case Append():
                    await self._on_append(request)
                case Read():
                    await self._on_read(request)
                case Subscribe():
                    self._on_subscribe(request)
        except Refused as error:
            await self._socket.send(self._core.refusal(error, request.id))
            if self._wrong_signatures > WRONG_SIGNATURES:
                raise EOFError from None

    # --- opening and reading ----------------------------------------------------------------------------------------

    async def _on_open(self, request: Open) -> None:
        if request.mailbox not in self._opened and len(self._opened) >= self._core.settings.mailboxes:
            raise refused(Code.MAILBOXES, "this connection has enough mailboxes open", temporary=False)
        if not is_signed(request.signature, self._nonce, self._host, request.mailbox):
            self._wrong_signatures += 1
            raise refused(
                Code.SIGNATURE, "the signature does not open this mailbox at this relay", temporary=False
            )
        state = await self._core.store.state(request.mailbox, self._core.now())
        self._opened[request.mailbox] = state is not None
        life, first, last = state or (bytes(16), 1, 0)
        await self._socket.send(encode(Opened(request.id, life, first, last)))

    def _require_open(self, mailbox: bytes) -> None:
        if mailbox not in self._opened:
            raise refused(Code.NOT_OPEN, "this mailbox is not open on this connection", temporary=False)

    async def _on_read(self, request: Read) -> None:
        self._require_open(request.mailbox)
        page = await self._core.store.read(
            request.mailbox, request.after, min(request.max_bytes, MAX_PAGE_BYTES)
        )
        self._count_sent(page.blobs)
        await self._socket.send(encode(Blobs(request.id, request.mailbox, page.first, page.blobs, page.end)))

    def _count_sent(self, blobs: tuple[tuple[int, bytes], ...]) -> None:
        self._core.metrics.count("sent_blobs_total", len(blobs))
        self._core.metrics.count("sent_bytes_total", sum(len(blob) for _, blob in blobs))

    # --- appending ----------------------------------------------------------------------------------------------------

    async def _on_append(self, request: Append) -> None:
        self._require_open(request.mailbox)
        size = len(request.blob)
        if size not in SIZES or size > self._core.settings.largest_blob:
            reason = f"a blob of {size} bytes; sizes are powers of two from {SIZES[0]}"
            reason += f" to {self._core.settings.largest_blob}"
            raise refused(Code.BLOB_SIZE, reason, temporary=False)
        cost = 1 + (size - 1) // APPEND_COST_BYTES
        wait = self._appends_pace.take(cost) or wait_of(self._core.mailbox_pace, request.mailbox, cost)
        if wait:
            raise refused(Code.RATE, "too many appends at once", temporary=True, retry_after_s=seconds(wait))
        begins = not self._opened[request.mailbox]
        if begins and (wait := wait_of(self._core.new_mailboxes, self._source)):
            raise refused(
                Code.NEW_MAILBOXES, "too many new mailboxes", temporary=True, retry_after_s=seconds(wait)
            )
        self._opened[request.mailbox] = True  # those behind it must not pay for it again
        while self._appends and (
            len(self._appends) >= self._core.settings.requests or self._append_bytes + size > APPEND_BYTES
        ):
            await asyncio.wait(self._appends, return_when=asyncio.FIRST_COMPLETED)
        self._append_bytes += size
        # Tasks begin in the order in which they were created, so the store is asked in the order of the requests.
        task = asyncio.create_task(self._append(request, begins, time.monotonic()))
        self._appends.add(task)
        task.add_done_callback(self._appends.discard)

    async def _append(self, request: Append, begins: bool, began: float) -> None:
        created = False
        try:
            appended = await self._core.store.append(request.mailbox, request.blob, self._core.now())
            created = appended.created
            self._core.metrics.count("new_mailboxes_total", created)
            self._core.metrics.appended(len(request.blob), time.monotonic() - began)
            answer = encode(Appended(request.id, appended.number))
        except Refused as error:
            answer = self._core.refusal(error, request.id)
            self._opened[request.mailbox] = not begins
        finally:
            self._append_bytes -= len(request.blob)
            if begins and not created:
                self._core.new_mailboxes.give_back(self._source)
        with contextlib.suppress(NoPeer):
            await self._socket.send(answer)

    # --- pushing ------------------------------------------------------------------------------------------------------

    def _on_subscribe(self, request: Subscribe) -> None:
        self._require_open(request.mailbox)
        before = self._subscriptions.pop(request.mailbox, None)
        if before is not None:
            self._unacknowledged -= sum(size for _, size in before.open)
        self._subscriptions[request.mailbox] = _Subscription(request.after)
        self._core.hub.add(request.mailbox, self._wake)
        self._wake(request.mailbox)

    def _on_got(self, request: Got) -> None:
        subscription = self._subscriptions.get(request.mailbox)
        while subscription and subscription.open and subscription.open[0][0] <= request.index:
            self._unacknowledged -= subscription.open.popleft()[1]
        if self._behind:
            self._start_pump()

    def _wake(self, mailbox: bytes) -> None:
        self._behind[mailbox] = None
        self._start_pump()

    def _start_pump(self) -> None:
        if self._pump is None:
            self._pump = asyncio.create_task(self._push())

    async def _push(self) -> None:
        """Push until nobody is behind or the window is full; an acknowledgement then goes on."""
        try:
            while self._behind and self._free() > 0:
                mailbox, _ = self._behind.popitem(last=False)
                if mailbox in self._subscriptions and not await self._push_page(mailbox):
                    return
        except NoPeer:
            pass
        except Refused as error:
            self._end(error)  # the client connects again when the store works; it could not know otherwise
        finally:
            self._pump = None

    def _free(self) -> int:
        return self._core.settings.window_bytes - self._unacknowledged

    async def _push_page(self, mailbox: bytes) -> bool:
        """Push one page of a mailbox; False if the window has no room for it."""
        subscription = self._subscriptions[mailbox]
        # Rounded, so that those who stand at the same index read the same.
        room = min(MAX_PAGE_BYTES, 1 << self._free().bit_length() - 1)
        pushed = await self._core.hub.read(mailbox, subscription.after, room)
        if self._subscriptions.get(mailbox) is not subscription:
            self._behind[mailbox] = None  # subscribed anew meanwhile
            return True
        blobs = pushed.page.blobs
        size = sum(len(blob) for _, blob in blobs)
        if not pushed.page.end or (size > self._free() and self._unacknowledged):
            self._behind[mailbox] = None
        if size > self._free() and self._unacknowledged:
            return False
        if blobs or subscription.is_fresh:  # the first page says what is kept, even if it is empty
            subscription.is_fresh = False
            subscription.after = blobs[-1][0] if blobs else subscription.after
            subscription.open.extend((index, len(blob)) for index, blob in blobs)
            self._unacknowledged += size
            self._count_sent(blobs)
            await self._socket.send(pushed.frame)
        return True
