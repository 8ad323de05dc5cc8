"""Cases made out of good bytes: fields of a structure changed, dropped, doubled, moved, retyped, nested; and raw bytes.

The same choices always make the same case. A byte string that holds a msgpack array is changed within, too: an entry's
body lies in a signed entry, a founding record in a welcome.
"""

import json
import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import msgpack

#: A case is no longer, unless its seed is.
MAX_CASE_BYTES = 1 << 18
_MAX_SLOTS = 3_000

_INTS = [0, 1, 2, 3, 15, 16, 31, 32, 63, 64, 100, 127, 128, 255, 256, 4_000, 4_001, 5_001, 65_535, 65_536]
_INTS += [(1 << bits) + more for bits in (31, 32, 48, 53, 62, 63) for more in (-1, 0, 1)]
_INTS += [-1, -2, -128, -(1 << 31), -(1 << 63), (1 << 64) - 1]
_TEXTS = ["", "\0", "a", "é", "\udc80", "\u202e", "😀", "x" * 201, "null", "9" * 400, "data", '"', "\\ud800"]
_FLOATS = [0.0, -0.0, 1.0, 1e308, float("inf"), float("nan")]
#: Heads of msgpack values that promise much, nothing, or something of a rare type; and nests of arrays.
_HEADS = [
    b"\xdd\xff\xff\xff\xff",
    b"\xdc\xff\xff",
    b"\xdb\xff\xff\xff\xff",
    b"\xc6\x7f\xff\xff\xff",
    b"\xc9\xff\xff\xff\xff\x01",
    b"\xdf\xff\xff\xff\xff",
    b"\xc7\x00\x01",
    b"\xc7\x00\xff",
    b"\xd6\xff\x00\x00\x00\x00",
    b"\x80",
    b"\x90",
    b"\xc1",
    b"\xca\x7f\xc0\x00\x00",
    b"\x91" * 300,
    b"\x91" * 5_000,
]


class Form(NamedTuple):
    """How structure is read out of bytes and written again. Both may raise anything."""

    load: Callable[[bytes], Any]
    dump: Callable[[Any], bytes]


def _load_msgpack(data: bytes) -> Any:
    return msgpack.unpackb(data, raw=False, unicode_errors="surrogateescape", strict_map_key=False)


def _dump_msgpack(tree: Any) -> bytes:
    return cast(bytes, msgpack.packb(tree, unicode_errors="surrogateescape"))


MSGPACK = Form(_load_msgpack, _dump_msgpack)
#: A line of JSON, with the end of the line.
JSON_LINE = Form(json.loads, lambda tree: json.dumps(tree).encode() + b"\n")


