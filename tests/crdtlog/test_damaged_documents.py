"""Stored documents whose bytes are well formed and say nonsense, as in a damaged file: told of as what they are.

Real documents are changed at random places. Whatever comes of it: nobody gets an error in Python's words, what is in
the file stays as it was, `check` finds it, and `check --fix` builds the documents anew.
"""

import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given, note
from hypothesis import strategies as st

from crdtlog.database import Database
from crdtlog.errors import DamagedDocument, Malformed, StaleDocument
from crdtlog.kinds import JSON, SET, Mergeable, Origin, jsonlive
from crdtlog.kinds.addset import AddSet
from crdtlog.kinds.jsonstate import decode
from crdtlog.kinds.jsontree import JsonTree
from crdtlog.values import pack, unpack_own
from tests.crdtlog.devices import (
    World,
    assert_converged,
    closing_connection,
    devices,
    exact,
    lacking,
    quick_directory,
    sync_all,
    table_rows,
    write_apart,
)

A, B, C = (bytes([letter]) * 24 for letter in b"ABC")


def real_json() -> bytes:
    """A document with all that there is: several marks, tombstones, left children, an anchor."""
    kind = JsonTree()
    base = kind.start('{"a": {"x": 1}, "l": [1, 2, 3, {"id": 1, "t": "u"}], "n": null}', Origin(1, A, 1))
    assert base is not None
    state = base
    for origin, text in (
        (Origin(2, B, 1), '{"a": {"x": 2}, "l": [0, 1, 3, {"id": 1, "t": "v"}], "n": [], "k": true}'),
        (Origin(3, C, 1), '{"a": [1], "l": [1, 2.5, 2, {"id": 1, "t": "u", "w": {}}]}'),
        (Origin(4, A, 2), '{"a": {"x": 1, "y": "z"}, "l": [], "n": null}'),
    ):
        patch = kind.diff(base, text, origin)
        assert patch
        state = kind.merge(state, patch, origin)
    return state


def real_set() -> bytes:
    kind = AddSet()
    base = kind.start('["a", 1, 2.5, null, {"k": []}]', Origin(1, A, 1))
    assert base is not None
    state = base
    for origin, text in ((Origin(2, B, 1), '["a", "b", 3]'), (Origin(3, C, 1), '["a", "b", 1, [2]]')):
        patch = kind.diff(base, text, origin)
        assert patch
        state = kind.merge(state, patch, origin)
    return state


REAL = {JSON: real_json(), SET: real_set()}
KINDS: dict[int, Mergeable] = {JSON: JsonTree(), SET: AddSet()}
NONSENSE = st.one_of(
    st.sampled_from(
        [None, True, False, 0, 1, -1, 2, 7, 1 << 20, -(1 << 20), 1 << 62, (1 << 64) - 1, -(1 << 63)]
    ),
    st.sampled_from(
        ["", "x", "[", "{", '"a"', "sNaN", "-NaN", "Infinity", b"", b"\0\1\2", A, 0.5, float("nan"), {}]
    ),
    st.sampled_from(
        [[], [[]], [0], [0, 1], [0, 0, [0, 0, 1], "k", [0, "1"]], [[], [], []], {0: 0, 1: "x"}, {"a": 1}]
    ),
)


def places(tree: Any) -> list[tuple[Any, Any]]:
    """Every list or map within, with each of its keys."""
    if isinstance(tree, list):
        return [(tree, at) for at in range(len(tree))] + [found for item in tree for found in places(item)]
    return []


@st.composite
def damages(draw: st.DrawFn) -> Callable[[bytes], bytes]:
    """Ways to damage the bytes of a document."""
    if draw(st.integers(0, 9)) == 0:
        at, bits = draw(st.integers(0, 1 << 20)), draw(st.integers(1, 255))
        return lambda data: bytes(
            byte ^ bits if index == at % len(data) else byte for index, byte in enumerate(data)
        )
    steps = draw(
        st.lists(st.tuples(st.integers(0, 1 << 20), st.integers(0, 5), NONSENSE), min_size=1, max_size=3)
    )

    def damage(data: bytes) -> bytes:
        tree = [unpack_own(data)]
        for at, how, nonsense in steps:
            if not (every := places(tree)):
                break
            within, key = every[at % len(every)]
            match how:
                case 0:
                    del within[key]
                case 1:
                    within.insert(key, copy.deepcopy(within[key]))
                case 2:
                    within.reverse()
                case _:
                    within[key] = copy.deepcopy(nonsense)
        return pack(tree[0]) if tree else b""

    return damage


