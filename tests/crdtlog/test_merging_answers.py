"""What shows, for each kind, where rows come and go while others change them: the answers that the guide gives.

One device (`first`) does the one thing, another (`second`) the other; each is asked with either of them the later.
Base, edits and new values are such that for every kind one sees which of them stand in what shows.
"""

import json
import time
from dataclasses import dataclass
from typing import Any

import pytest

from crdtlog.database import Database
from tests.crdtlog.devices import World, assert_converged, devices, rows_of, sync_all

TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, body TEXT, meta TEXT, likes INTEGER, tags TEXT)"
KINDS = {"body": "text", "meta": "json", "likes": "counter", "tags": "set"}
BASE = ("To Rome", '{"base":1}', 10, '["base"]')
#: What the first device may write anew, and the second.
NEW = [("Shopping", '{"new":1}', 100, '["new"]'), ("Letters", '{"neu":1}', 300, '["neu"]')]
ODD = (b"\0", "not json", "many", "{}")
#: What the first device adds to what is there, and the second.
EDITS = [
    "body = body || ' by train', meta = json_set(meta, '$.b', 2), likes = likes + 5, "
    "tags = json_insert(tags, '$[#]', 'b')",
    "body = 'In May: ' || body, meta = json_set(meta, '$.c', 3), likes = likes + 1, "
    "tags = json_insert(tags, '$[#]', 'c')",
]


@dataclass(frozen=True)
class Cells:
    """What the four cells hold, in terms that do not depend on order."""

    body: Any
    meta: Any
    likes: Any
    tags: Any


def cells(values: tuple[Any, ...]) -> Cells:
    body, meta, likes, tags = values
    return Cells(body, parsed(meta), likes, parsed(tags))


def parsed(text: Any) -> Any:
    try:
        value = json.loads(text)
    except (TypeError, ValueError):
        return text
    return sorted(value) if isinstance(value, list) else value


def edited(values: tuple[Any, ...], *edits: int, steps: int | None = None) -> Cells:
    """Cells with some devices' edits; `steps` where more or fewer steps count on the number."""
    body, meta, likes, tags = values
    names = [("b", 2), ("c", 3)]
    if 0 in edits:
        body += " by train"
    if 1 in edits:
        body = f"In May: {body}"
    return Cells(
        body,
        json.loads(meta) | dict(names[edit] for edit in edits),
        likes + (sum((5, 1)[edit] for edit in edits) if steps is None else steps),
        sorted({*json.loads(tags), *(names[edit][0] for edit in edits)}),
    )


Statement = tuple[str, tuple[Any, ...]]


def update(values: tuple[Any, ...]) -> Statement:
    return "UPDATE t SET body = ?, meta = ?, likes = ?, tags = ?", values


def insert(values: tuple[Any, ...], key: str = "a") -> Statement:
    return f"INSERT INTO t VALUES ('{key}', ?, ?, ?, ?)", values


def replace(values: tuple[Any, ...]) -> Statement:
    return "INSERT OR REPLACE INTO t VALUES ('a', ?, ?, ?, ?)", values


def edit(device: int) -> Statement:
    return f"UPDATE t SET {EDITS[device]}", ()


DELETE: Statement = "DELETE FROM t", ()
NULLS = (None, None, None, None)


@dataclass(frozen=True)
class Case:
    """What each device does, a list of transactions; and what each one's change has become, whichever shows.

    One of the two shows and the other is listed as a conflict; or, with one `outcome` only, both stand in it.
    """

    name: str
    first: list[list[Statement]]
    second: list[list[Statement]]
    outcomes: list[Cells]
    empty: bool = False


CASES = [
    Case("NULL", [[update(NULLS)]], [[edit(1)]], [cells(NULLS), edited(BASE, 1)]),
    Case("without the form", [[update(ODD)]], [[edit(1)]], [cells(ODD), edited(BASE, 1)]),
    Case(
        "NULL, then anew: the steps count on both",
        [[update(NULLS)], [update(NEW[0])]],
        [[edit(1)]],
        [edited(NEW[0], steps=1), edited(BASE, 1)],
    ),
    Case(
        "deleted and put back: the steps count on both",
        [[DELETE], [insert(NEW[0])]],
        [[edit(1)]],
        [edited(NEW[0], steps=1), edited(BASE, 1)],
    ),
    Case(
        "deleted and put back in one transaction",
        [[DELETE, insert(NEW[0])]],
        [[edit(1)]],
        [edited(NEW[0], 1)],
    ),
    Case("replaced", [[replace(NEW[0])]], [[edit(1)]], [edited(NEW[0], 1)]),
    Case("put back by both", *([[DELETE], [insert(new)]] for new in NEW), [cells(new) for new in NEW]),
    Case(
        "inserted by both, and stepped on: the steps count on both",
        *([[insert(new)], [edit(device)]] for device, new in enumerate(NEW)),
        [edited(NEW[0], 0, steps=6), edited(NEW[1], 1, steps=6)],
        empty=True,
    ),
]


