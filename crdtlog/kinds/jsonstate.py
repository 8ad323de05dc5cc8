"""A JSON document that several devices edit, as a set of facts, and the bytes that a file keeps of it.

The document is a tree of places: the root, an object's members by key, an array's elements by id. What is known of a
place are facts, each named by the origin of the patch that said it:

- a *mark*: somebody wrote a scalar here, or an object, or an array, or wrote something inside one. The latest mark
  shows; the others are what concurrent patches wrote, until somebody who saw them writes here again. A member's mark
  also says where among its siblings its key stands.
- an element's *position*: which element it stands beside. It outlives the element's content (a tombstone), so that
  devices that had not seen it go can still say where they insert.
- an *anchor*: an element without position (its array was cleared while somebody edited it) was deleted here; what
  stands beside it still does.

A patch ends facts that its author had seen and adds its own. It never ends a fact that its author had not seen, so
concurrent patches commute, and a document is a function of the patches in it. A place without facts is not there.

An element's position is its parent in a tree that is read left children, element, right children (Fugue: Weidner and
Kleppmann 2023); an element inserted between two others becomes a child of one of them, and what one author inserted
together is a chain, which nobody else's insert gets into. Elements whose parent is not there are children of the array.

Bytes are canonical: members stand in the order in which they show, elements in the order of ids, origins are numbered
as they are met; runs of keys and of elements that came together, and of tombstones, take a few bytes as a whole.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeAlias

from crdtlog.clock import MAX_STAMP
from crdtlog.errors import DamagedDocument
from crdtlog.kinds import Origin
from crdtlog.kinds.jsontext import MAX_DEPTH, MAX_NODES
from crdtlog.values import pack, unpack_own

FORMAT = 1

#: Elements that came with one patch are no more.
_MAX_RUN = 2 * MAX_NODES
_MAX_INT = (1 << 63) - 1
_INT = {int}

#: A mark's content is a scalar's text, or one of these, which are the text of no scalar.
OBJECT, ARRAY = "{", "["

#: An array element's name: the dot of the patch that inserted it, and a number within that patch.
Id = tuple[bytes, int, int]
Dot = tuple[bytes, int]
#: Where a key stands: one after those its author saw; then whose keys came together, by stamp; then which of them.
Order = tuple[int, int, int]
#: The last entry seen of each writer.
Seen: TypeAlias = Mapping[bytes, int]

NO_ORDER: Order = (0, 0, 0)


class Place(NamedTuple):
    """An element's position: right or left child of a parent, or a child of the array."""

    parent: Id | None
    right: bool


FIRST = Place(None, True)


class Mark(NamedTuple):
    """What a patch wrote at a place; marks compare as their origins do."""

    origin: Origin
    content: str
    order: Order


@dataclass(slots=True, eq=False)
class Node:
    """All that is known of one place; only elements have a position and anchors."""

    place: Place | None = None
    anchors: frozenset[Dot] = frozenset()
    marks: list[Mark] = field(default_factory=list)
    members: dict[str, "Node"] = field(default_factory=dict)
    elements: dict[Id, "Node"] = field(default_factory=dict)

    @property
    def content(self) -> str | None:
        """What shows: a scalar's text, OBJECT, ARRAY, or None for nothing."""
        marks = self.marks
        return (marks[0] if len(marks) == 1 else max(marks)).content if marks else None

    @property
    def order(self) -> Order:
        """Where the place stands among its siblings, if it is a member."""
        return min(mark.order for mark in self.marks) if self.marks else NO_ORDER

    def is_bare(self) -> bool:
        """Whether nothing was written here, or everything has ended."""
        return not (self.marks or self.members or self.elements)

    def is_gone(self) -> bool:
        """Whether nothing at all is known here."""
        return self.place is None and not self.anchors and self.is_bare()

    def forget(self, seen: Seen) -> None:
        """End all facts within that an author had seen, except the place's own position and anchors."""
        if self.marks:
            self.forget_marks(seen)
        if self.members:
            self.forget_members(seen)
        if self.elements:
            self.forget_elements(seen)

    def forget_marks(self, seen: Seen) -> None:
        """End the marks that an author had seen."""
        self.marks = [mark for mark in self.marks if seen.get(mark.origin.writer, 0) < mark.origin.seq]

    def forget_members(self, seen: Seen) -> None:
        """End the facts about members that an author had seen."""
        for node in self.members.values():
            node.forget(seen)
        self.members = {key: node for key, node in self.members.items() if not node.is_bare()}

    def forget_elements(self, seen: Seen) -> None:
        """End the facts about elements that an author had seen, positions included."""
        for (writer, seq, _), node in self.elements.items():
            node.forget(seen)
            if seen.get(writer, 0) >= seq:
                node.place = None
            if node.anchors:
                node.anchors = frozenset(dot for dot in node.anchors if seen.get(dot[0], 0) < dot[1])
        self.elements = {name: node for name, node in self.elements.items() if not node.is_gone()}


