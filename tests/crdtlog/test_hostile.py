"""Entries that lie, by strangers and by members: refused in our own words, with nothing changed, and others go on.

A member can always write nonsense into its own rows. What it must not be able to do: crash a device, get half an entry
in, block other members' entries, or make honest devices that hold the same entries show different things.
"""

import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdtlog import entry, errors, membership
from crdtlog.clock import MAX_STAMP, stamp
from crdtlog.database import Database
from crdtlog.device import device_from_secrets
from crdtlog.entry import DELETE, INSERT, UPDATE, Entry, Section
from crdtlog.errors import CrdtlogError
from crdtlog.values import pack
from crdtlog.versions import Named
from tests.crdtlog.devices import (
    World,
    apply_all,
    assert_converged,
    devices,
    lacking,
    quick_directory,
    send,
    sync,
    table_rows,
)

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = [
    "CREATE TABLE t (id TEXT PRIMARY KEY, v, n INTEGER NOT NULL)",
    "CREATE TABLE s (id TEXT NOT NULL PRIMARY KEY, n INT, b BLOB) STRICT",
    "CREATE TABLE i (id INTEGER PRIMARY KEY, r REAL)",
    "CREATE TABLE f (id TEXT COLLATE NOCASE PRIMARY KEY, v)",
]
ROWS = """
INSERT INTO t VALUES ('k', 'v', 1), ('l', 'v', 1);
INSERT INTO s VALUES ('k', 1, x'00');
INSERT INTO i VALUES (1, 1.5);
INSERT INTO f VALUES ('f', 1);
"""
TABLES = ["t", "s", "i", "f"]
STRANGER = device_from_secrets("stranger", b"\x07" * 32, b"\x08" * 32)
NOW = stamp(1_700_000_000_000)


class Three(NamedTuple):
    """A member that will lie, and two honest ones; all hold the same."""

    liar: Database
    honest: Database
    other: Database


@pytest.fixture
def three() -> Iterator[Three]:
    with quick_directory() as directory, World(directory) as world:
        yield made_three(world)


def made_three(world: World) -> Three:
    three = Three(*devices(world, ["liar", "honest", "other"], SCHEMA, ROWS))
    for db in three:
        db.execute("INSERT INTO t VALUES (?, 'own', 0)", (db.device.name,))
        db.drain_all()
    for _ in range(2):
        sync(three.liar, three.honest)
        sync(three.honest, three.other)
    sync(three.liar, three.honest)
    return three


def table_id(db: Database, name: str) -> bytes:
    return db._state.table(name).table_id


def slots(db: Database, name: str) -> tuple[int, ...]:
    return tuple(db._state.table(name).cell_slots)


def next_entry(liar: Database, raw: bytes = b"", **changes: Any) -> Entry:
    """The entry that would come next in the liar's log, with some fields changed."""
    own = liar._state.writer
    fields: dict[str, Any] = {
        "database": liar.id,
        "writer": own.id,
        "seq": own.seq + 1,
        "previous": own.hash,
        "context": liar._state.log.next_context(own),
        "first_stamp": own.last_stamp + 1,
        "last_stamp": own.last_stamp + 100,
        "kind": "data",
        "epoch": liar.epoch,
        "raw_size": len(raw),
        "packed": entry.compress(raw),
    }
    return Entry(**{**fields, **changes})


def signed(liar: Database, item: Entry, device: Any = None) -> bytes:
    return entry.sign(item, device or liar.device).bytes()


def data(liar: Database, *sections: Section, **changes: Any) -> bytes:
    """A signed data entry with these sections, whose stamps are counted from the liar's next one."""
    first = liar._state.writer.last_stamp + 1
    return signed(liar, next_entry(liar, entry.encode_data(sections, first), **changes))


def section(
    liar: Database, table: str, operation: int, keys: list[Any], *cells: list[Any], **more: Any
) -> Section:
    """Rows of a table with a one-column key; cells in the order of the table's columns."""
    first = liar._state.writer.last_stamp + 1
    own = slots(liar, table)[: len(cells)] if operation != DELETE else ()
    fields: dict[str, Any] = {
        "stamps": [first] * len(keys),
        "slots": own,
        "keys": [keys],
        "cells": list(cells),
        **more,
    }
    return Section(table_id(liar, table), operation, **fields)


