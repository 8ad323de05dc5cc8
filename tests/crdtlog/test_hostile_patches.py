"""Signed entries with patches that no honest device writes: refused in our words, or harmless to everybody else."""

from fractions import Fraction
from typing import Any

import pytest

from crdtlog import entry
from crdtlog.database import Database
from crdtlog.kinds import COUNTER, JSON, SET, TEXT, Base, Edit, Edited, Merge, Merged, Origin, counter
from crdtlog.payload import UPDATE, Patch, decode_data
from crdtlog.tracking import encode_merge
from crdtlog.values import pack
from tests.crdtlog.devices import apply_all, assert_converged, lacking, rows_of, sync, sync_all
from tests.crdtlog.liar import TABLES, Three, data, next_entry, refused, section, signed, slots, table_id


def dot_of(db: Database, table: str, key: Any) -> tuple[bytes, int]:
    """The last write to a row."""
    state = db._state
    w, s = state.connection.execute(
        f"SELECT w, s FROM {state.table(table).rows_name} WHERE k1 = ?", (key,)
    ).fetchone()
    return state.log.ids[w], s


def patch_of(three: Three, table: str, key: Any, column: int, patch: Patch | None, **more: Any) -> bytes:
    """A signed entry with one patch to one cell."""
    slot = slots(three.liar, table)[column]
    return data(
        three.liar,
        section(
            three.liar,
            table,
            UPDATE,
            [key],
            **{"slots": (slot,), "cells": [[None]], "patches": {slot: [patch]}, **more},
        ),
    )


def plus(total: int | Fraction, real: bool = False) -> bytes:
    return counter.encode(counter.Sum(Fraction(total), real))


def test_a_counter_that_begins_at_text_that_is_not_utf8(three: Three) -> None:
    three.honest.execute("UPDATE t SET v = CAST(x'ff41' AS TEXT) WHERE id = 'k'")
    sync(three.honest, three.liar)
    sync(three.honest, three.other)
    writer, seq = dot_of(three.liar, "t", "k")
    refused(three, patch_of(three, "t", "k", 0, Patch(COUNTER, writer, seq, plus(1))))


@pytest.mark.parametrize("base", ["'text'", "NULL", "9e999", "x'00'"])
def test_a_counter_that_begins_at_what_counts_nothing(three: Three, base: str) -> None:
    three.honest.execute(f"UPDATE t SET v = {base} WHERE id = 'k'")
    sync(three.honest, three.liar)
    sync(three.honest, three.other)
    writer, seq = dot_of(three.liar, "t", "k")
    refused(three, patch_of(three, "t", "k", 0, Patch(COUNTER, writer, seq, plus(1))))


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("value", ["0", "0.5", "5e-324", "7"])
def test_a_sum_beyond_all_bounds_stops_nobody_who_writes_there_again(
    three: Three, times: int, value: str
) -> None:
    liar, honest, other = three
    honest.track("t", {"n": "counter", "v": "counter"})
    honest.execute("UPDATE t SET v = 1.0 WHERE id = 'k'")
    sync_all([honest, other, liar])
    huge = (1 << 2399) - 1
    begun = [base_dot(liar, "t", "k", slot) for slot in slots(liar, "t")]
    for column in (0, 1):
        for _ in range(times):
            patch = Patch(COUNTER, *begun[column], plus(huge, column == 0))
            apply_all(honest, [patch_of(three, "t", "k", column, patch)])
            sync_all([honest, liar])
    sync_all([honest, other])
    for db in (honest, other):
        db.execute(f"UPDATE t SET v = {value}, n = 3 WHERE id = 'k'")
        db.drain_all()
    sync_all([honest, other, liar])
    assert_converged([honest, other, liar], TABLES)


def test_a_first_step_on_what_was_a_counter_all_along_divides_nobody(three: Three) -> None:
    liar, honest, other = three
    honest.track("t", {"n": "counter"})
    honest.execute("INSERT INTO t (id, n) VALUES ('new', 7)")
    sync_all([honest, other, liar])
    honest.execute("UPDATE t SET n = n + 1 WHERE id = 'new'")
    begun = base_dot(liar, "t", "new", slots(liar, "t")[1])
    for before in (Fraction(1 << 2_390), Fraction(-3, 1 << 1_000)):
        lie = counter.difference(0, counter.ZERO, 5, before)
        assert lie is not None
        apply_all(honest, [patch_of(three, "t", "new", 1, Patch(COUNTER, *begun, lie))])
        sync_all([honest, liar])
        sync_all([other, liar])
        other.execute("UPDATE t SET n = n + 1 WHERE id = 'new'")
        sync_all([honest, other, liar])
        assert_converged([honest, other, liar], TABLES)
    for db in (honest, other):
        db.execute("UPDATE t SET n = 3 WHERE id = 'new'")
        db.drain_all()
    sync_all([honest, other, liar])
    assert_converged([honest, other, liar], TABLES)
    honest.history("t", "new", "n")


