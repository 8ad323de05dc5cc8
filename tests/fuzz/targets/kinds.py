"""Patches of columns that merge, and the documents that a file keeps of them."""

import random
from collections.abc import Callable, Sequence

from crdtlog.errors import DamagedDocument, Malformed
from crdtlog.kinds import Mergeable, Origin, counter, jsonstate, yjs
from crdtlog.kinds.addset import AddSet
from crdtlog.kinds.counter import Sum
from crdtlog.kinds.jsontree import JsonTree
from crdtlog.kinds.text import MergeText, OpenText
from crdtlog.textworker import wire
from crdtlog.values import pack
from tests.crdtlog import poison
from tests.fuzz.mutate import MSGPACK
from tests.fuzz.targets.vectors import vectors
from tests.fuzz.trial import Subject, Target, require

A, B, EVIL = b"a" * 24, b"b" * 24, b"e" * 24
BEGUN = Origin(1, A, 1)
#: What the foreign patch comes from, and a patch that was made apart from it.
FOREIGN, APART = Origin(50, EVIL, 1), Origin(40, B, 99)

CODES = {"json": 2, "set": 4, "counter": 3}


def _recorded(kind: str) -> list[bytes]:
    return [
        bytes.fromhex(patch)
        for vector in vectors("merging")["documents"]
        if vector["kind"] == CODES[kind]
        for patch, _ in vector["patches"]
    ]


def _lived(kind: Mergeable, values: list[str]) -> bytes:
    """A document that two writers changed in turn."""
    state = kind.start(values[0], BEGUN)
    assert state is not None
    for at, value in enumerate(values[1:], 2):
        origin = Origin(at, (A, B)[at % 2], at)
        patch = kind.diff(state, value, origin)
        assert patch
        state = kind.merge(state, patch, origin)
    return state


def _patches(
    make: Callable[[], Mergeable],
    lived: list[str],
    wanted: list[str],
    other: str,
    recorded: list[bytes],
    known: Sequence[bytes] = (),
) -> Subject:
    """Patches of a kind: each is refused, or merges like any other, with bytes that can be read and JSON that shows."""
    kind = make()
    state = _lived(kind, lived)
    apart = kind.diff(state, other, APART)
    assert apart
    beside = kind.merge(state, apart, APART)

    def read(patch: bytes) -> tuple[bytes, bytes]:
        kind.needs(patch, FOREIGN)
        return patch, kind.merge(state, patch, FOREIGN)

    def holds(accepted: tuple[bytes, bytes]) -> None:
        patch, after = accepted
        kind.show(after)
        require(
            kind.merge(after, apart, APART) == kind.merge(beside, patch, FOREIGN),
            "patches that were made apart come to the same in either order",
        )
        again = make()
        last = Origin(60, A, 99)
        back = again.diff(after, lived[0], last)
        if back is not None:
            rewritten = again.merge(after, back, last)
            require(
                again.diff(rewritten, lived[0], last) == b"", "whoever saw a patch can write anything over it"
            )

    made = [kind.diff(state, value, FOREIGN) for value in wanted]
    seeds = [patch for patch in made if patch] + recorded
    return Subject(
        seeds, read, (Malformed,), MSGPACK, [b"{", b"[", b'"x"', b"1.50", b"null"], holds=holds, known=known
    )


def _json() -> Subject:
    return _patches(
        JsonTree,
        [
            '{"a":1,"l":[1,{"id":2,"v":"x"},3],"g":{"k":true}}',
            '{"a":2,"l":[0,1,{"id":2,"v":"y"}],"n":null}',
            "[1,[2]]",
            '{"l":[1,2,{"id":3}],"o":{"p":{"q":1}}}',
            '{"l":[2,{"id":3,"z":[]}],"o":{"p":{"r":1.50}},"b":"ä"}',
        ],
        [
            '{"l":[9,2,{"id":3,"z":[1,2]},4],"o":{"p":{"q":2}},"c":{}}',
            "[]",
            '"x"',
            '{"l":[{"id":3}],"b":[1]}',
            "{}",
        ],
        '{"l":[{"id":4},2,{"id":3,"z":[]}],"o":7,"new":[1,2,3]}',
        _recorded("json"),
        # A key that stands where a clock at the end of its range put it.
        [pack([1, [A, 4], [0, 1, 0, "l", [0, (1 << 64) - 1, 0], "1"]])],
    )


def _set() -> Subject:
    return _patches(
        AddSet,
        ['["a","b",1,1.0,{"x":[1]}]', '["b","c",1]', '["b","c","d",null]'],
        ['["b","e"]', "[]", '["b","c","d",null,{"k":1},[2],-5e-7]'],
        '["c","d","f"]',
        _recorded("set"),
    )