def picture(db: Database) -> Any:
    return (
        db.verify().state,
        db.heads(),
        [table_rows(db, table) for table in TABLES],
        db.conflicts(),
        db.members(),
    )


def refused(three: Three, *entries: bytes) -> None:
    """The honest device refuses the last of these entries in our words, keeps its file as it was, and goes on."""
    liar, honest, other = three
    *fine, lie = entries
    apply_all(honest, fine)
    before = picture(honest)

    for batch in ([lie], [lie, *lacking(other, honest)]):
        with pytest.raises(CrdtlogError) as caught:
            honest.apply(batch)
        assert not isinstance(caught.value, errors.Temporary)
        assert str(caught.value)
    assert picture(honest) == before
    assert honest.verify().ok

    other.execute("UPDATE t SET v = 'goes on' WHERE id = 'l'")
    other.drain_all()
    # A lie behind honest entries ends the batch there; the honest ones count.
    truth = lacking(other, honest)
    assert honest.apply([*truth, lie], hold_ms=1_000)[::2] == (len(truth), len(truth))
    sync(honest, other)
    liar.execute("INSERT INTO t VALUES ('and so', 'does the liar', 0)")
    if not fine:
        sync(liar, honest)
        sync(honest, other)
        assert_converged([honest, other], TABLES)


# --- who says so --------------------------------------------------------------------------------------------------


def test_a_wrong_signature(three: Three) -> None:
    blob = data(three.liar, section(three.liar, "t", DELETE, ["k"]))
    refused(three, blob[:-1] + bytes([blob[-1] ^ 1]))


def test_the_signature_of_another_member(three: Three) -> None:
    item = next_entry(three.liar, entry.encode_data([section(three.liar, "t", DELETE, ["k"])], 0))
    refused(three, signed(three.liar, item, three.other.device))


def test_a_signature_made_for_another_purpose(three: Three) -> None:
    body = entry.encode(next_entry(three.liar, b""))
    refused(three, pack([body, three.liar.device.sign_bytes(b"crdtlog something else", body)]))


def test_an_author_who_is_no_member(three: Three) -> None:
    raw = entry.encode_data(
        [section(three.liar, "t", DELETE, ["k"])], three.liar._state.writer.last_stamp + 1
    )
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
    refused(three, first, second)


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
    item = next_entry(liar, entry.encode_data([section(liar, "t", UPDATE, ["l"], ["x"])], own.last_stamp + 1))
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
    blob = signed(liar, next_entry(liar, entry.encode_data([rows], first), last_stamp=MAX_STAMP))
    apply_all(honest, [blob])

    honest.execute("UPDATE t SET v = 'not for ever' WHERE id = 'k'")
    sync(honest, other)

    assert other.execute("SELECT v FROM t WHERE id = 'k'").fetchone() == ("not for ever",)
    assert_converged([honest, other], TABLES)


# --- membership and schema ----------------------------------------------------------------------------------------


def newcomer(**changes: Any) -> list[Any]:
    fields = {"name": "mole", "role": "admin", "sign": b"s" * 32, "receive": b"r" * 32, "certificate": b"c"}
    return list({**fields, **changes}.values())


@pytest.mark.parametrize(
    "content",
    [
        ["add", newcomer(name="")],
        ["add", newcomer(name="\x1b[2J")],
        ["add", newcomer(name=7)],
        ["add", newcomer(role="king")],
        ["add", newcomer(sign=b"short")],
        ["add", newcomer(receive=None)],
        ["add", newcomer(certificate=b"")],
        ["add", newcomer()[:4]],
        ["genesis", b"garbage"],
        ["remove", newcomer()],
        ["add"],
    ],
    ids=repr,
)
def test_a_membership_record_that_is_none(three: Three, content: Any) -> None:
    refused(three, signed(three.liar, next_entry(three.liar, pack(content), kind="member")))


