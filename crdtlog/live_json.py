"""JSON documents and sets that a program holds open: what pycrdt tells becomes what the program wrote, place by place.

The document in the file is no Yjs document. `Shown` mirrors it value by value: an event names a path, and what is
there is marked as written; nothing else is compared or sent. The other way, what others changed is changed in the same
maps and arrays, so that whoever observes them goes on to. A value that a Yjs value cannot hold exactly is spelled out
as in `snapshot`: it is not touched unless the program writes there, and may be copied elsewhere as it stands.

What a program writes as a plain dict or list cannot be edited inside, in pycrdt; in the file it is as any other, and if
somebody changes something within, a `Map` or `Array` takes its place.
"""

import json
import secrets
from abc import abstractmethod
from collections.abc import Iterable, Mapping
from itertools import groupby
from typing import TYPE_CHECKING, Any

from crdtlog import kinds
from crdtlog.errors import StaleDocument, Usage
from crdtlog.kinds import Origin, jsonlive, jsontext
from crdtlog.kinds.addset import AddSet, canonical
from crdtlog.kinds.jsonlive import Shown, splice, told
from crdtlog.kinds.jsonmatch import Effort, align, gaps
from crdtlog.kinds.jsonstate import Document, decode
from crdtlog.kinds.jsontext import Json, minified
from crdtlog.live import Live, Said
from crdtlog.snapshot import json_node
from crdtlog.values import Value, is_plain_text
from crdtlog.yjs_writer import Exact, Node, update

if TYPE_CHECKING:
    from pycrdt import Array, Map

_OPEN = "Open it again."


class _LiveTree(Live):
    """What both have in common: a tree of shared maps and arrays, under a root of the kind's name."""

    def _open(self, shown: Value) -> "Map[Any] | Array[Any]":
        from pycrdt import Array, Map

        self._root = self._read(shown)
        node = json_node(self._root.tree())
        if not isinstance(node, (dict, list)):
            raise Usage("the cell holds no object or array that can be opened", "Change it by SQL.")
        name = kinds.NAMES[self.kind]
        self.doc.apply_update(update(name, node, secrets.randbits(52) + 1))
        shared: Map[Any] | Array[Any] = self.doc.get(name, type=Map if isinstance(node, dict) else Array)
        return shared

    def _observe(self) -> Any:
        return self.shared.observe_deep(self._edited)

    @abstractmethod
    def _read(self, shown: Value) -> Shown:
        """What the known document shows."""

    def _note(self, event: Any) -> None:
        try:
            # Those outside first: their events tell of places as they are afterwards, as paths do.
            for each in sorted(event, key=lambda each: len(each.path)):
                _note(self._root, each)
        except ValueError as error:
            raise StaleDocument(f"what was written has no form as JSON: {error}", _OPEN) from error
        self._unwritten = [self._root]

    def _take_in(self, shown: Value) -> None:
        before, self._root = self._root, self._read(shown)
        if not _show(self.shared, before, self._root):
            raise StaleDocument("what was open was replaced by a value of another kind", _OPEN)


class LiveJson(_LiveTree):
    """A cell of kind json, as a `pycrdt.Map` or `pycrdt.Array`."""

    kind = kinds.JSON

    def _read(self, shown: Value) -> Shown:
        self._document: Document = decode(self._known)
        return jsonlive.shown(self._document.root)

    def _say(self, edit: Shown, origin: Origin) -> Said:
        patch = jsonlive.patch(self._document, edit, origin)
        if patch is None:
            raise StaleDocument("an edit is too large to travel as one", _OPEN)
        return Said(patch)

    def _written(self) -> None:
        self._root = self._read(None)

    def _may_write(self, state: bytes) -> bool:
        # A patch tells what its author had seen by the last entry of each writer. So when this writer patched the
        # document otherwise, that must be seen before the entry after it says so.
        own = self._state.writer.id
        return state == self._known or decode(state).seen.get(own) == self._document.seen.get(own)


class LiveSet(_LiveTree):
    """A cell of kind set, as a `pycrdt.Array` of its elements."""

    kind = kinds.SET
    _tidy = True

    def _read(self, shown: Value) -> Shown:
        tree = jsontext.parse(shown) if isinstance(shown, str) else None
        if not isinstance(tree, list):
            raise StaleDocument("a set with too many elements to be held open", "Change it by SQL.")
        self._tidy = True
        return Shown([Shown(told(item).value) for item in tree])

    def _say(self, edit: Shown, origin: Origin) -> Said:
        # Elements have no places: what was added and removed since the known state is all that there is to say.
        tree = edit.tree()
        patch = AddSet().diff(self._known, minified(tree), origin)
        if patch is None:
            raise StaleDocument("an edit is too large to travel as one", _OPEN)
        return Said(patch, self._merged(self._known, self._base, [(patch, origin)]))

    def _written(self) -> None:
        self._tidy = False

    def _is_tidy(self) -> bool:
        return self._tidy


# --- from pycrdt --------------------------------------------------------------------------------------------------


