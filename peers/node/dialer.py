"""Keeping a connection to every other device of one file: which addresses to try, and when.

Knows addresses, what came of dialling them, and backoff. Must not know TLS, sessions or the file: `connect` does the
work and says what came of it. The one idea: one small loop per address, all racing; an address whose device is
connected already waits until that connection ends. Devices say themselves where they can be dialled, so only the newest
few addresses of each are kept, whatever it says.
"""

import asyncio
import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field

from crdtlog.errors import CrdtlogError

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 30.0
HEALTHY_SECONDS = 5.0
"""A connection that lasted this long was a good one: the next attempt comes soon."""
MAX_ADDRESSES = 256
MAX_ADDRESSES_PER_DEVICE = 8
"""Those that a person named do not count."""
FORGET_AFTER_FAILURES = 12
"""A sighted address is dropped after so many failures in a row."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of dialling an address.

    `device` is who answered (None: nobody); `error` why there is no connection, or why it ended; `hopeless` says that
    trying again soon is useless; `is_self` that the address leads back to this device.
    """

    device: bytes | None
    error: CrdtlogError | None = None
    hopeless: bool = False
    is_self: bool = False


@dataclass(slots=True)
class _Address:
    text: str
    is_named: bool = False  # by a person: never forgotten
    is_lasting: bool = False  # not forgotten because of failures
    is_gone: bool = False  # to be forgotten once what stands has ended
    device: bytes | None = None
    last: Outcome | None = None
    attempts: int = 0  # finished, or still connected
    failures: int = 0
    is_greeted: bool = False  # a session stands
    poked: asyncio.Event = field(default_factory=asyncio.Event)
    task: asyncio.Task[None] | None = None


class Dialer:
    """Dials for one file, from `start` to `close`.

    `connect(address, greeted)` dials, calls `greeted(device)` once a session stands, and returns when it has ended.
    `is_connected(device)` says whether any connection to that device stands.
    """

    def __init__(
        self,
        connect: Callable[[str, Callable[[bytes], None]], Awaitable[Outcome]],
        is_connected: Callable[[bytes], bool],
        *,
        clock: Callable[[], float] = time.monotonic,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._connect = connect
        self._is_connected = is_connected
        self._clock = clock
        self._jitter = jitter
        self._addresses: dict[str, _Address] = {}  # the one that was added, or answered, last is the last
        self._news = asyncio.Event()
        self._is_stopped = False

    def add(self, addresses: Iterable[str], *, device: bytes | None = None, named: bool = False) -> None:
        """Try these addresses (`host:port`) from now on.

        With `device`, the device said or showed that it is there (latest first); `named` are those a person chose.
        Others, which may be anybody's, are forgotten after failing for long.
        """
        for text in reversed(list(addresses)):
            known = self._addresses.pop(text, None)
            if known is None:
                if len(self._addresses) >= MAX_ADDRESSES or self._is_stopped:
                    continue
                known = _Address(text)
                known.task = asyncio.create_task(self._attend(known), name=f"dialling {text}")
            self._addresses[text] = known
            known.is_gone = False
            known.is_named = known.is_named or named
            known.is_lasting = known.is_lasting or named or device is not None
            known.device = known.device or device
        if device is not None:
            self._keep_newest(device)

    def forget(self, device: bytes) -> None:
        """Dial a device no more; what stands ends by itself, and addresses that a person chose stay."""
        for address in self._addresses.values():
            if address.device == device and not address.is_named:
                address.is_gone = True
                address.poked.set()

    def poke(self, addresses: Iterable[str] | None = None) -> None:
        """Try these addresses (None: all) at once, whatever came of them before."""
        for text in self._addresses if addresses is None else addresses:
            if text in self._addresses:
                self._addresses[text].poked.set()

    def links_changed(self) -> None:
        """A connection began or ended."""
        self._news.set()
        self._news = asyncio.Event()

    async def try_all(self) -> None:
        """Poke, and return when every address has been tried (or leads to a device that is connected)."""
        before = {text: address.attempts for text, address in self._addresses.items()}
        self.poke()
        while any(
            self._is_untried(address, before.get(text, 0)) for text, address in self._addresses.items()
        ):
            await self._news.wait()

    def why_unreachable(self, device: bytes) -> CrdtlogError | None:
        """The last failure at an address of the device, or at one whose device is not known; None if there is none."""
        found = [
            address.last.error
            for address in self._addresses.values()
            if address.last is not None and address.device in (device, None) and not address.last.is_self
        ]
        return next((error for error in found if error is not None), None)

    def stop_dialling(self) -> None:
        """Begin no connection any more; those that stand are left alone."""
        self._is_stopped = True
        for address in self._addresses.values():
            if address.task is not None and not address.is_greeted:
                address.task.cancel()

    async def close(self) -> None:
        """Stop dialling, and end the connections that were dialled."""
        tasks = [address.task for address in self._addresses.values() if address.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._addresses.clear()

    # --- one address ----------------------------------------------------------------------------------------------

    def _keep_newest(self, device: bytes) -> None:
        """Forget the oldest addresses of a device that has too many."""
        its = [address for address in self._addresses.values() if address.device == device]
        for address in [address for address in its if not address.is_named][:-MAX_ADDRESSES_PER_DEVICE]:
            if not address.is_greeted and address.task is not None:
                del self._addresses[address.text]
                address.task.cancel()
        self.links_changed()

    def _is_untried(self, address: _Address, attempts_before: int) -> bool:
        return address.attempts <= attempts_before and not self._waits(address)

    def _waits(self, address: _Address) -> bool:
        return address.device is not None and self._is_connected(address.device)

    async def _attend(self, address: _Address) -> None:
        while not self._is_stopped:
            while self._waits(address):
                await self._news.wait()
            address.poked.clear()
            began = self._clock()
            attempts = address.attempts

            def greeted(device: bytes, attempts: int = attempts) -> None:
                address.device, address.attempts, address.is_greeted = device, attempts + 1, True
                self.links_changed()

            outcome = await self._connect(address.text, greeted)
            was_connected, address.is_greeted = address.is_greeted, False
            address.attempts = attempts + 1
            address.last = outcome
            if outcome.device is not None:
                address.device = outcome.device
                self._addresses[address.text] = self._addresses.pop(address.text)
                self._keep_newest(outcome.device)
            is_healthy = was_connected and self._clock() - began >= HEALTHY_SECONDS
            address.failures = 0 if is_healthy and not outcome.hopeless else address.failures + 1
            self.links_changed()
            is_vain = not address.is_lasting and address.failures > FORGET_AFTER_FAILURES
            if address.is_gone or is_vain:
                del self._addresses[address.text]
                return
            if not self._waits(address):
                await self._pause(address, outcome)

    async def _pause(self, address: _Address, outcome: Outcome) -> None:
        pause = FIRST_PAUSE_SECONDS * 2 ** min(max(address.failures - 1, 0), 16)
        if outcome.hopeless or outcome.is_self:
            pause = LONGEST_PAUSE_SECONDS
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(pause, LONGEST_PAUSE_SECONDS) * (0.5 + self._jitter() / 2)):
                await address.poked.wait()
