"""Devices of one database that meet in a mailbox, without a network: real files, and a relay that is a list."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field

from crdtlog.database import Database
from crdtlog.errors import EntryRefused, Malformed, TooLarge
from peers.mailbox.candidates import Candidate
from peers.mailbox.keys import Mailbox, epoch_mailbox
from peers.mailbox.sync import NEVER, MailboxSync
from peers.mailbox.uploads import Due
from peers.relay.messages import LARGEST_BLOB, SIZES

Page = list[tuple[int, bytes]]


@dataclass
class Box:
    """One mailbox at an obedient relay; tests may change what it holds."""

    life: bytes = NEVER
    blobs: dict[int, bytes] = field(default_factory=dict)
    last: int = 0

    @property
    def first(self) -> int:
        return min(self.blobs, default=self.last + 1)

    def append(self, blob: bytes) -> int:
        assert len(blob) in SIZES
        if self.life == NEVER:
            self.life = os.urandom(16)
        self.last += 1
        self.blobs[self.last] = blob
        return self.last

    def lose(self) -> None:
        self.life, self.blobs, self.last = NEVER, {}, 0

    def expire(self, index: int) -> None:
        for each in [i for i in self.blobs if i < index]:
            del self.blobs[each]


def mailbox_of(db: Database) -> Mailbox:
    return epoch_mailbox(db.id, db.epoch, db.epochs()[db.epoch])


class Follower:
    """A device and what it knows of the mailbox."""

    def __init__(self, db: Database, *, saved: bytes | None = None, largest: int = LARGEST_BLOB) -> None:
        self.db = db
        self.largest = largest
        self.refused = self.learning = 0
        self.now = 0.0
        self.sync = MailboxSync(
            mailbox_of(db),
            database=db.id,
            sign_key=db.device.public.sign_key,
            random=os.urandom,
            saved=saved,
            forks=db.forks(),
        )

    def visit(
        self,
        box: Box,
        *,
        pages: Callable[[Page], list[Page]] = lambda blobs: [blobs],
        upload: bool = True,
        patient: bool = False,
    ) -> None:
        """Read what is there, and upload what is lacking; with `patient` only own entries."""
        self.db.drain_all()
        self.sync.opened(box.life, box.first, box.last)
        self.read(box, pages)
        assert self.sync.may_upload(self.db.writer)
        if upload:
            self.upload(box, Due.OWN)
            if not patient:
                self.upload(box, Due.ALL)

    def read(self, box: Box, pages: Callable[[Page], list[Page]] = lambda blobs: [blobs]) -> None:
        while True:
            found = sorted((i, b) for i, b in box.blobs.items() if i > self.sync.read)
            parts = pages(found)
            for number, page in enumerate(parts):
                self.sync.receive(box.first, page, number == len(parts) - 1, self.db.heads())
                self.settle()
            if not self.sync.reread():
                return

    def settle(self) -> None:
        while True:
            self.sync.renamed(self.db.forks())
            asked = self.sync.asks(self.db.heads())
            if asked is not None:
                relays = self.db.relays
                self.sync.answered(
                    asked, relays.places(asked.entries), relays.held(asked.named), self.db.writer
                )
            members = {member.device for member in self.db.members()}
            if rival := self.sync.rival():
                self.learn(rival)
                continue
            batch = self.sync.ready(self.db.heads(), members, self.db.writer)
            if self.sync.is_restored:
                self.db.begin_anew()
                self.sync.forget_restored()
            elif batch:
                self.apply(batch[0])
            elif self.sync.asks(self.db.heads()) is None:
                return

    def learn(self, rival: Candidate) -> None:
        self.learning += 1
        try:
            self.db.learn_fork(rival.signed)
        except (EntryRefused, Malformed, TooLarge) as error:
            self.refused += 1
            self.sync.refused(rival, error)
        else:
            self.sync.learned(rival)

    def apply(self, item: Candidate) -> None:
        try:
            self.db.apply([item.signed])
        except (EntryRefused, Malformed, TooLarge) as error:
            self.refused += 1
            self.sync.refused(item, error)
        else:
            self.sync.applied([item])

    def upload(self, box: Box, due: Due) -> int:
        heads, own = self.db.heads(), self.db.writer
        batch = self.db.entries_after(0, self.sync.uploads.lacking(due, heads, own), 1 << 40)
        assert self.db.confirm()
        uploads = self.sync.uploads.plan(batch.entries, due, self.largest)
        for one in uploads:
            *_, last = [box.append(blob) for blob in one.blobs]
            self.sync.uploads.appended(one, last)
        self.sync.uploads.done(due, heads, own)
        self.read(box)
        if self.sync.needs_life:
            self.sync.began(box.life)
        return sum(len(one.blobs) for one in uploads)

    def again(self) -> "Follower":
        """The same device in another run."""
        return Follower(self.db, saved=self.sync.dump(), largest=self.largest)
