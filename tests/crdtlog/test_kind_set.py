"""Sets: adds win over concurrent removes, equal elements are one, and every device shows them in one order."""

import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crdtlog.errors import Malformed
from crdtlog.kinds import Origin
from crdtlog.kinds.addset import AddSet
from crdtlog.values import pack

KIND = AddSet()
A, B, C = (bytes([letter]) * 24 for letter in b"ABC")
ELEMENTS = st.sampled_from(["a", "b", "é", 1, 2, 10, -1, 1.5, None, True, False, [1], {"k": 1}])
ARRAYS = st.lists(ELEMENTS, max_size=6)


def started(*elements: object) -> bytes:
    state = KIND.start(json.dumps(elements), Origin(1, A, 1))
    assert state is not None
    return state


def changed(state: bytes, elements: list[object], origin: Origin) -> tuple[bytes, bytes]:
    patch = KIND.diff(state, json.dumps(elements), origin)
    assert patch is not None
    return patch, KIND.merge(state, patch, origin)


def shown(state: bytes) -> list[object]:
    text = KIND.show(state)
    assert isinstance(text, str)
    found = json.loads(text)
    assert isinstance(found, list)
    return found


def names(elements: list[object]) -> set[str]:
    return {json.dumps(item, sort_keys=True) for item in elements}


@given(ARRAYS, ARRAYS)
def test_a_patch_makes_the_set_hold_what_was_written(before: list[object], after: list[object]) -> None:
    patch, state = changed(started(*before), after, Origin(2, B, 1))
    assert names(shown(state)) == names(after)
    assert (patch == b"") == (names(before) == names(after))


@given(ARRAYS, st.lists(ARRAYS, min_size=3, max_size=3), st.randoms())
def test_changes_made_apart_end_alike_in_any_order(
    base: list[object], texts: list[list[object]], rng: random.Random
) -> None:
    state = started(*base)
    patches = []
    for index, (elements, writer) in enumerate(zip(texts, (A, B, C), strict=True)):
        origin = Origin(5 - index, writer, 2)
        patches.append((changed(state, elements, origin)[0], origin))
    ends = set()
    for _ in range(4):
        rng.shuffle(patches)
        end = state
        for patch, origin in patches:
            end = KIND.merge(end, patch, origin)
        ends.add(end)
    assert len(ends) == 1
    found = names(shown(ends.pop()))
    written = [names(elements) for elements in texts]
    assert all(some - names(base) <= found for some in written), "what anybody added is there"
    assert names(base).intersection(*written) <= found, "what nobody removed is there"
    assert found <= set().union(*written), "what everybody removed is gone"


def test_an_add_wins_over_a_remove_that_had_not_seen_it() -> None:
    state = started("x")
    removal, _ = changed(state, [], Origin(9, B, 1))
    gone = KIND.merge(state, removal, Origin(9, B, 1))
    again, there = changed(gone, ["x"], Origin(2, B, 2))
    other, _ = changed(state, ["x", "y"], Origin(3, C, 1))
    assert shown(KIND.merge(there, other, Origin(3, C, 1))) == ["x", "y"]
    assert KIND.merge(
        KIND.merge(KIND.merge(state, other, Origin(3, C, 1)), removal, Origin(9, B, 1)),
        again,
        Origin(2, B, 2),
    ) == KIND.merge(there, other, Origin(3, C, 1))


def test_a_remove_takes_only_the_adds_that_its_author_had_seen() -> None:
    """Both added one element, and one of them took its own away again."""
    state = started()
    added, one = changed(state, ["x"], Origin(2, A, 2))
    also, other = changed(state, ["x"], Origin(2, B, 1))
    removed, _ = changed(other, [], Origin(9, B, 2))
    ways = [
        [(added, Origin(2, A, 2)), (also, Origin(2, B, 1)), (removed, Origin(9, B, 2))],
        [(also, Origin(2, B, 1)), (added, Origin(2, A, 2)), (removed, Origin(9, B, 2))],
        [(also, Origin(2, B, 1)), (removed, Origin(9, B, 2)), (added, Origin(2, A, 2))],
    ]
    for way in ways:
        end = state
        for patch, origin in way:
            end = KIND.merge(end, patch, origin)
        assert end == one


