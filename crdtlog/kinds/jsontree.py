"""The merge kind `json`: a column of JSON text, merged by object keys and array elements.

Programs write whole texts with plain SQL. `diff` finds what a text changed, as a tree of edits (`jsondiff`); `merge`
carries such a patch out on the facts of a document (`jsonstate`). What concurrent patches do to one place:

- Objects merge by key, also two that were created apart under one key. Arrays created apart stand one after the other.
- Of two values written to one place the later shows, in the order of origins. The other is kept, unseen, until
  somebody who had both writes there: what a patch's author had seen it replaces, whatever the clocks say.
- What somebody wrote inside a place that was deleted meanwhile stays, within what is left of the place.
- Elements inserted side by side all stand, each author's together. An element that changed is edited where it is; one
  that moved is deleted and inserted anew.
- A place that became another kind of thing (a number an object) is written anew; of two kinds the later shows.

A patch is [FORMAT, seen, edit]. `seen` is a flat list that gives, for each writer whose facts the patch ends or names,
the last of its entries that the author had seen; b"" stands for the author. A fourth field lists the places in `seen`
that are no more than bounds: the last entry seen, of which the document need not hold anything (see `jsonnames`). An
edit is one of

    nil                                             delete, with everything within
    text                                            a scalar
    [0, mode, level, key, order, edit, …]           an object: edits of members
    [1, mode, [0, parent, right, edit, …]           an array: insert elements, the first as a child of `parent`
              [1, id, edit]                         … edit an element, or (nil) delete one that has no position
              [2, id, count], …]                    … delete elements, with consecutive numbers

where mode is 0 if things only end within, 1 to write inside what stands there, 2 to write it anew. `order` is [level,
stamp, index] for a key that the author had, and nil for a new one. An id is [place in `seen`, seq, number]. Inserted
elements are numbered through the patch: each insert's own first, then what is in them.
"""

from typing import Any

from crdtlog.clock import MAX_STAMP
from crdtlog.errors import DamagedDocument, Malformed
from crdtlog.kinds import Origin, jsondiff, jsontext
from crdtlog.kinds.jsonstate import (
    ARRAY,
    FIRST,
    FORMAT,
    NO_ORDER,
    OBJECT,
    Document,
    Id,
    Mark,
    Node,
    Order,
    Place,
    decode,
    encode,
    text,
)
from crdtlog.values import Value, unpack
from crdtlog.versions import MAX_SEQ

#: Bytes of a patch; a change that needs more begins a new document, as does any change of a state larger than that.
MAX_PATCH = 2 << 20
MAX_STATE = 16 << 20
#: Decoded, a document takes some fifty times as much memory.
_KEPT_BYTES = 1 << 19


class JsonTree:
    """Deep merge of JSON: objects by key, arrays by element.

    The document that was last read or written is kept decoded: an edit compares, merges and shows one and the same.
    """

    name = "json"

    def __init__(self) -> None:
        self._kept: tuple[bytes, Document] | None = None
        #: what a merge came to. It shows what its bytes say, but its parts stand in another order.
        self._merged: tuple[bytes, Document] | None = None

    def start(self, value: Value, origin: Origin) -> bytes | None:
        """The document that a JSON text begins; None for any other value."""
        tree = jsontext.parse(value) if isinstance(value, str) else None
        if tree is None:
            return None
        document = Document({origin.writer: origin.seq}, Node())
        _Merge(origin, []).write(document.root, jsondiff.fresh(tree))
        return encode(document)

    def diff(self, state: bytes, value: Value, origin: Origin) -> bytes | None:
        """The patch that makes a document show a text; None for what is no JSON or too large, b"" for no change."""
        tree = jsontext.parse(value) if isinstance(value, str) and len(state) <= MAX_STATE else None
        if tree is None:
            return None
        patch = jsondiff.patch(self._read(state), tree, origin)
        return None if patch is None or len(patch) > MAX_PATCH else patch

    def merge(self, state: bytes, patch: bytes, origin: Origin) -> bytes:
        """The document with a patch in it. Raises `Malformed`."""
        if not patch:
            return state
        names, needed, edit = opened(patch, origin.writer)
        document = self._read(state)
        seen = document.seen
        if (
            any(seen.get(writer, 0) < seq for writer, seq in needed)
            or seen.get(origin.writer, 0) >= origin.seq
        ):
            raise Malformed("a patch to a JSON document comes before what it had seen, or twice")
        self._kept = None  # from here on it is not what those bytes say
        _Merge(origin, names).write(document.root, edit)
        seen[origin.writer] = origin.seq
        after = encode(document)
        self._merged = (after, document) if len(after) <= _KEPT_BYTES else None
        return after

    def needs(self, patch: bytes, origin: Origin) -> dict[bytes, int]:
        """For each writer that a patch names, the last entry of it that its author had seen. Raises `Malformed`.

        An entry's context must cover these: otherwise devices could receive the patch before what it speaks of.
        """
        return dict(opened(patch, origin.writer)[1]) if patch else {}

    def show(self, state: bytes) -> str:
        """The document's text, minified."""
        kept = self._merged
        shown = text(kept[1] if kept is not None and kept[0] == state else self._read(state))
        if not jsontext.is_json(shown):
            raise DamagedDocument("what is kept of a JSON document is damaged: it shows what is no JSON")
        return shown

    def _read(self, state: bytes) -> Document:
        """A document, not to be changed unless it is forgotten."""
        if self._kept is None or self._kept[0] != state:
            document = decode(state)
            if len(state) > _KEPT_BYTES:
                return document
            self._kept = state, document
        return self._kept[1]


