"""SQL values as this project carries, compares and names them: NULL, 64-bit integers, doubles, text, blobs.

Text that is not valid UTF-8 is a Python string with surrogate escapes and travels with its exact bytes. The one idea:
the msgpack bytes of a value *are* its identity (1 is not 1.0, 'x' is not 'X', 0.0 is not -0.0), so equality, hashing
and transport agree with one another bit for bit.
"""

import json
import math
import re
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from itertools import repeat
from typing import Any, cast

import msgpack
import xxhash

from crdtlog.errors import Malformed, Usage

Value = None | int | float | str | bytes
Key = tuple[Value, ...]

#: Bytes of a cell's hash inside a row's hash string.
HASH_BYTES = 8

_VALUE_TYPES = frozenset({type(None), int, float, str, bytes})
_INT64_MIN, _INT64_MAX = -(1 << 63), (1 << 63) - 1

pack: Callable[[object], bytes] = cast(
    "Callable[[object], bytes]", msgpack.Packer(unicode_errors="surrogateescape", autoreset=True).pack
)


#: No array of another machine's may be longer, and all of its arrays together hold no more than `MAX_VALUES`.
MAX_ARRAY = 100_000
MAX_VALUES = 5_000_000


def unpack(data: bytes, *, max_array: int = MAX_ARRAY, odd_text: bool = True) -> Any:
    """Decode msgpack that may come from another machine. Raises `Malformed`, or `UnicodeDecodeError` (see below).

    A byte of msgpack can ask for fifty bytes of objects, so not only lengths are bounded but the number of values,
    while they are being made. Maps and extensions are refused: nothing of ours uses them. Text that is not valid UTF-8
    is read with surrogate escapes, or raises `UnicodeDecodeError` with `odd_text` False.
    """
    left = MAX_VALUES

    def count(items: list[Any]) -> list[Any]:
        nonlocal left
        left -= len(items) + 1
        if left < 0:
            raise Malformed("an array of too many values")
        return items

    try:
        return msgpack.unpackb(
            data,
            raw=False,
            unicode_errors="surrogateescape" if odd_text else "strict",
            max_str_len=len(data),
            max_bin_len=len(data),
            max_array_len=max_array,
            max_map_len=0,
            max_ext_len=0,
            list_hook=count,
        )
    except (Malformed, UnicodeDecodeError):
        raise
    except Exception as error:  # msgpack raises ValueError, its own family, and errors like RecursionError
        raise Malformed(f"bytes that are not valid msgpack: {type(error).__name__}") from None


def unpack_own(data: bytes) -> Any:
    """Decode msgpack that this device wrote into its own file; quicker, and without bounds."""
    return msgpack.unpackb(data, raw=False)


def check_column(values: Sequence[object]) -> None:
    """Require that every item is a value SQLite can store exactly; raises `Malformed`."""
    kinds = set(map(type, values))
    if not kinds <= _VALUE_TYPES:
        raise Malformed("a cell holds something that is no SQL value")
    if int in kinds:
        ints = [value for value in values if type(value) is int]
        if min(ints) < _INT64_MIN or max(ints) > _INT64_MAX:
            raise Malformed("an integer does not fit 64 bits")
    if float in kinds and any(type(value) is float and math.isnan(value) for value in values):
        raise Malformed("a cell holds NaN, which SQLite cannot store")


def check_bytes(item: object, size: int, what: str) -> None:
    """Require that many bytes; `what` names them in the `Malformed` that is raised."""
    if not isinstance(item, bytes) or len(item) != size:
        raise Malformed(f"{what}: not {size} bytes")


def check_int(item: object, low: int, high: int, what: str) -> None:
    """Require an integer, both bounds included; as `check_bytes`. A bool is none."""
    if type(item) is not int or not low <= item <= high:
        raise Malformed(f"{what}: not a number from {low} to {high}")


def check_ints(item: object, low: int, high: int, what: str) -> list[int]:
    """The array of integers that this must be, each as for `check_int`."""
    if not isinstance(item, list):
        raise Malformed(f"{what}: not an array")
    if item and (set(map(type, item)) != {int} or min(item) < low or max(item) > high):
        raise Malformed(f"{what}: out of range")
    return cast("list[int]", item)


def same(a: Value, b: Value) -> bool:
    """Whether two values are the same bit for bit."""
    if a is None or type(a) is not type(b) or a != b:
        return a is b
    return type(a) is not float or pack(a) == pack(b)


def has_odd_text(values: Iterable[object]) -> bool:
    """Whether any text is not valid UTF-8 (and so cannot be bound as a plain parameter)."""
    return any(type(value) is str and not is_plain_text(value) for value in values)


def text_bytes(value: str) -> bytes:
    """The exact bytes that SQLite stores for a text value."""
    return value.encode("utf-8", "surrogateescape")


def hash_columns(columns: Sequence[Sequence[Value]], seed: int) -> list[list[bytes]]:
    """Eight bytes for every cell, column by column.

    XXH3 over the value's msgpack bytes, seeded with a number private to the file; used only to notice local changes,
    never compared between devices.
    """
    digest = xxhash.xxh3_64_digest
    return [list(map(digest, map(pack, column), repeat(seed))) for column in columns]


