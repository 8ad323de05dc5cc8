"""Entries that lie, by strangers and by members: refused in our own words, with nothing changed, and others go on.

A member can always write nonsense into its own rows. What it must not be able to do: crash a device, get half an entry
in, block other members' entries, or make honest devices that hold the same entries show different things.
"""

from dataclasses import replace
from typing import Any

import pytest

from crdtlog import entry
from crdtlog.clock import MAX_STAMP
from crdtlog.errors import CrdtlogError
from crdtlog.payload import DELETE, INSERT, UPDATE, Section, encode_data
from crdtlog.values import pack
from crdtlog.versions import Named
from tests.crdtlog.devices import (
    apply_all,
    assert_converged,
    sync,
)
from tests.crdtlog.liar import (
    NOW,
    STRANGER,
    TABLES,
    Three,
    data,
    next_entry,
    refused,
    section,
    signed,
    slots,
    table_id,
)

# --- who says so --------------------------------------------------------------------------------------------------


def test_a_wrong_signature(three: Three) -> None:
    blob = data(three.liar, section(three.liar, "t", DELETE, ["k"]))
    refused(three, blob[:-1] + bytes([blob[-1] ^ 1]))


def test_the_signature_of_another_member(three: Three) -> None:
    item = next_entry(three.liar, encode_data([section(three.liar, "t", DELETE, ["k"])], 0))
    refused(three, signed(three.liar, item, three.other.device))


def test_a_signature_made_for_another_purpose(three: Three) -> None:
    body = entry.encode(next_entry(three.liar, b""))
    refused(three, pack([body, three.liar.device.sign_bytes(b"crdtlog something else", body)]))


def test_an_author_who_is_no_member(three: Three) -> None:
    raw = encode_data([section(three.liar, "t", DELETE, ["k"])], three.liar._state.writer.last_stamp + 1)
    item = next_entry(three.liar, raw, writer=STRANGER.id + b"12345678", seq=1, previous=b"", context=())
    refused(three, signed(three.liar, item, STRANGER))


def test_an_entry_of_another_database(three: Three) -> None:
    refused(three, data(three.liar, section(three.liar, "t", DELETE, ["k"]), database=b"x" * 32))


def test_a_log_that_claims_to_be_another_devices(three: Three) -> None:
    own = three.other._state.writer
    item = next_entry(three.liar, b"", writer=own.id, seq=own.seq + 1, previous=own.hash, context=())
    refused(three, signed(three.liar, item))


# --- in which order -----------------------------------------------------------------------------------------------


def test_a_broken_chain(three: Three) -> None:
    refused(three, data(three.liar, section(three.liar, "t", DELETE, ["k"]), previous=b"p" * 32))


def test_a_gap(three: Three) -> None:
    seq = three.liar._state.writer.seq
    refused(three, data(three.liar, section(three.liar, "t", DELETE, ["k"]), seq=seq + 2))


def test_a_second_entry_under_one_number(three: Three) -> None:
    first = data(three.liar, section(three.liar, "t", DELETE, ["k"]))
    second = data(three.liar, section(three.liar, "t", DELETE, ["l"]))
    apply_all(three.honest, [first, second])
    apply_all(three.other, [second, first])
    assert three.honest.forks() == three.other.forks() != []
    assert_converged([three.honest, three.other], TABLES)


def test_a_second_entry_that_cannot_be_taken_in_changes_nothing(three: Three) -> None:
    first = data(three.liar, section(three.liar, "t", DELETE, ["k"]))
    second = data(three.liar, section(three.liar, "t", DELETE, [None]))
    refused(three, first, second)
    assert three.honest.forks() == []


@pytest.mark.parametrize("ahead", [1, 1 << 61])
def test_a_context_ahead_of_what_is_held(three: Three, ahead: int) -> None:
    head = three.other.heads()[three.other.writer]
    context = (Named(three.other.writer, head.seq + ahead, b"h" * 8),)
    refused(three, data(three.liar, section(three.liar, "t", DELETE, ["k"]), context=context))


