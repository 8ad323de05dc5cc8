"""Whatever bytes a member sends as a patch: they are refused, or they are a patch like any other, at bounded cost.

Like any other: it commutes with patches made apart from it, and whoever sees what it did can write anything over it.
"""

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog.errors import Malformed
from crdtlog.kinds import Origin, jsondiff, jsontree
from crdtlog.kinds.jsonstate import decode, encode
from crdtlog.kinds.jsontext import Json, minified
from crdtlog.values import pack, unpack
from tests.crdtlog.jsondocs import KEYS, KIND, TREES, A, B, C, change, parsed, started

EVIL = Origin(50, C, 1)


def lived(*texts: Json) -> bytes:
    """A document that A began and A and B changed in turn, and which another change was made apart from."""
    state = started(minified(texts[0]))
    for at, text in enumerate(texts[1:]):
        origin = Origin(at, (A, B)[at % 2], at + 2)
        state = KIND.merge(state, change(state, minified(text), origin), origin)
    return state


def refused(state: bytes, patch: object, origin: Origin = EVIL) -> bool:
    """Whether a document refuses a patch."""
    try:
        KIND.merge(state, pack(patch), origin)
    except Malformed:
        return True
    return False


def check_as_any_other(state: bytes, patch: bytes, other: Json, after: Json) -> None:
    """Require that a patch is refused, or does what a patch may do."""
    try:
        first = KIND.merge(state, patch, EVIL)
    except Malformed:
        return
    assert encode(decode(first)) == first
    parsed(KIND.show(first))
    apart = Origin(40, B, 99)
    written = change(state, minified(other), apart)
    both = KIND.merge(first, written, apart)
    assert KIND.merge(KIND.merge(state, written, apart), patch, EVIL) == both
    assert KIND.needs(patch, EVIL).keys() <= {A, B}
    change(both, minified(after), Origin(60, A, 99))


@given(st.lists(TREES, min_size=1, max_size=4), st.binary(max_size=40))
def test_random_bytes_are_refused(texts: list[Json], patch: bytes) -> None:
    state = lived(*texts)

    assert KIND.merge(state, b"", EVIL) == state
    if patch:
        with pytest.raises(Malformed):
            KIND.merge(state, patch, EVIL)


@given(st.lists(TREES, min_size=1, max_size=3), TREES, TREES, TREES, st.data())
def test_patches_with_changed_bytes(
    texts: list[Json], told: Json, other: Json, after: Json, choose: st.DataObject
) -> None:
    state = lived(*texts)
    patch = bytearray(change(state, minified(told), EVIL))
    if patch:
        for at in choose.draw(st.lists(st.integers(0, len(patch) - 1), min_size=1, max_size=3)):
            patch[at] = choose.draw(st.integers(0, 255))
        check_as_any_other(state, bytes(patch), other, after)


PARTS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-1, 4),
    st.sampled_from(
        [
            1 << 32,
            (1 << 64) - 1,
            1.0,
            "",
            "a",
            "1",
            '"x"',
            "{",
            "[",
            "\ud800",
            b"",
            A,
            B,
            C,
            [],
            [[]],
            [0, 1, 0],
        ]
    ),
)


@st.composite
def broken(draw: st.DrawFn, part: Any) -> Any:
    """Something like a part of a patch, with one thing within it replaced, left out or repeated."""
    if not isinstance(part, list) or not part or draw(st.integers(0, 6)) == 0:
        return draw(PARTS)
    at = draw(st.integers(0, len(part) - 1))
    how = draw(st.sampled_from(["within", "within", "within", "without", "twice"]))
    if how == "within":
        return [*part[:at], draw(broken(part[at])), *part[at + 1 :]]
    return [*part[:at], *part[at + 1 :]] if how == "without" else [*part[:at], part[at], *part[at:]]


@given(st.lists(TREES, min_size=1, max_size=3), TREES, TREES, TREES, st.data())
def test_patches_with_changed_parts(
    texts: list[Json], told: Json, other: Json, after: Json, choose: st.DataObject
) -> None:
    state = lived(*texts)
    patch = change(state, minified(told), EVIL)
    if patch:
        parts = unpack(patch)
        for _ in range(choose.draw(st.integers(1, 2))):
            parts = choose.draw(broken(parts))
        try:
            packed = pack(parts)
        except (UnicodeEncodeError, TypeError):
            return
        check_as_any_other(state, packed, other, after)


def writes(edit: Any) -> bool:
    return edit[1] != 0 if isinstance(edit, list) else edit is not None


