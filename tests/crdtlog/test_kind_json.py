"""JSON documents: concurrent edits of one text become one text, alike on every device, and nobody's work is lost.

`history` is a fleet: devices with skewed clocks write whole texts, as programs do with plain SQL, and hear of one
another's patches in any causal order. What each of them writes is what it sees with something changed at random.
"""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from crdtlog.kinds import Origin
from crdtlog.kinds.jsonstate import decode, encode
from crdtlog.kinds.jsontext import Json, minified
from crdtlog.values import unpack
from tests.crdtlog.jsondocs import KEYS, KIND, TREES, A, B, C, D, change, merged, parsed, started, together

# --- a fleet ------------------------------------------------------------------------------------------------------


class Event(NamedTuple):
    """A patch and who must be heard first: its author's vector before it."""

    origin: Origin
    patch: bytes
    seen: dict[bytes, int]


@dataclass
class Device:
    """A device's copy of the document, and what it has heard."""

    state: bytes
    seen: dict[bytes, int] = field(default_factory=dict)

    def hear(self, event: Event) -> None:
        needed = KIND.needs(event.patch, event.origin)
        assert all(event.seen.get(writer, 0) >= seq for writer, seq in needed.items())
        self.state = KIND.merge(self.state, event.patch, event.origin)
        self.seen[event.origin.writer] = event.origin.seq

    def is_ready(self, event: Event) -> bool:
        return self.seen.get(event.origin.writer, 0) < event.origin.seq and all(
            self.seen.get(writer, 0) >= seq for writer, seq in event.seen.items()
        )

    def hear_all(self, events: list[Event], draw: st.DrawFn) -> None:
        while ready := [event for event in events if self.is_ready(event)]:
            self.hear(draw(st.sampled_from(ready)))


@st.composite
def edited(draw: st.DrawFn, tree: Json) -> Json:
    """A tree with one thing changed."""
    if isinstance(tree, str) or draw(st.integers(0, 15)) == 0:
        return draw(TREES)
    if isinstance(tree, dict):
        key = draw(KEYS)
        if key in tree and draw(st.integers(0, 3)) == 0:
            return {name: value for name, value in tree.items() if name != key}
        return {**tree, key: draw(edited(tree[key])) if key in tree else draw(TREES)}
    at = draw(st.integers(0, len(tree)))
    what = draw(st.sampled_from(["insert", "delete", "move", "edit", "edit"]))
    if what == "insert" or at == len(tree):
        return [*tree[:at], *draw(st.lists(TREES, min_size=1, max_size=3)), *tree[at:]]
    rest = [*tree[:at], *tree[at + 1 :]]
    if what == "delete":
        return rest
    if what == "move":
        to = draw(st.integers(0, len(rest)))
        return [*rest[:to], tree[at], *rest[to:]]
    return [*tree[:at], draw(edited(tree[at])), *tree[at + 1 :]]


@st.composite
def history(draw: st.DrawFn, max_steps: int = 8) -> tuple[str, list[Event]]:
    """The text that a document began with, and what two to four devices made of it, in one causal order."""
    writers = [bytes([65 + n]) * 24 for n in range(draw(st.integers(2, 4)))]
    first = minified(draw(TREES))
    devices = {writer: Device(started(first), {A: 1}) for writer in writers}
    clock = {writer: draw(st.integers(0, 3)) for writer in writers}
    events: list[Event] = []
    for _ in range(draw(st.integers(2, max_steps))):
        device = devices[writer := draw(st.sampled_from(writers))]
        other = draw(st.sampled_from([None, *writers]))
        if other is not None:
            known = devices[other].seen
            device.hear_all(
                [event for event in events if known.get(event.origin.writer, 0) >= event.origin.seq], draw
            )
        clock[writer] += draw(st.integers(0, 3))
        tree = parsed(KIND.show(device.state))
        for _ in range(draw(st.integers(1, 3))):
            tree = draw(edited(tree))
        origin = Origin(clock[writer], writer, device.seen.get(writer, 0) + 1)
        event = Event(origin, change(device.state, minified(tree), origin), dict(device.seen))
        if event.patch:
            events.append(event)
            device.hear(event)
    return first, events


@given(history(), st.data())
def test_all_causal_orders_end_in_the_same_bytes(
    made: tuple[str, list[Event]], choose: st.DataObject
) -> None:
    first, events = made
    ends = set()
    for _ in range(3):
        device = Device(started(first), {A: 1})
        device.hear_all(events, choose.draw)  # type: ignore[arg-type]
        assert all(device.seen[event.origin.writer] >= event.origin.seq for event in events)
        ends.add(device.state)

    assert len(ends) == 1
    assert encode(decode(device.state)) == device.state