@dataclass(slots=True)
class Document:
    """A document, and the last patch of each writer that is in it."""

    seen: dict[bytes, int]
    root: Node


def shown_members(node: Node) -> list[tuple[str, Node]]:
    """The members that an object shows, in order."""
    return [item for item in _in_order(node.members) if item[1].marks]


def shown_elements(node: Node) -> list[tuple[Id, Node]]:
    """The elements that an array shows, in order."""
    elements = node.elements
    return [(name, found) for name in sequence(elements) if (found := elements[name]).marks]


def sequence(elements: Mapping[Id, Node]) -> list[Id]:
    """All elements of an array in order, tombstones among them."""
    tops: list[Id] = []
    left: dict[Id, list[Id]] = {}
    right: dict[Id, list[Id]] = {}
    for name in sorted(elements):
        place = elements[name].place
        if place is None or place.parent is None or place.parent not in elements:
            tops.append(name)
        else:
            (right if place.right else left).setdefault(place.parent, []).append(name)
    order: list[Id] = []
    ahead = tops[::-1]
    while ahead:
        name = ahead.pop()
        if name in left:
            ahead.append(name)
            ahead += reversed(left.pop(name))
            continue
        order.append(name)
        if name in right:
            ahead += reversed(right[name])
    return order


def text(document: Document) -> str:
    """What a document shows."""
    parts: list[str] = []
    _write(document.root, parts.append)
    return "".join(parts)


def _write(node: Node, out: Any) -> None:
    content = node.content
    if content == OBJECT:
        before = '{"'
        for key, member in shown_members(node):
            out(f'{before}{key}":')
            _write(member, out)
            before = ',"'
        out("}" if before == ',"' else "{}")
    elif content == ARRAY:
        before = "["
        for _, element in shown_elements(node):
            out(before)
            _write(element, out)
            before = ","
        out("]" if before == "," else "[]")
    else:
        out("null" if content is None else content)


def _in_order(members: Mapping[str, Node]) -> list[tuple[str, Node]]:
    return sorted(members.items(), key=lambda item: (item[1].order, item[0]))


# --- bytes --------------------------------------------------------------------------------------------------------

# A node with one mark that is a scalar: [origin, text]. With one mark and only the content of its shape:
# [origin, 0, *members] or [origin, 1, *elements]. Any other: [marks, [*members], [*elements]], a mark being
# [origin, content] or, if its order is not the least among them, [origin, content, batch, index].
# members: runs, then key and node in turn. runs: batch, first index and length, for keys that came together.
# elements: anchors, then runs. anchors: an element's id and a dot, over and over.
# A run: [writer, seq, number, count, place, *nodes], count being negative for tombstones. place is that of the
# first, each of the others is the right child of the one before it: nil for the array's child, 0 for the right child
# of the element with the number before, -1 for no place, or [writer, seq, number, right].
_CHAINED, _NOWHERE = 0, -1


def encode(document: Document) -> bytes:
    """A document's bytes, alike on every device that has the same patches."""
    return _Encoder(document.seen).document(document)