def test_a_context_that_names_an_unknown_writer(three: Three) -> None:
    refused(
        three,
        data(three.liar, section(three.liar, "t", DELETE, ["k"]), context=(Named(b"w" * 24, 1, b"h" * 8),)),
    )


def test_a_context_that_names_another_history(three: Three) -> None:
    head = three.other.heads()[three.other.writer]
    context = (Named(three.other.writer, head.seq, b"h" * 8),)
    refused(three, data(three.liar, section(three.liar, "t", DELETE, ["k"]), context=context))


def test_a_context_that_goes_back_behind_what_the_log_said_before(three: Three) -> None:
    """Forgetting what one saw would let a liar revive versions that it had covered."""
    liar, honest, other = three
    first = liar._state.log.hash_of(liar._state.log.writer(other.writer).number, 1)
    assert first is not None
    other.execute("UPDATE t SET v = 'newer' WHERE id = 'k'")
    sync(other, liar)
    blob = data(liar, section(liar, "t", UPDATE, ["k"], ["seen"]))
    sync(other, honest)
    apply_all(honest, [blob])
    own = liar._state.writer
    item = next_entry(liar, encode_data([section(liar, "t", UPDATE, ["l"], ["x"])], own.last_stamp + 1))
    context = (Named(other.writer, 1, first[:8]),)
    back = replace(item, seq=own.seq + 2, previous=entry.split(blob).hash, context=context)

    with pytest.raises(CrdtlogError):
        honest.apply([signed(liar, back)])


# --- what it says -------------------------------------------------------------------------------------------------


def test_text_in_an_integer_column_of_a_strict_table(three: Three) -> None:
    refused(three, data(three.liar, section(three.liar, "s", INSERT, ["new"], ["no number"], [b""])))


def test_a_number_in_a_blob_column_of_a_strict_table(three: Three) -> None:
    refused(three, data(three.liar, section(three.liar, "s", UPDATE, ["k"], [1], [5])))


@pytest.mark.parametrize(("operation", "key"), [(INSERT, "new"), (UPDATE, "k")])
def test_null_where_the_table_wants_a_value(three: Three, operation: int, key: str) -> None:
    refused(three, data(three.liar, section(three.liar, "t", operation, [key], ["v"], [None])))


def test_text_as_an_integer_primary_key(three: Three) -> None:
    refused(three, data(three.liar, section(three.liar, "i", INSERT, ["text"], [1.5])))


@pytest.mark.parametrize("operation", [UPDATE, DELETE])
def test_a_change_of_a_row_that_never_was(three: Three, operation: int) -> None:
    refused(three, data(three.liar, section(three.liar, "t", operation, ["never"], ["v"])))


@pytest.mark.parametrize("keys", [["k", "k"], ["new", "new"]])
def test_a_row_named_twice_in_a_section(three: Three, keys: list[Any]) -> None:
    refused(three, data(three.liar, section(three.liar, "t", INSERT, keys, ["a", "b"], [1, 2])))


@pytest.mark.parametrize("second", [INSERT, UPDATE, DELETE])
def test_a_row_named_in_two_sections(three: Three, second: int) -> None:
    """Which of the two values would be the version's? Devices could answer differently."""
    liar = three.liar
    cells = [["b"], [2]] if second != DELETE else []
    refused(
        three,
        data(liar, section(liar, "t", INSERT, ["k"], ["a"], [1]), section(liar, "t", second, ["k"], *cells)),
    )


@pytest.mark.parametrize("keys", [[1, "1"], [1, 1.0], ["1", 1.0]])
@pytest.mark.parametrize("table", ["t", "i"])
def test_a_row_named_twice_in_two_spellings(three: Three, table: str, keys: list[Any]) -> None:
    cells = [["a", "b"], [1, 2]] if table == "t" else [[1.5, 2.5]]
    refused(three, data(three.liar, section(three.liar, table, INSERT, keys, *cells)))