FEW = st.lists(st.sampled_from(["a", "b", "c"]), max_size=3)
STEPS = st.lists(
    st.tuples(st.integers(0, 2), FEW) | st.tuples(st.integers(0, 2), st.integers(0, 2)),
    min_size=4,
    max_size=25,
)


@given(FEW, STEPS)
def test_after_any_history_an_element_is_there_if_some_add_was_seen_by_no_remove(
    base: list[object], history: list[tuple[int, list[object] | int]]
) -> None:
    """A device writes an array, or takes all patches of another. The model knows adds by name, and no states."""
    writers = (A, B, C)
    states = [started(*base)] * 3
    held: list[list[tuple[bytes, Origin]]] = [[], [], []]
    adds = {(text, Origin(1, A, 1)) for text in names(base)}
    known = [set(adds) for _ in writers]
    gone = [set[tuple[str, Origin]]() for _ in writers]

    def take(device: int, other: int) -> None:
        for patch, origin in held[other]:
            if (patch, origin) not in held[device]:
                states[device] = KIND.merge(states[device], patch, origin)
                held[device].append((patch, origin))
        known[device] |= known[other]
        gone[device] |= gone[other]

    for number, (device, what) in enumerate(history):
        if isinstance(what, int):
            take(device, what)
            continue
        origin = Origin(number, writers[device], number + 2)
        patch, states[device] = changed(states[device], what, origin)
        held[device].append((patch, origin))
        there = {text for text, _ in known[device] - gone[device]}
        gone[device] |= {add for add in known[device] if add[0] not in names(what)}
        known[device] |= {(text, origin) for text in names(what) - there}
    for _ in range(2):
        for device, other in ((0, 1), (0, 2), (1, 0), (2, 0)):
            take(device, other)
    assert len(set(states)) == 1
    assert names(shown(states[0])) == {text for text, _ in known[0] - gone[0]}


def test_elements_are_shown_once_sorted_by_type_and_value() -> None:
    state = started("b", 10, 9, "a", True, None, {"z": 1, "a": 2}, {"a": 2, "z": 1}, [2], False, 1.5, "a")
    assert KIND.show(state) == '[null,false,true,1.5,9,10,"a","b",[2],{"a":2,"z":1}]'


@pytest.mark.parametrize("value", [None, 5, b"[]", "", "5", '{"a": 1}', "[1,", '["\udcff"]'])
def test_what_is_no_array_has_no_form(value: int | bytes | str | None) -> None:
    assert KIND.start(value, Origin(1, A, 1)) is None
    assert KIND.diff(started("a"), value, Origin(2, A, 2)) is None


@given(st.binary(max_size=60))
def test_any_bytes_are_a_patch_or_malformed(data: bytes) -> None:
    try:
        KIND.merge(started("a"), data, Origin(2, B, 1))
    except Malformed:
        return


@pytest.mark.parametrize(
    "patch",
    [
        [['"a"', '"a"'], [], []],
        [["a"], [], []],
        [['{"b":1,"a":1}'], [], []],
        [[], [A], [['"a"', []]]],
        [[], [A], [['"a"', [[1, 1]]]]],
        [[], [A], [['"a"', [[0, 0]]]]],
        [[], [b"short"], [['"a"', [[0, 1]]]]],
        [['"a"'], [A], [['"a"', [[0, 1]]]]],
    ],
)
def test_patches_that_nobody_honest_writes_are_malformed(patch: list[object]) -> None:
    with pytest.raises(Malformed):
        KIND.merge(started("a"), pack(patch), Origin(2, B, 1))
