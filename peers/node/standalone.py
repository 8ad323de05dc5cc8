"""`sync` and `pair` where no daemon runs: a node for a moment.

Knows how long the moment is. Must not know how the work is done: that is the node's.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from crdtlog.device import Home
from peers.node.issuing import ApproveDevice, ShowCode, Tell, tell_nobody
from peers.node.node import Node, Options
from peers.node.sharing import Sharing
from peers.pairing.machines import CODE_SECONDS

NEWCOMER_SECONDS = 15.0
"""How long a new device may take to come back for the rows."""
UPLOAD_SECONDS = 300.0
"""So long what a relay lacks may take to be uploaded."""
GIVEN_POLL_SECONDS = 0.5
LEAVING_SECONDS = 3.0
"""A device that is equal is given this long for more, such as rows it had before it joined."""


def _silent(line: str) -> None:
    """Say nothing."""


@contextlib.asynccontextmanager
async def node_for(
    path: Path | str, home: Home, options: Options, log: Callable[[str], None]
) -> AsyncIterator[Node]:
    """A node that serves one file while the block runs.

    Raises `Locked` when another process exchanges its entries, and what opening the file raises.
    """
    node = Node(home, options, log)
    try:
        await node.start()
        await node.add_file(path)
        yield node
    finally:
        await node.stop()


async def sync_once(
    path: Path | str,
    *,
    home: Home,
    options: Options | None = None,
    timeout_s: float | None = 30.0,
    log: Callable[[str], None] = _silent,
) -> dict[str, Any]:
    """Drain, dial every known address at once, and return when all devices that can be reached hold the same.

    See `Sharing.sync` for the result; raises `NoPeer` if none could be reached.
    """
    dialling_only = replace(options or Options(), accepts=False)
    async with node_for(path, home, dialling_only, log) as node:
        return await node.sync(path, timeout_s)


async def pair_once(
    path: Path | str,
    role: str,
    *,
    home: Home,
    show_code: ShowCode,
    approve: ApproveDevice,
    tell: Tell = tell_nobody,
    options: Options | None = None,
    expires_s: float = CODE_SECONDS,
    invited: str = "",
    history: bool = True,
    log: Callable[[str], None] = _silent,
) -> dict[str, Any]:
    """Open a code, wait for a device to join with it, and go on serving it until it has all rows.

    `invited` is a person's name, for the line of this side's log; without `history` the device gets nothing that was
    written before.
    """
    async with node_for(path, home, options or Options(), log) as node:
        paired = await node.pair(
            path, role, show_code, approve, expires_s, tell, invited=invited, history=history
        )
        sharing = node.sharing(path)
        works = [_upload_all(sharing)]
        newcomer = bytes.fromhex(paired["device"]["id"])
        if not paired["device"]["relayed"]:
            works.append(_serve_newcomer(sharing, newcomer))
        elif not history:
            works.append(_give_newcomer(sharing, newcomer))
        await asyncio.gather(*works)
        return paired


async def _upload_all(sharing: Sharing) -> None:
    """Have everything at the relays that can be reached, where the new device looks for it."""
    sharing.relays.poke()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(UPLOAD_SECONDS):
            await sharing.wait_for(lambda: sharing.relays.is_settled)


async def _give_newcomer(sharing: Sharing, device: bytes) -> None:
    """Stay until a device without history says that it was given a snapshot: nobody else may be there to give one."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(UPLOAD_SECONDS):
            while device in await sharing.file.run(lambda engine: engine.without_snapshot()):
                await asyncio.sleep(GIVEN_POLL_SECONDS)


async def _serve_newcomer(sharing: Sharing, device: bytes) -> None:
    def is_gone() -> bool:
        return device not in sharing.links

    def is_equal() -> bool:
        return is_gone() or sharing.links[device].is_equal

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(NEWCOMER_SECONDS):
            await sharing.wait_for(lambda: not is_gone())
    while not is_gone():
        await sharing.wait_for(is_equal)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(LEAVING_SECONDS):
                await sharing.wait_for(is_gone)
        if is_equal():
            return
