"""The side of pairing that knows a code: find who issued it, become a member, and fetch the rows.

Knows the `Joiner` machine, where to look for an issuer, and the order of steps. Must not know how entries travel. The
one idea: until the database is adopted nothing is left behind; from then on the file is whole, and whatever is missing
comes with the next sync.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, cast

import crdtlog
from crdtlog import catalog, welcome
from crdtlog import device as devices
from crdtlog.connection import open_file, translated
from crdtlog.device import Home, device_id
from crdtlog.errors import (
    CrdtlogError,
    DaemonUnavailable,
    NoPeer,
    PairingFailed,
    ReadOnly,
    WrongDevice,
)
from peers import identity
from peers.control import Client
from peers.node import known, welcoming
from peers.node.discovery import Discovery, PairingSighting
from peers.node.meeting import MeetingWire, find
from peers.node.node import Options
from peers.node.relay_address import RelayAddress
from peers.node.relays import parse_all, usable
from peers.node.standalone import node_for
from peers.node.transport import PAIR_PATH, Caller, NoSuchCode, Wire, parse_address
from peers.node.wording import sentences
from peers.pairing.codes import Code, parse_code
from peers.pairing.effects import Close, Effect, Failed, Joined, Send
from peers.pairing.frames import MAX_FRAME_BYTES
from peers.pairing.machines import Attempts, Joiner

SEARCH_SECONDS = 20.0
"""How long an issuer is looked for on the local network."""
OTHERS_SECONDS = 2.0
"""After a failure, another device with a code of the same number gets this long to be found."""
STAYS_OPEN = "The code stays open for this device until it expires."
RELAY_SECONDS = 300.0
"""So long what the issuer uploads to a relay is waited for."""
CATCH_UP_ATTEMPTS = 3
CATCH_UP_PAUSE_SECONDS = 1.0

Progress = Callable[[str], None]
"""Told one line of text now and then."""


def _silent(line: str) -> None:
    """Say nothing."""


def open_shared(
    path: str | Path,
    *,
    code: str | None = None,
    home: Home | str | Path | None = None,
    name: str | None = None,
    peers: Sequence[str] = (),
    mdns: bool = True,
    recovery: bytes | None = None,
    relays: Sequence[str] = (),
) -> crdtlog.Database:
    """Open a shared database, after joining it with `code` if the file is not part of one yet.

    Returns what `crdtlog.open` returns; without a code it is the same, and a database that is made has that `recovery`
    key. Raises what `join` raises. May be called with or without a running event loop; it blocks.
    """
    absolute = Path(path).absolute()
    if code is not None and not (absolute.exists() and _is_database(absolute)):
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as own_loop:
            joining = join(code, path, home=home, name=name, peers=peers, mdns=mdns, relays=relays)
            own_loop.submit(asyncio.run, joining).result()
    return crdtlog.open(path, home=home, name=name, recovery=recovery)


async def join(
    code: str,
    path: str | Path,
    *,
    home: Home | str | Path | None = None,
    name: str | None = None,
    peers: Sequence[str] = (),
    mdns: bool = True,
    progress: Progress = _silent,
    relays: Sequence[str] = (),
    insecure_relay: bool = False,
) -> dict[str, Any]:
    """Join the database that a code was issued for, as a file that is missing, empty, or has tables of its own.

    `peers` are addresses to try beside those that mDNS finds. `relays` are URLs of relays where the issuer may wait;
    they are used from then on, like those that the issuer tells of. `insecure_relay` allows `ws://` to other machines.

    Returns `{"v": 1, "joined": {...}}` with `path`, `database`, `device`, `name`, `role`, `issuer` (id and name),
    `complete` and `why`: whether all rows are here already, and if not, why not.

    Raises `Usage` (no code, bad address), `NoPeer` (nobody answers), `PairingFailed` (also if whoever answers does not
    have that code open), `WrongDevice` (the file belongs to a database already), `SchemaRefused` (a table here does
    not fit), and what opening a file raises.
    """
    parsed = parse_code(code)
    for address in peers:
        parse_address(address)
    meeting_at = parse_all(relays, insecure=insecure_relay)
    where, absolute = Home.of(home), Path(path).absolute()
    _check_place(absolute)
    device = await asyncio.to_thread(devices.load_device, where.prepare(), name=name)
    joining = _Joining(parsed, device, absolute, where, name, progress, insecure_relay=insecure_relay)
    joined, found_at = await joining.run(peers, mdns, meeting_at)
    replaced = await asyncio.to_thread(_take_place, where, absolute, joined.database_id)
    for file in replaced:
        progress(
            f"{file.name} is the same database, and is not exchanged any more: {absolute.name} takes its place"
        )
    issuer = {"id": device_id(joined.issuer.sign_key).hex(), "name": joined.issuer.name}
    progress(f"joined as {joined.role}; receiving rows from {joined.issuer.name}")
    why = await _catch_up(absolute, where, found_at, issuer["id"], progress, replaced)
    return {
        "v": 1,
        "joined": {
            "path": str(absolute),
            "database": joined.database_id.hex(),
            "device": device.id.hex(),
            "name": device.name,
            "role": joined.role,
            "issuer": issuer,
            "complete": why is None,
            "why": why,
        },
    }


# --- the file -----------------------------------------------------------------------------------------------------


def _check_place(path: Path) -> None:
    """Require, before the code is spent, that a database can be adopted here."""
    if not path.parent.is_dir():
        raise ReadOnly(f"the directory {path.parent} does not exist", "Create it first.")
    if not os.access(path.parent, os.W_OK):
        raise ReadOnly(f"the directory {path.parent} cannot be written", "Choose another place for the file.")
    if path.exists() and _is_database(path):
        raise WrongDevice(
            f"{path} belongs to a database already",
            "Join with a file of another name; the rows can be copied over with SQL afterwards.",
        )


def _is_database(path: Path) -> bool:
    """Whether the file is part of a crdtlog database. Raises `NotADatabase`, `ReadOnly`."""
    connection = open_file(path, create=False)
    try:
        return catalog.exists(connection)
    finally:
        connection.close()


def _take_place(home: Home, path: Path, database: bytes) -> list[Path]:
    """Have the home serve this file, and no other of the same database; those that it served till now."""
    replaced = [file for file in known.known_files(home) if file != path and _database_of(file) == database]
    for file in replaced:
        known.forget_file(home, file)
    known.remember_file(home, path)
    return replaced


def _database_of(path: Path) -> bytes | None:
    """The id of the database that a file is part of, if that can be read."""
    try:
        connection = open_file(path, create=False)
    except CrdtlogError:
        return None
    try:
        with translated(path):
            return (
                cast(bytes, catalog.get_meta(connection, "database")) if catalog.exists(connection) else None
            )
    except CrdtlogError:
        return None
    finally:
        connection.close()


async def _catch_up(
    path: Path, home: Home, address: str | None, issuer: str, progress: Progress, replaces: Sequence[Path]
) -> str | None:
    """Fetch what the issuer has and send it what was here; None, or why that is not done yet.

    `address` is where the issuer answered, None if that was at a relay. A daemon stops to serve what `path` replaces.
    """
    why: str | None = None
    for attempt in range(CATCH_UP_ATTEMPTS):
        if attempt:
            await asyncio.sleep(CATCH_UP_PAUSE_SECONDS)
        try:
            result = await _sync(path, home, address, progress, replaces)
        except CrdtlogError as error:
            why = str(error)
            continue
        found = next(device for device in result["sync"]["devices"] if device["id"] == issuer)
        if found["state"] in ("equal", "relay"):
            return None
        why = str(found["why"])
        if found["state"] == "behind":
            break
    return why


async def _sync(
    path: Path, home: Home, address: str | None, progress: Progress, replaces: Sequence[Path]
) -> dict[str, Any]:
    """Through this home's daemon if it runs (it serves the file from now on), otherwise by a node of our own."""
    try:
        daemon = await asyncio.to_thread(Client.connect, home)
    except DaemonUnavailable:
        # What came directly is uploaded by the issuer, and by this device's daemon once it runs.
        peers = [address] if address is not None else []
        options = Options(peers=peers, mdns=False, accepts=False, uses_relays=not peers)
        async with node_for(path, home, options, progress) as node:
            return await node.sync(path, None if peers else RELAY_SECONDS)
    with daemon:
        seconds = None if address is not None else RELAY_SECONDS
        asked = {"path": str(path), "replaces": [str(file) for file in replaces], "timeout": seconds}
        return await asyncio.to_thread(lambda: daemon.request("sync", **asked))


