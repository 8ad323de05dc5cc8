"""What a program changed in a JSON document, as the smallest patch that says it.

The document is compared with the tree that the program wrote: objects by key, arrays by elements that are still the
same or still alike (`jsonmatch`). A change becomes edits at the deepest places where the two differ, so that it meets
other devices' changes only there. Equal subtrees are found by number: whatever is equal gets the same number once.

Invariant: merged into the very document, the patch makes it show that tree, keys in the document's order. Therefore
an edit writes anew what it changes, and everything that it ends or names is in the patch's `seen`.
"""

from collections.abc import Callable, Hashable, Iterable
from itertools import pairwise
from typing import Any

from crdtlog.kinds import Origin
from crdtlog.kinds.jsonmatch import IDENTITIES, NAME, Effort, Pairs, Traits, align, gaps, pair
from crdtlog.kinds.jsonstate import ARRAY, FORMAT, OBJECT, Document, Id, Node, sequence
from crdtlog.kinds.jsontext import MAX_NODES, Json
from crdtlog.values import pack

#: Shapes of edits, their modes, and what happens to elements; see `jsontree`.
MEMBERS, ELEMENTS = 0, 1
ENDING, WITHIN, ANEW = 0, 1, 2
INSERT, EDIT, DELETE = 0, 1, 2

MAX_LEVEL = 1 << 48
MAX_INDEX = 1 << 32
#: Edits in one patch, and elements that it may delete: a few bytes could ask for much work.
MAX_EDITS = 2 * MAX_NODES
MAX_DELETED = 1 << 18

SAME = object()


def fresh(tree: Json) -> object:
    """The edit that writes a tree where nothing is."""
    if isinstance(tree, str):
        return tree
    if isinstance(tree, list):
        return [ELEMENTS, ANEW, [INSERT, None, True, *map(fresh, tree)]] if tree else [ELEMENTS, ANEW]
    edit: list[object] = [MEMBERS, ANEW, 1]
    for key, value in tree.items():
        edit += (key, None, fresh(value))
    return edit


def patch(document: Document, tree: Json, origin: Origin) -> bytes | None:
    """The patch that makes a document show a tree, b"" if it does; None if it would have to say too much."""
    return Author().patch(document, tree, origin)