@given(history(max_steps=5), TREES)
def test_what_is_written_over_a_merge_shows_and_ends_all_conflicts(
    made: tuple[str, list[Event]], tree: Json
) -> None:
    first, events = made
    state = started(first)
    for event in events:
        state = KIND.merge(state, event.patch, event.origin)
    # A clock far behind: what it saw is over all the same.
    change(state, minified(tree), Origin(0, b"Z" * 24, 1))


@given(TREES, TREES)
@example(["0", ["1"]], ["1", ["1"], "0"])
def test_a_patch_makes_the_text_show(old: Json, new: Json) -> None:
    change(started(minified(old)), minified(new), Origin(5, B, 1))


# --- what concurrent edits come to --------------------------------------------------------------------------------

CASES = {
    # base, what each wrote (the later clock last), what shows
    "different keys": ('{"a":1,"b":2}', '{"a":3,"b":2}', '{"a":1,"b":4}', '{"a":3,"b":4}'),
    "one key: the later shows": ('{"a":1}', '{"a":2}', '{"a":3}', '{"a":3}'),
    "one key created by both": ("{}", '{"a":1}', '{"a":2}', '{"a":2}'),
    "keys created by both stand where the first put them": (
        "{}",
        '{"q":1,"p":2}',
        '{"r":4,"q":3}',
        '{"q":3,"p":2,"r":4}',
    ),
    "one key created by both as objects": ("{}", '{"a":{"x":1}}', '{"a":{"y":2}}', '{"a":{"x":1,"y":2}}'),
    "one key created by both as arrays": ("{}", '{"a":[1,2]}', '{"a":[1,3]}', '{"a":[1,2,1,3]}'),
    "a scalar made an object by both": ('{"a":1}', '{"a":{"x":1}}', '{"a":{"y":2}}', '{"a":{"x":1,"y":2}}'),
    "a key deleted, another edited": ('{"a":1,"b":2}', '{"b":2}', '{"a":1,"b":3}', '{"b":3}'),
    "a key deleted by both": ('{"a":1,"b":2}', '{"b":2}', '{"b":2}', '{"b":2}'),
    "a key deleted and its scalar edited": ('{"a":1,"b":2}', '{"b":2}', '{"a":3,"b":2}', '{"a":3,"b":2}'),
    "a key edited first and deleted later": ('{"a":1,"b":2}', '{"a":3,"b":2}', '{"b":2}', '{"a":3,"b":2}'),
    "a key deleted, edited within": (
        '{"k":{"x":1,"y":{"z":1,"w":2}},"l":0}',
        '{"l":0}',
        '{"k":{"x":1,"y":{"z":5,"w":2}},"l":0}',
        '{"k":{"y":{"z":5}},"l":0}',
    ),
    "a key deleted, something deleted within": ('{"k":{"x":1,"y":2}}', "{}", '{"k":{"x":1}}', "{}"),
    "an object made a scalar, edited within later": (
        '{"k":{"x":1,"y":1}}',
        '{"k":5}',
        '{"k":{"x":2,"y":1}}',
        '{"k":{"x":2}}',
    ),
    "an object edited within, made a scalar later": ('{"k":{"x":1}}', '{"k":{"x":2}}', '{"k":5}', '{"k":5}'),
    "an object made an array, and an object with more": (
        '{"k":{"x":1}}',
        '{"k":[1]}',
        '{"k":{"x":1,"y":2}}',
        '{"k":{"y":2}}',
    ),
    "the root made an array, edited as an object later": ('{"a":1}', "[1]", '{"a":2}', '{"a":2}'),
    "the root edited as an object, made an array later": ('{"a":1}', '{"a":2}', "[1]", "[1]"),
    "the root a scalar": ("1", "2", "3", "3"),
    "appended by both": ("[0]", "[0,1,2]", "[0,3,4]", "[0,1,2,3,4]"),
    "put first by both": ("[0]", "[1,2,0]", "[3,4,0]", "[1,2,3,4,0]"),
    "one inserted, one deleted": ("[1,2,3]", "[1,9,2,3]", "[1,2]", "[1,9,2]"),
    "inserted beside a deleted element": ("[1,2,3]", "[1,3]", "[1,2,9,3]", "[1,9,3]"),
    "one element edited by both": ("[1,2,3]", "[1,8,3]", "[1,9,3]", "[1,9,3]"),
    "different elements edited": ("[1,2,3]", "[7,2,3]", "[1,2,9]", "[7,2,9]"),
    "an element deleted by both": ("[1,2,3]", "[1,3]", "[1,3]", "[1,3]"),
    "an element edited and deleted": ("[1,2,3]", "[1,9,3]", "[1,3]", "[1,9,3]"),
    "an element moved, another appended": ("[1,2,3]", "[3,1,2]", "[1,2,3,4]", "[3,1,2,4]"),
    "an element moved by both": ("[1,2,3,4]", "[4,1,2,3]", "[1,4,2,3]", "[4,1,4,2,3]"),
    "an array written anew, appended to": ('{"a":[1,2]}', '{"a":[]}', '{"a":[1,2,3]}', '{"a":[3]}'),
    "a matrix": ("[[1,2],[3,4]]", "[[1,2],[3,5]]", "[[0,2],[3,4]]", "[[0,2],[3,5]]"),
    "members of one element": (
        '[{"id":1,"t":"a"},{"id":2,"t":"b"}]',
        '[{"id":2,"t":"c"}]',
        '[{"id":1,"t":"a"},{"id":2,"t":"b","done":true},{"id":3}]',
        '[{"id":2,"t":"c","done":true},{"id":3}]',
    ),
    "elements without id": (
        '[{"t":"milk","n":1,"x":0},{"t":"tea","n":1,"x":0}]',
        '[{"t":"milk","n":2,"x":0},{"t":"rice","n":9,"x":1},{"t":"tea","n":1,"x":0}]',
        '[{"t":"milk","n":1,"x":1},{"t":"tea","n":1,"x":0}]',
        '[{"t":"milk","n":2,"x":1},{"t":"rice","n":9,"x":1},{"t":"tea","n":1,"x":0}]',
    ),
    "an element with another id is another element": (
        '[{"id":1,"a":1}]',
        '[{"id":2,"a":1}]',
        '[{"id":3,"a":1}]',
        '[{"id":2,"a":1},{"id":3,"a":1}]',
    ),
    "an element deleted, edited within": ('[{"id":1,"a":1},2]', "[2]", '[{"id":1,"a":3},2]', '[{"a":3},2]'),
}