def test_a_second_founding(three: Three) -> None:
    genesis = membership.Genesis(b"n" * 16, membership.newcomer_from(newcomer()), None)
    raw = membership.encode_record("genesis", membership.encode_genesis(genesis))
    refused(three, signed(three.liar, next_entry(three.liar, raw, kind="member")))


def test_a_member_cannot_rename_or_rekey_another_by_adding_it_again(three: Three) -> None:
    """The certificate and receiving key of a device that is there already are its own affair."""
    liar, honest, other = three
    key = other.device.public.sign_key
    raw = pack(
        ["add", newcomer(sign=key, name="renamed", role="reader", receive=b"liar" * 8, certificate=b"liar's")]
    )

    with suppress(CrdtlogError):
        apply_all(honest, [signed(liar, next_entry(liar, raw, kind="member"))])

    (member,) = [member for member in honest.members() if member.device == other.device.id]
    assert member.receive_key == other.device.public.receive_key
    assert member.certificate != b"liar's"


def column(
    name: str, key: int = 0, kind: str = "TEXT", default: Any = None, generated: Any = None
) -> list[Any]:
    return [name, kind, False, default, key, "BINARY", generated, False, "BINARY", False]


def description(name: str, *columns: list[Any], indexes: Any = ()) -> list[Any]:
    return [1, name, list(columns), False, False, False, [], list(indexes)]


@pytest.mark.parametrize(
    "wire",
    [
        description("crdtlog__meta", column("id", 1)),
        description("sqlite_master", column("id", 1)),
        description("SQLITE_sequence", column("id", 1)),
        description("x", column("id")),
        description("x", column("id", 1), column("v", default="(SELECT 1)")),
        description("x", column("id", 1), column("v", default="load_extension('x')")),
        description("x", column("id", 1), column("v", generated="randomblob(9)")),
        description("x", column("id", 1), column("v", generated="(SELECT count(*) FROM t)")),
        description("x", column("id", 1), column('v"); DROP TABLE t; --', kind="TEXT) ; DROP TABLE t; --")),
        description("x", column("id", 1), indexes=[["crdtlog__i", [["id", False, "BINARY", False]], None]]),
        description("x", column("id", 1), indexes=[["i", [["readfile('x')", True, "BINARY", False]], None]]),
        description("x", column("id", 1), column("ID")),
        description("", *[]),
        [2, *description("x", column("id", 1))[1:]],
        description("x", *[column(f"c{n}", 1 if n == 0 else 0) for n in range(3_000)]),
        "text",
        None,
    ],
    ids=lambda wire: repr(wire)[:50],
)
def test_a_table_description_that_could_do_harm(three: Three, wire: Any) -> None:
    raw = pack(["track", b"newtable", wire, []])
    refused(three, signed(three.liar, next_entry(three.liar, raw, kind="schema")))
    assert three.honest.execute("SELECT count(*) FROM sqlite_master WHERE name = 'x'").fetchone() == (0,)


@pytest.mark.parametrize("fits", [True, False], ids=["that fits", "that does not fit"])
@pytest.mark.parametrize("name", ["t", "T", "x"])
def test_a_second_description_under_one_name_or_id(three: Three, name: str, fits: bool) -> None:
    """A table's id follows from its name: two ids for one table would have every change captured twice."""
    identity = table_id(three.liar, "t") if name == "x" else b"another!"
    number = column("n", kind="INTEGER")
    number[2] = True
    wire = description(name, column("id", 1), column("v", kind=""), *([number] if fits else []))
    refused(
        three, signed(three.liar, next_entry(three.liar, pack(["track", identity, wire, []]), kind="schema"))
    )


# --- bytes --------------------------------------------------------------------------------------------------------


def test_every_byte_of_an_entry_changed_in_turn(three: Three) -> None:
    liar, honest, _ = three
    original = entry.split(
        data(liar, section(liar, "t", UPDATE, ["k"], ["new"]), section(liar, "i", INSERT, [7], [0.5]))
    )
    before = picture(honest)

    for at in range(len(original.body)):
        for bits in (0x01, 0x80, 0xFF):
            body = original.body[:at] + bytes([original.body[at] ^ bits]) + original.body[at + 1 :]
            with pytest.raises(CrdtlogError):
                honest.apply([pack([body, original.signature])])

    assert picture(honest) == before