def base_dot(db: Database, table: str, key: Any, slot: int) -> tuple[bytes, int]:
    """The write that a cell's showing version is."""
    from crdtlog import document
    from crdtlog.clock import from_sql
    from crdtlog.document import Compact

    state = db._state
    tracked = state.table(table)
    w, s, at, dead, strata = state.connection.execute(
        f"SELECT w, s, at, dead, strata FROM {tracked.rows_name} WHERE k1 = ?", (key,)
    ).fetchone()
    shown = document.expand(Compact(w, s, from_sql(at), bool(dead), strata or b""), tracked.slots).showing[
        slot
    ]
    return state.log.ids[shown.writer], shown.seq


def test_patches_to_another_table_or_to_a_key(three: Three) -> None:
    liar = three.liar
    key = slots(liar, "f")[0]
    patch = Patch(SET, *dot_of(liar, "f", "f"), b"")
    to_key = section(liar, "f", UPDATE, ["f"], slots=(key,), cells=[[None]], patches={key: [patch]})
    refused(three, data(liar, to_key))


@pytest.mark.parametrize(
    "case",
    [
        "no row",
        "no writer",
        "no entry",
        "itself",
        "founding",
        "schema",
        "other row",
        "text",
        "kind",
        "json",
        "set",
        "sum",
        "bytes",
    ],
)
def test_patches_to_what_is_not_there(three: Three, case: str) -> None:
    liar = three.liar
    writer, seq = dot_of(liar, "t", "k")
    own = liar._state.writer
    column = 0 if case in ("json", "set") else 1
    key = "nobody" if case == "no row" else "k"
    patch = {
        "no row": Patch(COUNTER, writer, seq, plus(1)),
        "no writer": Patch(COUNTER, b"\1" * len(writer), 1, plus(1)),
        "no entry": Patch(COUNTER, writer, 1 << 40, plus(1)),
        "itself": Patch(COUNTER, own.id, own.seq + 1, plus(1)),
        "founding": Patch(COUNTER, writer, 1, plus(1)),
        "schema": Patch(COUNTER, writer, 2, plus(1)),
        "other row": Patch(COUNTER, *dot_of(liar, "t", "honest"), plus(1)),
        "text": Patch(TEXT, writer, seq, b""),
        "kind": Patch(15, writer, seq, plus(1)),
        "json": Patch(JSON, writer, seq, b""),
        "set": Patch(SET, writer, seq, b"\xc1"),
        "sum": Patch(COUNTER, writer, seq, b""),
        "bytes": Patch(COUNTER, writer, seq, pack([b"", 1, False])),
    }[case]
    refused(three, patch_of(three, "t", key, column, patch))


@pytest.mark.parametrize(
    ("table", "column", "kind"),
    [
        ("f", "id", "set"),
        ("f", "id", "json"),
        ("t", "id", "set"),
        ("t", "n", "json"),
        ("s", "b", "counter"),
        ("t", "n", "text"),
    ],
)
def test_kinds_that_a_column_cannot_have(three: Three, table: str, column: str, kind: str) -> None:
    raw = encode_merge(table_id(three.liar, table), {column: kind})
    item = next_entry(three.liar, raw, kind="schema")
    if (table, column, kind) == ("s", "b", "counter"):
        apply_all(three.honest, [signed(three.liar, item)])  # a blob column keeps numbers as they are
        return
    refused(three, signed(three.liar, item))


def test_a_set_of_too_many_elements_stops_nobody(three: Three) -> None:
    liar, honest, other = three
    honest.track("t", {"v": "set"})
    many = ",".join(map(str, range(12_000)))
    honest.execute(f"UPDATE t SET v = '[{many}]' WHERE id = 'k'")
    sync_all([honest, other, liar])
    for db, low in ((honest, 20_000), (other, 40_000), (liar, 60_000)):
        more = ",".join(map(str, range(low, low + 7_000)))
        db.execute(f"UPDATE t SET v = '[{many},{more}]' WHERE id = 'k'")
        db.drain_all()
    sync_all([honest, other, liar])
    assert_converged([honest, other, liar], TABLES)
    ((shown,),) = rows_of(other, "SELECT v FROM t WHERE id = 'k'")
    assert shown.count(",") == 12_000 + 3 * 7_000 - 1
    other.execute("UPDATE t SET v = '[]' WHERE id = 'k'")
    sync_all([honest, other, liar])
    assert_converged([honest, other, liar], TABLES)
    assert rows_of(honest, "SELECT v FROM t WHERE id = 'k'") == [("[]",)]


