"""Two signed entries under one number: all devices settle it alike, whatever they learn first, and nobody loses a
change (R11)."""

import contextlib
import json
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from crdtlog.database import Database
from crdtlog.entry import Entry, Signed, compress, sign, split
from crdtlog.errors import EntryRefused, Malformed
from crdtlog.proof import MAX_FORKS
from crdtlog.values import pack, unpack
from tests.crdtlog.devices import (
    World,
    apply_all,
    assert_converged,
    closing_connection,
    conflicts_of,
    devices,
    lacking,
    quick_directory,
    rows_of,
)
from tests.crdtlog.forked import copied, exchange, exchange_all

SCHEMA = ["CREATE TABLE t (id TEXT PRIMARY KEY, v TEXT, n INTEGER, s TEXT, j TEXT, body TEXT)"]


def put(db: Database, key: str, value: str) -> None:
    db.execute(
        "INSERT INTO t (id, v) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET v = excluded.v", (key, value)
    )
    db.drain_all()


def test_both_copies_rows_are_everywhere() -> None:
    with quick_directory() as directory, World(directory) as world:
        one, two, three = devices(world, ["one", "two", "three"], SCHEMA)
        put(one, "a", "before")
        exchange_all([one, two, three])
        twin = copied(world, "one", "twin")
        old = one.writer
        put(one, "x", "by one")
        put(twin, "y", "by the copy")
        exchange(one, two)
        exchange(twin, three)
        exchange(two, three)
        assert len(two.forks()) == 1
        assert sorted(row[0] for row in rows_of(two)) == ["a", "x", "y"]
        exchange_all([one, two, three, twin])
        assert_converged([one, two, three, twin], ["t"])
        assert {db.writer for db in (one, twin)}.isdisjoint({old}) and one.writer != twin.writer
        put(one, "z", "after")
        put(twin, "z2", "after")
        exchange_all([one, two, three, twin])
        assert_converged([one, two, three, twin], ["t"])
        assert len(rows_of(two)) == 5 and len(two.forks()) == 1


KINDS = {"n": "counter", "s": "set", "j": "json"}
WRITES = ("v", "n", "s", "j", "row")