class Author:
    """Compares, and notes whose facts the edits end or name."""

    #: The edit that writes what it compares with where nothing is.
    fresh: Callable[[Any], object] = staticmethod(fresh)

    def __init__(self) -> None:
        self.seen: dict[bytes, int] = {}
        self.places: dict[bytes, int] = {}
        self.deleted = 0
        self.effort = Effort()
        self.numbers: dict[Hashable, int] = {}
        self.known: dict[int, int] = {}
        self.orders: dict[int, list[Id]] = {}

    def patch(self, document: Document, tree: Any, origin: Origin) -> bytes | None:
        """See `patch`."""
        edit = self.edit(document.root, tree)
        if edit is SAME:
            return b""
        if self.deleted > MAX_DELETED or _count(edit) > MAX_EDITS:
            return None
        seen: list[bytes | int] = []
        for writer, seq in self.seen.items():
            seen += (b"" if writer == origin.writer else writer, seq)
        return pack([FORMAT, seen, edit])

    def edit(self, node: Node, tree: Any) -> object:
        """The edit that makes a place show a tree, or SAME."""
        if self.same(node) == self.same_tree(tree):
            return SAME
        content = node.content
        if content == OBJECT and isinstance(tree, dict):
            return self.members(node, tree)
        if content == ARRAY and isinstance(tree, list):
            return self.elements(node, tree)
        return self.anew(node, tree)

    def anew(self, node: Node, tree: Any) -> object:
        """The edit that ends what is in a place, and writes a tree there."""
        self.end(node)
        return self.fresh(tree)

    def members(self, node: Node, tree: dict[str, Any]) -> object:
        """The edit of an object that stays one."""
        level = min(1 + max((member.order[0] for member in node.members.values()), default=0), MAX_LEVEL)
        edits: list[object] = []
        mode = ENDING
        for key, value in tree.items():
            member = node.members.get(key)
            if member is None or not member.marks:
                edits += (key, None, self.fresh(value) if member is None else self.anew(member, value))
                mode = WITHIN
            elif (edit := self.edit(member, value)) is not SAME:
                writes = _writes(edit)
                edits += (key, list(member.order) if writes else None, edit)
                mode = WITHIN if writes else mode
        for key, member in node.members.items():
            if key not in tree and member.marks:
                self.end(member)
                edits += (key, None, None)
        if mode == WITHIN:
            self.end_marks(node)
            self.end_elements(node)
        return [MEMBERS, mode, level, *edits]

    def elements(self, node: Node, tree: list[Any]) -> object:
        """The edit of an array that stays one."""
        order = self.order(node)
        names = [name for name in order if node.elements[name].marks]
        nodes = [node.elements[name] for name in names]
        matched = self.match(nodes, tree)
        if matched is None:
            return self.anew(node, tree)
        equal, alike = matched
        steps: list[object] = []
        writes = False
        for i, j in alike:
            if (edit := self.edit(nodes[i], tree[j])) is not SAME:
                steps.append([EDIT, self.refer(names[i]), edit])
                writes = writes or _writes(edit)
        deleted: list[Id] = []
        beside = _Beside(node, order)
        for i, i2, j, j2 in gaps(sorted([*equal, *alike]), len(nodes), len(tree)):
            deleted += names[i:i2]
            if j < j2:
                parent, right = beside(names[i - 1] if i else None)
                steps.append([INSERT, parent and self.refer(parent), right, *map(self.fresh, tree[j:j2])])
                writes = True
        steps += self.deletes(node, deleted)
        if writes:
            self.end_marks(node)
            self.end_members(node)
        return [ELEMENTS, WITHIN if writes else ENDING, *steps]

    def deletes(self, node: Node, names: list[Id]) -> Iterable[object]:
        self.deleted += len(names)
        run: list[Any] = []
        for name in sorted(names):
            element = node.elements[name]
            self.end(element)
            found = self.refer(name)
            if element.place is None:
                yield [EDIT, found, None]
            elif run and run[1][:2] == found[:2] and run[1][2] + run[2] == found[2]:
                run[2] += 1
            else:
                if run:
                    yield run
                run = [DELETE, found, 1]
        if run:
            yield run

    def match(self, nodes: list[Node], tree: list[Any]) -> tuple[Pairs, Pairs] | None:
        """Which elements are the same as before, and which are new forms of old ones, by position; None if none are.

        An element that is gone here and equal to one that came elsewhere has moved: it is no form of another.
        """
        old, new = list(map(self.same, nodes)), list(map(self.same_tree, tree))
        equal = align(old, new, self.effort)
        unmatched = list(gaps(equal, len(old), len(new)))
        came = {new[j] for _, _, start, end in unmatched for j in range(start, end)}
        moved = {old[i] for start, end, _, _ in unmatched for i in range(start, end)} & came
        alike: Pairs = []
        for i, i2, j, j2 in unmatched:
            gone = [at for at in range(i, i2) if old[at] not in moved]
            here = [at for at in range(j, j2) if new[at] not in moved]
            if gone and here:
                before, after = (
                    [self.traits(nodes[at]) for at in gone],
                    [self.traits_of_tree(tree[at]) for at in here],
                )
                alike += ((gone[x], here[y]) for x, y in pair(before, after, self.effort))
        return (equal, alike) if equal or alike else None

    def order(self, node: Node) -> list[Id]:
        found = self.orders.get(id(node))
        if found is None:
            found = self.orders[id(node)] = sequence(node.elements)
        return found

    # --- whose facts ----------------------------------------------------------------------------------------------

    def saw(self, writer: bytes, seq: int) -> None:
        self.places.setdefault(writer, len(self.places))
        self.seen[writer] = max(seq, self.seen.get(writer, 0))

    def refer(self, name: Id) -> list[int]:
        """An element's name within the patch."""
        writer, seq, number = name
        self.saw(writer, seq)
        return [self.places[writer], seq, number]

    def end(self, node: Node) -> None:
        """Note everything known within a place, for an edit that ends it."""
        self.end_marks(node)
        self.end_members(node)
        self.end_elements(node)

    def end_marks(self, node: Node) -> None:
        for mark in node.marks:
            self.saw(mark.origin.writer, mark.origin.seq)

    def end_members(self, node: Node) -> None:
        for member in node.members.values():
            self.end(member)

    def end_elements(self, node: Node) -> None:
        for (writer, seq, _), element in node.elements.items():
            self.saw(writer, seq)
            for dot in element.anchors:
                self.saw(*dot)
            self.end(element)

    # --- what is equal, and what is alike -------------------------------------------------------------------------

    def same(self, node: Node) -> Hashable:
        """Equal for places and trees that show the same: a scalar's text, or a number."""
        content = node.content
        if content != OBJECT and content != ARRAY:
            return content
        found = self.known.get(id(node))
        if found is None:
            if content == OBJECT:
                members = node.members.items()
                found = self.number(
                    frozenset((key, self.same(member)) for key, member in members if member.marks)
                )
            else:
                shown = (element for name in self.order(node) if (element := node.elements[name]).marks)
                found = self.number(tuple(map(self.same, shown)))
            self.known[id(node)] = found
        return found

    def same_tree(self, tree: Json) -> Hashable:
        if isinstance(tree, str):
            return tree
        found = self.known.get(id(tree))
        if found is None:
            if isinstance(tree, dict):
                found = self.number(frozenset((key, self.same_tree(value)) for key, value in tree.items()))
            else:
                found = self.number(tuple(map(self.same_tree, tree)))
            self.known[id(tree)] = found
        return found

    def number(self, holds: Hashable) -> int:
        return self.numbers.setdefault(holds, len(self.numbers))

    def traits(self, node: Node) -> Traits:
        content = node.content or ""
        if content == OBJECT:
            members = {key: self.same(member) for key, member in node.members.items() if member.marks}
            return _traits_of_object(members)
        if content == ARRAY:
            elements = (node.elements[name] for name in self.order(node))
            return Traits(ARRAY, {}, frozenset(self.same(element) for element in elements if element.marks))
        return _SCALAR

    def traits_of_tree(self, tree: Json) -> Traits:
        if isinstance(tree, dict):
            return _traits_of_object({key: self.same_tree(value) for key, value in tree.items()})
        if isinstance(tree, list):
            return Traits(ARRAY, {}, frozenset(map(self.same_tree, tree)))
        return _SCALAR