CHANGE = st.tuples(st.integers(0, 1 << 16), st.integers(1, 255))


@settings(max_examples=settings().max_examples * 2)
@given(st.lists(st.tuples(CHANGE, st.none() | CHANGE), min_size=4, max_size=4))
def test_an_entry_changed_and_signed_anew_is_refused_or_harmless(
    changes: list[tuple[tuple[int, int], tuple[int, int] | None]],
) -> None:
    with quick_directory() as directory, World(directory) as world:
        liar, honest, other = made_three(world)
        first = liar._state.writer.last_stamp + 1
        both = [section(liar, "t", UPDATE, ["k"], ["new"]), section(liar, "i", INSERT, [7], [0.5])]
        raw = entry.encode_data(both, first)
        for in_payload, in_body in changes:
            body = entry.encode(next_entry(liar, changed(raw, in_payload)))
            if in_body is not None:
                body = changed(body, in_body)
            blob = pack([body, liar.device.sign_bytes(entry.SIGN_DOMAIN, body)])
            before = picture(honest)
            if told(honest, blob):
                assert told(other, blob)
                break
            assert picture(honest) == before
        for db in (honest, other):
            db.execute("UPDATE t SET v = 'after'")
            db.execute("DELETE FROM i")
        sync(honest, other)
        assert_converged([honest, other], TABLES)


def changed(data: bytes, change: tuple[int, int]) -> bytes:
    """The bytes with one of them changed."""
    at = change[0] % len(data)
    return data[:at] + bytes([data[at] ^ change[1]]) + data[at + 1 :]


def test_a_payload_made_to_fill_the_memory(three: Three, tmp_path: Path) -> None:
    """Sixty million empty values fit a few kilobytes of zstd; a device with little memory must refuse them and live."""
    liar, honest, _ = three
    count = 60_000_000
    raw = b"\xdd" + count.to_bytes(4, "big") + b"\xc0" * count
    (tmp_path / "bomb").write_bytes(signed(liar, next_entry(liar, raw)))
    assert (tmp_path / "bomb").stat().st_size < 100_000
    script = (
        "import sys, crdtlog\n"
        "db = crdtlog.open(sys.argv[1], home=sys.argv[2], create=False)\n"
        "try: db.apply([open(sys.argv[3], 'rb').read()])\n"
        "except crdtlog.CrdtlogError as error: print(type(error).__name__)\n"
    )
    limit = 400 << 20

    done = subprocess.run(
        [sys.executable, "-c", script, str(honest.path), str(honest.home.path), str(tmp_path / "bomb")],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        timeout=60,
    )

    assert done.stdout.strip() in ("Malformed", "TooLarge"), done.stderr[-500:]


@given(st.binary(max_size=400))
def test_any_bytes_at_all(blob: bytes) -> None:
    with quick_directory() as directory, World(directory) as world:
        db = world.found("one", SCHEMA)
        with pytest.raises((errors.Malformed, errors.EntryRefused, errors.TooLarge)):
            db.apply([blob])


# --- whatever a member writes, honest devices agree ---------------------------------------------------------------

WILD = st.one_of(
    st.none(),
    st.sampled_from([0, 1, -1, 2**63 - 1, 1.0, 1.5, 0.0, -0.0, 1e300, b"", b"k"]),
    st.sampled_from(["", "x", "1", "1.0", " 1", "k", "l", "\0"]),
)
FITTING: dict[str, list[Any]] = {
    "t": [st.sampled_from(["k", "l", "m", "1"]), WILD, st.sampled_from([0, 7, -1])],
    "s": [
        st.sampled_from(["k", "l", "m"]),
        st.sampled_from([None, 1, 2**63 - 1]),
        st.sampled_from([None, b"", b"x"]),
    ],
    "i": [st.sampled_from([1, 2, 3]), st.sampled_from([None, 0.5, 1e300, "text", b"x"])],
    "f": [st.sampled_from(["f", "F", "k", "K"]), None, WILD],
}