class History:
    """What people wrote in a random history, and what must be left of it."""

    def __init__(self) -> None:
        self.steps = self.count = 0
        self.rows: set[str] = set()
        self.elements: set[str] = set()
        self.values: set[str] = set()
        self.covered: set[str] = set()

    def write(self, db: Database, what: str) -> None:
        """One more change of that kind, with a value that nobody has written."""
        self.count += 1
        mark = f"w{self.count}"
        match what:
            case "v":
                self.covered |= visible(db)
                self.values.add(mark)
                db.execute("UPDATE t SET v = ? WHERE id = 'a'", (mark,))
            case "n":
                self.steps += 1
                db.execute("UPDATE t SET n = n + 1 WHERE id = 'a'")
            case "s" | "j":
                self.elements.add(what + mark)
                ((text,),) = db.execute(f"SELECT {what} FROM t WHERE id = 'a'").fetchall()
                held = json.loads(text)
                if what == "s":
                    held.append(mark)
                elif self.count % 2:
                    held["of"].insert(len(held["of"]) // 2, mark)
                else:
                    held[mark] = self.count
                db.execute(f"UPDATE t SET {what} = ? WHERE id = 'a'", (json.dumps(held),))
            case "body":
                self.elements.add(f"b<{mark}>")
                ((text,),) = db.execute("SELECT body FROM t WHERE id = 'a'").fetchall()
                at = text.find("<", len(text) // 2) if self.count % 2 else text.find("<")
                at = len(text) if at < 0 else at
                text = text[:at] + f"<{mark}>" + text[at:]
                db.execute("UPDATE t SET body = ? WHERE id = 'a'", (text.replace("dust", "", 1),))
            case "row":
                self.rows.add(mark)
                db.execute("INSERT INTO t (id, v) VALUES (?, 'row')", (mark,))
        db.drain_all()

    def check(self, db: Database) -> None:
        """Every change is there."""
        assert self.rows <= {row[0] for row in rows_of(db)}
        n, s, j, body = db.execute("SELECT n, s, j, body FROM t WHERE id = 'a'").fetchone()
        held = json.loads(j)
        assert n == self.steps
        assert {"s" + each for each in json.loads(s)} == {e for e in self.elements if e[0] == "s"}
        assert {"j" + each for each in [*held, *held["of"]]} - {"jof"} == {
            e for e in self.elements if e[0] == "j"
        }
        assert all(e[1:] in body for e in self.elements if e[0] == "b")
        assert self.values - self.covered <= visible(db)


def visible(db: Database) -> set[str]:
    """All that a person can see of one cell."""
    shown = db.execute("SELECT v FROM t WHERE id = 'a'").fetchone()[0]
    return {shown, *(value for _, column, value, _ in conflicts_of(db) if column == "v")} - {None}


@given(st.data())
def test_all_devices_end_alike_with_every_change_of_every_copy(data: st.DataObject) -> None:
    some_history(data, KINDS, WRITES)


@settings(max_examples=max(1, settings.default.max_examples // 5))
@given(st.data())
def test_all_devices_end_alike_with_every_copys_edits_of_a_text(data: st.DataObject) -> None:
    some_history(data, {"body": "text"}, ("body", "body", "v"))


def some_history(data: st.DataObject, kinds: dict[str, str], writes: tuple[str, ...]) -> None:
    """Devices write and meet, and are copied, in any order; then all meet."""
    with quick_directory() as directory, World(directory) as world:
        dbs = devices(world, ["one", "two", "three"], SCHEMA)
        for column, kind in kinds.items():
            dbs[0].track("t", {column: kind})
        dbs[0].execute(
            """INSERT INTO t (id, n, s, j, body) VALUES ('a', 0, '[]', '{"of": []}', 'dust dust dust dust')"""
        )
        exchange_all(dbs)
        history = History()
        names = ["one", "two", "three"]
        numbers = st.integers(0, 100)
        for step in range(data.draw(st.integers(3, 14))):
            at = data.draw(numbers) % len(dbs)
            match data.draw(st.sampled_from(["write", "write", "write", "copy", "copy", "meet", "meet"])):
                case "write":
                    history.write(dbs[at], data.draw(st.sampled_from(writes)))
                case "copy" if len(dbs) < 6:
                    names.append(f"copy{step}")
                    dbs.append(copied(world, names[at], names[-1]))
                case "meet":
                    other = data.draw(numbers) % len(dbs)
                    if other != at:
                        exchange(dbs[at], dbs[other])
        exchange_all(data.draw(st.permutations(dbs)))
        assert_converged(dbs, ["t"])
        for db in dbs:
            history.check(db)


# --- one by one ---------------------------------------------------------------------------------------------------


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[tuple[World, list[Database]]]:
    with World(tmp_path) as world:
        dbs = devices(world, ["one", "two", "three"], SCHEMA)
        put(dbs[0], "a", "before")
        exchange_all(dbs)
        yield world, dbs


Fleet = tuple[World, list[Database]]


def beside(db: Database, payload: bytes, *, at: int | None = None, kind: str = "event") -> bytes:
    """One more entry that the device signs under a number of its log, the next one if not given."""
    state, own = db._state, db._state.writer
    seq = own.seq + 1 if at is None else at
    previous = state.log.hash_of(own.number, seq - 1) or b""
    item = Entry(
        state.database,
        own.id,
        seq,
        previous,
        (),
        1 << 16,
        1 << 16,
        kind,
        state.epoch,
        len(payload),
        compress(payload),
    )
    return sign(item, state.device).bytes()


@pytest.mark.parametrize("order", list(permutations(range(3))))
def test_three_entries_under_one_number_have_the_same_names_in_any_order(
    fleet: Fleet, order: tuple[int, ...]
) -> None:
    _, (one, two, three) = fleet
    entries = [beside(one, payload) for payload in (b"x", b"y", b"z")]
    apply_all(three, entries)
    apply_all(two, [entries[place] for place in order])
    (fork,) = two.forks()
    assert len(fork.hashes) == 3 and two.forks() == three.forks()
    assert two.heads() == three.heads() and len(two.heads()) == 3
    hashes = sorted(split(each).hash for each in entries)
    assert two.heads()[one.writer].hash == fork.kept == hashes[0]
    assert two.verify().ok


def test_a_branch_that_forks_again(fleet: Fleet) -> None:
    world, (one, two, three) = fleet
    copy = copied(world, "one", "copy")
    put(one, "x", "by one")
    put(copy, "y", "by the copy")
    nested = copied(world, "copy", "nested")
    put(copy, "y2", "by the copy")
    put(nested, "y3", "by the copy's copy")
    for mine, theirs in ((one, two), (copy, three), (nested, three), (two, three)):
        exchange(mine, theirs)
    assert len(two.forks()) == 2
    assert sorted(row[0] for row in rows_of(two)) == ["a", "x", "y", "y2", "y3"]
    exchange_all([one, two, three, copy, nested])
    assert_converged([one, two, three, copy, nested], ["t"])


def test_what_others_built_on_either_branch_stays_what_it_was(fleet: Fleet) -> None:
    """Whoever saw one copy's value replaces that one, and not the other copy's, whichever entry keeps the name."""
    world, (one, two, three) = fleet
    copy = copied(world, "one", "copy")
    put(one, "a", "by one")
    put(copy, "a", "by the copy")
    exchange(one, two)
    exchange(copy, three)
    put(two, "a", "two saw one")
    put(three, "b", "three saw the copy")
    exchange(two, three)
    for db in (two, three):
        assert visible(db) == {"two saw one", "by the copy"}
    exchange_all([one, two, three, copy])
    assert_converged([one, two, three, copy], ["t"])


def test_a_removed_devices_fork_counts_as_far_as_it_was_known(fleet: Fleet) -> None:
    world, (one, two, three) = fleet
    copy = copied(world, "three", "copy")
    put(three, "x", "known before")
    put(copy, "y", "not known before")
    exchange(three, two)
    one.remove_member(three.device.id)
    exchange(one, two)
    exchange(copy, two)
    exchange(one, two)
    for db in (one, two):
        assert db.verify().ok
    assert rows_of(one) == rows_of(two)
    assert "y" not in [row[0] for row in rows_of(one)]
    assert one.verify().state == two.verify().state


def test_a_device_that_forks_again_and_again_is_refused(fleet: Fleet) -> None:
    _, (one, two, _three) = fleet
    for number in range(MAX_FORKS + 1):
        apply_all(two, [beside(one, b"n%d" % number)])
    with pytest.raises(EntryRefused, match="again and again") as caught:
        two.apply([beside(one, b"one more")])
    assert "remove" in caught.value.hint
    assert sum(len(fork.hashes) - 1 for fork in two.forks()) == MAX_FORKS
    put(two, "z", "goes on")
    assert two.verify().ok


def test_the_first_entry_of_a_losing_branch_brings_its_proof(fleet: Fleet) -> None:
    _, (one, two, three) = fleet
    first, second = sorted((beside(one, b"x"), beside(one, b"y")), key=lambda each: split(each).hash)
    apply_all(two, [second, first])
    (blob,) = [each for each in lacking(two, three) if len(unpack(each)) == 4]
    apply_all(three, [blob])
    assert three.forks() == two.forks()
    assert one.writer not in {w for w, head in three.heads().items() if head.hash == split(second).hash}
    apply_all(three, lacking(two, three))
    assert three.heads() == two.heads()


def test_what_cannot_be_read_on_a_losing_branch_harms_nothing_else(fleet: Fleet) -> None:
    """A liar's branch with an entry that is held and can never be merged, and honest entries behind the fork."""
    _, (one, two, three) = fleet
    two.change_role(three.device.id, "writer")
    exchange(one, two)
    bad = beside(one, b"no data", kind="data")
    with contextlib.suppress(Malformed):
        apply_all(two, [bad])
    put(two, "z", "goes on")
    apply_all(two, [beside(one, b"n%d" % number) for number in range(8)])
    assert two.verify().ok and [row[0] for row in rows_of(two)] == ["a", "z"]


@pytest.mark.parametrize("what", ["another number", "itself", "the loser"])
def test_a_proof_that_proves_nothing_is_refused(fleet: Fleet, what: str) -> None:
    _, (one, two, _three) = fleet
    put(one, "x", "later")
    low, high = sorted((beside(one, b"x"), beside(one, b"y")), key=lambda each: split(each).hash)
    other = {"another number": beside(one, b"z", at=2), "itself": high, "the loser": low}[what]
    mine = low if what == "the loser" else high
    other = high if what == "the loser" else other
    with pytest.raises(EntryRefused, match="beside"):
        two.apply([pack([*unpack(mine), *unpack(other)])])
    assert two.forks() == []


def test_a_fork_that_another_device_signed_proves_nothing(fleet: Fleet) -> None:
    _, (one, two, three) = fleet
    put(one, "x", "later")
    exchange(one, two)
    forged = Signed(split(beside(one, b"y", at=one.heads()[one.writer].seq)).body, bytes(64), b"")
    with pytest.raises(EntryRefused, match="signature"):
        two.learn_fork(pack([forged.body, forged.signature]))
    assert two.forks() == [] and three.forks() == []


def test_verify_finds_a_proof_and_an_original_that_were_changed(fleet: Fleet) -> None:
    world, (one, two, _three) = fleet
    copy = copied(world, "one", "copy")
    put(one, "x", "by one")
    put(copy, "y", "by the copy")
    exchange(one, two)
    exchange(copy, two)
    assert two.verify().ok
    for table in ("crdtlog__fork", "crdtlog__original"):
        with closing_connection(two.path) as connection:
            connection.execute("BEGIN")
            signed = connection.execute(f"SELECT signed FROM {table}").fetchone()[0]
            changed = signed[:-1] + bytes([signed[-1] ^ 1])
            connection.execute(f"UPDATE {table} SET signed = ? WHERE signed = ?", (changed, signed))
            connection.execute("COMMIT")
        assert not two.verify().ok
        with closing_connection(two.path) as connection:
            connection.execute(f"UPDATE {table} SET signed = ? WHERE signed = ?", (signed, changed))
        assert two.verify().ok