def texts(three: Three) -> tuple[bytes, int]:
    """Texts that merge, in every row of `t`; the write that began the one of row `k`."""
    three.honest.track("t", {"v": "text"})
    three.honest.execute("UPDATE t SET v = NULL WHERE id = 'k'")
    three.honest.drain_all()
    three.honest.execute("UPDATE t SET v = 'some text' WHERE id = 'k'")
    sync_all([three.honest, three.other, three.liar])
    return base_dot(three.liar, "t", "k", slots(three.liar, "t")[0])


def test_a_patch_that_no_text_can_take_is_left_out_on_every_device(three: Three) -> None:
    _, honest, other = three
    begun = texts(three)
    lie = patch_of(three, "t", "k", 0, Patch(TEXT, *begun, b"\0garbage"))
    apply_all(other, [lie])  # before the honest change, and on the other device behind it
    honest.execute("UPDATE t SET v = v || ', and more' WHERE id = 'k'")
    honest.drain_all()
    apply_all(honest, [lie])
    sync_all([honest, other])
    assert_converged([honest, other], TABLES)
    assert rows_of(other, "SELECT v FROM t WHERE id = 'k'") == [("some text, and more",)]
    assert [item.rows for item in honest.unmerged()] == [1]
    assert honest.unmerged() == other.unmerged()
    other.execute("UPDATE t SET v = 'anew' WHERE id = 'k'")
    sync_all([honest, other])
    assert not honest.unmerged()
    assert_converged([honest, other], TABLES)


def test_a_row_whose_text_nothing_could_be_done_with_comes_back(three: Three) -> None:
    _, honest, other = three
    begun = texts(three)
    lie = patch_of(three, "t", "k", 0, Patch(TEXT, *begun, b"\0garbage"))
    apply_all(other, [lie])
    sync_all([honest, other])
    honest.execute("UPDATE t SET n = 77 WHERE id = 'k'")
    honest.drain_all()
    other.execute("DELETE FROM t WHERE id = 'k'")
    other.drain_all()
    sync_all([honest, other])
    if not rows_of(other, "SELECT 1 FROM t WHERE id = 'k'"):
        (lost,) = [item for item in other.conflicts() if item["column"] is None]
        other.restore_value("t", "k", None, lost["dot"])
    sync_all([honest, other])
    assert rows_of(honest, "SELECT v, n FROM t WHERE id = 'k'") == [("some text", 77)]
    assert_converged([honest, other], TABLES)


def test_a_patch_of_a_text_that_comes_before_what_it_builds_on_takes_effect_with_that(three: Three) -> None:
    liar, honest, other = three
    begun = texts(three)
    honest.execute("UPDATE t SET v = v || ', and more' WHERE id = 'k'")
    honest.drain_all()
    (truth,) = lacking(honest, liar)
    # The liar sees it, and writes as if not.
    slot = slots(liar, "t")[0]
    base = Base("some text", Origin(0, *begun))
    (section_,) = decode_data(
        (item := entry.decode(entry.split(truth).body)).payload(), item.first_stamp, item.last_stamp
    ).sections
    seen = section_.patches[slot][0]
    assert seen is not None
    documents = honest._state.documents(TEXT)
    (merged,) = documents.merge([Merge(None, base, [(seen.data, Origin(0, honest.writer, item.seq))])])
    assert isinstance(merged, Merged)
    own = Origin(0, liar._state.writer.id, liar._state.writer.seq + 1)
    (edited,) = documents.edit([Edit(merged.state, base, "some text, and much more", own)])
    assert isinstance(edited, Edited)
    assert edited.patch
    lie = patch_of(three, "t", "k", 0, Patch(TEXT, *begun, edited.patch))
    apply_all(other, [lie])
    assert other.unmerged()
    apply_all(honest, [lie])
    sync_all([honest, other])
    assert_converged([honest, other], TABLES)
    assert rows_of(other, "SELECT v FROM t WHERE id = 'k'") == [("some text, and much more",)]
    assert not other.unmerged()

    told = honest.history("t", "k", "v")
    assert told == other.history("t", "k", "v")
    values = {line.device: line.value for line in told}
    assert values == {"honest": "some text, and more", "liar": "some text"}, "what each author's row showed"
    other.execute("UPDATE t SET v = replace(v, 'much', 'm__h') WHERE id = 'k'")  # within what came too early
    sync_all([honest, other])
    for db in (honest, other):
        assert [line.value for line in db.history("t", "k", "v")][-1] == "some text, and m__h more"
    assert_converged([honest, other], TABLES)