class Mutator:
    """Makes cases. `form`: how the seeds are built (None: only bytes are known), `words`: what else may occur."""

    def __init__(self, choose: random.Random, form: Form | None, words: Sequence[bytes]) -> None:
        self.choose = choose
        self.form = form
        self.words = words

    def case(self, seed: bytes, other: bytes) -> bytes:
        """A case made from one seed, perhaps with a piece of another."""
        choose = self.choose
        case = seed
        if self.form is not None and choose.random() < 0.8:
            case = self._restructured(case, other)
            if choose.random() < 0.8:
                return case
        for _ in range(choose.choice([1, 1, 1, 2, 4])):
            case = self.changed_bytes(case, other)
        return case[: max(MAX_CASE_BYTES, len(seed))]

    def _restructured(self, seed: bytes, other: bytes) -> bytes:
        assert self.form is not None
        try:
            root = [self.form.load(seed)]
        except Exception:  # a seed that is kept because it is broken
            return self.changed_bytes(seed, other)
        try:
            foreign = self.form.load(other)
        except Exception:
            foreign = None
        for _ in range(self.choose.choice([1, 1, 1, 2, 3, 5])):
            self._change_one(root, foreign)
        try:
            case = self.form.dump(root[0])
        except Exception:  # what the form cannot say, such as numbers of 65 bits
            return self.changed_bytes(seed, other)
        return case if len(case) <= max(MAX_CASE_BYTES, len(seed)) else self.changed_bytes(seed, other)

    # --- structure ------------------------------------------------------------------------------------------------

    def _change_one(self, root: list[Any], foreign: Any) -> None:
        slots = list(_slots(root))
        if not slots:
            root[:] = [self.some_value()]
            return
        holder, at = self.choose.choice(slots)
        value = holder[at]
        if isinstance(value, bytes) and value[:1] and self.choose.random() < 0.7:
            inner = self._changed_within(value, foreign)
            if inner is not None:
                holder[at] = inner
                return
        change = self.choose.choice(_CHANGES)
        change(self, holder, at, foreign)

    def _changed_within(self, value: bytes, foreign: Any) -> bytes | None:
        """A byte string that holds an array, with the array changed; None if it holds none."""
        if not (0x90 < value[0] < 0xA0 or value[0] == 0xDC):
            return None
        try:
            tree = [_load_msgpack(value)]
            self._change_one(tree, foreign)
            return _dump_msgpack(tree[0])
        except Exception:
            return None

    def change(self, holder: Any, at: Any, foreign: Any) -> None:
        """Another value of the same type."""
        value, choose = holder[at], self.choose
        match value:
            case bool():
                holder[at] = not value
            case int():
                near = [value - 1, value + 1, value * 2, -value, value ^ (1 << choose.randrange(63))]
                holder[at] = choose.choice([choose.choice(near), choose.choice(_INTS)])
            case float():
                holder[at] = choose.choice(_FLOATS)
            case str():
                holder[at] = self._changed_text(value)
            case bytes():
                holder[at] = self.changed_bytes(value, b"")
            case list() if value:
                choose.shuffle(value)
            case _:
                holder[at] = self.some_value()

    def drop(self, holder: Any, at: Any, foreign: Any) -> None:
        """The value goes."""
        del holder[at]

    def double(self, holder: Any, at: Any, foreign: Any) -> None:
        """The value once more, or many times."""
        if isinstance(holder, list):
            holder[at:at] = [holder[at]] * self.choose.choice([1, 1, 2, 5, 40])

    def move(self, holder: Any, at: Any, foreign: Any) -> None:
        """The value changes places with a sibling."""
        other = self.choose.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
        holder[at], holder[other] = holder[other], holder[at]

    def retype(self, holder: Any, at: Any, foreign: Any) -> None:
        """A value of whatever type."""
        holder[at] = self.some_value()

    def nest(self, holder: Any, at: Any, foreign: Any) -> None:
        """The value within arrays, or what is in it in its place."""
        value = holder[at]
        if isinstance(value, list) and value and self.choose.random() < 0.3:
            holder[at] = self.choose.choice(value)
            return
        for _ in range(self.choose.choice([1, 1, 2, 30, 120, 400])):
            value = [value]
        holder[at] = value

    def graft(self, holder: Any, at: Any, foreign: Any) -> None:
        """A piece of another seed in the value's place or, in an array, before it."""
        slots = list(_slots([foreign]))
        if slots:
            other, place = self.choose.choice(slots)
            if isinstance(holder, list) and self.choose.random() < 0.4:
                holder.insert(at, other[place])
            else:
                holder[at] = other[place]

    def append(self, holder: Any, at: Any, foreign: Any) -> None:
        """One more value behind it."""
        if isinstance(holder, list):
            holder.insert(at + 1, self.some_value())
        else:
            holder[self.choose.choice(_TEXTS)] = self.some_value()

    def some_value(self) -> Any:
        """Any value that a form can hold, and a few that only msgpack can."""
        choose = self.choose
        kind = choose.randrange(9)
        if kind == 0:
            return choose.choice(_INTS)
        if kind == 1:
            return choose.choice(_TEXTS)
        if kind == 2:
            return choose.randbytes(choose.choice([0, 1, 8, 16, 24, 32, 33, 64]))
        if kind == 3:
            return choose.choice([None, True, False])
        if kind == 4:
            return choose.choice(_FLOATS)
        if kind == 5:
            return {}
        if kind == 6:
            return msgpack.ExtType(choose.randrange(128), b"")
        if kind == 7:
            return choose.choice([word.decode("latin-1") for word in self.words] or [""])
        return [self.some_value() for _ in range(choose.choice([0, 1, 2, 3]))]

    def _changed_text(self, text: str) -> str:
        choose = self.choose
        at = choose.randrange(len(text) + 1)
        word = choose.choice([word.decode("latin-1") for word in self.words] or _TEXTS)
        piece = choose.choice([*_TEXTS, word, word, word])
        end = min(len(text), at + choose.choice([0, 0, 1, 3, 20]))
        return choose.choice([piece, text[:at] + piece + text[end:], text[:at] + text[end:], text.upper()])

    # --- bytes ----------------------------------------------------------------------------------------------------

    def changed_bytes(self, data: bytes, other: bytes) -> bytes:
        """Bits turned, pieces cut out, put in, doubled or taken from elsewhere, numbers and lengths overwritten."""
        choose = self.choose
        at = choose.randrange(len(data) + 1)
        end = min(len(data), at + choose.choice([1, 1, 2, 4, 8, 30, 1_000]))
        kind = choose.randrange(10)
        if kind == 0:
            return data[:at]
        if kind == 1:
            return data[:at] + data[end:]
        if kind == 2:
            return data[:at] + choose.randbytes(choose.choice([1, 1, 2, 4, 16])) + data[at:]
        if kind == 3:
            return data[:at] + data[at:end] * choose.choice([2, 2, 3, 50]) + data[end:]
        if kind == 4:
            cut = choose.randrange(len(other) + 1)
            return data[:at] + other[cut : cut + choose.choice([1, 4, 16, 100_000])] + data[end:]
        if kind == 5:
            width = choose.choice([1, 2, 4, 8])
            number = (choose.choice(_INTS) % (1 << 8 * width)).to_bytes(width, "big")
            return data[:at] + number + data[at + width :]
        if kind == 6:
            return data[:at] + choose.choice([*_HEADS, *self.words]) + data[choose.choice([at, end]) :]
        if kind == 7:  # a number of seven bits to a byte, as Yjs writes them
            return data[:at] + _varint(abs(choose.choice(_INTS))) + data[at + 1 :]
        if at == len(data):
            return data + choose.randbytes(1)
        turned = data[at] ^ choose.choice([1 << choose.randrange(8), choose.randrange(1, 256)])
        return data[:at] + bytes([turned]) + data[at + 1 :]


_CHANGES = [
    *[Mutator.change] * 4,
    *[Mutator.retype] * 2,
    Mutator.drop,
    Mutator.double,
    Mutator.move,
    Mutator.nest,
    *[Mutator.graft] * 2,
    Mutator.append,
]


def _slots(root: Any) -> Iterator[tuple[Any, Any]]:
    """Every place within a list or dict: what holds it, and where. The first ones of many."""
    ahead, found = [root], 0
    while ahead:
        holder = ahead.pop()
        for at in list(holder) if isinstance(holder, dict) else range(len(holder)):
            yield holder, at
            found += 1
            if found == _MAX_SLOTS:
                return
            if isinstance(holder[at], list | dict):
                ahead.append(holder[at])


def _varint(value: int) -> bytes:
    data = bytearray()
    while value > 127:
        data.append(value & 127 | 128)
        value >>= 7
    return bytes([*data, value])
