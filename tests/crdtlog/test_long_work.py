"""What takes long with merging cells is worked out while others can write (R4), and transactions stay whole (R3)."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from crdtlog.database import Database
from crdtlog.kinds import Edit, Edited, Failure, Merge, Merged, OneByOne
from crdtlog.texts import TextDocuments
from tests.crdtlog.devices import (
    World,
    assert_converged,
    closing_connection,
    devices,
    rows_of,
    send,
    sync_all,
    write_apart,
)

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, doc TEXT, body TEXT, n INTEGER)"
KINDS = {"doc": "json", "body": "text", "n": "counter"}
LONG = json.dumps({"items": [{"id": n, "name": f"item {n}", "tags": [str(n)]} for n in range(1_500)]})


def fleet(world: World) -> tuple[Database, Database]:
    one, other = devices(world, ["one", "other"], [TABLE])
    one.track("t", KINDS)
    one.execute("INSERT INTO t VALUES ('long', ?, 'a text', 0), ('short', '{}', 'another', 0)", (LONG,))
    sync_all([one, other])
    return one, other


def at_work(
    monkeypatch: pytest.MonkeyPatch, kind: type[Any], do: Callable[[Sequence[Edit | Merge]], None]
) -> None:
    """Have something done whenever documents of a kind are worked on that take long."""
    edit, merge = kind.edit, kind.merge

    def edited(self: Any, jobs: Sequence[Edit]) -> list[Edited | Failure]:
        if sum(map(self.milliseconds, jobs)) > 20:
            do(jobs)
        return edit(self, jobs)  # type: ignore[no-any-return]

    def merged(self: Any, jobs: Sequence[Merge]) -> list[Merged | Failure]:
        if sum(map(self.milliseconds, jobs)) > 20:
            do(jobs)
        return merge(self, jobs)  # type: ignore[no-any-return]

    monkeypatch.setattr(kind, "edit", edited)
    monkeypatch.setattr(kind, "merge", merged)


def test_others_write_while_a_long_cell_is_drained_and_applied(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = fleet(world)
    write_apart([one], "UPDATE t SET doc = json_set(doc, '$.items[3].name', 'by one') WHERE id = 'long'")
    other.execute("UPDATE t SET doc = json_set(doc, '$.items[9].name', 'by other') WHERE id = 'long'")
    written = []

    def write(jobs: Sequence[Edit | Merge]) -> None:
        with closing_connection(other.path) as connection:
            connection.execute("PRAGMA busy_timeout = 0")
            connection.execute("UPDATE t SET n = n + 1 WHERE id = 'short'")
            connection.commit()
        written.append(len(jobs))

    with monkeypatch.context() as patched:
        at_work(patched, OneByOne, write)
        other.drain_all()
        assert written
        drained = len(written)
        send(one, other)
        assert len(written) > drained
    sync_all([one, other])
    assert_converged([one, other], ["t"])
    (doc, n), (short,) = (
        rows_of(one, "SELECT doc, n FROM t WHERE id = 'long'")[0],
        rows_of(one, "SELECT n FROM t WHERE id = 'short'")[0],
    )
    names = [item["name"] for item in json.loads(doc)["items"]]
    assert (names[3], names[9], names[4]) == ("by one", "by other", "item 4")
    assert (n, short) == (0, len(written))


def test_a_cell_that_is_written_again_and_again_is_drained_all_the_same(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = fleet(world)
    one.execute("UPDATE t SET doc = json_set(doc, '$.count', 0) WHERE id = 'long'")
    counts: list[int] = []

    def write(jobs: Sequence[Edit | Merge]) -> None:
        if one._state.connection.in_transaction:
            return
        counts.append(len(counts) + 1)
        with closing_connection(one.path) as connection:
            connection.execute(
                "UPDATE t SET doc = json_set(doc, '$.count', ?) WHERE id = 'long'", (counts[-1],)
            )
            connection.commit()

    with monkeypatch.context() as patched:
        at_work(patched, OneByOne, write)
        one.drain()
    assert 1 < len(counts) < 100
    assert one.pending() == 0
    send(one, other)
    ((doc,),) = rows_of(other, "SELECT doc FROM t WHERE id = 'long'")
    assert json.loads(doc)["count"] == counts[-1]
    assert_converged([one, other], ["t"])


@pytest.mark.parametrize("captures", [1, 3], ids=["at once", "from a backlog"])
def test_many_texts_of_one_transaction_stay_one_entry_and_are_worked_on_without_the_lock(
    world: World, monkeypatch: pytest.MonkeyPatch, captures: int
) -> None:
    one, other = devices(world, ["one", "other"], [TABLE])
    one.track("t", KINDS)
    count = 2_000
    many = "WITH RECURSIVE u (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM u WHERE i < ?) "
    one.execute(many + "INSERT INTO t SELECT i, '{}', 'a text ' || i, 0 FROM u", (count,))
    sync_all([one, other])
    held = []

    def note(_: Sequence[Edit | Merge]) -> None:
        held.append(one._state.connection.in_transaction)

    before = one.position()
    with one.transaction():
        for _ in range(captures):
            one.execute("UPDATE t SET body = body || ' more'")
    with monkeypatch.context() as patched:
        at_work(patched, TextDocuments, note)
        one.drain_all()
    assert held and not any(held)
    assert one.position() == before + 1
    sync_all([one, other])
    assert_converged([one, other], ["t"])
    assert rows_of(other, "SELECT count(*) FROM t WHERE body LIKE '% more'") == [(count,)]
