"""Notes whose titles merge as text, and a member that signs entries about them which no honest device writes."""

import crdtlog
from crdtlog.database import Database
from crdtlog.kinds import TEXT
from crdtlog.payload import UPDATE, Patch
from crdtlog.texts import with_lane
from tests.crdtlog.liar import data, section
from tests.peers.nodes import Machine


def opened(machine: Machine) -> Database:
    """A device's database, in this process."""
    return crdtlog.open(machine.path, home=machine.home, create=False)


def merging(machine: Machine) -> None:
    """Have the titles of notes merge as text."""
    with opened(machine) as db:
        db.track("notes", {"title": "text"})


def lie(db: Database, key: str, update: bytes, stars: int) -> None:
    """Sign an entry, as no honest device would, that patches one note's title with these bytes and stars another."""
    tracked = db._state.table("notes")
    title, rating = tracked.cell_slots
    writer, seq = db._state.connection.execute(
        "SELECT w, s FROM crdtlog__row_1 WHERE k1 = ?", (key,)
    ).fetchone()
    patch = Patch(TEXT, db._state.log.ids[writer], seq, with_lane(b"", update))
    entry = data(
        db,
        section(db, "notes", UPDATE, [key], [None], patches={title: [patch]}),
        section(db, "notes", UPDATE, ["good"], [stars], slots=(rating,)),
    )
    assert db.apply([entry]).entries == 1
