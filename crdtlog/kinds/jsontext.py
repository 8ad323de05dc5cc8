"""JSON text, read and written without loss: numbers are kept as spelled, strings by their characters.

A value in memory is what the text says and nothing that Python makes of it: a scalar is its own JSON text (`1.50`,
`"a"`, `null`), an object a dict by key text (a string's JSON text without its quotes), an array a list. So 1 is not
1.0, integers have any length, and a lone surrogate is the six characters `\\ud800`. Written text is minified as
SQLite's `json()` does it; characters stand for themselves, escapes are left where JSON or UTF-8 needs them.

Refused, because they cannot be merged or should not be: text that is not UTF-8 or not JSON (SQLite's JSON5 included),
objects with one key twice, and documents that are too large or nested too deep.
"""

import json
import re
from typing import Any, TypeAlias

#: A scalar's own text, an object's members by key text, or an array's elements.
Json: TypeAlias = str | dict[str, "Json"] | list["Json"]

#: Containers within containers; text nested deeper has no mergeable form.
MAX_DEPTH = 100
#: Bytes of one text, and values in it.
MAX_TEXT = 1 << 20
MAX_NODES = 50_000


class _Number(str):
    """A number's text, told apart from a string."""

    __slots__ = ()


def parse(text: str) -> Json | None:
    """What a JSON text says, or None if it has no mergeable form."""
    try:
        if len(text) > MAX_TEXT or len(text.encode()) > MAX_TEXT:
            return None
        return _Reader().value(_DECODER.decode(text), 0)
    except (ValueError, RecursionError):  # not UTF-8, not JSON, a key twice, too much of it, or absurdly deep
        return None


def minified(value: Json) -> str:
    """A value's text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return f"[{','.join(map(minified, value))}]"
    return "{" + ",".join(f'"{key}":{minified(item)}' for key, item in value.items()) + "}"


def is_scalar(text: str) -> bool:
    """Whether a text is a scalar exactly as `parse` gives it."""
    if text in _CONSTANTS or _NUMBER.fullmatch(text) or _PLAIN.fullmatch(text):
        return True
    if not text.startswith('"'):
        return False
    try:
        string = _DECODER.decode(text)
    except ValueError:
        return False
    return type(string) is str and quoted(string) == text


def is_json(text: str) -> bool:
    """Whether a text of any size is JSON."""
    try:
        _CHECKER.decode(text)
    except (ValueError, RecursionError):
        return False
    return True


def is_key(text: str) -> bool:
    """Whether a text is a key exactly as `parse` gives it."""
    return is_scalar(f'"{text}"')


class _Reader:
    """Turns what the decoder made into values, counting them."""

    def __init__(self) -> None:
        self.left = MAX_NODES

    def value(self, raw: Any, depth: int) -> Json:
        self.left -= 1
        kind = type(raw)
        if self.left < 0 or (depth == MAX_DEPTH and (kind is list or kind is dict)):
            raise ValueError("too many values, or too deep")
        if kind is str:
            return quoted(raw)
        if kind is _Number:
            return str(raw)
        if kind is list:
            return [self.value(item, depth + 1) for item in raw]
        if kind is dict:
            return {quoted(key)[1:-1]: self.value(item, depth + 1) for key, item in raw.items()}
        return "null" if raw is None else "true" if raw else "false"


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("an object has one key twice")
    return members


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def quoted(string: str) -> str:
    """A string's JSON text, as `parse` gives it."""
    text = _quote(string)
    return text if text.isascii() else _SURROGATE.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


_DECODER = json.JSONDecoder(
    parse_int=_Number, parse_float=_Number, parse_constant=_no_constant, object_pairs_hook=_members
)
_CHECKER = json.JSONDecoder(parse_int=str, parse_float=str, parse_constant=_no_constant)
_quote = json.JSONEncoder(ensure_ascii=False).encode

_CONSTANTS = frozenset({"null", "true", "false"})
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
_PLAIN = re.compile(r'"[^"\\\x00-\x1f\ud800-\udfff]*"')
_SURROGATE = re.compile("[\ud800-\udfff]")