def decode(state: bytes) -> Document:
    """The inverse of `encode`. Raises `DamagedDocument` for what nobody encoded, or gives a document of some kind."""
    try:
        format, seen, origins, batches, root = unpack_own(state)
        if format == FORMAT:
            return _Decoder(seen, origins, batches).document(root)
    except (TypeError, ValueError, LookupError, AttributeError, RecursionError) as error:
        raise DamagedDocument("what is kept of a JSON document is damaged") from error
    raise DamagedDocument("what is kept of a JSON document is of no known form")


class _Encoder:
    def __init__(self, seen: Seen) -> None:
        self.writers = {writer: number for number, writer in enumerate(sorted(seen))}
        self.origins: dict[Origin, int] = {}
        self.batches: dict[tuple[int, int], int] = {}

    def document(self, document: Document) -> bytes:
        root = self.node(document.root)
        writers = self.writers
        seen = [part for writer in writers for part in (writer, document.seen[writer])]
        origins = [part for at in self.origins for part in (at.stamp, writers[at.writer], at.seq)]
        batches = [part for batch in self.batches for part in batch]
        return pack([FORMAT, seen, origins, batches, root])

    def node(self, node: Node) -> list[object]:
        marks = node.marks
        if len(marks) == 1:
            (mark,) = marks
            origins = self.origins
            origin = origins.setdefault(mark.origin, len(origins))
            content = mark.content
            if content == OBJECT:
                if not node.elements:
                    return [origin, 0, *self.members(node)]
            elif content == ARRAY:
                if not node.members:
                    return [origin, 1, *self.elements(node)]
            elif not (node.members or node.elements):
                return [origin, content]
        least = node.order
        return [[self.mark(mark, least) for mark in sorted(marks)], self.members(node), self.elements(node)]

    def mark(self, mark: Mark, least: Order) -> list[object]:
        origin = self.origins.setdefault(mark.origin, len(self.origins))
        content = {OBJECT: 0, ARRAY: 1}.get(mark.content, mark.content)
        return [origin, content] if mark.order == least else [origin, content, *self.order(mark.order)]

    def order(self, order: Order) -> tuple[int, int]:
        return self.batches.setdefault(order[:2], len(self.batches)), order[2]

    def members(self, node: Node) -> list[object]:
        if not node.members:
            return []
        runs: list[int] = []
        out: list[object] = [runs]
        after = None
        for key, member in _in_order(node.members):
            level, stamp, index = member.order
            if (level, stamp, index) == after:
                runs[-1] += 1
            else:
                runs += (*self.order((level, stamp, index)), 1)
            after = (level, stamp, index + 1)
            out += (key, self.node(member))
        return out

    def elements(self, node: Node) -> list[object]:
        if not node.elements:
            return []
        anchors: list[int] = []
        out: list[object] = [anchors]
        writers = self.writers
        before: Id | None = None
        was_bare = False
        run: list[Any] = []
        for name in sorted(node.elements):
            element = node.elements[name]
            writer, seq, number = name
            bare, place = element.is_bare(), element.place
            # Positions of one patch end together, so the parent of what is chained is the one just before. Only what
            # was damaged has elements whose parent is missing: they are written as any others.
            chained = place == Place((writer, seq, number - 1), True) and place.parent == before
            if chained and bare == was_bare:
                run[3] += -1 if bare else 1
            else:
                where = _CHAINED if chained else self.place(place)
                run = [writers[writer], seq, number, -1 if bare else 1, where]
                out.append(run)
            if not bare:
                run.append(self.node(element))
            for anchor, anchor_seq in sorted(element.anchors):
                anchors += (writers[writer], seq, number, writers[anchor], anchor_seq)
            before, was_bare = name, bare
        return out

    def place(self, place: Place | None) -> object:
        if place is None:
            return _NOWHERE
        if place.parent is None:
            return None
        writer, seq, number = place.parent
        return [self.writers[writer], seq, number, place.right]