def test_a_key_in_a_spelling_that_its_column_would_change(three: Three) -> None:
    refused(three, data(three.liar, section(three.liar, "t", INSERT, [17], ["a"], [1])))


@pytest.mark.parametrize(("operation", "key"), [(INSERT, "new"), (INSERT, "F"), (UPDATE, "f")])
def test_a_spelling_that_is_one_of_another_key(three: Three, operation: int, key: str) -> None:
    """Where keys ignore case, the spelling is a value of its own: it must not move the row."""
    refused(three, data(three.liar, section(three.liar, "f", operation, [key], ["elsewhere"], [1])))


@pytest.mark.parametrize(
    ("table", "cells"),
    [("t", [["a"], ["5"]]), ("t", [["a"], [5.0]]), ("i", [[5]]), ("i", [["5"]]), ("i", [[-0.0]])],
)
def test_a_value_that_its_column_would_change(three: Three, table: str, cells: list[Any]) -> None:
    key: Any = "new" if table == "t" else 99
    refused(three, data(three.liar, section(three.liar, table, INSERT, [key], *cells)))


def test_more_rows_than_an_entry_may_hold(three: Three) -> None:
    liar = three.liar
    halves = [section(liar, "t", DELETE, [f"{part}{n}" for n in range(2_600)]) for part in "ab"]
    refused(three, data(liar, *halves))


def test_a_table_that_nobody_tracks(three: Three) -> None:
    refused(three, data(three.liar, Section(b"no table", DELETE, (), [["k"]], [], [NOW])))


def test_columns_that_the_table_does_not_have(three: Three) -> None:
    refused(three, data(three.liar, section(three.liar, "t", UPDATE, ["k"], ["v"], slots=(99,))))


def test_an_insert_that_leaves_columns_out(three: Three) -> None:
    refused(three, data(three.liar, section(three.liar, "t", INSERT, ["new"], ["v"])))


def test_a_key_of_too_many_columns(three: Three) -> None:
    both = section(three.liar, "t", DELETE, ["k"])
    refused(three, data(three.liar, replace(both, keys=[["k"], ["l"]])))


def test_unseen_rows_and_births_that_make_no_sense_are_data_like_any(three: Three) -> None:
    """They are read but decide nothing yet; what is out of bounds is malformed."""
    liar = three.liar
    refused(
        three, data(liar, section(liar, "i", UPDATE, [1], [2.5], births=[(b"w" * 24, 1), (b"w" * 24, 1)]))
    )


@pytest.mark.parametrize("raw", [b"", b"\xc0", b"\x90", b"garbage", pack([[1] * 8]), pack([None])])
@pytest.mark.parametrize("kind", ["data", "schema", "member"])
def test_a_payload_that_is_none(three: Three, kind: str, raw: bytes) -> None:
    refused(three, signed(three.liar, next_entry(three.liar, raw, kind=kind)))


def test_a_kind_that_does_not_exist(three: Three) -> None:
    refused(three, signed(three.liar, next_entry(three.liar, b"", kind="surprise")))


def test_the_highest_stamp_of_all_can_still_be_overwritten(three: Three) -> None:
    liar, honest, other = three
    first = liar._state.writer.last_stamp + 1
    rows = Section(table_id(liar, "t"), UPDATE, slots(liar, "t")[:1], [["k"]], [["for ever"]], [MAX_STAMP])
    blob = signed(liar, next_entry(liar, encode_data([rows], first), last_stamp=MAX_STAMP))
    apply_all(honest, [blob])

    honest.execute("UPDATE t SET v = 'not for ever' WHERE id = 'k'")
    sync(honest, other)

    assert other.execute("SELECT v FROM t WHERE id = 'k'").fetchone() == ("not for ever",)
    assert_converged([honest, other], TABLES)
