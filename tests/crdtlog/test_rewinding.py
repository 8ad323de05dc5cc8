"""Taking entries out of the log again: rows and documents are what they were before, whatever happened meanwhile."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog.database import Database
from crdtlog.rewinding import Rewound, rewind
from tests.crdtlog.clients import Step, merging, play
from tests.crdtlog.devices import (
    World,
    apply_all,
    assert_converged,
    conflicts_of,
    devices,
    lacking,
    quick_directory,
    rows_of,
    sync_all,
    table_rows,
    write_apart,
)
from tests.crdtlog.test_fleet_merging import merge_documents

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, body TEXT, meta TEXT, tags TEXT, n INTEGER, plain)"
KINDS = {"body": "text", "meta": "json", "tags": "set", "n": "counter"}
ROW = "INSERT INTO t VALUES ('a', 'a text', '{}', '[]', 1, 'x')"
STATEMENTS = [
    sql.replace(":name", f"'{name}'")
    for name in ("x", "y")
    for sql in (
        "UPDATE t SET body = body || ' end', n = n + 1",
        "UPDATE t SET body = 'start ' || body, plain = 'p' || :name",
        "UPDATE t SET meta = json_set(meta, '$.' || :name, 1), plain = 7",
        "UPDATE t SET tags = json_insert(tags, '$[#]', :name)",
        "UPDATE t SET tags = '[]', n = n - 2",
        "UPDATE t SET body = NULL, meta = '[1, 2]'",
        "DELETE FROM t WHERE id = 'a'",
        "INSERT OR IGNORE INTO t VALUES ('a', 'anew ' || :name, '{}', '[]', 5, :name)",
        "INSERT OR REPLACE INTO t VALUES ('b', 'of ' || :name, '[0]', '[1]', 3, NULL)",
    )
]


def fleet(world: World, count: int = 3) -> list[Database]:
    dbs = devices(world, ["ant", "bee", "cat"][:count], [TABLE], ROW)
    dbs[0].track("t", KINDS)
    sync_all(dbs)
    return dbs


def taken_back(db: Database, position: int) -> list[Rewound]:
    with db._state.transaction():
        return rewind(db._state, position)


def picture(db: Database) -> list[Any]:
    """All that the file says, but for local numbers."""
    return [
        db.verify().state,
        sorted(table_rows(db, "t")),
        sorted(conflicts_of(db), key=repr),
        merge_documents(db),
        {writer: head for writer, head in db.heads().items()},
        {w.id: dict(w.context) for w in db._state.log.writers.values() if w.seq},
    ]


def held(db: Database) -> None:
    """The file is in order."""
    assert db.verify().problems == []
    assert [found for found in db.check() if found.total or found.damaged] == []
    assert db.pending() == 0


@given(merging(STATEMENTS, {"body": ["register", "text"], "meta": ["json", "register"]}), st.data())
def test_what_is_taken_back_was_never_there_and_comes_again_as_it_was(
    history: list[Step], data: st.DataObject
) -> None:
    with quick_directory() as directory, World(directory) as world:
        dbs = fleet(world)
        play(dbs, history)
        target, source = dbs[0], dbs[1]
        target.drain_all()
        source.drain_all()
        todo = lacking(source, target)
        pictures = [(target.position(), picture(target))]
        for signed in todo:
            apply_all(target, [signed])
            pictures.append((target.position(), picture(target)))
        end = pictures[-1]
        position, before = data.draw(st.sampled_from(pictures[:-1] or pictures))
        rewound = taken_back(target, position + 1)
        assert picture(target)[1:] == before[1:]
        assert picture(target) == before
        held(target)
        assert [item.signed for item in rewound] == todo[len(todo) - len(rewound) :]
        apply_all(target, [item.signed for item in rewound])
        assert picture(target) == end[1]
        sync_all(dbs)
        assert_converged(dbs, ["t"])


def test_rows_that_were_not_touched_stay_as_they_are(world: World) -> None:
    one, other = fleet(world, 2)
    one.execute("INSERT INTO t (id, body) VALUES ('mine', 'untouched')")
    sync_all([one, other])
    before = one.position()
    write_apart([other], "UPDATE t SET plain = 5, body = 'changed' WHERE id = 'a'")
    write_apart([other], "INSERT INTO t (id) VALUES ('theirs')")
    apply_all(one, lacking(other, one))
    traced: list[str] = []
    one._state.connection.set_trace_callback(traced.append)
    taken_back(one, before + 1)
    one._state.connection.set_trace_callback(None)
    assert rows_of(one, "SELECT id, body, plain FROM t ORDER BY id") == [
        ("a", "a text", "x"),
        ("mine", "untouched", None),
    ]
    assert not [sql for sql in traced if "mine" in sql]
    held(one)


def test_own_entries_are_taken_back_too(world: World) -> None:
    one, other = fleet(world, 2)
    before, position = picture(one), one.position()
    write_apart([one], STATEMENTS[0])
    write_apart([one], STATEMENTS[1])
    taken = taken_back(one, position + 1)
    assert picture(one) == before
    assert [item.seq for item in taken] == [one.heads()[one.writer].seq + n for n in (1, 2)]
    write_apart([one], STATEMENTS[2])
    sync_all([one, other])
    assert_converged([one, other], ["t"])


@pytest.mark.parametrize("what", ["everything", "nothing"])
def test_the_ends_of_a_log(world: World, what: str) -> None:
    one, other = fleet(world, 2)
    if what == "nothing":
        before = picture(other)
        assert taken_back(other, other.position() + 1) == []
        assert picture(other) == before
    else:
        rewound = taken_back(other, 1)
        assert rows_of(other) == []
        assert other.heads() == {}
        apply_all(other, [item.signed for item in rewound])
        sync_all([one, other])
        assert_converged([one, other], ["t"])