@pytest.mark.parametrize("case", CASES)
def test_two_who_wrote_apart(case: str) -> None:
    base, first, second, shown = CASES[case]

    assert together(base, first, second) == shown


@pytest.mark.parametrize("stamps", [(5, 7), (7, 5), (5, 5)])
def test_of_two_scalars_the_one_with_the_higher_origin_shows(stamps: tuple[int, int]) -> None:
    later = "1" if stamps[0] > stamps[1] else "2"  # with one stamp the higher writer wins

    assert together('{"k":[0]}', '{"k":[1]}', '{"k":[2]}', stamps=stamps) == f'{{"k":[{later}]}}'


def test_a_write_that_saw_another_replaces_it_whatever_the_clocks_say() -> None:
    state = started('{"a":1}')
    fast, slow = Origin(9_999, B, 1), Origin(2, A, 2)
    state = KIND.merge(state, change(state, '{"a":2}', fast), fast)
    state = KIND.merge(state, change(state, '{"a":3}', slow), slow)

    assert KIND.show(state) == '{"a":3}'


def test_the_hidden_one_of_two_shows_when_only_the_other_was_seen_and_replaced() -> None:
    """What loses is not thrown away: a write with a slow clock that saw only the winner may lose to it."""
    state = started('{"a":1}')
    mine, theirs, after = Origin(5, A, 2), Origin(9, B, 1), Origin(2, B, 2)
    lost = change(state, '{"a":2}', mine)
    won = change(state, '{"a":3}', theirs)
    saw_one = KIND.merge(state, won, theirs)
    again = change(saw_one, '{"a":4}', after)
    ends = {
        KIND.merge(KIND.merge(saw_one, lost, mine), again, after),
        KIND.merge(KIND.merge(saw_one, again, after), lost, mine),
    }

    assert [KIND.show(end) for end in ends] == ['{"a":2}']


def test_keys_keep_their_place_and_new_ones_come_last() -> None:
    state = started('{"z":1,"a":{"y":1,"b":2},"m":3}')
    origin = Origin(0, B, 1)
    state = KIND.merge(
        state, change(state, '{"new":0,"m":4,"z":5,"also":1,"a":{"0":0,"b":2,"y":9}}', origin), origin
    )

    assert KIND.show(state) == '{"z":5,"a":{"y":9,"b":2,"0":0},"m":4,"new":0,"also":1}'


def test_a_key_that_somebody_kept_alive_keeps_its_place() -> None:
    assert together('{"a":1,"b":2,"c":3}', '{"a":1,"c":3}', '{"a":1,"b":5,"c":3}') == '{"a":1,"b":5,"c":3}'


