"""What a program that holds a JSON document open changed in it, as a patch that says that and nothing else.

`Shown` is the document as the program holds it: a tree in which every value knows the place that it shows, and whether
the program wrote it since. So nothing has to be compared: of five equal elements it is known which one is new, and what
the program did not touch is not read, let alone written.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from crdtlog.kinds import Origin
from crdtlog.kinds.jsondiff import SAME, Author, fresh
from crdtlog.kinds.jsonmatch import Pairs
from crdtlog.kinds.jsonstate import ARRAY, OBJECT, Document, Id, Node, shown_elements, shown_members
from crdtlog.kinds.jsontext import Json
from crdtlog.kinds.jsontree import MAX_PATCH

#: Larger ones are not exact as doubles, so that a whole double need not mean an integer.
_WHOLE = 1 << 53


@dataclass(slots=True, eq=False)
class Shown:
    """A value: a scalar's text, or members by key text, or elements.

    `node` is the place that it shows, None where the program made one. `name` is an element's, among its siblings.
    `written`: by the program, since; `touched`: something within is.
    """

    value: "str | dict[str, Shown] | list[Shown]"
    node: Node | None = None
    name: Id | str | None = None
    written: bool = False
    touched: bool = False

    def tree(self) -> Json:
        """The value as JSON."""
        value = self.value
        if isinstance(value, dict):
            return {key: item.tree() for key, item in value.items()}
        return [item.tree() for item in value] if isinstance(value, list) else value


def shown(node: Node, name: Id | None = None) -> Shown:
    """What a place shows."""
    content = node.content
    if content == OBJECT:
        return Shown({key: shown(member) for key, member in shown_members(node)}, node, name)
    if content == ARRAY:
        return Shown([shown(element, each) for each, element in shown_elements(node)], node, name)
    return Shown("null" if content is None else content, node, name)


def told(tree: Json, node: Node | None = None, name: Id | str | None = None) -> Shown:
    """A value that the program wrote, at a place that was there or a new one."""
    value: str | dict[str, Shown] | list[Shown]
    if isinstance(tree, dict):
        value = {key: told(item) for key, item in tree.items()}
    else:
        value = [told(item) for item in tree] if isinstance(tree, list) else tree
    return Shown(value, node, name, written=True)


def splice(elements: list[Shown], at: int, deleted: int, inserted: Sequence[Json]) -> None:
    """Have elements give way to others; as many others are new values of the same elements."""
    gone = elements[at : at + deleted]
    if len(inserted) != deleted:
        elements[at : at + deleted] = map(told, inserted)
        return
    elements[at : at + deleted] = [
        told(tree, before.node, before.name) for before, tree in zip(gone, inserted, strict=True)
    ]


def patch(document: Document, root: Shown, origin: Origin) -> bytes | None:
    """The patch that says what was written in a document that shows the rest; None if it says too much."""
    said = _Told().patch(document, root, origin)
    return None if said is None or len(said) > MAX_PATCH else said


def number(value: float) -> str:
    """A double as JSON, whole ones without a fraction. Raises `ValueError` for what is no number of JSON."""
    if not math.isfinite(value):
        raise ValueError(f"{value} is no number of JSON")
    is_whole = (
        value == int(value) and abs(value) <= _WHOLE and not (value == 0 and math.copysign(1, value) < 0)
    )
    return str(int(value)) if is_whole else repr(value)


class _Told(Author):
    """Knows what was written, where `Author` compares."""

    @staticmethod
    def fresh(tree: Shown) -> object:
        """See `Author.fresh`."""
        return fresh(tree.tree())

    def edit(self, node: Node, tree: Shown) -> object:
        """See `Author.edit`."""
        value = tree.value
        if tree.written or isinstance(value, str):
            return self.anew(node, tree) if tree.written else SAME
        if not tree.touched:
            return SAME
        return self.members(node, value) if isinstance(value, dict) else self.elements(node, value)

    def match(self, nodes: list[Node], tree: list[Any]) -> tuple[Pairs, Pairs] | None:
        """See `Author.match`."""
        places = {id(node): at for at, node in enumerate(nodes)}
        return [], [(places[id(item.node)], at) for at, item in enumerate(tree) if id(item.node) in places]