class _Decoder:
    """Reads a file's bytes, which may be damaged: what is built can be shown, merged and encoded."""

    def __init__(self, seen: list[Any], origins: list[int], batches: list[int]) -> None:
        self.seen = dict(_by(2, seen))
        self.writers = list(self.seen)
        if not all(type(writer) is bytes for writer in self.writers):
            raise _unreadable()
        _check_ints(self.seen.values())
        _check_ints([*origins, *batches], MAX_STAMP)
        self.origins = [Origin(stamp, self.writers[w], seq) for stamp, w, seq in _by(3, origins)]
        # A patch names what its author had seen by these; devices would refuse one that names what is not there.
        if any(origin.seq > self.seen[origin.writer] for origin in self.origins):
            raise _unreadable()
        self.batches = list(_by(2, batches))
        self.depth = 0

    def document(self, root: list[Any]) -> Document:
        return Document(self.seen, self.node(root, NO_ORDER, None))

    def node(self, data: list[Any], order: Order, place: Place | None) -> Node:
        if type(data) is not list:
            raise _unreadable()
        head = data[0]
        node = Node(place)
        if type(head) is int:
            content = data[1]
            if type(content) is str:
                node.marks.append(Mark(self.origins[head], content, order))
            elif content == 0:
                node.marks.append(Mark(self.origins[head], OBJECT, order))
                self.members(node, data, 2)
            else:
                node.marks.append(Mark(self.origins[head], ARRAY, order))
                self.elements(node, data, 2)
        else:
            for origin, content, *other in head:
                content = content if type(content) is str else (OBJECT, ARRAY)[content]
                own = order
                if other:
                    _check_ints(other)
                    own = (*self.batches[other[0]], other[1])
                node.marks.append(Mark(self.origins[origin], content, own))
            self.members(node, data[1], 0)
            self.elements(node, data[2], 0)
        return node

    def members(self, node: Node, data: list[Any], start: int) -> None:
        if start == len(data):
            return
        self.deeper()
        at = start + 1
        for batch, first, count in _by(3, data[start]):
            level, stamp = self.batches[batch]
            if not (first >= -_MAX_INT and first + count <= _MAX_INT):
                raise _unreadable()
            for index in range(first, first + count):
                key = data[at]
                if type(key) is not str:
                    raise _unreadable()
                node.members[key] = self.node(data[at + 1], (level, stamp, index), None)
                at += 2
        self.depth -= 1

    def elements(self, node: Node, data: list[Any], start: int) -> None:
        if start == len(data):
            return
        self.deeper()
        elements, writers = node.elements, self.writers
        for number_of_writer, seq, first, count, where, *contents in data[start + 1 :]:
            is_bounded = seq >= 0 and first >= 0 and first + abs(count) <= _MAX_INT
            if type(seq) is not int or not (is_bounded and -_MAX_RUN <= count <= len(contents)):
                raise _unreadable()
            writer = writers[number_of_writer]
            if seq > self.seen[writer]:
                raise _unreadable()
            place = self.place(where, (writer, seq, first - 1))
            for number in range(first, first + abs(count)):
                name = (writer, seq, number)
                element = self.node(contents[number - first], NO_ORDER, place) if count > 0 else Node(place)
                elements[name] = element
                place = Place(name, True)
        _check_ints(data[start])
        for number_of_writer, seq, number, anchor, anchor_seq in _by(5, data[start]):
            element = elements[writers[number_of_writer], seq, number]
            element.anchors |= {(writers[anchor], anchor_seq)}
        self.depth -= 1

    def deeper(self) -> None:
        self.depth += 1
        if self.depth > MAX_DEPTH:
            raise _unreadable()

    def place(self, where: Any, before: Id) -> Place | None:
        if where is None:
            return FIRST
        if where == _CHAINED:
            return Place(before, True)
        if where == _NOWHERE:
            return None
        writer, seq, number, right = where
        _check_ints((writer, seq, number))
        return Place((self.writers[writer], seq, number), bool(right))


def _check_ints(numbers: Collection[Any], most: int = _MAX_INT) -> None:
    """Require numbers of 63 bits, or up to `most`: others could neither be compared nor be encoded again."""
    if numbers and (set(map(type, numbers)) != _INT or max(numbers) > most or min(numbers) < -_MAX_INT):
        raise _unreadable()


def _unreadable() -> ValueError:
    return ValueError("a part of another type, or out of bounds")


def _by(count: int, flat: list[Any]) -> Iterable[tuple[Any, ...]]:
    """A flat list in groups."""
    return zip(*[iter(flat)] * count, strict=True)