# --- finding the issuer, and talking to it ------------------------------------------------------------------------


class _Joining:
    """One join: all connections that are tried for one code."""

    def __init__(
        self,
        code: Code,
        device: devices.Device,
        path: Path,
        home: Home,
        name: str | None,
        progress: Progress,
        *,
        insecure_relay: bool,
    ) -> None:
        self._code = code
        self._device = device
        self._path = path
        self._home = home
        self._name = name
        self._progress = progress
        self._certificate = identity.load_identity(home, device).certificate
        self._attempts = Attempts()
        self._caller = Caller()
        self._insecure_relay = insecure_relay
        self._relays: Sequence[RelayAddress] = ()
        self._wires: asyncio.Queue[Wire | MeetingWire] = asyncio.Queue()
        self._reaching: dict[str, asyncio.Task[None]] = {}
        self._unreached: dict[str, CrdtlogError] = {}
        self._named: frozenset[str] = frozenset()
        self._tried: set[bytes] = set()

    async def run(
        self, peers: Sequence[str], mdns: bool, relays: Sequence[RelayAddress]
    ) -> tuple[Joined, str | None]:
        """Find the issuer, join, and adopt; what it said, and where (None: at a relay). Raises as `join` does."""
        discovery = Discovery(on_pairing=self._sighted) if mdns else None
        self._progress("looking for the other device")
        try:
            self._named = frozenset(peers)
            self._reach(peers)
            self._relays = relays
            for relay in relays:
                self._reaching[relay.shown] = asyncio.create_task(self._meet(relay))
            if discovery is not None:
                await discovery.start()
            return await self._search(mdns)
        finally:
            for task in self._reaching.values():
                task.cancel()
            await asyncio.gather(*self._reaching.values(), return_exceptions=True)
            if discovery is not None:
                await discovery.close()
            while not self._wires.empty():
                await self._wires.get_nowait().close()
            await self._caller.close()

    def _sighted(self, sighting: PairingSighting) -> None:
        if sighting.nameplate == self._code.nameplate:
            self._reach(sighting.addresses)

    def _reach(self, addresses: Iterable[str]) -> None:
        for address in addresses:
            if address not in self._reaching:
                self._reaching[address] = asyncio.create_task(self._dial(address))

    async def _dial(self, address: str) -> None:
        path = f"{PAIR_PATH}/{self._code.nameplate}"
        try:
            wire = await self._caller.dial(
                address, path, identity.pairing_context(), max_bytes=MAX_FRAME_BYTES, headers={}
            )
        except CrdtlogError as error:
            self._unreached[address] = error
        else:
            self._wires.put_nowait(wire)

    async def _meet(self, relay: RelayAddress) -> None:
        try:
            wire = await find(relay, self._code.nameplate)
        except CrdtlogError as error:
            self._unreached[relay.shown] = error
        else:
            self._wires.put_nowait(wire)

    async def _search(self, mdns: bool) -> tuple[Joined, str | None]:
        until = time.monotonic() + (SEARCH_SECONDS if mdns else 0.0)
        last: CrdtlogError | None = None
        while True:
            wire = await self._next_wire(until)
            if wire is None:
                raise last or self._nobody(mdns)
            try:
                found = await self._try(wire)
            except PairingFailed as error:
                last, until = error, time.monotonic() + (OTHERS_SECONDS if mdns else 0.0)
            except NoPeer as error:
                last = error
            else:
                if found is not None:
                    return found, None if isinstance(wire, MeetingWire) else wire.address
            finally:
                await wire.close()

    async def _next_wire(self, until: float) -> Wire | MeetingWire | None:
        """The next device that answers; None when time is up and nobody is being dialled any more."""
        while True:
            dialling = [task for task in self._reaching.values() if not task.done()]
            if not self._wires.empty():
                return self._wires.get_nowait()
            if not dialling and time.monotonic() >= until:
                return None
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.1):
                    return await self._wires.get()

    def _is_void(self) -> bool:
        """Whether a device that was named, or every one that answered, says that the code is not open."""
        answers = {a: error for a, error in self._unreached.items() if type(error) is not NoPeer}
        closed = {address for address, error in answers.items() if isinstance(error, NoSuchCode)}
        return bool(closed) and (bool(closed & self._named) or len(closed) == len(answers))

    def _nobody(self, mdns: bool) -> CrdtlogError:
        reasons = "; ".join(dict.fromkeys(str(error) for error in self._unreached.values()))
        if self._is_void():
            return PairingFailed(
                f"the code was used, has expired or was never made ({reasons})",
                "Codes work once and for ten minutes: make a new one on the other device with: crdtlog pair FILE",
            )
        if mdns:
            hint = (
                "Is `crdtlog pair` running on the other device, in the same network? Else: --peer HOST:PORT."
            )
        else:
            hint = "Name the address that `crdtlog pair` shows: --peer HOST:PORT."
        return NoPeer(
            "no device was found that has this code open" + (f" ({reasons})" if reasons else ""), hint
        )

    async def _try(self, wire: Wire | MeetingWire) -> Joined | None:
        """Join over this connection; None if the same device was tried before."""
        if not isinstance(wire, MeetingWire):
            if wire.certificate is None or wire.certificate in self._tried:
                return None
            self._tried.add(wire.certificate)
        machine = Joiner(
            self._code,
            self._device,
            certificate=self._certificate,
            server_certificate=wire.certificate,
            attempts=self._attempts,
            random=os.urandom,
        )
        effects: Sequence[Effect] = machine.start(time.time())
        while True:
            for effect in effects:
                match effect:
                    case Send(frame):
                        with contextlib.suppress(NoPeer):  # then the next receive says so
                            await wire.send(frame)
                    case Joined():
                        await self._adopt(machine, effect, wire)
                        return effect
                    case Failed():
                        raise effect.error()
            effects = await self._heard(machine, wire)

    async def _heard(self, machine: Joiner, wire: Wire | MeetingWire) -> Sequence[Effect]:
        try:
            pause = min(max(machine.deadline - time.time(), 0.0), 3600.0)
            async with asyncio.timeout(pause):
                frame = await wire.receive()
        except TimeoutError:
            return machine.tick(time.time())
        except CrdtlogError:
            frame = None
        return machine.lost() if frame is None else machine.receive(frame, time.time())

    async def _adopt(self, machine: Joiner, joined: Joined, wire: Wire | MeetingWire) -> None:
        problem: CrdtlogError | None = None
        try:
            address = None if isinstance(wire, MeetingWire) else wire.address
            await asyncio.to_thread(self._take, joined, address)
        except CrdtlogError as error:
            problem = error
        for effect in machine.finished(str(problem) if problem else None):
            if isinstance(effect, Send):
                with contextlib.suppress(NoPeer):  # we are members all the same
                    await wire.send(effect.frame)
                    if problem is not None:
                        problem.hint = sentences(problem.hint, STAYS_OPEN)
            elif isinstance(effect, Close):
                await wire.close()
        if problem is not None:
            raise problem

    def _take(self, joined: Joined, address: str | None) -> None:
        handed, told = welcoming.unpacked(joined.welcome)
        if welcome.decode(handed).database != joined.database_id:
            raise PairingFailed(
                "The welcome is for another database than the pairing.", "Ask for a new code."
            )
        engine = crdtlog.adopt(self._path, handed, home=self._home, name=self._name)
        try:
            if address is not None:
                engine.record_address(device_id(joined.issuer.sign_key), address, time.time_ns() // 1_000_000)
            for relay in [*self._relays, *usable(told, insecure=self._insecure_relay)]:
                engine.relays.add(relay.text)
        finally:
            engine.close()
