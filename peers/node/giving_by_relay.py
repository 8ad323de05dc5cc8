"""A snapshot for a device that was let in without history, through the mailbox that it has with an admin at a relay.

Knows what each of the two leaves there for the other: the one without history asks, an admin answers with the parts of
a snapshot, and hears that they have come. Must not know what else a relay is used for. The one idea: whoever wrote last
waits for the other, and who waits too long asks once more.
"""

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterator

from crdtlog.database import Database
from crdtlog.errors import CrdtlogError, EntryRefused, Malformed
from crdtlog.members import Member
from peers.envelope import SALT_BYTES
from peers.mailbox import contents
from peers.mailbox.keys import Mailbox, pairwise_mailbox
from peers.node import giving
from peers.node.files import SharedFile
from peers.relay.client import Client

logger = logging.getLogger(__name__)

PURPOSE = b"snapshot"
ASKED, DONE = b"\xa3ask", b"\xa4done"
"""What is left in place of a signed part, which begins otherwise."""
SOON_S, LATER_S = 2.0, 30.0
"""So often the other side is looked for, at first and after a while."""
HURRY_S = 180.0
AGAIN_S = 60.0
"""Nothing having come for so long, it is asked for again."""
MOST_MEMBERS = 100


class ByRelay:
    """The snapshots that one file gives, or is given, at one relay."""

    def __init__(self, file: SharedFile) -> None:
        self._file = file
        self._read: dict[bytes, int] = {}
        self._pieces: dict[bytes, contents.Pieces] = {}
        self._asked_at: dict[bytes, float] = {}
        self._hurried_until = 0.0
        self._members_changed = asyncio.Event()
        self._waiting: frozenset[bytes] = frozenset()

    async def run(self, client: Client) -> None:
        """Ask, or answer, for as long as the connection stands, which ends with an error."""
        self._read.clear()
        self._pieces.clear()
        while True:
            try:
                if self._file.facts.awaits_snapshot:
                    await self._ask(client)
                else:
                    await self._answer(client)
            except (Malformed, EntryRefused) as error:
                logger.debug("%s: of a snapshot through a relay: %s", self._file.path.name, error)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause()):
                    await self._members_changed.wait()
            self._members_changed.clear()

    def members_changed(self) -> None:
        """Somebody may have come who is to be given a snapshot."""
        self._members_changed.set()

    def _pause(self) -> float:
        is_hurried = (
            self._file.facts.awaits_snapshot or asyncio.get_running_loop().time() < self._hurried_until
        )
        return SOON_S if is_hurried else LATER_S

    def _mailbox(self, member: Member) -> Mailbox:
        file = self._file
        return pairwise_mailbox(file.database, file.device, member.device, member.receive_key, PURPOSE)

    async def _leave(self, client: Client, mailbox: Mailbox, content: bytes) -> None:
        await client.append(mailbox.id, mailbox.seal(content, os.urandom(SALT_BYTES)))

    # --- being given ----------------------------------------------------------------------------------------------

    async def _ask(self, client: Client) -> None:
        admins = [member for member in self._file.facts.members if member.role == "admin"]
        for member in admins[:MOST_MEMBERS]:
            if member.device == self._file.device.id:
                continue
            mailbox = self._mailbox(member)
            has_come = await self._take(client, mailbox)
            if not self._file.facts.awaits_snapshot:
                await self._leave(client, mailbox, contents.of_entries([DONE]))
                return
            now = asyncio.get_running_loop().time()
            if not has_come and now < self._asked_at.get(mailbox.id, -AGAIN_S) + AGAIN_S:
                continue
            self._asked_at[mailbox.id] = now
            if not has_come:
                await self._leave(client, mailbox, contents.of_entries([ASKED]))

    async def _take(self, client: Client, mailbox: Mailbox) -> bool:
        """Take the parts that have come; whether any have."""
        opened = await client.open(mailbox.key)
        after = max(self._read.get(mailbox.id, 0), opened.first - 1)
        pieces = self._pieces.setdefault(mailbox.id, contents.Pieces())
        has_come = False
        while after < opened.last:
            page = await client.read(mailbox.id, after)
            for index, blob in page.blobs:
                for part in _entries(mailbox, pieces, index, blob):
                    if part in (ASKED, DONE):
                        continue  # our own words
                    has_come = True
                    try:
                        await self._file.apply([part], lambda rows: None)
                    except (Malformed, EntryRefused) as error:
                        logger.debug("a part of a snapshot is passed over: %s", error)
                    if not self._file.facts.awaits_snapshot:
                        return True
            if not page.blobs:
                break
            after = self._read[mailbox.id] = page.blobs[-1][0]
        return has_come

    # --- giving ---------------------------------------------------------------------------------------------------

    async def _answer(self, client: Client) -> None:
        facts, own = self._file.facts, self._file.device.id
        if not any(member.device == own and member.role == "admin" for member in facts.members):
            return
        waiting = frozenset(await self._file.run(lambda engine: engine.without_snapshot()))
        if waiting - self._waiting:
            self._hurried_until = asyncio.get_running_loop().time() + HURRY_S
        self._waiting = waiting
        for member in [each for each in facts.members if each.device in waiting][:MOST_MEMBERS]:
            mailbox = self._mailbox(member)
            opened = await client.open(mailbox.key)
            if opened.last < opened.first:
                continue
            page = await client.read(mailbox.id, opened.last - 1)
            said = [
                part
                for index, blob in page.blobs
                for part in _entries(mailbox, contents.Pieces(), index, blob)
            ]
            if said[-1:] == [DONE]:
                await self._file.hold(_noting(member.device))
            elif said[-1:] == [ASKED]:
                await self._give(client, mailbox)

    async def _give(self, client: Client, mailbox: Mailbox) -> None:
        made = await giving.snapshot(self._file)
        if made is None:
            return  # the log of this device has to begin anew first
        try:
            done, is_end = 0, False
            while not is_end:
                batch = made.batch(done, contents.BATCH_BYTES // 2)
                size = contents.largest_size(client.limits.largest_blob)
                signed = [part.signed for part in batch.entries]
                if len(signed) > 1 or contents.length_with(0, signed[0]) <= contents.room(size):
                    framed = [contents.of_entries(signed)]
                else:
                    framed = contents.cut(signed[0], os.urandom(contents.NAME_BYTES), size)
                for content in framed:
                    await self._leave(client, mailbox, content)
                done, is_end = batch.position, batch.end
        finally:
            made.close()


def _noting(device: bytes) -> Callable[[Database], None]:
    return lambda engine: engine.record_given(device)


def _entries(mailbox: Mailbox, pieces: contents.Pieces, index: int, blob: bytes) -> Iterator[bytes]:
    """What is whole now of what a blob holds; nothing, of one that does not open."""
    try:
        found = contents.read(mailbox.open(blob))
    except CrdtlogError as error:
        logger.debug("a blob of a pair's mailbox is passed over: %s", error)
        return
    if isinstance(found, contents.Piece):
        whole = pieces.add(index, found)
        if whole is not None:
            yield whole[1]
        return
    yield from found