def _counter() -> Subject:
    def holds(change: Sum) -> None:
        for first in (0, 5, -1.5, 1 << 62, None, "x", float("inf")):
            added = counter.add(change, Sum(change.total, False))
            counter.shown(first, added)
            counter.overflows(first, added)
            counter.first_value(first, added)
        require(
            counter.decode_own(counter.encode_own(change, {}))[0] == change, "a file keeps a sum as it is"
        )

    def read(patch: bytes) -> Sum:
        counter.decode_before(patch)
        return counter.decode(patch)

    values = [(0, 5), (5, -3), (1.5, 1e300), (0, 5e-324), (1 << 62, -(1 << 62)), (0.1, 7)]
    made = [counter.difference(first, counter.ZERO, value) for first, value in values]
    made.append(counter.difference(1, counter.ZERO, 9, counter.decode(made[3] or b"").total))
    seeds = [patch for patch in made if patch] + _recorded("counter")
    return Subject(seeds, read, (Malformed,), MSGPACK, write=counter.encode, holds=holds)


def _yjs_patch() -> Subject:
    """Read as its author's, with what it needs compared to a document's clocks."""
    client = 77

    def read(patch: bytes) -> yjs.Patch:
        found = yjs.read_patch(patch, client)
        yjs.check_present(found, {77: 5, 78: 9})
        return found

    def holds(patch: yjs.Patch) -> None:
        require(0 <= patch.clock <= patch.clock + patch.length <= yjs.MAX_CLOCK, "clocks have 31 bits")
        require(all(0 < end <= 2 * yjs.MAX_CLOCK for end in patch.named.values()), "what is named is bounded")

    choose = random.Random(1)
    seeds = [poison.plausible_patch(choose, client, {77: 5, 78: 9, 79: 3}) for _ in range(30)]
    seeds += [
        poison.update(poison.string("abc")),
        poison.update(poison.string("x\U0001f601y", (78, 3), (78, 4)), clock=5),
        poison.update(deleted=poison.deletions({78: [(0, 2), (5, 1)], 77: [(1, 1)]})),
        b"\0" + poison.deletions({78: [(0, 9)]}),
        *(item.patch for item in poison.small_poisons() if len(item.patch) < 1_000),
    ]
    return Subject(
        seeds, read, (Malformed,), None, [poison.number(77), poison.number(78), poison.ROOT], holds=holds
    )


def _yjs_clocks() -> Subject:
    def write(clocks: dict[int, int]) -> bytes:
        pairs = (poison.number(client) + poison.number(clock) for client, clock in clocks.items())
        return poison.number(len(clocks)) + b"".join(pairs)

    seeds = [write({}), write({1: 5}), write({(1 << 53) - 1: (1 << 31) - 1, 7: 300, 8: 0})]
    return Subject(seeds, yjs.read_clocks, (Malformed,), write=write)


def _json_document() -> Subject:
    """A document as a file keeps it: files are copied around, and damaged."""
    texts = [
        ['{"a":1,"l":[1,2,3],"o":{"p":{}}}', '{"a":2,"l":[3,1],"o":[]}', '{"l":[3,[1,{"k":"v"}]]}'],
        ["[]", "[[1]]"],
    ]
    states = [_lived(JsonTree(), some) for some in texts]
    return Subject(
        states,
        jsonstate.decode,
        (DamagedDocument,),
        MSGPACK,
        write=jsonstate.encode,
        alike=lambda one, two: jsonstate.encode(one) == jsonstate.encode(two),
        # An element chained to one that is not there; names out of all bounds.
        known=[
            pack([1, [A, 2], [2, 0, 2], [], [0, 1, [], [0, *name, 1, 0, [0, "1"]]]])
            for name in ([2, 0], [-(1 << 63), 0], [2, 1 - (1 << 63)], [2, (1 << 63) - 1])
        ],
    )


def _worker_answer() -> Subject:
    """What the process that merges texts answers: foreign bytes have been through the library in it."""
    begun = (A, 1)
    merging = MergeText(begun, b"\0\0", [(A, b"p"), (B, b"q")])
    jobs = [merging, OpenText(begun, "text")]

    def read(body: bytes) -> list[wire.Answer]:
        found = []
        for job in jobs:
            try:
                found.append(wire.unpack_answer(body, job))
            except Malformed:
                continue
        if not found:
            raise Malformed("an answer to no job")
        return found

    answers = [
        ["merged", False, b"state", b"text", [[1, "malformed", "why"]]],
        ["merged", False, None, None, [[0, "missing", ""], [1, "crashed", ""]]],
        ["opened", True, b"state", "text"],
        ["failure", False, "hung", "for long"],
    ]
    seeds = [pack(answer) for answer in answers]
    return Subject(seeds, read, (Malformed,), MSGPACK, [b"failure", b"merged", b"opened", b"crashed"])


TARGETS = [
    Target("kinds.json", 3_000, _json),
    Target("kinds.set", 5_000, _set),
    Target("kinds.counter", 8_000, _counter),
    Target("kinds.yjs_patch", 20_000, _yjs_patch),
    Target("kinds.yjs_clocks", 20_000, _yjs_clocks),
    Target("kinds.json_document", 5_000, _json_document),
    Target("textworker.answer", 10_000, _worker_answer),
]
