"""Texts in real tables: what several people write into one text by plain SQL stands together, alike on each device."""

import pytest
from hypothesis import given

from crdtlog.database import Database
from tests.crdtlog.clients import Step, merging, play
from tests.crdtlog.devices import (
    World,
    assert_converged,
    conflicts_of,
    devices,
    quick_directory,
    rows_of,
    send,
    sync_all,
    write_apart,
)

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, body TEXT, title)"
TEXT = "The quick brown fox jumps over the lazy dog."
ROW = f"INSERT INTO t VALUES ('a', '{TEXT}', 'x')"


def fleet(world: World, count: int, rows: str = ROW) -> list[Database]:
    dbs = devices(world, ["ant", "bee", "cat", "dog"][:count], [TABLE], rows)
    dbs[0].track("t", {"body": "text"})
    sync_all(dbs)
    return dbs


def body(db: Database) -> str:
    ((shown,),) = rows_of(db, "SELECT body FROM t WHERE id = 'a'")
    assert isinstance(shown, str)
    return shown


def test_edits_in_different_places_both_stand(world: World) -> None:
    one, other = fleet(world, 2)
    write_apart([one], "UPDATE t SET body = replace(body, 'quick', 'slow')")
    write_apart([other], "UPDATE t SET body = body || ' Then it sleeps.'")
    sync_all([one, other])
    assert body(one) == "The slow brown fox jumps over the lazy dog. Then it sleeps."
    assert not conflicts_of(one)
    assert_converged([one, other], ["t"])


def test_inserts_at_one_place_both_stand_unmixed(world: World) -> None:
    one, other = fleet(world, 2)
    write_apart([one], "UPDATE t SET body = body || ' aaaa bbbb'")
    write_apart([other], "UPDATE t SET body = body || ' cccc dddd'")
    sync_all([one, other])
    assert body(one) in (f"{TEXT} aaaa bbbb cccc dddd", f"{TEXT} cccc dddd aaaa bbbb")
    assert_converged([one, other], ["t"])


@pytest.mark.parametrize(
    "piece", ["é", "e\u0301", "👩\u200d👩\u200d👧", "a\0b", "line\r\nline\r\n", "\U00010348", "مرحبا"]
)
def test_every_character_merges_whole(world: World, piece: str) -> None:
    one, other = fleet(world, 2)
    for db, where in ((one, "? || body"), (other, "body || ?")):
        db.execute(f"UPDATE t SET body = {where}", (piece,))
        db.drain_all()
    sync_all([one, other])
    assert body(one) == piece + TEXT + piece
    assert_converged([one, other], ["t"])


def test_what_is_no_text_wins_or_loses_whole(world: World) -> None:
    one, other = fleet(world, 2)
    write_apart([one], "UPDATE t SET body = body || '!'")
    write_apart([other], "UPDATE t SET body = NULL")
    sync_all([one, other])
    assert rows_of(one, "SELECT body FROM t") == [(None,)]
    assert rows_of(one, "SELECT value FROM crdtlog_conflicts") == [(TEXT + "!",)]
    write_apart([one], "UPDATE t SET body = 'new'")
    sync_all([one, other])
    write_apart([one], "UPDATE t SET body = body || '1'")
    write_apart([other], "UPDATE t SET body = '2' || body")
    sync_all([one, other])
    assert body(other) == "2new1"
    assert_converged([one, other], ["t"])


def test_a_stale_save_takes_a_merge_back_and_history_brings_it_again(world: World) -> None:
    one, other = fleet(world, 2)
    stale = body(one)
    write_apart([other], "UPDATE t SET body = body || ' An hour of work.'")
    sync_all([one, other])
    one.execute("UPDATE t SET body = ?", (stale + " Saved.",))
    one.drain_all()
    sync_all([one, other])
    assert body(other) == stale + " Saved."
    lost = next(line for line in one.history("t", "a", "body") if "An hour" in str(line.value))
    one.restore_value("t", "a", "body", lost.dot)
    sync_all([one, other])
    assert body(other) == stale + " An hour of work."
    assert_converged([one, other], ["t"])


def test_a_register_becomes_a_text_and_back_with_what_it_shows(world: World) -> None:
    one, other = fleet(world, 2)
    write_apart([one, other], "UPDATE t SET body = body || '+'")
    sync_all([one, other])
    one.track("t", {"body": "register"})
    sync_all([one, other])
    assert body(other) == TEXT + "++"
    write_apart([other], "UPDATE t SET body = 'whole'")
    one.track("t", {"body": "text"})
    sync_all([one, other])
    write_apart([one], "UPDATE t SET body = body || '1'")
    write_apart([other], "UPDATE t SET body = '2' || body")
    sync_all([one, other])
    assert body(one) == "2whole1"
    assert_converged([one, other], ["t"])


