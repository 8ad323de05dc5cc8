"""A node: one home's files, the port on which others reach them, and finding others on the local network.

Knows which file a connection is for, and puts the parts together. Must not know how entries travel or how people are
asked. The daemon runs one for as long as it lives; `sync`, `pair` and `join` without a daemon run one for a moment.
"""

import asyncio
import logging
import os
import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from crdtlog import device as devices
from crdtlog.device import Home
from crdtlog.errors import CrdtlogError, NotInitialised, Usage
from peers.identity import load_identity, server_context, trust
from peers.node import known, syncing
from peers.node.discovery import Discovery, Sighting, own_hosts
from peers.node.discovery import address as format_address
from peers.node.files import open_shared_file
from peers.node.issuing import ApproveDevice, Issuing, ShowCode, Tell, tell_nobody
from peers.node.link import LIMITS
from peers.node.meeting import Host
from peers.node.relay_address import RelayAddress
from peers.node.relays import parse_all
from peers.node.sharing import Sharing, Surroundings
from peers.node.transport import Caller, Listener, Wire, parse_address
from peers.node.watching import Watcher
from peers.pairing.codes import Code as PairingCode
from peers.pairing.machines import CODE_SECONDS
from peers.session import messages
from peers.session.machine import Code

logger = logging.getLogger(__name__)

HELLO_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class Options:
    """How a node reaches others, and lets itself be reached.

    `listen` is `host:port` (None: every address, and the port used last); `accepts` False means not to listen at all.
    `peers` are addresses to dial beside those that are remembered or found by mDNS. `relays` are used and remembered by
    every file that is served; `insecure_relay` allows `ws://` to other machines. Without `uses_relays` not even those
    that files remember are used. `forgotten_relays` are forgotten by every file that is served.
    """

    listen: str | None = None
    peers: Sequence[str] = ()
    mdns: bool = True
    accepts: bool = True
    relays: Sequence[str] = ()
    insecure_relay: bool = False
    uses_relays: bool = True
    forgotten_relays: Sequence[str] = ()