def made_edits(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """Edits that pass for a patch, whether or not they fit what is there."""
    ids = st.tuples(st.integers(0, 1), st.integers(1, 3), st.integers(0, 5))
    orders = st.none() | st.lists(st.integers(0, 3), min_size=3, max_size=3)
    some = inner.map(lambda edit: edit if writes(edit) else "2")

    def members(mode: int, level: int, changes: dict[str, tuple[object, Any]]) -> list[Any]:
        mode = max(mode, any(writes(edit) for _, edit in changes.values()))
        return [0, mode, level, *(part for key, change in changes.items() for part in (key, *change))]

    def elements(mode: int, changes: dict[tuple[int, int, int], list[Any]]) -> list[Any]:
        """Each element is named once but as a neighbour: what is to be deleted, edited, or inserted beside."""
        made: list[Any] = []
        for name, (how, right, *edits) in changes.items():
            if how == "insert":
                made.append([0, list(name), right, *map(lambda edit: edit if writes(edit) else "2", edits)])
            elif how == "first":
                made.append([0, None, True, *map(lambda edit: edit if writes(edit) else "2", edits)])
            else:
                made.append([2, list(name), 1] if how == "delete" else [1, list(name), edits[0]])
        mode = max(mode, any(step[0] == 0 or (step[0] == 1 and writes(step[2])) for step in made))
        return [1, mode, *made]

    hows = st.sampled_from(["insert", "first", "delete", "edit", "edit"])
    step = st.tuples(hows, st.booleans(), inner, some).map(list)
    return st.one_of(
        st.builds(
            members,
            st.integers(0, 2),
            st.integers(0, 3),
            st.dictionaries(KEYS, st.tuples(orders, inner), max_size=3),
        ),
        st.builds(elements, st.integers(0, 2), st.dictionaries(ids, step, max_size=3)),
    )


EDITS = st.recursive(st.sampled_from([None, "1", '"x"']), made_edits, max_leaves=8)
BASES = ["[1,2,[3],4]", '{"a":[1,2,{"b":3}],"b":{"a":1,"c":[1]}}', '[{"a":1},{"a":[1,2]},3]']


@given(
    st.sampled_from(BASES),
    st.lists(EDITS, min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=5, max_size=5),
    TREES,
    TREES,
)
def test_patches_of_right_form_that_say_anything(
    base: str, edits: list[Any], seen: list[tuple[int, int]], other: Json, after: Json
) -> None:
    """Also such that end some facts and not others that depend on them, or name elements that never were."""
    state = started(base)
    origins = [Origin(9, B, 1), Origin(1, B, 2), Origin(5, A, 2), Origin(3, B, 3), Origin(4, A, 3)]
    for edit, (mine, theirs), origin in zip(edits[:-1], seen, origins, strict=False):
        with suppress(Malformed):
            state = KIND.merge(state, pack([1, [A, mine, B, theirs], edit]), origin)
    known = decode(state).seen
    names = [part for writer in known for part in (writer, known[writer])]
    patch = pack([1, names, edits[-1]])
    check_as_any_other(state, patch, other, after)
    apart, again = Origin(2, b"D" * 24, 1), pack([1, names, edits[0]])
    with suppress(Malformed):
        assert KIND.merge(KIND.merge(state, patch, EVIL), again, apart) == KIND.merge(
            KIND.merge(state, again, apart), patch, EVIL
        )


def test_patches_that_say_what_none_may_say() -> None:
    state = started('{"a":[1,2],"b":{}}')
    seen = [A, 1]
    fine = [1, seen, [0, 1, 1, "a", [1, 0, 0], [1, 1, [2, [0, 1, 0], 1], [0, [0, 1, 1], True, "5"]]]]
    assert not refused(state, fine)

    assert refused(state, [2, *fine[1:]])
    assert refused(state, [*fine, 0])
    assert refused(state, [1, [A], "1"])
    assert refused(state, [1, [A, 1, A, 1], "1"])
    assert refused(state, [1, [A, 2], "1"]), "not heard of yet"
    assert refused(state, [1, [B, 1], "1"])
    assert refused(state, [1, [b"", 1], "1"]), "C has said nothing before"
    assert refused(state, [1, [A, 0], "1"])
    assert refused(state, [1, [], "1"], Origin(50, A, 1)), "twice"
    assert refused(state, [1, [], None]), "a document without a value"
    for scalar in (
        "",
        "{",
        "[",
        "tru",
        "NaN",
        "01",
        '"',
        '"\n"',
        '"\\u0041"',
        '"\\/"',
        '"a" ',
        " 1",
        '"\\ud83d\\ude00"',
    ):
        assert refused(state, [1, seen, scalar])
        assert refused(state, [1, seen, [0, 1, 1, scalar.strip('"') + '"', None, "1"]])
    for order in ([0, 0], [-1, 0, 0], [0, 1 << 63, 1 << 40], [True, 0, 0], "x"):
        assert refused(state, [1, seen, [0, 1, 1, "a", order, "1"]])
    assert refused(state, [1, seen, [0, 1, 1 << 60]])
    assert refused(state, [1, seen, [0, 1, 1, "a", None, "1", "a", None, "1"]]), "a key twice"
    assert refused(state, [1, seen, [0, 0, 1, "a", None, "1"]]), "writes, and says that it only deletes"
    assert refused(state, [1, seen, [2, 1, 1]])
    assert refused(state, [1, seen, [0, 3, 1]])
    for step in (
        [0, [0, 1, 0], True],
        [0, None, False, "1"],
        [0, [1, 1, 0], True, "1"],
        [0, [0, 2, 0], True, "1"],
        [0, [0, 1, -1], True, "1"],
        [0, [0, 1, 0], 1, "1"],
        [0, [0, 1, 0], True, None],
        [2, [0, 1, 0], 0],
        [2, [0, 1, 0], 1 << 40],
        [3, [0, 1, 0], 1],
        [],
        "x",
    ):
        assert refused(state, [1, seen, [0, 1, 1, "a", [1, 0, 0], [1, 1, step]]])
    twice = [1, [0, 1, 0], "7"]
    assert refused(state, [1, seen, [0, 1, 1, "a", [1, 0, 0], [1, 1, twice, twice]]])
    assert refused(state, [1, seen, [0, 1, 1, "a", [1, 0, 0], [1, 1, twice, [2, [0, 1, 0], 1]]]])


def nested(levels: int, opening: list[Any]) -> list[Any]:
    edit: Any = "1"
    for _ in range(levels):
        edit = [*opening, edit] if opening[0] == 0 else [*opening, [0, None, True, edit]]
    return [1, [], edit]


@pytest.mark.parametrize("opening", [[0, 1, 1, "a", None], [1, 1]], ids=["objects", "arrays"])
def test_patches_nested_too_deep_are_refused(opening: list[Any]) -> None:
    state = started("0")

    assert not refused(state, nested(100, opening))
    assert refused(state, nested(101, opening))
    deepest = b"\x93\x01\x90" + b"\x94\x00\x01\x01\xa1a" * 100_000
    with pytest.raises(Malformed):
        KIND.merge(state, deepest, EVIL)


def test_patches_that_ask_for_much_work_are_refused_or_cheap() -> None:
    """Each of these would take hours if its cost were not bounded by its size."""
    state = started(minified(["0"] * 1_000))
    every = [2, [0, 1, 0], 1 << 18]

    assert not refused(state, [1, [A, 1], [1, 1, every]])
    assert refused(state, [1, [A, 1], [1, 1, every, [2, [0, 1, 1 << 19], 1]]])
    assert refused(state, [1, [A, 1], "1" * (2 << 20)])
    assert refused(state, [1, [A, 1] * 10_000, "1"])
    assert refused(state, [1, [A, 1], [1, 1, [0, None, True, *["1"] * jsondiff.MAX_EDITS]]])
    assert refused(state, [1, [A, 1], [1, 1, *([[1, [0, 1, 5], None]] * 1_000)]])
    with pytest.raises(Malformed):
        KIND.merge(state, pack([1, [A, 1], [1, 1, [0, None, True]]])[:-1] + b"\xdd\xff\xff\xff\xff", EVIL)


def test_changes_of_what_is_too_large_are_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine begins a new document then."""
    state, origin = started("[1,2,3]"), Origin(2, B, 1)
    patch = change(state, "[4]", origin)
    monkeypatch.setattr(jsontree, "MAX_PATCH", len(patch))
    assert KIND.diff(state, "[4]", origin) == patch
    monkeypatch.setattr(jsontree, "MAX_PATCH", len(patch) - 1)
    assert KIND.diff(state, "[4]", origin) is None

    monkeypatch.undo()
    monkeypatch.setattr(jsontree, "MAX_STATE", len(state) - 1)
    assert KIND.diff(state, "[4]", origin) is None

    monkeypatch.undo()
    monkeypatch.setattr(jsondiff, "MAX_DELETED", 1)
    assert KIND.diff(state, "[1]", origin) is None
    assert KIND.diff(state, "[1,2]", origin)

    monkeypatch.undo()
    text = '{"a":[{"b":7},8],"c":[1,2,3]}'
    state = started('{"a":[1,{"b":2}],"c":[1,2]}')
    monkeypatch.setattr(jsondiff, "MAX_EDITS", 7)  # the root, "a", its object and 7, its 8, "c", its 3
    patch = change(state, text, origin)
    monkeypatch.setattr(jsondiff, "MAX_EDITS", 6)
    assert KIND.diff(state, text, origin) is None
    assert refused(state, unpack(patch), origin)
