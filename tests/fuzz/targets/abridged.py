"""The parts of a snapshot, as a device without history reads them."""

from crdtlog.abridged import parts
from crdtlog.abridged.parts import (
    Begin,
    Beside,
    Branch,
    Edge,
    End,
    Item,
    Known,
    Logged,
    Loser,
    Losers,
    Merging,
    Part,
    Rows,
    Said,
)
from crdtlog.errors import Malformed
from crdtlog.values import pack
from tests.fuzz.mutate import MSGPACK
from tests.fuzz.targets.log import signed_entries
from tests.fuzz.trial import Subject, Target

WRITERS = [bytes([number] * 24) for number in range(3)]
TABLE = b"t" * 8


def some_parts() -> list[Part]:
    """A part of each kind."""
    strata = pack([(1, 2, 1 << 60, 12, 0), (0, 1, 5, b"\xff" * 9, 2)])
    return [
        Begin(
            WRITERS,
            [3, 2, 1],
            [3, 1, 0],
            [Branch(2, 0, 2)],
            [Said(1, 2, WRITERS[0], 2)],
            [Edge(b"d" * 32, 2, b"lane", 2, 7)],
            [Known(b"h" * 32, WRITERS[0], 2, b"p" * 32), Known(b"i" * 32, WRITERS[0], 1, b"")],
        ),
        Logged([Item(b"h" * 32, 1, "t: 1 inserted", signed, b"", True) for signed in signed_entries()[:2]]),
        Logged([Item(b"h" * 32, 0, "", signed_entries()[0], signed_entries()[0], False)]),
        Rows(
            TABLE,
            [["a", "b"]],
            [[1, None], [b"x", "\udcff"]],
            [0, 1],
            [1, 2],
            [0, 1 << 63],
            [0, 1],
            [None, strata],
        ),
        Rows(TABLE, [[1], [2.5]], None, [2], [9], [7], [0], [None]),
        Losers(TABLE, [Loser("a", 2, 0, 1, 1 << 63, True, None), Loser(1, 3, 1, 1, 0, False, "lost")]),
        Merging(
            TABLE,
            [
                Beside("a", 2, 0, 1, 1, b"state", [(0, 1), (1, 2)], None, []),
                Beside("a", 3, -1, 0, 4, b"sum", None, None, None),
                Beside("b", 2, 1, 1, 2, b"", [(1, 1)], "a change cannot be merged", None),
            ],
        ),
        End(9),
    ]


def _part() -> Subject:
    seeds = [parts.encode(part) for part in some_parts()]
    words = [b"begin", b"log", b"rows", b"losers", b"merging", b"end"]
    return Subject(seeds, parts.decode, (Malformed,), MSGPACK, words=words, write=parts.encode)


TARGETS = [Target("abridged.part", 20_000, _part)]