class Node:
    """Serves files of one home, from `start` to `stop`, inside one asyncio loop. `log` gets lines for people."""

    def __init__(self, home: Home, options: Options, log: Callable[[str], None]) -> None:
        for address in options.peers:
            parse_address(address)
        self._relays = parse_all(options.relays, insecure=options.insecure_relay)
        self._forgotten = parse_all(options.forgotten_relays, insecure=True)
        self.home = home
        self.options = options
        self.log = log
        self._sharings: dict[Path, Sharing] = {}
        self._caller = Caller()
        self._watcher = Watcher()
        self._discovery: Discovery | None = None
        self._listener: Listener | None = None
        self._adding = asyncio.Lock()
        self._removing: set[asyncio.Task[None]] = set()

    async def start(self) -> None:
        """Listen, and look around. Raises `AddressInUse`, `KeysUnusable`, `Usage`."""
        device = devices.load_device(self.home.prepare(), create=False)
        identity = load_identity(self.home, device)
        self._issuing = Issuing(identity.certificate)
        self._server_context = server_context([identity.certificate], identity)
        self._around = Surroundings(
            self._caller,
            identity,
            known.place_of(self.home),
            lambda: self.port,
            self.options.mdns,
            self.options.uses_relays,
        )
        if self.options.accepts:
            await self._listen()
        if self.options.mdns:
            self._discovery = Discovery(on_peer=self._sighted)
            await self._discovery.start()

    async def stop(self) -> None:
        """Say goodbye, and close everything."""
        if self._discovery is not None:
            await self._discovery.close()
        await asyncio.gather(*(self._remove(sharing) for sharing in list(self._sharings.values())))
        if self._listener is not None:
            await self._listener.close()
        await self._watcher.close()
        await self._caller.close()

    @property
    def port(self) -> int | None:
        """Where this node listens."""
        return self._listener.port if self._listener is not None else None

    @property
    def address(self) -> str | None:
        """Where others may reach this node, `host:port`; None if it does not listen."""
        if self._listener is None:
            return None
        return format_address(self._hosts()[0], self._listener.port)

    # --- files ----------------------------------------------------------------------------------------------------

    async def add_file(self, path: Path | str) -> None:
        """Serve a file; nothing happens if it is served already.

        Raises what `crdtlog.open` raises, `WrongDevice` if another file of its database is served, and `Locked` if
        another process exchanges its entries.
        """
        async with self._adding:
            if self._find(path) is not None:
                return
            served = {sharing.file.database: sharing.file.path for sharing in self._sharings.values()}
            file = await open_shared_file(Path(path).absolute(), self.home, served)
            sharing = Sharing(file, self._around, self.log, self._trust_members)
            file.on_lost = lambda reason: self._lost(sharing, reason)
            self._sharings[file.real_path] = sharing
            self._trust_members()
            await sharing.start(self.options.peers, self._relays, self._forgotten)
            self._watcher.add(file.real_path, file.wake)
            await self._announce()

    async def drop_file(self, path: Path | str, why: str) -> None:
        """Serve a file no more, and tell why; nothing happens if it is not served."""
        async with self._adding:
            found = self._find(path)
            if found is not None:
                found.say(f"{why}; it is not served any more")
                await self._remove(found)

    def files(self) -> list[Path]:
        """The files that are served."""
        return [sharing.file.path for sharing in self._sharings.values()]

    def sharing(self, path: Path | str) -> Sharing:
        """The file's part of this node. Raises `NotInitialised` if it is not served."""
        found = self._find(path)
        if found is None:
            hint = f"Add it: crdtlog init {path}, or crdtlog join CODE {path}"
            raise NotInitialised(f"{path} is not served here", hint)
        return found

    def _find(self, path: Path | str) -> Sharing | None:
        return self._sharings.get(Path(path).resolve())

    def _lost(self, sharing: Sharing, reason: str) -> None:
        if self._sharings.get(sharing.file.real_path) is not sharing:
            return
        sharing.say(f"{reason}; it is not served any more. Nothing is deleted elsewhere.")
        task = asyncio.create_task(self._remove(sharing))
        self._removing.add(task)
        task.add_done_callback(self._removing.discard)

    async def _remove(self, sharing: Sharing) -> None:
        self._sharings.pop(sharing.file.real_path, None)
        self._watcher.remove(sharing.file.real_path)
        await sharing.close()

    # --- being reached --------------------------------------------------------------------------------------------

    async def _listen(self) -> None:
        listener = Listener(
            self._server_context,
            serve_sync=self._serve_sync,
            serve_pairing=lambda nameplate, wire: self._issuing.serve(nameplate, wire),
            has_nameplate=lambda nameplate: self._issuing.has(nameplate),
            max_bytes=LIMITS.frame_bytes,
        )
        await listener.start(self.options.listen, known.last_port(self.home))
        if self.options.listen is None:
            known.remember_port(self.home, listener.port)
        self._listener = listener

    def _trust_members(self) -> None:
        """Have the listener accept all members from now on: handshakes read the context's store as it is then.

        Certificates are only added here; the handler asks again whether one is a member's.
        """
        trust(
            self._server_context,
            (der for sharing in self._sharings.values() for der in sharing.certificates.values()),
        )

    async def _serve_sync(self, wire: Wire) -> None:
        try:
            async with asyncio.timeout(HELLO_SECONDS):
                first = await wire.receive()
            if first is None:
                return
            database = messages.hello_database(first)
        except (TimeoutError, CrdtlogError) as error:
            logger.info("a connection from %s said no hello: %s", wire.address, error)
            if isinstance(error, CrdtlogError):
                self._no_hello(wire, error)
            return
        sharing = next((s for s in self._sharings.values() if s.file.database == database), None)
        if sharing is None or not await sharing.accept(wire, first):
            reason = "This device does not share that database with you: it is not served here, or you are no member."
            await wire.send(messages.refusal(Code.DATABASE, reason))

    def _no_hello(self, wire: Wire, error: CrdtlogError) -> None:
        """Whichever database was meant: the certificate says which member it was."""
        is_told = False
        for sharing in self._sharings.values():
            is_told = sharing.no_hello(wire, error, is_told=is_told) or is_told

    # --- finding others -------------------------------------------------------------------------------------------

    async def _announce(self) -> None:
        if self._discovery is None:
            return
        keys = {sharing.file.database: sharing.file.facts.meeting for sharing in self._sharings.values()}
        await self._discovery.announce(keys, self.port, self._hosts() if self._listener is not None else None)

    def _hosts(self) -> list[str]:
        assert self._listener is not None
        host = self._listener.host
        return own_hosts() if host in ("0.0.0.0", "::") else [host]

    def _sighted(self, sighting: Sighting) -> None:
        for sharing in self._sharings.values():
            if sharing.file.database in sighting.databases:
                sharing.sighted(sighting.addresses)

    # --- what people ask for --------------------------------------------------------------------------------------

    async def status(self) -> dict[str, Any]:
        """What this node does, ready for JSON."""
        files = [await sharing.status() for sharing in list(self._sharings.values())]
        return {"v": 1, "files": files, "listen": self.address, "pid": os.getpid()}

    async def sync(self, path: Path | str, timeout_s: float | None = 30.0) -> dict[str, Any]:
        """Bring a file and all devices that can be reached to the same state; see `Sharing.sync`. Raises `NoPeer`."""
        return {"v": 1, "sync": await syncing.sync(self.sharing(path), timeout_s)}

    async def pair(
        self,
        path: Path | str,
        role: str,
        show_code: ShowCode,
        approve: ApproveDevice,
        expires_s: float = CODE_SECONDS,
        tell: Tell = tell_nobody,
        relays: Sequence[RelayAddress] = (),
        invited: str = "",
        history: bool = True,
    ) -> dict[str, Any]:
        """Open a code for a file, and return when a device has joined with it; see `Issuing.pair`.

        It can be used in the local network, and through `relays` and all others of the file; `relays` are remembered.
        """
        if self._listener is None:
            raise Usage("pairing needs a port to listen on")
        sharing, port = self.sharing(path), self._listener.port
        for address in relays:
            await sharing.relays.add(address)

        async def show(code: PairingCode) -> None:
            if self._discovery is not None:
                await self._discovery.announce_pairing(code.nameplate, port)
            announced.append(code.nameplate)
            for address in sharing.relays.addresses:
                hosts.append(
                    Host(address, code.nameplate, partial(self._issuing.serve, code.nameplate), sharing.say)
                )
            await asyncio.gather(*(host.start() for host in hosts))
            await show_code(str(code), format_address(self._hosts()[0], port))
            for address in sharing.relays.addresses:
                await tell(f"Through the relay, add:  --relay {shlex.quote(address.text)}")

        announced: list[int] = []
        hosts: list[Host] = []
        try:
            device = await self._issuing.pair(
                sharing,
                role,
                show=show,
                approve=approve,
                tell=tell,
                expires_s=expires_s,
                invited=invited,
                history=history,
            )
        finally:
            await asyncio.gather(*(host.close() for host in hosts))
            if self._discovery is not None:
                for nameplate in announced:
                    await self._discovery.withdraw_pairing(nameplate)
        return {"v": 1, "device": device}