def test_keys_that_came_together_stay_together() -> None:
    assert together("{}", '{"p":1,"c":2}', '{"o":3,"b":4}', stamps=(7, 6)) == '{"o":3,"b":4,"p":1,"c":2}'


def test_what_stands_beside_a_deleted_element_stays_there_though_its_array_was_cleared() -> None:
    """One deletes the array while another edits an element and a third inserts beside it. Then the element goes too."""
    state = started('{"k":["y",{"n":1}]}')
    state = merged(
        state,
        ("{}", Origin(5, A, 2)),
        ('{"k":["f","y",{"n":2}]}', Origin(6, B, 1)),
        ('{"k":["y",{"n":1},"x"]}', Origin(7, C, 1)),
    )
    assert KIND.show(state) == '{"k":[{"n":2},"x","f"]}'

    state = merged(state, ('{"k":["x","f"]}', Origin(8, D, 1)))
    state = merged(state, ('{"k":["x","w","f"]}', Origin(9, A, 3)), ('{"k":["x","v","f"]}', Origin(9, B, 2)))
    assert KIND.show(state) == '{"k":["x","w","v","f"]}'

    state = merged(state, ("{}", Origin(10, C, 2)))
    assert decode(state).root.members == {}


@pytest.mark.parametrize(
    ("base", "more", "most", "other", "last"),
    [
        ('{"k":[0]}', '{"k":[0,1]}', '{"k":[0,1,2]}', '{"k":{"x":1}}', '{"k":{"x":2}}'),
        ('{"k":{}}', '{"k":{"y":1}}', '{"k":{"y":1,"z":1}}', '{"k":[1]}', '{"k":[1,2]}'),
    ],
)
def test_writing_within_what_shows_ends_what_does_not(
    base: str, more: str, most: str, other: str, last: str
) -> None:
    """Also what those added of whom no mark is left: A wrote within what D had written within."""
    state, theirs = started(base), Origin(7, B, 1)
    patch = change(state, other, theirs)
    state = merged(merged(state, (more, Origin(5, D, 1))), (most, Origin(6, A, 2)))
    state = KIND.merge(state, patch, theirs)
    assert KIND.show(state) == other
    hidden = decode(state).root.members["k"]
    assert hidden.members
    assert hidden.elements

    shown = decode(merged(state, (last, Origin(2, C, 1)))).root.members["k"]
    assert len(shown.marks) == 1
    assert not (shown.members and shown.elements)


@st.composite
def tokens_in_tree(draw: st.DrawFn, name: str, depth: int = 2) -> Json:
    """A tree of scalars that occur nowhere else; objects in arrays have an id, as programs give them one."""
    count = iter(range(1000))

    def token() -> str:
        return f'"{name}{next(count)}"'

    def made(depth: int, in_array: bool) -> Json:
        shape = draw(st.sampled_from(["token", "object", "array"])) if depth else "token"
        if shape == "object" or (shape == "array" and in_array):
            own: dict[str, Json] = {"id": token()} if in_array else {}
            return own | {
                f"k{name}{next(count)}": made(depth - 1, False) for _ in range(draw(st.integers(0, 3)))
            }
        if shape == "array":
            return [made(depth - 1, True) for _ in range(draw(st.integers(0, 4)))]
        return token()

    return {f"k{name}{next(count)}": made(depth, False) for _ in range(draw(st.integers(1, 4)))}


def tokens(tree: Json) -> Counter[str]:
    if isinstance(tree, str):
        return Counter([tree])
    values = tree if isinstance(tree, list) else tree.values()
    return sum(map(tokens, values), Counter())


@st.composite
def grown(draw: st.DrawFn, tree: Json, name: str) -> Json:
    """A tree with things added here and there, and nothing else changed."""
    if isinstance(tree, dict):
        more = draw(tokens_in_tree(name + "_")) if draw(st.booleans()) else {}
        assert isinstance(more, dict)
        within = {key: draw(grown(value, name + key)) for key, value in tree.items()}
        return {**within, **{key + name: value for key, value in more.items()}}
    if isinstance(tree, list):
        within_list: list[Json] = []
        for at, value in enumerate([*tree, None]):
            within_list += [f'"{name}.{at}.{n}"' for n in range(draw(st.integers(0, 2)))]
            if value is not None:
                within_list.append(draw(grown(value, f"{name}.{at}")))
        return within_list
    return tree


