"""Texts that a program holds open: its edits travel as they were made, beside plain SQL and other devices' edits."""

import pytest
from pycrdt import Doc, Text

from crdtlog.database import Database
from crdtlog.errors import NoSuchRow, StaleDocument, Usage
from tests.crdtlog.devices import (
    World,
    assert_converged,
    devices,
    rows_of,
    send,
    sync_all,
    write_apart,
)
from tests.yjs import seen_by_yjs

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, body TEXT, title)"
ROW = "INSERT INTO t VALUES ('a', 'Hello world', 'x')"


def fleet(world: World, count: int) -> list[Database]:
    dbs = devices(world, ["ant", "bee", "cat"][:count], [TABLE], ROW)
    dbs[0].track("t", {"body": "text"})
    sync_all(dbs)
    return dbs


def body(db: Database) -> object:
    ((shown,),) = rows_of(db, "SELECT body FROM t WHERE id = 'a'")
    return shown


def test_an_edit_is_in_the_row_at_once_and_travels(world: World) -> None:
    one, other = fleet(world, 2)
    text = one.text("t", "a", "body")
    text.insert(5, ", dear")
    assert body(one) == "Hello, dear world"
    del text[0:5]
    text += "!"
    assert body(one) == str(text) == ", dear world!"
    sync_all([one, other])
    assert body(other) == ", dear world!"
    assert_converged([one, other], ["t"])


def test_edits_are_kept_as_they_were_made_and_not_as_they_look(world: World) -> None:
    one, other = fleet(world, 2)
    write_apart([one], "UPDATE t SET body = 'aaaa'")
    sync_all([one, other])
    text = one.text("t", "a", "body")
    write_apart([other], "UPDATE t SET body = 'aaXaa'")
    text.insert(0, "a")  # a diff could not tell which of five letters is new
    sync_all([one, other])
    assert body(one) == body(other) == "aaaXaa"


def test_what_others_and_plain_sql_write_comes_in(world: World) -> None:
    one, other = fleet(world, 2)
    text = one.text("t", "a", "body")
    write_apart([other], "UPDATE t SET body = body || ' of mine'")
    send(other, one)
    assert str(text) == "Hello world of mine"
    one.execute("UPDATE t SET body = 'Oh! ' || body")
    one.drain_all()
    assert str(text) == "Oh! Hello world of mine"
    text.insert(0, "> ")
    one.execute("UPDATE t SET body = body || '.'")
    text.insert(0, "> ")
    one.refresh()
    assert str(text) == body(one) == "> > Oh! Hello world of mine."
    sync_all([one, other])
    assert_converged([one, other], ["t"])


def test_two_programs_hold_one_text_open(world: World) -> None:
    one, other = fleet(world, 2)
    first, second = one.text("t", "a", "body"), one.text("t", "a", "body")
    first.insert(0, "1")
    second.insert(0, "2")
    one.refresh()
    assert str(first) == str(second) == body(one)
    assert sorted(str(body(one)).removesuffix("Hello world")) == ["1", "2"]
    sync_all([one, other])
    assert_converged([one, other], ["t"])


def test_a_text_that_was_replaced_takes_no_more_edits_and_says_so(world: World) -> None:
    (one,) = fleet(world, 1)
    text = one.text("t", "a", "body")
    write_apart([one], "DELETE FROM t")
    one.execute("INSERT INTO t VALUES ('a', 'another', 1)")
    one.drain()
    text.insert(0, "lost? ")
    with pytest.raises(StaleDocument, match="replaced"):
        one.refresh()
    assert body(one) == "another"


def test_what_takes_no_more_edits_is_told_once_by_name_and_again_when_it_is_edited(world: World) -> None:
    (one,) = fleet(world, 1)
    one.execute("INSERT INTO t VALUES ('b', 'Hello moon', 'x')")
    one.drain_all()
    gone, also = one.text("t", "a", "body"), one.text("t", "b", "body")
    one.execute("DELETE FROM t")
    one.drain()
    gone.insert(0, "!")
    also.insert(0, "!")
    told = []
    for _ in range(4):
        try:
            one.refresh()
        except StaleDocument as error:
            told.append(str(error))
    assert [line.partition(" takes")[0] for line in told] == [
        "body in row 'a' of t",
        "body in row 'b' of t",
    ]

    one.execute("INSERT INTO t VALUES ('a', 'again', 1)")
    one.drain_all()
    again = one.text("t", "a", "body")
    again.insert(0, "once ")
    one.drain_all()
    assert body(one) == "once again"
    gone.insert(0, "?")
    with pytest.raises(StaleDocument, match="row 'a'"):
        one.drain_all()
    one.close()


