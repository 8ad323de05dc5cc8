"""Updates that make the library behind mergeable texts panic, crash, hang or swallow memory, and how to find more.

Those in tests/vectors/text_poison.json were found by `python -m tests.crdtlog.poison SECONDS` and the like with the
version of pycrdt that the file names. It makes random updates that are well formed but senseless, and tries them on
a worker without its reader (unguarded_worker.py); what does damage is printed, smallest first.
"""

import json
import random
import sys
import time
from pathlib import Path
from typing import NamedTuple

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "text_poison.json"

ROOT = b"\x01\x04text"
Name = tuple[int, int]
"""An item: its client and clock."""

_STRINGS = ["a", "bc", "é\u0301", "\U0001f600", "x\U0001f601y", "", "\0", "longer text here"]


class Poison(NamedTuple):
    """A patch, the document that it spoils, and what a worker without a reader says of it.

    Several reasons: it damages memory, and what comes of that depends on what lies there, which differs from one
    environment to the next.
    """

    name: str
    base: bytes
    patch: bytes
    reasons: list[str]


#: One of each kind of what the library does, which a database and a daemon must survive.
KINDS = [
    "panics when it is applied",
    "panics when the document is encoded later",
    "a segmentation fault",
    "reads for ever what was stored",
    "26,500 nested arrays overflow the stack",
]


def small_poisons() -> list[Poison]:
    """Those that were found, and nested arrays: they are small enough for an entry."""
    recorded = [
        Poison(name, bytes.fromhex(base), bytes.fromhex(patch), reasons)
        for name, base, patch, reasons in json.loads(VECTORS.read_text())["vectors"]
    ]
    arrays = Poison("26,500 nested arrays overflow the stack", b"\0\0", nested_arrays(26_500), ["crashed"])
    return [*recorded, arrays]


def poisons() -> list[Poison]:
    """All that are known: also large ones, that are easier to make than to keep."""
    return [
        *small_poisons(),
        Poison("26,500 nested maps overflow the stack", b"\0\0", nested_maps(26_500), ["crashed"]),
        Poison("a large array swallows memory", b"\0\0", large_array(7_000_000), ["memory"]),
        Poison("an item count of two billion", b"\0\0", b"\1" + number(1 << 31) + b"\x4d\0", ["malformed"]),
        Poison("a client count of two billion", b"\0\0", number(1 << 31), ["malformed"]),
        Poison(
            "a text of a terabyte", b"\0\0", update(b"\4" + ROOT + number(1 << 40) + b"abc"), ["malformed"]
        ),
        Poison("two billion deletions", b"\0\0", b"\0\1\1" + number(1 << 31), ["malformed"]),
    ]


# --- the format -------------------------------------------------------------------------------------------------------


def number(value: int) -> bytes:
    """A number, seven bits to a byte."""
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes([*data, value])


def text(value: str) -> bytes:
    """A text, its length before it."""
    data = value.encode()
    return number(len(data)) + data


def update(*items: bytes, client: int = 77, clock: int = 0, deleted: bytes = b"\0") -> bytes:
    """An update of one client's items."""
    return b"\1" + number(len(items)) + number(client) + number(clock) + b"".join(items) + deleted


def string(value: str, left: Name | None = None, right: Name | None = None) -> bytes:
    """An item that inserts a string between two others."""
    return _item(4, left, right) + text(value)


def deletions(ranges: dict[int, list[tuple[int, int]]]) -> bytes:
    """Deleted ranges by client: from, and how many."""
    data = number(len(ranges))
    for client, parts in ranges.items():
        data += number(client) + number(len(parts)) + b"".join(number(at) + number(n) for at, n in parts)
    return data


def nested_arrays(depth: int) -> bytes:
    """An array in an array in an array."""
    return update(b"\x08" + ROOT + b"\1" + b"\x75\x01" * depth + b"\x7f")


def nested_maps(depth: int) -> bytes:
    """A map in a map in a map."""
    return update(b"\x08" + ROOT + b"\1" + b"\x76\x01\x01k" * depth + b"\x7f")


def large_array(length: int) -> bytes:
    """A byte for each element, which take much more."""
    return update(b"\x08" + ROOT + b"\1\x75" + number(length) + b"\x7f" * length)


def _item(content: int, left: Name | None, right: Name | None) -> bytes:
    names = [name for name in (left, right) if name is not None]
    info = content | (0x80 if left is not None else 0) | (0x40 if right is not None else 0)
    return bytes([info]) + (b"".join(number(client) + number(clock) for client, clock in names) or ROOT)


#: Contents that no text of ours has, and bytes of each.
_OTHERS = {
    "json": (2, number(2) + text("1") + text("{}")),
    "binary": (3, text("bytes")),
    "embed": (5, text("[]")),
    "format": (6, text("b") + text("true")),
    "array": (7, b"\0"),
    "map": (7, b"\1"),
    "xml": (7, b"\3" + text("p")),
    "any": (8, b"\1\x7d\x05"),
    "document": (9, text("guid") + b"\x76\0"),
    "move": (11, b"\0" + number(1) + number(2)),
}


