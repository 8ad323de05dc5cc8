"""Finding other devices on the local network by multicast DNS (RFC 6762, RFC 6763).

Knows names, TXT records and network interfaces. Must not know sessions or pairing: it says who may be where,
and whoever dials finds out whether that is so. The one idea: announce nothing that means anything to a
stranger. A member recognises a database by ids that change every 15 minutes (`envelope.discovery_id`);
instance and host names are random and change with them; nothing carries the name of a device, a person or a
file.

    _crdtlog._tcp.local.       TXT v=1, d0=<up to 15 ids of 16 hex digits>, d1=…    one per device
    _crdtlog-pair._tcp.local.  TXT v=1, n=<nameplate>                               while a code is open

A machine without multicast is common (containers, guest networks, phones): then this logs one line, tries
again now and then, and everything else works by addresses.
"""

import asyncio
import contextlib
import ipaddress
import logging
import math
import os
import re
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from peers.envelope import SLOT_SECONDS, discovery_id, recognise, slot

if TYPE_CHECKING:
    from zeroconf import ServiceStateChange, Zeroconf
    from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

logger = logging.getLogger(__name__)

PEER_TYPE = "_crdtlog._tcp.local."
PAIRING_TYPE = "_crdtlog-pair._tcp.local."
TXT_VERSION = "1"
IDS_PER_STRING = 15  # a TXT string has at most 255 bytes
MAX_DATABASES = 60  # what fits, with names and addresses, into one packet
MAX_ADDRESSES = 16
MAX_SIGHTINGS = 256
MAX_LOOKUPS = 64
LOOKUP_TIMEOUT_MS = 3000
CHECK_SECONDS = 20.0


class Sighting(NamedTuple):
    """A device that shares databases with us: their ids, and where it may be reached (`host:port`,
    `[v6]:port`).
    """

    addresses: tuple[str, ...]
    databases: frozenset[bytes]


class PairingSighting(NamedTuple):
    """A device on which a pairing code with this nameplate is open, and where it may be reached."""

    nameplate: int
    addresses: tuple[str, ...]


class _Announced(NamedTuple):
    """What another device announces: where, and its TXT record."""

    addresses: tuple[str, ...]
    texts: Mapping[str, str]


# --- formats ------------------------------------------------------------------------------------------------


def peer_texts(ids: Sequence[str]) -> dict[str, str]:
    """The TXT record for these discovery ids. Which 60 of more are announced is decided by their order."""
    shown = ids[:MAX_DATABASES]
    groups = [shown[i : i + IDS_PER_STRING] for i in range(0, len(shown), IDS_PER_STRING)]
    return {"v": TXT_VERSION} | {f"d{number}": "".join(group) for number, group in enumerate(groups)}


def ids_in(texts: Mapping[str, str]) -> list[str]:
    """The discovery ids in a TXT record of any origin; what is not an id is passed over."""
    strings = [texts.get(f"d{number}", "") for number in range(math.ceil(MAX_DATABASES / IDS_PER_STRING))]
    return [found for string in strings for found in re.findall(r"[0-9a-f]{16}", string)]


def nameplate_in(texts: Mapping[str, str]) -> int | None:
    """The nameplate in a TXT record of any origin, if there is one."""
    typed = texts.get("n", "")
    return int(typed) if re.fullmatch(r"[0-9]{1,3}", typed) else None


