"""The daemon: one node for a home, commands from its socket, lines for people on stderr, and a clean end.

Knows signals, the clock on the wall and the names of control commands. Must not know how anything is done: that is the
node's.
"""

import asyncio
import contextlib
import logging
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from crdtlog.device import Home
from crdtlog.errors import CrdtlogError, Usage
from peers.control import Message
from peers.control_server import Channel, Server
from peers.node import known, locks
from peers.node.node import Node, Options
from peers.node.relays import parse_all
from peers.pairing.machines import CODE_SECONDS

MAX_SECONDS = 10**10


def run(files: Sequence[str | Path], options: Options, home: Home) -> int:
    """Serve files (all known ones of the home if none are named) until SIGTERM or SIGINT; returns the exit code.

    Raises `Locked` (another daemon runs), `AddressInUse`, `Usage` (no file), and what opening a named file raises.
    """
    logging.basicConfig(format="%(message)s", level=logging.WARNING, handlers=[_LineHandler()])
    return asyncio.run(serve(files, options, home))


def log(line: str) -> None:
    """One line for a person: the time of day, and what happened.

    Names in it may come from other machines; nothing of them moves a terminal's cursor or begins a line.
    """
    shown = "".join(character if character.isprintable() else "\ufffd" for character in line)
    print(time.strftime("%H:%M:%S"), shown, file=sys.stderr, flush=True)


async def serve(files: Sequence[str | Path], options: Options, home: Home) -> int:
    """What `run` does, inside a loop."""
    home.prepare()
    with locks.daemon_lock(home):
        named = [Path(file).absolute() for file in files]
        paths = named or known.known_files(home)
        if not paths:
            raise Usage(
                "this home has no files to serve", "Name one: crdtlog up FILE; or make one: crdtlog init FILE"
            )
        stopping = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stopping.set)
        node = Node(home, options, log)
        await node.start()
        server = Server(home, Commands(node, stopping).by_name)
        try:
            for path in paths:
                await _add(node, path, is_named=bool(named))
            await server.start()
            where = f"listening on {node.address}" if node.address else "not listening"
            log(f"up, {where}; files: {', '.join(path.name for path in node.files()) or 'none'}")
            await stopping.wait()
            log("stopping")
        finally:
            await server.close()
            await node.stop()
    log("stopped")
    return 0


async def _add(node: Node, path: Path, *, is_named: bool) -> None:
    try:
        await node.add_file(path)
        known.remember_file(node.home, path)
    except CrdtlogError as error:
        if is_named:
            raise
        log(f"{path.name}: not served: {error} {error.hint}".strip())


class Commands:
    """What can be asked of the daemon through its socket. Paths are absolute."""

    def __init__(self, node: Node, stopping: asyncio.Event) -> None:
        self._node = node
        self._stopping = stopping
        self.by_name = {
            "status": self._status,
            "add": self._add,
            "sync": self._sync,
            "pair": self._pair,
            "stop": self._stop,
        }

    async def _status(self, arguments: Mapping[str, Any], channel: Channel) -> Message:
        return await self._node.status()

    async def _add(self, arguments: Mapping[str, Any], channel: Channel) -> Message:
        path = _path(arguments)
        await self._node.add_file(path)
        known.remember_file(self._node.home, path)
        return {"v": 1}

    async def _sync(self, arguments: Mapping[str, Any], channel: Channel) -> Message:
        for replaced in arguments.get("replaces") or ():
            await self._node.drop_file(str(replaced), f"{_path(arguments).name} takes its place")
        await self._add(arguments, channel)
        timeout = _seconds(arguments, "timeout")
        return await self._node.sync(_path(arguments), timeout)

    async def _pair(self, arguments: Mapping[str, Any], channel: Channel) -> Message:
        await self._add(arguments, channel)

        async def show(code: str, address: str) -> None:
            await channel.say({"code": code, "address": address})

        async def approve(name: str, fingerprint: str) -> bool:
            answer = await channel.ask({"approve": {"name": name, "fingerprint": fingerprint}})
            return answer.get("approve") is True

        async def tell(line: str) -> None:
            await channel.say({"told": line})

        role = str(arguments.get("role") or "admin")
        invited = str(arguments.get("invited") or "")
        expires_s = _seconds(arguments, "expires") or CODE_SECONDS
        relays = parse_all(
            map(str, arguments.get("relays") or ()), insecure=arguments.get("insecure_relay") is True
        )
        history = arguments.get("history") is not False
        return await self._node.pair(
            _path(arguments), role, show, approve, expires_s, tell, relays, invited, history
        )

    async def _stop(self, arguments: Mapping[str, Any], channel: Channel) -> Message:
        asyncio.get_running_loop().call_soon(self._stopping.set)
        return {"v": 1}


def _path(arguments: Mapping[str, Any]) -> Path:
    path = Path(str(arguments.get("path", "")))
    if not path.is_absolute():
        raise Usage("the daemon needs a file's absolute path")
    return path


def _seconds(arguments: Mapping[str, Any], name: str) -> float | None:
    value = arguments.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= MAX_SECONDS:
        raise Usage(f"the daemon needs {name} in seconds, from 0 to {MAX_SECONDS:,}")
    return float(value)


class _LineHandler(logging.Handler):
    """Warnings of the program's own modules, in the form of the other lines."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one record."""
        with contextlib.suppress(OSError, ValueError):
            for line in self.format(record).splitlines():
                log(line)
