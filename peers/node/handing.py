"""Handing an epoch's secret to members one by one, through the mailbox that each pair of devices has at a relay.

For a member that was away during a rotation, when the mailbox of the epoch before has expired or was lost: with the
secret it finds the new mailbox, and there everything else. What is handed over is the rotation's signed entry. Must not
know what else a relay is used for.
"""

import logging
import os
from collections.abc import Callable

from crdtlog.database import Database
from crdtlog.errors import EntryRefused, Malformed
from crdtlog.members import Member
from peers.envelope import SALT_BYTES
from peers.mailbox.keys import Mailbox, pairwise_mailbox
from peers.node.files import SharedFile
from peers.relay.client import Client

logger = logging.getLogger(__name__)

MOST_MEMBERS = 100
"""A device looks after so many pairs; in a larger group some of the others were near."""
MOST_BYTES = 1 << 20
"""A rotation for thousands of members does not fit one blob: such a group has other ways."""


async def hand_over(client: Client, file: SharedFile) -> None:
    """Take what other members left for this device, and leave our rotation for those who have not got it."""
    others = [member for member in file.facts.members if member.device != file.device.id]
    own = await file.run(lambda engine: engine.epoch_keys.own_rotation())
    for member in others[: min(MOST_MEMBERS, client.limits.mailboxes // 2)]:
        try:
            mailbox = pairwise_mailbox(file.database, file.device, member.device, member.receive_key)
        except Malformed as error:
            logger.debug("%s: %s", member.name, error)
            continue
        left = await _left(client, file, mailbox, member)
        if own is not None and len(own) <= MOST_BYTES and own not in left:
            await client.append(mailbox.id, mailbox.seal(own, os.urandom(SALT_BYTES)))


async def _left(client: Client, file: SharedFile, mailbox: Mailbox, member: Member) -> set[bytes]:
    """What is in a pair's mailbox, ours and theirs; theirs is learned."""
    opened = await client.open(mailbox.key)
    found: set[bytes] = set()
    after, is_end = opened.first - 1, opened.last < opened.first
    while not is_end:
        page = await client.read(mailbox.id, after)
        for _, blob in page.blobs:
            try:
                found.add(content := mailbox.open(blob))
                await file.hold(_learning(content))
            except (Malformed, EntryRefused) as error:
                logger.debug("from %s through a relay: %s", member.name, error)
        is_end = page.end or not page.blobs
        after = page.blobs[-1][0] if page.blobs else after
    return found


def _learning(signed: bytes) -> Callable[[Database], bool]:
    return lambda engine: engine.epoch_keys.learn(signed)