def address(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def own_hosts() -> list[str]:
    """This machine's addresses that others can use: IPv4 first; loopback only if there is nothing else.

    Link-local IPv6 addresses are left out: they mean nothing without the other machine's interface name.
    """
    import ifaddr

    found = [
        ip.ip if isinstance(ip.ip, str) else ip.ip[0] for card in ifaddr.get_adapters() for ip in card.ips
    ]
    usable = [ip for ip in map(ipaddress.ip_address, found) if not (ip.version == 6 and ip.is_link_local)]
    outside = [ip for ip in usable if not ip.is_loopback]
    return [str(ip) for ip in sorted(outside or usable, key=lambda ip: (ip.version, ip))][:MAX_ADDRESSES]


# --- the service --------------------------------------------------------------------------------------------


class Discovery:
    """Announces this device and reports others, from `start` to `close`, inside one asyncio loop.

    `on_peer` is called for every device that shares a database with us, again whenever something about it
    changes; `on_pairing` (if given) for every open code. Both are called in the loop and must not block.
    `interfaces` limits everything to these addresses of this machine (all, by default).
    """

    def __init__(
        self,
        *,
        on_peer: Callable[[Sighting], None] | None = None,
        on_pairing: Callable[[PairingSighting], None] | None = None,
        interfaces: Sequence[str] | None = None,
        clock: Callable[[], float] = time.time,
        random: Callable[[int], bytes] = os.urandom,
        check_seconds: float = CHECK_SECONDS,
    ) -> None:
        self._on_peer = on_peer
        self._on_pairing = on_pairing
        self._interfaces = interfaces
        self._clock = clock
        self._random = random
        self._check_seconds = check_seconds
        self._keys: dict[bytes, bytes] = {}
        self._port: int | None = None
        self._hosts: Sequence[str] | None = None
        self._pairings: dict[int, int] = {}  # nameplate -> port
        self._infos: dict[object, AsyncServiceInfo] = {}  # PEER_TYPE or nameplate -> what is registered
        self._own_names: set[str] = set()
        self._seen: dict[str, _Announced] = {}
        self._lookups: dict[str, asyncio.Task[None]] = {}
        self._lock = asyncio.Lock()
        self._keeper: asyncio.Task[None] | None = None
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._opened_on: list[str] = []
        self._slot = -1
        self._complained = False

    @property
    def is_working(self) -> bool:
        """Whether multicast could be set up (which does not mean that anybody hears it)."""
        return self._zeroconf is not None

    async def start(self) -> None:
        """Begin. Without multicast this logs a line, and tries again from time to time."""
        async with self._lock:
            await self._open()
        self._keeper = asyncio.create_task(self._keep_current(), name="discovery")

    async def close(self) -> None:
        """Withdraw everything and stop."""
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        async with self._lock:
            await self._shut()

    async def announce(
        self, keys: Mapping[bytes, bytes], port: int | None, hosts: Sequence[str] | None = None
    ) -> None:
        """Recognise these databases (id → discovery key) from now on, and announce them on `port`.

        With `port` None nothing is announced (a process that dials only). `hosts`: where we listen, if not
        everywhere.
        """
        async with self._lock:
            self._keys, self._port, self._hosts = dict(keys), port, hosts
            await self._announce_peer()
        for announced in list(self._seen.values()):
            self._report_peer(announced)

    async def announce_pairing(self, nameplate: int, port: int) -> None:
        """Announce that a code with this nameplate is open here."""
        async with self._lock:
            self._pairings[nameplate] = port
            await self._announce_nameplate(nameplate, port)

    async def withdraw_pairing(self, nameplate: int) -> None:
        """The code is closed."""
        async with self._lock:
            self._pairings.pop(nameplate, None)
            await self._withdraw(self._infos.pop(nameplate, None))

    # --- keeping announcements current

    async def _keep_current(self) -> None:
        while True:
            now = self._clock()
            to_next_slot = SLOT_SECONDS - now % SLOT_SECONDS if math.isfinite(now) else self._check_seconds
            await asyncio.sleep(min(self._check_seconds, to_next_slot + 0.1))
            try:
                async with self._lock:
                    await self._refresh()
            except Exception:
                logger.exception("announcing on the local network failed; trying again later")

    async def _refresh(self) -> None:
        if self._zeroconf is None or self._opened_on != self._hosts_now():
            await self._shut()  # sockets belong to interfaces: after a change of network they hear nothing
            await self._open()
        elif self._slot != slot(self._clock()):
            await self._announce_peer()

    def _hosts_now(self) -> list[str]:
        return list(self._interfaces) if self._interfaces is not None else own_hosts()

    async def _open(self) -> None:
        self._opened_on = self._hosts_now()
        try:
            self._zeroconf = _open_zeroconf(self._interfaces)
        except OSError as error:
            if not self._complained:
                logger.warning(
                    "No multicast here (%s): devices are not found by themselves, only by address.", error
                )
            self._complained = True
            return
        self._complained = False
        from zeroconf.asyncio import AsyncServiceBrowser

        types = [PEER_TYPE] * (self._on_peer is not None) + [PAIRING_TYPE] * (self._on_pairing is not None)
        if types:
            self._browser = AsyncServiceBrowser(self._zeroconf.zeroconf, types, handlers=[self._on_change])
        await self._announce_peer()
        for nameplate, port in self._pairings.items():
            await self._announce_nameplate(nameplate, port)

    async def _shut(self) -> None:
        for task in self._lookups.values():
            task.cancel()
        browser, zeroconf = self._browser, self._zeroconf
        self._browser = self._zeroconf = None
        self._infos.clear()
        self._seen.clear()
        if zeroconf is None:
            return
        from zeroconf import Error

        with contextlib.suppress(OSError, Error):
            if browser is not None:
                await browser.async_cancel()
            await zeroconf.async_unregister_all_services()
        with contextlib.suppress(OSError, Error):
            await zeroconf.async_close()

    async def _announce_peer(self) -> None:
        """Announce under fresh names, then withdraw the old ones: there is no moment without."""
        old = self._infos.pop(PEER_TYPE, None)
        now = self._clock()
        self._slot = slot(now)
        if self._port is not None and self._keys:
            ids = sorted(discovery_id(key, now) for key in self._keys.values())
            await self._register(PEER_TYPE, PEER_TYPE, self._port, peer_texts(ids))
        await self._withdraw(old)

    async def _announce_nameplate(self, nameplate: int, port: int) -> None:
        old = self._infos.pop(nameplate, None)
        await self._register(nameplate, PAIRING_TYPE, port, {"v": TXT_VERSION, "n": str(nameplate)})
        await self._withdraw(old)

    async def _register(self, key: object, kind: str, port: int, texts: dict[str, str]) -> None:
        if self._zeroconf is None:
            return
        from zeroconf import Error
        from zeroconf.asyncio import AsyncServiceInfo

        name = self._random(8).hex()
        hosts = list(self._hosts or self._hosts_now())
        info = AsyncServiceInfo(
            kind,
            f"{name}.{kind}",
            port=port,
            server=f"{name}.local.",
            parsed_addresses=hosts[:MAX_ADDRESSES],
            properties=texts,
        )
        self._own_names.add(info.name)
        try:
            # 64 random bits need no probing for a rival of the same name, which would take half a second.
            await (await self._zeroconf.async_register_service(info, cooperating_responders=True))
        except (OSError, Error) as error:
            logger.warning("This device cannot be announced on the local network: %s", error)
        else:
            self._infos[key] = info

    async def _withdraw(self, info: "AsyncServiceInfo | None") -> None:
        if info is None or self._zeroconf is None:
            return
        from zeroconf import Error

        with contextlib.suppress(OSError, Error):
            await (await self._zeroconf.async_unregister_service(info))

    # --- seeing others

    def _on_change(
        self, *, zeroconf: "Zeroconf", service_type: str, name: str, state_change: "ServiceStateChange"
    ) -> None:
        """Called by the browser, in the loop. Anybody on the network can cause these calls: hence the limits."""
        from zeroconf import ServiceStateChange

        if state_change is ServiceStateChange.Removed:
            self._seen.pop(name, None)
        elif name not in self._own_names and name not in self._lookups and len(self._lookups) < MAX_LOOKUPS:
            task = asyncio.get_running_loop().create_task(self._look_up(zeroconf, service_type, name))
            self._lookups[name] = task
            task.add_done_callback(lambda _: self._lookups.pop(name, None))

    async def _look_up(self, zeroconf: "Zeroconf", service_type: str, name: str) -> None:
        from zeroconf import Error
        from zeroconf.asyncio import AsyncServiceInfo

        try:
            info = AsyncServiceInfo(service_type, name)
            if not await info.async_request(zeroconf, LOOKUP_TIMEOUT_MS) or not info.port:
                return
            port = info.port
            addresses = [address(host, port) for host in info.parsed_scoped_addresses()[:MAX_ADDRESSES]]
            announced = _Announced(tuple(addresses), _texts_of(info.properties))
        except (OSError, ValueError, Error) as error:
            logger.debug("what %s announces cannot be read: %s", name, error)
            return
        if service_type == PAIRING_TYPE:
            self._report_pairing(announced)
        else:
            if len(self._seen) >= MAX_SIGHTINGS:
                self._seen.pop(next(iter(self._seen)))
            self._seen[name] = announced
            self._report_peer(announced)

    def _report_peer(self, announced: _Announced) -> None:
        databases = recognise(ids_in(announced.texts), self._keys, self._clock())
        if databases and announced.addresses and self._on_peer is not None:
            self._on_peer(Sighting(announced.addresses, frozenset(databases)))

    def _report_pairing(self, announced: _Announced) -> None:
        nameplate = nameplate_in(announced.texts)
        if nameplate is not None and announced.addresses and self._on_pairing is not None:
            self._on_pairing(PairingSighting(nameplate, announced.addresses))


def _open_zeroconf(interfaces: Sequence[str] | None) -> "AsyncZeroconf":
    """Errors: OSError where there is no multicast."""
    from zeroconf import InterfaceChoice, IPVersion
    from zeroconf.asyncio import AsyncZeroconf

    if interfaces is not None:
        return AsyncZeroconf(interfaces=list(interfaces))
    try:
        return AsyncZeroconf(interfaces=InterfaceChoice.All, ip_version=IPVersion.All)
    except (OSError, RuntimeError):  # IPv6 is switched off
        return AsyncZeroconf(interfaces=InterfaceChoice.All, ip_version=IPVersion.V4Only)


def _texts_of(properties: Mapping[Any, Any]) -> dict[str, str]:
    """A TXT record as text; whatever is not ASCII is passed over."""
    pairs: Iterable[tuple[Any, Any]] = properties.items()
    return {
        key.decode(): value.decode()
        for key, value in pairs
        if isinstance(key, bytes) and isinstance(value, bytes) and key.isascii() and value.isascii()
    }