def nested(depth: int) -> Callable[[bytes], bytes]:
    """Arrays within arrays, deeper than anything that anybody writes."""

    def damage(data: bytes) -> bytes:
        form, seen, *rest = unpack_own(data)
        node: Any = [0, "1"]
        for number in range(depth):
            node = [0, 1, [], [0, 1, number, 1, None, node]]
        return pack([form, seen, *rest[:-1], node])

    return damage


@pytest.mark.parametrize("kind", REAL)
def test_real_documents_are_what_they_are(kind: int) -> None:
    state = REAL[kind]
    shown = KINDS[kind].show(state)
    assert isinstance(shown, str)
    assert len(json.loads(shown)) > 3
    assert KINDS[kind].diff(state, shown, Origin(9, A, 9)) == b""


@example(nested(90))
@example(nested(200))
@example(nested(250))
@given(damages())
def test_a_damaged_document_of_json_is_used_or_told_of(damage: Callable[[bytes], bytes]) -> None:
    use(JSON, damage(REAL[JSON]))


@given(damages())
def test_a_damaged_set_is_used_or_told_of(damage: Callable[[bytes], bytes]) -> None:
    use(SET, damage(REAL[SET]))


def use(kind: int, state: bytes) -> None:
    mergeable, origin = KINDS[kind], Origin(9, B, 9)
    patches = [mergeable.diff(REAL[kind], text, origin) for text in ('{"a": 5, "l": [7, 3]}', '["c"]')]

    def edited(text: str) -> None:
        if patch := mergeable.diff(state, text, origin):
            mergeable.merge(state, patch, origin)

    def held_open() -> None:
        jsonlive.shown(decode(state).root).tree()

    uses: list[Callable[[], object]] = [
        lambda: mergeable.show(state),
        lambda: edited("[]"),
        lambda: edited("{}"),
    ]
    uses += [
        lambda: edited('{"a": {"x": 1}, "l": [3, {"id": 1}], "new": [[]]}'),
        lambda: edited('["a", "q"]'),
    ]
    uses += [lambda patch=patch: mergeable.merge(state, patch, origin) for patch in patches if patch]  # type: ignore[misc]
    for one in [*uses, *([held_open] if kind == JSON else [])]:
        try:
            one()
        except DamagedDocument as error:
            assert "damaged" in str(error) or "kept of" in str(error)
        except Malformed as error:
            note(str(error))


# --- in a file ----------------------------------------------------------------------------------------------------


def seen_otherwise(change: Callable[[bytes, int], tuple[bytes, int]]) -> Callable[[bytes], bytes]:
    """A document of JSON that tells of other patches in it than there were."""

    def damage(data: bytes) -> bytes:
        form, seen, *rest = unpack_own(data)
        pairs = zip(seen[::2], seen[1::2], strict=True)
        return pack([form, [part for writer, seq in pairs for part in change(writer, seq)], *rest])

    return damage


def removable_otherwise(data: bytes) -> bytes:
    """A set that tells of other entries that added its elements than there were."""
    writers, elements = unpack_own(data)
    return pack([[writer[::-1] for writer in writers], elements])


TABLE = "CREATE TABLE t (id TEXT PRIMARY KEY, meta TEXT, tags TEXT, plain)"
ROWS = """INSERT INTO t VALUES ('a', '{"x": 1, "l": [1, 2]}', '["red", 1]', 'p')"""
EDIT = (
    "UPDATE t SET meta = json_insert(json_set(json_remove(meta, '$.l[0]'), '$.{0}', 1), '$.l[#]', '{0}'), "
    "tags = json_insert(json_remove(tags, '$[0]'), '$[#]', '{0}') WHERE id = 'a'"
)
COLUMNS = {"meta": JSON, "tags": SET}


def fleet(world: World) -> list[Database]:
    """Two devices that have both edited one row, of which the second has written more that the first lacks."""
    dbs = devices(world, ["one", "other"], [TABLE], ROWS)
    dbs[0].track("t", {"meta": "json", "tags": "set"})
    sync_all(dbs)
    for name in ("early", "late"):
        for db in dbs:
            write_apart([db], EDIT.format(name + db.device.name))
        sync_all(dbs)
    write_apart([dbs[1]], EDIT.format("theirs"))
    return dbs