class _Beside:
    """Where an element must be inserted to stand right after another, or first."""

    def __init__(self, node: Node, order: list[Id]) -> None:
        self.order = order
        places = (element.place for element in node.elements.values())
        self.parents = {place.parent for place in places if place is not None and place.right}
        self.after: dict[Id, Id] = {}

    def __call__(self, left: Id | None) -> tuple[Id | None, bool]:
        if left is None:
            return (self.order[0], False) if self.order else (None, True)
        if left not in self.parents:
            return left, True
        if not self.after:
            self.after = dict(pairwise(self.order))
        return self.after[left], False


def _writes(edit: object) -> bool:
    """Whether an edit writes something, and does not only delete."""
    return edit[1] != ENDING if isinstance(edit, list) else edit is not None


def _count(edit: Any) -> int:
    """How many edits an edit is, with those within."""
    if not isinstance(edit, list):
        return 1
    if edit[0] == MEMBERS:
        return 1 + sum(map(_count, edit[5::3]))
    within = (step[3:] if step[0] == INSERT else step[2:] if step[0] == EDIT else () for step in edit[2:])
    return 1 + sum(sum(map(_count, edits)) for edits in within)


def _traits_of_object(members: dict[str, Hashable]) -> Traits:
    names = {key: text for key in (*IDENTITIES, NAME) if isinstance(text := members.get(key), str)}
    return Traits(OBJECT, names, frozenset(members.items()))


_SCALAR = Traits("", {}, frozenset())