def hash_rows(columns: Sequence[Sequence[Value]], count: int, seed: int) -> list[bytes]:
    """The hash string of each row: its cells' hashes, concatenated in column order."""
    if not columns:
        return [b""] * count
    return list(map(b"".join, zip(*hash_columns(columns, seed), strict=True)))


def normal_key(key: Key, collations: Sequence[str]) -> Key:
    """A key as every device names it, whatever its spelling: SQLite's own equality made canonical.

    NOCASE folds ASCII letters only and RTRIM drops trailing spaces, as SQLite does; an integral double equals its
    integer.
    """
    return tuple(_normal(value, collation) for value, collation in zip(key, collations, strict=True))


def _normal(value: Value, collation: str) -> Value:
    if type(value) is float and value.is_integer() and _INT64_MIN <= value <= _INT64_MAX:
        as_int = int(value)
        return as_int if as_int <= _INT64_MAX else value
    if type(value) is str:
        if collation == "NOCASE":
            folded = value.translate(_ASCII_LOWER)
            nul = folded.find("\0")
            # SQLite compares up to the first NUL, and then only how many bytes there are.
            return folded if nul < 0 else folded[:nul] + "\0" * len(text_bytes(folded[nul:]))
        if collation == "RTRIM":
            return value.rstrip(" ")
    return value


_ASCII_LOWER = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


def key_text(key: Key) -> Value:
    """A key as people see and type it, different for different keys.

    One column's value as it is, several as a JSON array with blobs as {"hex": …}. A single text that is not UTF-8, or
    that could be taken for such an object, becomes {"text": hex of its bytes}.
    """
    if len(key) > 1:
        return json.dumps([_json_ready(value) for value in key], ensure_ascii=False)
    value = key[0]
    if type(value) is str and (value.startswith('{"') or not is_plain_text(value)):
        return json.dumps({"text": text_bytes(value).hex()})
    return value


def is_plain_text(value: str) -> bool:
    """Whether a text is valid UTF-8 (it may have been read with surrogate escapes)."""
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


#: How a person writes a key.
KEY_HINT = (
    "Write a key as `crdtlog conflicts` shows it; several columns are a JSON array, as in '[\"a\", 1]'."
)


def possible_keys(text: str, width: int, affinities: Sequence[str]) -> list[Key]:
    """The keys that a person who typed this may mean, likeliest first: the inverse of `key_text`. Raises `Usage`.

    The key of one column is a text as it stands. Where its column can hold something else it may also be a number, a
    blob as SQL writes it (x'00ff'), or a JSON array of one value, which tells number and text apart.
    """
    if width > 1 or text.startswith('{"'):
        return [_parsed_key(text, width)]
    possible: list[Key] = [(text,)]
    if affinities[0] != "TEXT" and (number := _number(text)) is not None:
        possible.append((number,))
    if blob := _BLOB.fullmatch(text):
        possible.append((bytes.fromhex(blob[1]),))
    if text.startswith("["):
        with suppress(Usage):
            possible.append(_parsed_key(text, width))
    return possible


def _parsed_key(text: str, width: int) -> Key:
    try:
        parsed = json.loads(text, strict=False)
    except (ValueError, RecursionError):
        raise Usage(f"{text!r} is no key of {width} columns", KEY_HINT) from None
    items = parsed if isinstance(parsed, list) else [parsed]
    if len(items) != width:
        raise Usage(f"the key has {width} columns, {len(items)} were given", KEY_HINT)
    return tuple(_from_json(item) for item in items)


_BLOB = re.compile(r"[xX]'((?:[0-9a-fA-F]{2})*)'")
_INTEGER = re.compile(r"[+-]?[0-9]{1,40}")
_REAL = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|-?inf")


def _number(text: str) -> int | float | None:
    if _INTEGER.fullmatch(text) and _INT64_MIN <= (whole := int(text)) <= _INT64_MAX:
        return whole
    return float(text) if _REAL.fullmatch(text) else None


def _json_ready(value: Value) -> object:
    if isinstance(value, bytes):
        return {"hex": value.hex()}
    return {"text": text_bytes(value).hex()} if isinstance(value, str) and not is_plain_text(value) else value


def _from_json(item: object) -> Value:
    if isinstance(item, dict) and set(item) in ({"hex"}, {"text"}):
        ((form, digits),) = item.items()
        try:
            raw = bytes.fromhex(str(digits))
        except ValueError:
            raise Usage(f"a key's {form} must be hexadecimal", KEY_HINT) from None
        return raw if form == "hex" else raw.decode("utf-8", "surrogateescape")
    if type(item) in _VALUE_TYPES:
        with suppress(Malformed, UnicodeEncodeError):
            check_column([item])
            pack(item)
            return cast(Value, item)
    raise Usage("a key's parts are text, numbers of 64 bits, null or blobs", KEY_HINT)
