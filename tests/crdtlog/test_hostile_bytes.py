"""Hostile bytes: every byte changed, sizes that lie, and whatever a member signs: honest devices agree."""

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdtlog import entry, errors
from crdtlog.database import Database
from crdtlog.errors import CrdtlogError
from crdtlog.payload import DELETE, INSERT, UPDATE, encode_data
from crdtlog.values import pack
from tests.crdtlog.devices import (
    World,
    apply_all,
    assert_converged,
    lacking,
    quick_directory,
    send,
    sync,
)
from tests.crdtlog.liar import (
    ROOT,
    SCHEMA,
    TABLES,
    Three,
    data,
    made_three,
    next_entry,
    picture,
    section,
    signed,
    slots,
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
        raw = encode_data(both, first)
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
