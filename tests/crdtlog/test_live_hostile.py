"""A program that holds a text open never has pycrdt read what another device had a hand in: poison is the worker's."""

import contextlib
import random
from typing import Any

import pycrdt
import pytest

import crdtlog
from crdtlog import entry
from crdtlog.database import Database
from crdtlog.errors import StaleDocument
from crdtlog.kinds import TEXT
from crdtlog.kinds.yjs import edit_client, start_client, utf16_length
from crdtlog.payload import UPDATE, Patch, encode_data
from crdtlog.texts import with_lane
from tests.crdtlog import poison
from tests.crdtlog.devices import World, assert_converged, devices, rows_of, send, sync_all, write_apart
from tests.crdtlog.liar import next_entry, section

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, body TEXT)"
BEGIN = "hello \U0001f600 wörld \U0001f601\U0001f602 end"
#: Those that are easy to make are too slow to give to a worker again and again.
POISONS = {found.name: found for found in poison.poisons() if "swallows" not in found.name}


@pytest.fixture(autouse=True)
def no_bytes_reach_the_library(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> None:
        raise AssertionError("bytes reached pycrdt in the program's process")

    monkeypatch.setattr(pycrdt.Doc, "apply_update", refused)


def fleet(world: World, count: int = 2) -> list[Database]:
    dbs = devices(
        world, ["liar", "honest", "other"][:count], [TABLE], f"INSERT INTO t VALUES ('a', '{BEGIN}')"
    )
    dbs[0].track("t", {"body": "text"})
    sync_all(dbs)
    return dbs


def body(db: Database) -> str:
    ((shown,),) = rows_of(db, "SELECT body FROM t")
    return str(shown)


def live(db: Database) -> Any:
    return db.text("t", "a", "body")


def test_honest_edits_of_others_come_in_as_text(world: World) -> None:
    one, other = fleet(world)
    text = live(other)
    for step in range(5):
        write_apart([one], f"UPDATE t SET body = '{step}é' || body || '\U0001f602'")
        text.insert(len("0é".encode()), "\U0001f600")
        sync_all([one, other])
        assert str(text) == body(one) == body(other)
    text = live(other)
    text += "more"
    assert body(other).endswith("more")
    sync_all([one, other])
    assert_converged([one, other], ["t"])


@pytest.mark.parametrize("seed", range(8))
def test_senseless_patches_of_a_member_never_hurt_who_holds_the_text_open(world: World, seed: int) -> None:
    liar, honest = fleet(world)
    choose = random.Random(seed)
    text = live(honest)
    tracked = liar._state.table("t")
    (slot,) = tracked.cell_slots
    writer, seq = liar._state.connection.execute("SELECT w, s FROM crdtlog__row_1").fetchone()
    begun = (liar._state.log.ids[writer], seq)
    own = liar._state.writer
    previous, entered = own.hash, 0
    for number in range(12):
        lane = number.to_bytes(8, "big")
        client = edit_client(begun, liar.writer + lane)
        update = poison.plausible_patch(choose, client, {start_client(begun): utf16_length(BEGIN)})
        before = str(text)
        stamp, patch = own.last_stamp + 1 + number, Patch(TEXT, *begun, with_lane(lane, update))
        lie = section(liar, "t", UPDATE, ["a"], [None], patches={slot: [patch]}, stamps=[stamp])
        raw = encode_data([lie], stamp)
        place = {"seq": own.seq + 1 + number, "previous": previous, "first_stamp": stamp, "last_stamp": stamp}
        signed = entry.sign(next_entry(liar, raw, **place), liar.device)
        previous = signed.hash
        assert honest.apply([signed.bytes()]).done == 1
        if honest.unmerged():
            break
        entered += before != str(text)
        assert str(text) == body(honest)
        text.insert(0, "a")
        try:
            honest.refresh()
        except StaleDocument:
            break
        assert str(text) == body(honest)
        assert text.doc.get_update()
    else:
        assert entered
    honest._live.clear()
    write_apart([honest], "UPDATE t SET body = 'written anew'")
    assert str(live(honest)) == "written anew"


@pytest.mark.parametrize("name", POISONS)
def test_a_stored_document_that_kills_its_reader_costs_nothing_but_the_text(world: World, name: str) -> None:
    (db,) = fleet(world, 1)
    text = live(db)
    text.insert(0, "stored ")
    db._state.connection.execute("UPDATE crdtlog__merge SET state = ?", (POISONS[name].patch,))
    db._state.connection.commit()

    db.refresh()
    text.insert(0, "more ")
    with contextlib.suppress(
        StaleDocument
    ):  # the worker may find nothing wrong: it keeps what waits for more apart
        live(db)
    assert len(str(text)) >= len("more ")
    assert text.doc.get_update()
    db._live.clear()


def test_whatever_happens_to_one_text_others_go_on(world: World) -> None:
    liar, honest = fleet(world)
    honest.execute("INSERT INTO t VALUES ('b', 'fine')")
    honest.drain_all()
    send(honest, liar)
    text, fine = live(honest), honest.text("t", "b", "body")
    text.insert(0, "x")
    honest._state.connection.execute("UPDATE crdtlog__merge SET state = ?", (poison.nested_arrays(26_500),))
    honest._state.connection.commit()
    text.insert(0, "y")
    honest.connection.execute("BEGIN IMMEDIATE")
    honest._state.connection.execute("PRAGMA busy_timeout = 50")
    fine.insert(0, "?")
    del fine[:1]
    honest.connection.execute("COMMIT")
    fine.insert(0, "still ")
    assert rows_of(honest, "SELECT body FROM t WHERE id = 'b'") == [("still fine",)]
    with pytest.raises(StaleDocument):
        honest.refresh()
    fine.insert(0, "and ")
    write_apart([liar], "UPDATE t SET body = body || '!' WHERE id = 'b'")
    send(liar, honest)
    assert str(fine) == "and still fine!"
    fine.insert(0, "At the end, ")
    honest.close()
    again = world.open["honest"] = crdtlog.open(world.path("honest"), home=world.home("honest"))
    assert rows_of(again, "SELECT body FROM t WHERE id = 'b'") == [("At the end, and still fine!",)]