# --- at random --------------------------------------------------------------------------------------------------------


def random_update(choose: random.Random) -> bytes:
    """Well formed and senseless: items of all kinds beside others that may not exist, numbers used twice."""
    clients = choose.sample([1, 2, 3, 4], choose.choice([0, 1, 1, 1, 2, 3]))
    data = number(len(clients))
    for client in clients:
        items = choose.choice([1, 1, 2, 3, 6])
        data += number(items) + number(client) + number(choose.choice([0, 0, 17, 2, 3, choose.randrange(40)]))
        data += b"".join(_random_item(choose) for _ in range(items))
    spoiled = choose.sample([1, 2, 3, 4], choose.choice([0, 0, 1, 2]))
    return data + deletions(
        {
            c: [
                (choose.randrange(40), choose.choice([0, 1, 2, 5, 9]))
                for _ in range(choose.choice([1, 1, 3]))
            ]
            for c in spoiled
        }
    )


def _random_item(choose: random.Random) -> bytes:
    length = number(choose.choice([0, 1, 1, 2, 3, 5, 1 << 31]))
    kind = choose.choices(["string", "deleted", "gc", "skip", *_OTHERS], [8, 2, 1, 1, *[1] * len(_OTHERS)])[0]
    if kind == "gc":
        return b"\0" + length
    if kind == "skip":
        return b"\x0a" + length
    left = _random_name(choose) if choose.random() < 0.8 else None
    right = _random_name(choose) if choose.random() < 0.7 else None
    if kind == "string":
        return _item(4, left, right) + text(choose.choice(_STRINGS))
    if kind == "deleted":
        return _item(1, left, right) + length
    content, body = _OTHERS[kind]
    return _item(content, left, right) + body


def _random_name(choose: random.Random) -> Name:
    return choose.choice([1, 1, 1, 2, 3, 4]), choose.choice([choose.randrange(18), choose.randrange(6)])


def plausible_patch(choose: random.Random, client: int, clocks: dict[int, int]) -> bytes:
    """What the reader lets through: one client's new strings, and deletions, beside characters that are there.

    But they stand in senseless places, and cut characters into halves.
    """
    there = dict(clocks)
    clock = there.get(client, 0)
    items = []
    for _ in range(choose.choice([0, 1, 1, 2, 5])):
        left, right = (_some(choose, there) if choose.random() < 0.8 else None for _ in range(2))
        value = choose.choice([value for value in _STRINGS if value])
        items.append(string(value, left, right))
        there[client] = there.get(client, 0) + len(value.encode("utf-16-le")) // 2
    ranges = {}
    for other in choose.sample(sorted(there), min(len(there), choose.choice([0, 0, 1, 2]))):
        ends = sorted(choose.sample(range(there[other] + 1), min(there[other] + 1, choose.choice([2, 4]))))
        ranges[other] = [(a, b - a) for a, b in zip(ends[::2], ends[1::2], strict=False)]
    deleted = deletions({other: parts for other, parts in ranges.items() if parts})
    return update(*items, client=client, clock=clock, deleted=deleted) if items else b"\0" + deleted


def _some(choose: random.Random, clocks: dict[int, int]) -> Name | None:
    clients = [client for client, clock in clocks.items() if clock]
    if not clients:
        return None
    client = choose.choice(clients)
    return client, choose.randrange(clocks[client])


def search(seconds: float, seed: int = 0) -> None:
    """Print what does damage to this version of pycrdt, the shortest of each kind."""
    from crdtlog.kinds.text import MergedText, MergeText
    from crdtlog.textworker.client import TextWorker

    bases = [b"\0\0", update(string("hello \U0001f600 wörld"), client=1)]
    found: dict[str, Poison] = {}
    choose = random.Random(seed)
    end = time.monotonic() + seconds
    with TextWorker(module="tests.crdtlog.unguarded_worker", cpu_seconds=2) as worker:
        while time.monotonic() < end:
            tries = [(choose.choice(bases), random_update(choose)) for _ in range(100)]
            results = worker.run(
                [MergeText((b"w" * 24, 1), base, [(b"x" * 24, patch)]) for base, patch in tries]
            )
            for (base, patch), result in zip(tries, results, strict=True):
                why = result.refused.get(0) if isinstance(result, MergedText) else None
                if why is None or why.reason in ("malformed", "missing"):
                    continue
                name = f"{why.reason}: {why.detail}"
                if name not in found or len(found[name].patch) > len(patch):
                    found[name] = Poison(name, base, patch, [why.reason])
                    print(json.dumps([name, base.hex(), patch.hex(), [why.reason]]), flush=True)


if __name__ == "__main__":
    search(float(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0)