def test_a_text_whose_row_is_deleted_says_so_though_nobody_edits_it(world: World) -> None:
    one, other = fleet(world, 2)
    one.text("t", "a", "body")
    write_apart([other], "DELETE FROM t")
    send(other, one)
    with pytest.raises(StaleDocument, match="deleted"):
        one.refresh()
    one.close()


def test_a_text_that_somebody_writes_into_a_new_document_goes_on_in_that(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As is done where a document holds mostly what is gone."""
    one, other = fleet(world, 2)
    text, theirs = one.text("t", "a", "body"), other.text("t", "a", "body")
    heard = []
    subscription = text.observe(lambda event: heard.append(event.delta))
    text.insert(0, "Oh. ")
    sync_all([one, other])
    with monkeypatch.context() as patch:
        patch.setattr("crdtlog.merging._is_worn", lambda *_: True)
        patch.setattr("crdtlog.merging._rewrites", lambda *_: True)
        write_apart([other], "UPDATE t SET body = 'Hello moon'")
    assert str(theirs) == "Hello moon"
    send(other, one)
    one.refresh()
    assert str(text) == "Hello moon"
    assert len(heard) == 2
    text.insert(0, "> ")
    theirs += "!"
    sync_all([one, other])
    one.refresh()
    other.refresh()
    assert str(text) == str(theirs) == body(one) == "> Hello moon!"
    assert_converged([one, other], ["t"])
    text.unobserve(subscription)


def test_an_edit_while_the_file_is_locked_is_written_later(world: World) -> None:
    one, other = fleet(world, 2)
    text = one.text("t", "a", "body")
    one._state.connection.execute("PRAGMA busy_timeout = 50")
    one.connection.execute("BEGIN IMMEDIATE")
    text.insert(0, "later ")
    one.connection.execute("COMMIT")
    assert body(one) == "Hello world"
    one.refresh()
    assert body(one) == "later Hello world"
    sync_all([one, other])
    assert_converged([one, other], ["t"])


def test_its_document_opens_in_another_one(world: World) -> None:
    (one,) = fleet(world, 1)
    text = one.text("t", "a", "body")
    text.insert(0, "é👩")
    copy: Doc[Text] = Doc()
    copy.apply_update(text.doc.get_update())
    assert str(copy.get("text", type=Text)) == "é👩Hello world"


def test_what_cannot_be_opened_is_told(world: World) -> None:
    (one,) = fleet(world, 1)
    one.execute("INSERT INTO t VALUES ('null', NULL, 1)")
    with pytest.raises(Usage, match="does not merge as text"):
        one.text("t", "a", "title")
    with pytest.raises(NoSuchRow):
        one.text("t", "nobody", "body")
    with pytest.raises(Usage, match="no text"):
        one.text("t", "null", "body")


@pytest.mark.usefixtures("needs_yjs")
def test_it_opens_in_a_yjs_program(world: World) -> None:
    (one,) = fleet(world, 1)
    text = one.text("t", "a", "body")
    text.insert(0, "é👩")
    assert seen_by_yjs(text.doc.get_update(), "text", "Text") == {"text": "é👩Hello world!"}


def test_edits_of_one_transaction_are_one_edit_wherever_they_are(world: World) -> None:
    one, other = fleet(world, 2)
    text = one.text("t", "a", "body")
    text.insert(5, "é👩")
    before = one.position()
    with text.doc.transaction():
        text.insert(0, "👩")
        del text[len("👩Hello".encode()) : len("👩Helloé".encode())]
        text += "\r\n\0"
        text.insert(len("👩Hello👩".encode()), "e\u0301")
    assert one.position() == before + 1
    assert body(one) == str(text) == "👩Hello👩e\u0301 world\r\n\0"
    sync_all([one, other])
    assert_converged([one, other], ["t"])


def test_positions_within_a_character_never_part_the_row_from_the_text(world: World) -> None:
    (one,) = fleet(world, 1)
    text = one.text("t", "a", "body")
    text.insert(0, "é👩é")
    for position in range(1, 7):
        text.insert(position, "-")
        assert body(one) == str(text)


def test_formatting_and_embedded_things_are_no_text(world: World) -> None:
    (one,) = fleet(world, 1)
    text = one.text("t", "a", "body")
    text.format(0, 5, {"bold": True})
    text.insert(0, "So: ")
    assert body(one) == str(text) == "So: Hello world"
    text.insert_embed(0, {"image": 1})
    with pytest.raises(StaleDocument, match="characters"):
        one.close()
