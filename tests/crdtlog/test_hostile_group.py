"""Members that lie about what they may: it is refused, or held and counted nowhere, on all devices alike."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from crdtlog import membership
from crdtlog.errors import EntryRefused
from crdtlog.members import newcomer_of
from crdtlog.membership import Add, Content, Remove, Role
from crdtlog.payload import INSERT
from tests.crdtlog.devices import World, apply_all, assert_converged, rows_of, send, sync
from tests.crdtlog.liar import STRANGER, TABLES, Three, data, made_three, next_entry, section, signed


@pytest.fixture
def three(tmp_path: Path) -> Iterator[Three]:
    with World(tmp_path) as world:
        yield made_three(world)


def row(three: Three, key: str, **changes: object) -> bytes:
    return data(three.liar, section(three.liar, "t", INSERT, [key], ["lie"], [1]), **changes)


def record(three: Three, content: Content, **changes: object) -> bytes:
    raw = membership.encode_content(content)
    return signed(three.liar, next_entry(three.liar, raw, kind="member", **changes))


def keys(three: Three) -> list[set[str]]:
    return [{key for key, *_ in rows_of(db, "SELECT id FROM t")} for db in (three.honest, three.other)]


def settled(three: Three) -> None:
    """The two honest devices exchange all they hold, and are alike."""
    for _ in range(2):
        send(three.honest, three.other)
        send(three.other, three.honest)
    assert_converged([three.honest, three.other], TABLES)


def test_what_a_reader_signs_is_held_and_counts_nowhere(three: Three) -> None:
    three.honest.change_role(three.liar.device.id, "reader")
    for db in (three.other, three.liar):
        send(three.honest, db)
    assert apply_all(three.honest, [row(three, "late")]) == 0
    assert all("late" not in found for found in keys(three))
    settled(three)
    assert all("late" not in found for found in keys(three))
    (held,) = [line for line in three.other.log() if line["summary"] == "held, not counted"]
    assert held["device"] == "liar"


def test_a_removed_device_backdates_in_vain(three: Three) -> None:
    """It names only what it knew before its removal, and takes the clock of then."""
    context = three.liar._state.log.next_context(three.liar._state.writer)
    three.honest.remove_member(three.liar.device.id)
    send(three.honest, three.other)
    apply_all(three.honest, [row(three, "late", context=context)])
    assert all("late" not in found for found in keys(three))
    settled(three)
    assert all("late" not in found for found in keys(three))


def test_what_was_taken_in_before_the_removal_was_known_stays_everywhere(three: Three) -> None:
    three.honest.remove_member(three.liar.device.id)
    apply_all(three.other, [row(three, "late")])
    assert keys(three)[1] - keys(three)[0] == {"late"}
    settled(three)
    assert all("late" in found for found in keys(three))


def test_a_removed_admin_lets_nobody_in(three: Three) -> None:
    three.honest.remove_member(three.liar.device.id)
    send(three.honest, three.other)
    apply_all(three.honest, [record(three, Add(newcomer_of(STRANGER, "writer")))])
    settled(three)
    for db in (three.honest, three.other):
        assert STRANGER.id not in {member.device for member in db.members()}


@pytest.mark.parametrize("content", [Remove, Role, Add])
def test_a_writer_changes_the_group_in_vain(three: Three, content: type) -> None:
    three.honest.change_role(three.liar.device.id, "writer")
    for db in (three.other, three.liar):
        send(three.honest, db)
    said = {
        Remove: Remove(three.other.device.id),
        Role: Role(three.liar.device.id, "admin"),
        Add: Add(newcomer_of(STRANGER, "writer")),
    }[content]
    before = three.honest.heads()
    with pytest.raises(EntryRefused, match="changes the group in vain"):
        three.honest.apply([record(three, said)])
    assert three.honest.heads() == before
    assert {member.role for member in three.honest.members()} == {"admin", "writer"}
    sync(three.honest, three.other)
    settled(three)


def test_no_context_names_what_does_not_count(three: Three) -> None:
    three.honest.change_role(three.liar.device.id, "reader")
    for db in (three.other, three.liar):
        send(three.honest, db)
    late = next_entry(three.liar)
    apply_all(three.honest, [row(three, "late")])
    assert three.honest.heads()[late.writer].seq == late.seq
    three.honest.execute("INSERT INTO t VALUES ('mine', 1, 1)")
    three.honest.drain_all()
    assert three.honest._state.writer.context[late.writer] < late.seq
    settled(three)