def opened(patch: bytes, author: bytes) -> tuple[list[tuple[bytes, int]], list[tuple[bytes, int]], Any]:
    """The writers that a patch names, those of them of which the document must hold that entry, and the edit."""
    if len(patch) > MAX_PATCH:
        raise Malformed("a patch to a JSON document is too large")
    most: list[Any] = []
    match unpack(patch, max_array=MAX_PATCH):
        case [format, list() as flat, edit] if format == FORMAT and len(flat) % 2 == 0:
            pass
        case [format, list() as flat, edit, list() as most] if format == FORMAT and len(flat) % 2 == 0:
            pass
        case _:
            raise _malformed()
    names = list(zip(flat[::2], flat[1::2], strict=True))
    for writer, seq in names:
        if type(writer) is not bytes or not _is_int(seq, 1, MAX_SEQ):
            raise _malformed()
    if not all(_is_int(at, 0, len(names) - 1) for at in most):
        raise _malformed()
    names = [(writer or author, seq) for writer, seq in names]
    if len(dict(names)) != len(names):
        raise _malformed()
    bounds = set(most)
    return names, [name for at, name in enumerate(names) if at not in bounds], edit


class _Merge:
    """Carries out one patch. Whatever the patch says, the work is bounded by its size and the document's."""

    def __init__(self, origin: Origin, names: list[tuple[bytes, int]]) -> None:
        self.origin = origin
        self.names = names
        self.seen = dict(names)
        self.number = 0
        self.edits_left = jsondiff.MAX_EDITS
        self.deletes_left = jsondiff.MAX_DELETED

    def write(self, root: Node, edit: Any) -> None:
        if edit is None:
            raise _malformed()
        self.edit(root, edit, NO_ORDER, 0, False)

    def edit(self, node: Node, edit: Any, order: Order, depth: int, clear: bool) -> bool:
        """Edit a place, and tell whether something was written. `clear`: what was seen here has ended already."""
        self.edits_left -= 1
        if self.edits_left < 0:
            raise Malformed("a patch to a JSON document says too much")
        if edit is None:
            if not clear:
                node.forget(self.seen)
            return False
        if type(edit) is str:
            if not jsontext.is_scalar(edit):
                raise _malformed()
            if not clear:
                node.forget(self.seen)
            node.marks.append(Mark(self.origin, edit, order))
            return True
        if type(edit) is not list or len(edit) < 2 or depth == jsontext.MAX_DEPTH:
            raise _malformed()
        shape, mode = edit[:2]
        if not (_is_int(shape, 0, 1) and _is_int(mode, 0, 2)):
            raise _malformed()
        if mode != jsondiff.ENDING:
            self.begin(node, OBJECT if shape == jsondiff.MEMBERS else ARRAY, mode, order, clear)
            clear = clear or mode == jsondiff.ANEW
        within = self.members if shape == jsondiff.MEMBERS else self.elements
        if within(node, edit, depth + 1, clear) and mode == jsondiff.ENDING:
            raise _malformed()
        return bool(mode != jsondiff.ENDING)

    def begin(self, node: Node, content: str, mode: int, order: Order, clear: bool) -> None:
        """Mark a place as an object or array; what else was seen here ends."""
        if not clear:
            if mode == jsondiff.ANEW:
                node.forget(self.seen)
            else:
                node.forget_marks(self.seen)
                if content == OBJECT:
                    node.forget_elements(self.seen)
                else:
                    node.forget_members(self.seen)
        node.marks.append(Mark(self.origin, content, order))

    def members(self, node: Node, edit: list[Any], depth: int, clear: bool) -> bool:
        if len(edit) % 3 or not _is_int(edit[2], 0, jsondiff.MAX_LEVEL):
            raise _malformed()
        level, stamp, index, wrote = edit[2], self.origin.stamp, 0, False
        keys = edit[3::3]
        if not all(type(key) is str and jsontext.is_key(key) for key in keys) or len(set(keys)) != len(keys):
            raise _malformed()
        for key, order, change in zip(keys, edit[4::3], edit[5::3], strict=True):
            if order is None:
                own: Order = (level, stamp, index)
                index += 1
            else:
                own = _order(order)
            member = node.members.setdefault(key, Node())
            wrote |= self.edit(member, change, own, depth, clear)
            if member.is_bare():
                del node.members[key]
        return wrote

    def elements(self, node: Node, edit: list[Any], depth: int, clear: bool) -> bool:
        wrote, named = False, set[Id]()
        for step in edit[2:]:
            match step:
                case [jsondiff.INSERT, parent, bool() as right, _, *_]:
                    self.insert(node, self.place(parent, right), step[3:], depth)
                    wrote = True
                case [jsondiff.EDIT, name, change]:
                    found = self.id(name)
                    self.name(named, found)
                    wrote |= self.edit_element(node, found, change, depth, clear)
                case [jsondiff.DELETE, name, count] if _is_int(count, 1, self.deletes_left):
                    self.deletes_left -= count
                    writer, seq, first = self.id(name)
                    for number in range(first, first + count):
                        found = writer, seq, number
                        self.name(named, found)
                        if found in node.elements:
                            self.delete(node, found, clear)
                case _:
                    raise _malformed()
        return wrote

    def insert(self, node: Node, place: Place, contents: list[Any], depth: int) -> None:
        dot = self.origin.writer, self.origin.seq
        first = self.number
        self.number += len(contents)
        for number, content in enumerate(contents, first):
            element = Node(place)
            if not self.edit(element, content, NO_ORDER, depth, True):
                raise _malformed()
            name = (*dot, number)
            node.elements[name] = element
            place = Place(name, True)

    def edit_element(self, node: Node, name: Id, edit: Any, depth: int, clear: bool) -> bool:
        """Edit an element, which may be gone. Deleting it so leaves an anchor, as nothing else holds its place."""
        element = node.elements.get(name) or Node()
        wrote = self.edit(element, edit, NO_ORDER, depth, clear)
        if edit is None:
            element.anchors |= {(self.origin.writer, self.origin.seq)}
        if element.is_gone():
            node.elements.pop(name, None)
        else:
            node.elements[name] = element
        return wrote

    def delete(self, node: Node, name: Id, clear: bool) -> None:
        """Delete an element; its position stays."""
        element = node.elements[name]
        if not clear:
            element.forget(self.seen)
        if element.is_gone():
            del node.elements[name]

    def name(self, named: set[Id], name: Id) -> None:
        """Note that a patch names an element: once, or work would not be bounded by its size."""
        if name in named:
            raise _malformed()
        named.add(name)

    def place(self, parent: Any, right: bool) -> Place:
        if parent is None:
            if not right:
                raise _malformed()
            return FIRST
        return Place(self.id(parent), right)

    def id(self, name: Any) -> Id:
        """The element that a patch names; it came with an entry that the author had seen."""
        match name:
            case [at, seq, number] if _is_int(at, 0, len(self.names) - 1):
                writer, last = self.names[at]
                if _is_int(seq, 1, last) and _is_int(number, 0, jsondiff.MAX_INDEX):
                    return writer, seq, number
        raise _malformed()


def _order(order: Any) -> Order:
    match order:
        case [level, stamp, index] if (
            _is_int(level, 0, jsondiff.MAX_LEVEL)
            and _is_int(stamp, 0, MAX_STAMP)
            and _is_int(index, 0, jsondiff.MAX_INDEX)
        ):
            return level, stamp, index
    raise _malformed()


def _is_int(value: object, least: int, most: int) -> bool:
    return type(value) is int and least <= value <= most


def _malformed() -> Malformed:
    return Malformed("a patch to a JSON document is malformed")