def damage_file(world: World, column: str, damage: Callable[[bytes], bytes]) -> tuple[Database, bool]:
    """The first device with a damaged document, and whether it differs from what it was."""
    world.open["one"].close()
    with closing_connection(world.path("one")) as connection:
        ((state,),) = connection.execute(
            "SELECT state FROM crdtlog__merge WHERE kind = ?", (COLUMNS[column],)
        ).fetchall()
        damaged = damage(state)
        connection.execute("UPDATE crdtlog__merge SET state = ? WHERE kind = ?", (damaged, COLUMNS[column]))
    return world.reopen("one"), damaged != state


def picture(db: Database) -> list[Any]:
    held = db.execute("SELECT tab, key, slot, state, versions FROM crdtlog__merge").fetchall()
    return [table_rows(db, "t"), db.verify().state, db.heads(), sorted([*map(exact, row)] for row in held)]


@example(["apply"], "meta", seen_otherwise(lambda writer, seq: (writer, seq + 100)))
@example(["drain", "apply"], "meta", seen_otherwise(lambda writer, seq: (writer[::-1], seq)))
@example(["drain", "apply"], "tags", removable_otherwise)
@example(["apply"], "meta", lambda state: state.replace(pack("1"), pack("x")))
@example(["apply"], "tags", lambda state: pack([[], [["sNaN", []], ['"a"', []], ["-NaN", []]]]))
@given(
    st.permutations(["apply", "drain", "history", "document", "json", "set", "check", "restore", "unmerged"]),
    st.sampled_from(sorted(COLUMNS)),
    damages(),
)
def test_whoever_meets_a_damaged_document_says_so_and_leaves_all_as_it_was(
    uses: list[str], column: str, damage: Callable[[bytes], bytes]
) -> None:
    with quick_directory() as directory, World(directory) as world:
        _, other = fleet(world)
        one, is_damaged = damage_file(world, column, damage)
        early = one.history("t", "a", "meta")[1].dot
        ways: dict[str, Callable[[], object]] = {
            "apply": lambda: one.apply(lacking(other, one)),
            "drain": one.drain_all,
            "history": lambda: one.history("t", "a"),
            "document": lambda: one.document("t", "a"),
            "json": lambda: one.json("t", "a", "meta"),
            "set": lambda: one.set("t", "a", "tags"),
            "check": one.check,
            "restore": lambda: one.restore_value("t", "a", "meta", early),
            "unmerged": one.unmerged,
        }
        for name in uses:
            if name == "drain":
                one.execute(EDIT.format("mine"))
            before = picture(one)
            try:
                ways[name]()
            except DamagedDocument as error:
                assert is_damaged
                assert "damaged" in str(error)
                assert "--fix" in error.hint
                assert picture(one) == before
                assert [item.damaged for item in one.check()] == [1]

        one.check(fix=True)

        assert [item.damaged for item in one.check()] == [0]
        sync_all([one, other])
        assert_converged([one, other], ["t"])
        assert "theirs" in str(one.history("t", "a", column))


@pytest.mark.parametrize("column", COLUMNS)
@given(damage=damages())
def test_check_finds_every_damage(column: str, damage: Callable[[bytes], bytes]) -> None:
    with quick_directory() as directory, World(directory) as world:
        fleet(world)
        one, is_damaged = damage_file(world, column, damage)
        before = table_rows(one, "t")
        assert [item.damaged for item in one.check()] == [int(is_damaged)]
        assert one.mend() == int(is_damaged)
        assert [item.damaged for item in one.check()] == [0]
        assert table_rows(one, "t") == before


def test_what_is_edited_in_a_damaged_document_is_not_sent(world: World) -> None:
    _, other = fleet(world)
    one, _ = damage_file(world, "meta", seen_otherwise(lambda writer, seq: (writer[::-1], seq)))
    shared = one.json("t", "a", "meta")
    before = one.heads()
    del shared["l"]
    with pytest.raises(DamagedDocument, match="damaged"):
        one.drain_all()
    assert one.heads() == before

    assert one.mend() == 1
    with pytest.raises(StaleDocument, match="cannot be merged"):  # it was said of what nobody else has
        one.close()
    one = world.reopen("one")
    sync_all([one, other])
    assert_converged([one, other], ["t"])