@st.composite
def wild_section(draw: st.DrawFn, table: str) -> tuple[str, int, list[Any], tuple[int, ...], list[list[Any]]]:
    """A section that a liar might send: well-formed as an entry, and mostly fit for its table."""
    key, *columns = FITTING[table]
    operation = draw(st.sampled_from([INSERT, INSERT, UPDATE, UPDATE, DELETE]))
    chosen = tuple(range(len(columns)))
    if operation == UPDATE:
        chosen = tuple(sorted(draw(st.sets(st.sampled_from(chosen)))))
    if operation == DELETE:
        chosen = ()
    tame = draw(st.sampled_from([True, True, True, False]))
    rows = draw(st.integers(1, 2))
    keys = draw(
        st.lists(key if tame else WILD.filter(lambda value: value is not None), min_size=rows, max_size=rows)
    )
    cells = []
    for at in chosen:
        if columns[at] is None:
            cells.append([draw(st.sampled_from([key, str(key).swapcase()])) for key in keys])
        else:
            cells.append(draw(st.lists(columns[at] if tame else WILD, min_size=rows, max_size=rows)))
    return table, operation, keys, chosen, cells


@settings(max_examples=settings().max_examples * 2)
@given(st.data())
def test_honest_devices_with_the_same_entries_agree_whatever_a_member_signs(choose: st.DataObject) -> None:
    with quick_directory() as directory, World(directory) as world:
        liar, honest, other = made_three(world)
        sections = []
        for table, operation, keys, chosen, cells in choose.draw(
            st.lists(st.sampled_from(TABLES).flatmap(wild_section), min_size=1, max_size=3)
        ):
            named = tuple(slots(liar, table)[at] for at in chosen)
            sections.append(section(liar, table, operation, keys, *cells, slots=named))
        lie = data(liar, *sections)
        for db in (honest, other):
            for sql in choose.draw(st.lists(st.sampled_from(HONEST), max_size=3)):
                db.execute(sql)
        # One hears the lie before the other's writes, one after them; later writes touch what came of it.
        accepted = [told(honest, lie)]
        send(honest, other) if not accepted[0] else None
        for sql in choose.draw(st.lists(st.sampled_from(HONEST), max_size=2)):
            honest.execute(sql)
        apply_all(other, [item for item in lacking(honest, other) if not accepted[0]])
        accepted.append(told(other, lie))
        try:
            sync(honest, other)
        except CrdtlogError:
            assert accepted[0] != accepted[1], "an honest device's entry was refused"
            return

        if honest.heads() == other.heads():
            assert_converged([honest, other], TABLES)
        other.execute("DELETE FROM t")
        honest.execute("UPDATE t SET v = 'after'")
        sync(honest, other)
        if honest.heads() == other.heads():
            assert_converged([honest, other], TABLES)


HONEST = [
    "UPDATE t SET v = 'honest', n = 9",
    "UPDATE t SET n = n + 1 WHERE id = 'k'",
    "DELETE FROM t WHERE id = 'k'",
    "INSERT OR REPLACE INTO t VALUES ('m', 'honest', 3)",
    "INSERT OR REPLACE INTO t VALUES ('1', 'honest', 3)",
    "UPDATE s SET n = 5, b = x'05'",
    "DELETE FROM s",
    "INSERT OR REPLACE INTO s VALUES ('l', 2, NULL)",
    "UPDATE i SET r = r + 1",
    "DELETE FROM i",
    "INSERT OR REPLACE INTO i VALUES (2, -0.5)",
    "UPDATE f SET id = upper(id), v = 2",
    "INSERT OR REPLACE INTO f VALUES ('K', 'honest')",
    "DELETE FROM f",
]


def told(db: Database, lie: bytes) -> bool:
    """Whether a device accepts the entry; it may refuse it in our words only."""
    try:
        return db.apply([lie]).entries == 1
    except CrdtlogError:
        return False
