"""A long sequence of small edits, as people type: through SQL, on two devices, with a meeting now and then.

Two people write one document, each in a part of their own: bursts of letters at a cursor, corrections, jumps, cuts and
pastes (after the editing trace of Kleppmann and others' Automerge paper, which is one person's; this one is generated).
In the end every device shows what typing it all in one place would have given.
"""

import random

from crdtlog.database import Database
from tests.crdtlog.devices import World, assert_converged, conflicts_of, devices, rows_of, sync, sync_all

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, body TEXT)"
MIDDLE = "\n----\n"
EDITS = 1_000
WORDS = [
    "the ",
    "trace ",
    "of ",
    "a ",
    "café ",
    "people ",
    "👩\u200d👧 ",
    "write ",
    "\r\n",
    "e\u0301t ",
    "and ",
]


class Author:
    """Types into one part of the document: before its middle, or behind it."""

    def __init__(self, db: Database, is_first: bool, seed: int) -> None:
        self.db = db
        self.is_first = is_first
        self.random = random.Random(seed)
        self.part = ""
        self.cursor = 0

    def type(self) -> None:
        """One save: what a person does in a second or two."""
        chance = self.random.random()
        if chance < 0.1:
            self.cursor = self.random.randint(0, len(self.part))
        if chance < 0.2 and self.part:
            begin = max(0, self.cursor - self.random.randint(1, 8))
            self._replace(begin, self.cursor, "")
        elif chance < 0.24 and len(self.part) > 40:
            begin = self.random.randint(0, len(self.part) - 20)
            piece = self.part[begin : begin + 20]
            self._replace(begin, begin + 20, "")
            self.cursor = self.random.randint(0, len(self.part))
            self._replace(self.cursor, self.cursor, piece)
        else:
            self._replace(self.cursor, self.cursor, self.random.choice(WORDS))
        self._save()

    def _replace(self, begin: int, end: int, piece: str) -> None:
        self.part = self.part[:begin] + piece + self.part[end:]
        self.cursor = begin + len(piece)

    def _save(self) -> None:
        """Read the whole text, put the own part in, and write it back, in one transaction."""
        connection = self.db.connection
        connection.execute("BEGIN IMMEDIATE")
        ((body,),) = connection.execute("SELECT body FROM t").fetchall()
        first, _, second = body.partition(MIDDLE)
        whole = self.part + MIDDLE + second if self.is_first else first + MIDDLE + self.part
        connection.execute("UPDATE t SET body = ?", (whole,))
        connection.execute("COMMIT")
        self.db.drain_all()


def test_typing_on_two_devices_ends_in_the_text_that_typing_on_one_would_give(world: World) -> None:
    one, other, idle = devices(
        world, ["one", "other", "idle"], [TABLE], f"INSERT INTO t VALUES ('d', '{MIDDLE}')"
    )
    one.track("t", {"body": "text"})
    sync_all([one, other, idle])
    authors = [Author(one, True, 1), Author(other, False, 2)]
    meetings = random.Random(3)

    for _ in range(EDITS):
        meetings.choice(authors).type()
        if meetings.random() < 0.05:
            sync(one, other)
    sync_all([one, other, idle])

    expected = authors[0].part + MIDDLE + authors[1].part
    assert len(expected) > 600
    assert [rows_of(db, "SELECT body FROM t") for db in (one, other, idle)] == [[(expected,)]] * 3
    assert not conflicts_of(idle)
    assert_converged([one, other, idle], ["t"])