def rewritten(db: Database, turns: int) -> int:
    """Rewrite a text so often, and tell how large its document is at the most."""
    most = 0
    for turn in range(turns):
        db.execute("UPDATE t SET body = ?", (f"turn {turn} " + f"word{turn} " * 20,))
        db.drain_all()
        ((size,),) = db._state.connection.execute(
            "SELECT coalesce(max(length(state)), 0) FROM crdtlog__merge"
        )
        most = max(most, size)
    return most


def test_a_text_that_is_rewritten_for_ever_does_not_grow_for_ever(world: World) -> None:
    (one,) = fleet(world, 1)
    assert 30_000 < rewritten(one, 250) < 40_000


def test_a_text_is_not_begun_anew_before_every_device_has_it(world: World) -> None:
    one, other = fleet(world, 2)
    assert rewritten(one, 150) > 40_000
    # All but the last change of the text, then that, too.
    for lacking, documents, word in ((1, 1, "one "), (0, 0, "two ")):
        send(one, other)
        held = {writer: head.seq for writer, head in other.heads().items()}
        held[one._state.writer.id] -= lacking
        one.record_held(other.device.id, held)
        write_apart([one], f"UPDATE t SET body = '{word * 50}'")
        (found,) = one._state.connection.execute("SELECT count(*) FROM crdtlog__merge").fetchone()
        assert found == documents
    sync_all([one, other])
    assert body(other) == "two " * 50
    assert_converged([one, other], ["t"])


def a_character(n: int) -> str:
    """An UPDATE that replaces one character, each time elsewhere, so that nothing of what goes becomes one run."""
    at = n * 17 % 40
    return f"UPDATE t SET body = substr(body, 1, {at}) || '{n % 10}' || substr(body, {at + 2})"


def test_small_changes_of_a_worn_text_made_apart_both_stand(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crdtlog.merging._WORN_BYTES", 200)
    one, other = fleet(world, 2)
    for n in range(60):
        write_apart([one], a_character(n))
    sync_all([one, other])
    ((size,),) = rows_of(one, "SELECT length(state) FROM crdtlog__merge")
    assert size > 200 + 4 * len(body(one))
    before = body(one)
    write_apart([one], "UPDATE t SET body = 'LAPTOP ' || body")
    write_apart([other], "UPDATE t SET body = body || ' PHONE'")
    sync_all([one, other])
    assert body(one) == f"LAPTOP {before} PHONE"
    assert_converged([one, other], ["t"])
    assert not conflicts_of(one)


def test_a_text_that_has_swollen_is_begun_anew_by_any_change(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("crdtlog.merging._WORN_BYTES", 200)
    monkeypatch.setattr("crdtlog.merging._SWOLLEN_BYTES", 300)
    (one,) = fleet(world, 1)
    most = 0
    for n in range(200):
        write_apart([one], a_character(n))
        ((size,),) = rows_of(one, "SELECT coalesce(max(length(state)), 0) FROM crdtlog__merge")
        most = max(most, size)
    assert 300 < most < 500


STATEMENTS = [
    *["UPDATE t SET body = body || ' end'", "UPDATE t SET body = 'start ' || body"] * 3,
    "UPDATE t SET body = replace(body, 'quick', 'qu—ck')",
    "UPDATE t SET body = substr(body, 1, 10) || 'mid' || substr(body, 11)",
    "UPDATE t SET body = substr(body, 5)",
    "UPDATE t SET body = ''",
    "UPDATE t SET body = NULL",
    "UPDATE t SET body = CAST(x'ff41' AS TEXT)",
    "UPDATE t SET title = 1, body = 'rewritten'",
    "DELETE FROM t",
    "INSERT INTO t VALUES ('a', 'inserted', 'new')",
    "REPLACE INTO t VALUES ('a', 'replaced', 'r')",
]


@given(merging(STATEMENTS, {"body": ["text", "register", "json"]}))
def test_after_any_history_of_writing_all_devices_show_the_same(history: list[Step]) -> None:
    with quick_directory() as directory, World(directory) as world:
        dbs = fleet(world, 3)
        play(dbs, history)
        sync_all(dbs)
        assert_converged(dbs, ["t"])