@st.composite
def pruned(draw: st.DrawFn, tree: Json) -> Json:
    """A tree with things deleted here and there, and nothing else changed."""
    if isinstance(tree, dict):
        return {
            key: draw(pruned(value)) for key, value in tree.items() if key == "id" or draw(st.integers(0, 3))
        }
    if isinstance(tree, list):
        return [draw(pruned(value)) for value in tree if draw(st.integers(0, 3))]
    return tree


@given(tokens_in_tree("base"), st.data())
def test_what_anyone_added_is_there_and_what_nobody_deleted_too(base: Json, choose: st.DataObject) -> None:
    """Some add, some delete. Nothing is there twice, and what was added within something deleted stays."""
    written: list[Json] = []
    expected = tokens(base)
    for name in "xyz":
        adds = choose.draw(st.booleans())
        written.append(choose.draw(grown(base, name) if adds else pruned(base)))
        if adds:
            expected |= tokens(written[-1])
    deleted = sum((tokens(base) - tokens(tree) for tree in written), Counter[str]())

    shown = parsed(together(minified(base), *map(minified, written)))

    assert tokens(shown) == Counter({token: 1 for token in expected if token not in deleted})


@given(
    st.lists(st.integers(0, 5), max_size=8),
    st.lists(st.tuples(st.integers(0, 8), st.integers(1, 4)), min_size=2, max_size=3),
)
def test_runs_inserted_apart_all_stand_and_do_not_mix(old: list[int], runs: list[tuple[int, int]]) -> None:
    def inserted(name: str, at: int, count: int) -> list[Json]:
        at = min(at, len(old))
        return [*map(str, old[:at]), *(f'"{name}{n}"' for n in range(count)), *map(str, old[at:])]

    written = [inserted(name, *run) for name, run in zip("xyz", runs, strict=False)]

    shown = parsed(together(minified(list(map(str, old))), *map(minified, written)))

    assert isinstance(shown, list)
    for name, (_, count) in zip("xyz", runs, strict=False):
        at = shown.index(f'"{name}0"')
        assert shown[at : at + count] == [f'"{name}{n}"' for n in range(count)]
    assert [item for item in shown if not str(item).startswith('"')] == list(map(str, old))


# --- patches are small --------------------------------------------------------------------------------------------


def steps(patch: bytes) -> list[Any]:
    """What a patch does to the array that is the root."""
    _, _, (_, _, *found) = unpack(patch)
    return list(found)


THINGS: list[Json] = [{"id": str(n), "t": f'"{n % 7}"'} for n in range(1_000)]
NUMBERS: list[Json] = [str(n * n % 11) for n in range(1_000)]


@pytest.mark.parametrize("array", [THINGS, NUMBERS], ids=["objects", "repeating numbers"])
def test_what_did_not_change_is_not_in_the_patch(array: list[Json]) -> None:
    inserted = [*array[:500], "-1", *array[500:]]
    deleted = [*array[:500], *array[501:]]
    moved = [*array[:500], *array[501:800], array[500], *array[800:]]
    edited = [*array[:500], {"id": "500", "t": "null"} if array is THINGS else "-1", *array[501:]]
    apart = [*array[:3], "-1", *array[3:700], *array[703:900], "-2", *array[900:]]
    state = started(minified(array))
    origin = Origin(5, B, 1)

    def kinds(tree: list[Json]) -> list[int]:
        patch = change(state, minified(tree), origin)
        assert len(patch) < 150
        return sorted(step[0] for step in steps(patch))

    assert kinds(inserted) == [0]
    assert kinds(deleted) == [2]
    assert kinds(moved) == [0, 2]
    assert kinds(edited) == [1]
    assert kinds(apart) == [0, 0, 2]


@given(st.permutations(range(30)))
def test_moves_do_not_write_the_rest_anew(order: list[int]) -> None:
    state = started(minified([f"{n}" for n in range(30)]))
    patch = change(state, minified([f"{n}" for n in order]), Origin(5, B, 1))

    inserted = sum(len(step) - 3 for step in steps(patch) if step[0] == 0) if patch else 0
    assert inserted == 30 - longest_rising(order)


def longest_rising(order: list[int]) -> int:
    best: list[int] = []
    for at, number in enumerate(order):
        best.append(1 + max((best[i] for i in range(at) if order[i] < number), default=0))
    return max(best)


def test_deleted_things_leave_next_to_nothing() -> None:
    state = started("{}")
    empty = len(state)
    for seq in range(2, 30):
        origin = Origin(seq, A, seq)
        text = f'{{"key{seq}":[1,2,{{"x":[{seq}]}}]}}' if seq % 2 == 0 else "{}"
        state = KIND.merge(state, change(state, text, origin), origin)

    assert KIND.show(state) == "{}"
    assert len(state) <= empty + 8