def played(world: World, case: Case, later: int) -> list[Database]:
    """Two devices that did their parts apart and have heard of each other."""
    dbs = devices(world, ["first", "second"], [TABLE])
    dbs[0].track("t", KINDS)
    if not case.empty:
        dbs[0].execute(*insert(BASE))
    sync_all(dbs)
    for device in (1 - later, later):
        for transaction in (case.first, case.second)[device]:
            write(dbs[device], transaction)
    sync_all(dbs)
    return dbs


def write(db: Database, transaction: list[Statement]) -> None:
    """One transaction of a program, drained; whatever comes then is later."""
    db.execute("BEGIN")
    for sql, parameters in transaction:
        db.execute(sql, parameters)
    db.execute("COMMIT")
    db.drain_all()
    time.sleep(0.003)


def shown(db: Database) -> Cells:
    ((*values,),) = rows_of(db, "SELECT body, meta, likes, tags FROM t")
    return cells(tuple(values))


def listed(db: Database) -> dict[str, Any]:
    return {item["column"]: parsed(item["value"]) for item in db.conflicts()}


def assert_edits_merge(dbs: list[Database]) -> None:
    """Whatever shows, what both add from now on stands on both."""
    before = rows_of(dbs[0], "SELECT body, meta, likes, tags FROM t")[0]
    if cells(before) in (cells(NULLS), cells(ODD)):
        for db in dbs[:1]:
            write(db, [update(BASE)])
        sync_all(dbs)
        before = BASE
    for device, db in enumerate(dbs):
        write(db, [edit(device)])
    sync_all(dbs)
    assert shown(dbs[1]) == edited(before, 0, 1)
    assert dbs[1].conflicts() == []
    assert_converged(dbs, ["t"])


@pytest.mark.parametrize("later", [0, 1], ids=["the first later", "the second later"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_shows_and_what_is_listed(world: World, case: Case, later: int) -> None:
    dbs = played(world, case, later)
    showing = case.outcomes[later if len(case.outcomes) == 2 else 0]
    conflicts = vars(case.outcomes[1 - later]) if len(case.outcomes) == 2 else {}

    assert shown(dbs[0]) == showing
    assert listed(dbs[0]) == conflicts
    assert_converged(dbs, ["t"])
    assert_edits_merge(dbs)


def test_a_row_deleted_later_than_it_was_changed_is_listed_whole_and_comes_back_with_all_changes(
    world: World,
) -> None:
    dbs = played(world, Case("deleted", [[DELETE]], [[edit(1)]], []), later=0)
    assert rows_of(dbs[1], "SELECT * FROM t") == []
    (lost,) = dbs[0].conflicts()
    values = json.loads(lost["value"])
    assert cells(tuple(values[name] for name in KINDS)) == edited(BASE, 1)

    dbs[0].restore_value("t", "a", None, lost["dot"])
    sync_all(dbs)
    assert shown(dbs[1]) == edited(BASE, 1)
    assert_edits_merge(dbs)


def test_a_row_changed_later_than_it_was_deleted_stays_with_all_changes(world: World) -> None:
    dbs = played(world, Case("deleted", [[DELETE]], [[edit(1)]], []), later=1)
    assert shown(dbs[0]) == edited(BASE, 1)
    assert dbs[0].conflicts() == []
    assert_edits_merge(dbs)


def test_of_one_key_inserted_twice_each_cell_shows_its_own_latest_change(world: World) -> None:
    """An insert and an insert, and then a change of some cells only on the device whose insert was the earlier."""
    dbs = devices(world, ["first", "second"], [TABLE])
    dbs[0].track("t", KINDS)
    sync_all(dbs)
    for db, new in zip(dbs, NEW, strict=True):
        write(db, [insert(new)])
    write(dbs[0], [("UPDATE t SET body = body || ' by train', likes = likes + 5", ())])
    sync_all(dbs)

    later = cells(NEW[1])
    assert shown(dbs[1]) == Cells("Shopping by train", later.meta, 105, later.tags)
    assert listed(dbs[1]) == {"body": "Letters", "meta": {"new": 1}, "likes": 305, "tags": ["new"]}
    assert_edits_merge(dbs)


def test_of_a_row_replaced_by_both_what_each_wrote_is_merged_as_an_update(world: World) -> None:
    dbs = played(world, Case("replaced", *([[replace(new)]] for new in NEW), []), later=1)
    assert shown(dbs[0]).meta == {"new": 1, "neu": 1}
    assert shown(dbs[0]).tags == ["neu", "new"]
    assert shown(dbs[0]).likes == 10 + 90 + 290
    assert shown(dbs[0]).body in ("ShoppingLetters", "LettersShopping")
    assert dbs[0].conflicts() == []
    assert_edits_merge(dbs)