def _note(root: Shown, event: Any) -> None:
    """Mark in a tree what an event tells was written. Raises `ValueError` for what has no form as JSON."""
    at = root
    above: list[Shown] = []
    for part in event.path:
        above.append(at)
        at = at.value[_key(part)] if isinstance(at.value, dict) else at.value[part]  # type: ignore[assignment]
    if hasattr(event, "keys") and isinstance(at.value, dict):
        _note_members(at.value, event.keys)
        above.append(at)
    elif isinstance(at.value, list):
        _note_elements(at.value, event.delta)
        above.append(at)
    else:  # a text within
        at.value, at.written = _json(event.target), True  # type: ignore[assignment]
    for each in above:
        each.touched = True


def _note_members(members: dict[str, Shown], keys: Mapping[str, Any]) -> None:
    for name, change in keys.items():
        key = _key(name)
        if change["action"] == "delete":
            members.pop(key, None)
        else:
            members[key] = told(_json(change["newValue"]))


def _note_elements(elements: list[Shown], delta: Iterable[Mapping[str, Any]]) -> None:
    at = 0
    for is_kept, steps in groupby(delta, lambda step: "retain" in step):
        if is_kept:
            at += sum(step["retain"] for step in steps)
            continue
        deleted, inserted = 0, list[Json]()
        for step in steps:
            deleted += step.get("delete", 0)
            inserted += map(_json, step.get("insert", ()))
        splice(elements, at, deleted, inserted)
        at += len(inserted)


def _key(name: str) -> str:
    return jsontext.quoted(name)[1:-1]


def _json(value: Any) -> Json:
    """A value of pycrdt's as JSON. Raises `ValueError`."""
    from pycrdt import Array, Map, Text

    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return jsonlive.number(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, (str, Text)):
        return jsontext.quoted(str(value))
    if isinstance(value, dict) and (spelled := _spelled(value)) is not None:
        return spelled
    if isinstance(value, (dict, Map)):
        return {_key(name): _json(item) for name, item in value.items()}
    if isinstance(value, (list, tuple, Array)):
        return [_json(item) for item in value]
    raise ValueError(f"a value of type {type(value).__name__}")


def _spelled(value: dict[str, Any]) -> Json | None:
    """What a plain object of one member spells out, if that is what `snapshot` would spell out so."""
    if len(value) != 1:
        return None
    ((form, text),) = value.items()
    tree = jsontext.parse(text) if isinstance(text, str) and form in ("integer", "json") else None
    return tree if tree is not None and json_node(tree) == Exact(form, text) else None


# --- into pycrdt --------------------------------------------------------------------------------------------------


def _show(shared: Any, old: Shown, new: Shown) -> bool:
    """Have a shared value that shows `old` show `new`, changing what differs; False if it must be replaced."""
    from pycrdt import Array, Map

    if isinstance(shared, Map) and isinstance(old.value, dict) and isinstance(new.value, dict):
        if not all(is_plain_text(json.loads(f'"{key}"')) for key in new.value):
            return False
        _show_members(shared, old.value, new.value)
        return True
    if isinstance(shared, Array) and isinstance(old.value, list) and isinstance(new.value, list):
        _show_elements(shared, old.value, new.value)
        return True
    return False


def _show_members(shared: "Map[Any]", old: dict[str, Shown], new: dict[str, Shown]) -> None:
    for key in old.keys() - new.keys():
        del shared[json.loads(f'"{key}"')]
    for key, value in new.items():
        before, name = old.get(key), json.loads(f'"{key}"')
        if before is not None and before.tree() == value.tree():
            continue
        if before is None or not _show(shared[name], before, value):
            _set(shared, name, json_node(value.tree()))


def _show_elements(shared: "Array[Any]", old: list[Shown], new: list[Shown]) -> None:
    same = align(list(map(_identity, old)), list(map(_identity, new)), Effort())
    for i, j in same:
        if old[i].tree() != new[j].tree() and not _show(shared[i], old[i], new[j]):
            del shared[i]
            _insert(shared, i, json_node(new[j].tree()))
    # From the end, so that what is before stands where it stood.
    for i, i2, j, j2 in reversed(list(gaps(same, len(old), len(new)))):
        if i < i2:
            del shared[i:i2]
        # Forwards, the library takes time and memory by the square of how many there are.
        for at in reversed(range(j, j2)):
            _insert(shared, i, json_node(new[at].tree()))


def _identity(element: Shown) -> object:
    """What is the same for an element whatever is in it; for a set's, what is in it."""
    return element.name or minified(canonical(element.tree()))


def _set(shared: "Map[Any]", name: str, node: Node) -> None:
    shared[name] = _empty(node)
    if isinstance(node, (dict, list)):
        _fill(shared[name], node)


def _insert(shared: "Array[Any]", at: int, node: Node) -> None:
    shared.insert(at, _empty(node))
    if isinstance(node, (dict, list)):
        _fill(shared[at], node)


def _empty(node: Node) -> Any:
    """A value to put into a shared one; maps and arrays are filled there."""
    from pycrdt import Array, Map

    if isinstance(node, Exact):
        return {node.form: node.spelled}
    if isinstance(node, dict):
        return Map()
    return Array() if isinstance(node, list) else node


def _fill(shared: Any, node: Node) -> None:
    if isinstance(node, dict):
        for name, item in node.items():
            _set(shared, name, item)
    elif isinstance(node, list):
        for item in reversed(node):
            _insert(shared, 0, item)
