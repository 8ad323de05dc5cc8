"""A patch of kind `json` in other names for the writers that it speaks of; see `crdtlog.naming` and `jsontree`.

What is one writer to a patch's author may be several here: the log that was forked, and the one that left it. Of the
former the author had seen all up to the fork, but the document may hold less of it: there its entry is a mere bound.
"""

from collections.abc import Callable
from typing import Any

from crdtlog.errors import Malformed
from crdtlog.kinds import jsondiff, jsontext
from crdtlog.kinds.jsonstate import FORMAT
from crdtlog.kinds.jsontree import opened
from crdtlog.values import pack

#: The logs that hold what an author had of a writer, up to an entry: the last entry in each, latest first.
Pieces = Callable[[bytes, int], list[tuple[bytes, int]]]


def renamed(patch: bytes, author: bytes, pieces: Pieces) -> bytes:
    """The patch of an author in other names. Raises `Malformed`."""
    names, needed, edit = opened(patch, author)
    exact = set(needed)
    seen: dict[bytes, int] = {}
    must: set[bytes] = set()
    for name in names:
        for place, (writer, seq) in enumerate(pieces(*name)):
            seen[writer] = max(seq, seen.get(writer, 0))
            if not place and name in exact:
                must.add(writer)
    places = {writer: place for place, writer in enumerate(seen)}

    def dot(at: Any, seq: Any) -> tuple[int, int]:
        if (
            type(at) is not int
            or not 0 <= at < len(names)
            or type(seq) is not int
            or not 1 <= seq <= names[at][1]
        ):
            raise _malformed()
        writer, number = pieces(names[at][0], seq)[0]
        return places[writer], number

    after = _edit(edit, dot, 0)
    flat = [part for item in seen.items() for part in item]
    bounds = [place for writer, place in places.items() if writer not in must]
    return pack([FORMAT, flat, after, bounds] if bounds else [FORMAT, flat, after])


_Dot = Callable[[Any, Any], tuple[int, int]]


def _edit(edit: Any, dot: _Dot, depth: int) -> Any:
    if edit is None or type(edit) is str:
        return edit
    if type(edit) is not list or len(edit) < 2 or depth == jsontext.MAX_DEPTH:
        raise _malformed()
    if edit[0] == jsondiff.MEMBERS:
        after = list(edit)
        for place in range(5, len(edit), 3):
            after[place] = _edit(edit[place], dot, depth + 1)
        return after
    return [*edit[:2], *(_step(step, dot, depth + 1) for step in edit[2:])]


def _step(step: Any, dot: _Dot, depth: int) -> Any:
    match step:
        case [jsondiff.INSERT, parent, right, *contents]:
            parent = None if parent is None else _id(parent, dot)
            return [jsondiff.INSERT, parent, right, *(_edit(content, dot, depth) for content in contents)]
        case [jsondiff.EDIT, name, change]:
            return [jsondiff.EDIT, _id(name, dot), _edit(change, dot, depth)]
        case [jsondiff.DELETE, name, count]:
            return [jsondiff.DELETE, _id(name, dot), count]
        case _:
            raise _malformed()


def _id(name: Any, dot: _Dot) -> list[int]:
    match name:
        case [at, seq, int(number)]:
            return [*dot(at, seq), number]
        case _:
            raise _malformed()


def _malformed() -> Malformed:
    return Malformed("a patch to a JSON document is malformed")
