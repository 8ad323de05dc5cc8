"""All relays of one file: which ones it uses, and what they have come to together.

Knows which relays were named, now or before, and their links. Must not know mailboxes or devices' links. The one idea:
a relay that was named once is remembered in the file, and all of them are used at once; the second one thereby gets
what it lacks like the first.
"""

import asyncio
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any

from crdtlog.database import Database
from crdtlog.errors import CrdtlogError, Usage
from peers.node.files import Facts, SharedFile
from peers.node.relay_address import MAX_RELAYS, RelayAddress
from peers.node.relaying import Owner, RelayLink


class FileRelays:
    """The relays of a file, from `start` to `close`. With `is_used` False none is used, nor forgotten."""

    def __init__(self, file: SharedFile, owner: Owner, *, is_used: bool) -> None:
        self._file = file
        self._owner = owner
        self._is_used = is_used
        self._links: dict[str, RelayLink] = {}

    async def start(self, named: Iterable[RelayAddress], forgotten: Iterable[RelayAddress] = ()) -> None:
        """Connect to the relays that are named, and to those that were before and are not to be `forgotten`.

        Those are forgotten by where they are, whatever token or fingerprint they were named with.
        """
        await self._forget({address.shown for address in forgotten})
        if not self._is_used:
            return
        for address in named:
            await self.add(address)
        for text in await self._file.run(lambda engine: engine.relays.urls()):
            try:
                # Whoever named it insisted, if that was needed.
                self._begin(RelayAddress.parse(text, insecure=True))
            except Usage as error:
                self._owner.say(f"a relay that was remembered cannot be used: {error}")

    async def _forget(self, shown: set[str]) -> None:
        for text in await self._file.run(lambda engine: engine.relays.urls()) if shown else ():
            if text.partition("#")[0] in shown or any(
                a.shown in shown for a in usable([text], insecure=True)
            ):
                await self._file.hold(partial(_forgetting, text))
                self._owner.say(f"relay {text.partition('#')[0]} is not used any more")

    async def add(self, address: RelayAddress) -> None:
        """Use one more relay from now on, and remember it. Raises `Usage` if there are too many, or none is used.

        One that is used already with another token or fingerprint is used with these from now on, if any are named.
        """
        if not self._is_used:
            raise Usage("no relay is used here", "Start the daemon without --no-relay.")
        known = await self._file.run(lambda engine: engine.relays.urls())
        same = [
            text for text in known if any(a.shown == address.shown for a in usable([text], insecure=True))
        ]
        if same and address.text not in same:
            if address.url.pin is None and address.token is None:
                return
            for text in same:
                await self._file.hold(partial(_forgetting, text))
                if (link := self._links.pop(text, None)) is not None:
                    await link.close()
        if len(self._links) >= MAX_RELAYS and address.text not in self._links:
            raise Usage(f"a file uses {MAX_RELAYS} relays at most")
        if address.text not in self._links:
            await self._file.hold(lambda engine: engine.relays.add(address.text))
            self._begin(address)

    def _begin(self, address: RelayAddress) -> None:
        if address.text not in self._links:
            link = self._links[address.text] = RelayLink(self._file, address, self._owner)
            link.start()

    async def close(self) -> None:
        """Disconnect from all."""
        await asyncio.gather(*(link.close() for link in self._links.values()))

    def changed(self, before: Facts, after: Facts) -> None:
        """The file's log grew, or its members or epochs changed."""
        for link in self._links.values():
            link.changed(before, after)

    def poke(self) -> None:
        """Try all of them at once, and upload at once."""
        for link in self._links.values():
            link.poke()

    # --- questions ------------------------------------------------------------------------------------------------

    @property
    def links(self) -> Sequence[RelayLink]:
        """One for each relay."""
        return list(self._links.values())

    @property
    def addresses(self) -> Sequence[RelayAddress]:
        """The relays in use."""
        return [link.address for link in self._links.values()]

    @property
    def is_settled(self) -> bool:
        """Whether every relay was tried, and those that are reached are exchanged with, as far as they can be now."""
        return all(
            link.is_tried and (not link.is_connected or link.is_exchanged or link.problem is not None)
            for link in self._links.values()
        )

    @property
    def is_exchanged(self) -> bool:
        """Whether everything was exchanged with some relay."""
        return any(link.is_exchanged for link in self._links.values())

    def meeting_at(self, device: bytes) -> RelayAddress | None:
        """A connected relay that holds entries of a device."""
        found = (link for link in self._links.values() if link.is_connected and device in link.devices())
        return next((link.address for link in found), None)

    def status(self) -> list[dict[str, Any]]:
        """A relay each, ready for JSON."""
        return [
            {"url": link.address.shown, "connected": link.is_connected, "problem": link.problem}
            for link in self._links.values()
        ]

    def sync_states(self) -> list[dict[str, Any]]:
        """What came of exchanging with each: `equal`, `behind` or `unreachable`, and why."""
        return [{"url": link.address.shown, **_state(link)} for link in self._links.values()]


def _forgetting(text: str, engine: Database) -> None:
    engine.relays.forget(text)


def _state(link: RelayLink) -> dict[str, Any]:
    if not link.is_connected:
        return {"state": "unreachable", "why": link.problem or "it was not reached in the time given"}
    if not link.is_exchanged:
        return {"state": "behind", "why": link.problem or "not done in the time given"}
    if link.waits:
        return {"state": "behind", "why": f"{link.waits} of its entries wait for others that are not there"}
    return {"state": "equal", "why": None}


def parse_all(texts: Iterable[str], *, insecure: bool) -> list[RelayAddress]:
    """The relays that a person named. Raises `Usage`."""
    return [RelayAddress.parse(text, insecure=insecure) for text in texts]


def usable(texts: Iterable[str], *, insecure: bool) -> list[RelayAddress]:
    """The relays that another device named, without those that may not be used here."""
    found = []
    for text in list(texts)[:MAX_RELAYS]:
        try:
            found.append(RelayAddress.parse(text, insecure=insecure))
        except CrdtlogError:
            continue
    return found
