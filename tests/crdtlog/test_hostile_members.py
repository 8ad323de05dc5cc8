"""What a member with bad intent might send, beyond malformed bytes: bombs, private tables, borrowed certificates."""

import resource
from pathlib import Path

import pytest

from crdtlog.errors import EntryRefused, Malformed
from crdtlog.membership import Newcomer
from crdtlog.payload import decode_data
from crdtlog.section_check import _NUMERIC_TEXT
from tests.crdtlog.devices import World, assert_converged, devices, send, sync

NOTES = "CREATE TABLE notes (id TEXT PRIMARY KEY, title TEXT)"
DIARY = "CREATE TABLE diary (id TEXT PRIMARY KEY, body TEXT)"


def header(count: int) -> bytes:
    """The msgpack head of an array."""
    return b"\xdd" + count.to_bytes(4, "big")


@pytest.mark.parametrize(
    "raw",
    [
        header(50 << 20) + b"\x90" * (50 << 20),
        header(20_000) + (header(20_000) + b"\x90" * 20_000) * 1_000,
        header(20_000) + (header(20_000) + b"\xa2ab" * 20_000) * 500,
        header(100_000) * 400,
        b"\x91" * 2_000_000,
    ],
    ids=["one wide array", "arrays of arrays", "arrays of texts", "promised arrays", "depth"],
)
def test_a_payload_of_countless_values_is_refused_before_it_fills_the_memory(raw: bytes) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss

    with pytest.raises(Malformed):
        decode_data(raw, 0, 1)

    grown_mib = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown_mib < 600


def test_telling_numbers_from_text_does_not_backtrack() -> None:
    """With an expression that does, this would take hours, in the daemon and with the file locked."""
    assert _NUMERIC_TEXT.fullmatch("1" * 1_000_000 + "x") is None
    assert all(map(_NUMERIC_TEXT.fullmatch, ("1", " -1.5e10 ", ".5", "+7.", "1e3")))
    assert not any(map(_NUMERIC_TEXT.fullmatch, ("", ".", "1x", "2009-01-01", "e5")))


def test_a_table_that_a_member_begins_to_share_takes_no_rows_that_were_here_before_somebody_agrees(
    tmp_path: Path,
) -> None:
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], [NOTES])
        b.execute(DIARY)
        b.execute("INSERT INTO diary VALUES ('1', 'my secret')")
        a.execute(DIARY)
        a.track("diary")

        sync(a, b)

        assert a.execute("SELECT * FROM diary").fetchall() == []
        (held,) = [table.paused for table in b.tables() if table.name == "diary"]
        assert held is not None and "crdtlog track" in held
        b.execute(
            "CREATE TABLE other (x)"
        )  # any change of the schema, after which tables are looked at again
        b.drain_all()
        assert [table.paused for table in b.tables() if table.name == "diary"] == [held]

        assert b.track("diary")
        sync(a, b)
        assert a.execute("SELECT * FROM diary").fetchall() == [("1", "my secret")]
        assert_converged([a, b], ["notes", "diary"])


def test_kinds_that_are_chosen_as_somebody_agrees_are_chosen(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], [NOTES])
        b.execute(DIARY)
        b.execute("INSERT INTO diary VALUES ('1', 'of b')")
        a.execute(DIARY)
        a.track("diary")
        sync(a, b)

        assert b.track("diary", {"body": "text"})
        sync(a, b)

        for db in (a, b):
            assert [table.merge for table in db.tables() if table.name == "diary"] == [{"body": "text"}]
        assert_converged([a, b], ["notes", "diary"])


def test_a_newcomer_with_somebody_elses_certificate_is_refused(tmp_path: Path) -> None:
    with World(tmp_path) as world:
        a, b = devices(world, ["a", "b"], [NOTES])
        (victim,) = [member for member in a.members() if member.device == b.device.id]
        a.add_member(Newcomer("ghost", "admin", b"\x05" * 32, b"\x06" * 32, victim.certificate))

        with pytest.raises(EntryRefused, match="another key"):
            send(a, b)

        assert {member.name for member in b.members()} == {"a", "b"}
