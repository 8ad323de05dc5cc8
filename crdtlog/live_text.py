"""A text that a program holds open: its edits are splices, from what pycrdt tells, and patches that the worker makes.

The worker makes them on the known document, as a client of their own (a lane), so that no character gets a name twice.
"""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from crdtlog.errors import StaleDocument
from crdtlog.kinds import TEXT, Failure, Merged, Origin, textdiff
from crdtlog.kinds.textdiff import Splice
from crdtlog.live import Live, Said
from crdtlog.texts import new_lane
from crdtlog.values import Value

if TYPE_CHECKING:
    from pycrdt import Text

ROOT = "text"


class _Edit(NamedTuple):
    """The text after one transaction, and how it came about, if that is known."""

    after: str
    splices: list[Splice] | None


class LiveText(Live):
    """A cell of kind text, as a `pycrdt.Text`."""

    kind = TEXT

    def _open(self, shown: Value) -> "Text":
        from pycrdt import Text

        self._lane = new_lane()
        self._shown = str(shown)
        text: Text = self.doc.get(ROOT, type=Text)
        if shown:
            text.insert(0, self._shown)
        return text

    def _observe(self) -> Any:
        return self.shared.observe(self._edited)

    def _note(self, event: Any) -> None:
        after = str(self.shared)
        self._unwritten.append(_Edit(after, splices(event.delta, self._shown, after)))
        self._shown = after

    def _say(self, edit: _Edit, origin: Origin) -> Said:
        texts = self._state.texts
        done = texts.splice(self._known, self._base, self._lane, origin.writer, *edit)
        if isinstance(done, Failure):
            raise StaleDocument(f"an edit cannot be merged: {done.reason}", "Open the text again.")
        return Said(done.patch or b"", Merged(done.state, done.shown))

    def _written(self) -> None:
        """Every edit begins where the one before it ended."""

    def _take_in(self, shown: Value) -> None:
        before, self._shown = self._shown, str(shown)
        at = done = 0
        for position, deleted, inserted in textdiff.splices(before, self._shown):
            # The library counts positions in UTF-8 bytes.
            at += len(before[done:position].encode())
            done = position + deleted
            if deleted:
                del self.shared[at : at + len(before[position:done].encode())]
            if inserted:
                self.shared.insert(at, inserted)
            at += len(inserted.encode())


def splices(delta: Iterable[Mapping[str, Any]], before: str, after: str) -> list[Splice] | None:
    """What pycrdt tells of one transaction, as splices; None if that does not lead from one text to the other.

    (It tells so of positions within a character.) Raises `StaleDocument` for what is no text.
    """
    raw = before.encode()
    at = position = deleted = 0
    inserted = ""
    found: list[Splice] = []
    try:
        for step in [*delta, {"retain": 0}]:
            if "insert" in step:
                if type(step["insert"]) is not str:
                    raise StaleDocument("a text holds nothing but characters", "Open the text again.")
                inserted += step["insert"]
                continue
            end = at + (step["delete"] if "delete" in step else step["retain"])
            passed = len(raw[at:end].decode())
            at = end
            if "delete" in step:
                deleted += passed
                continue
            if deleted or inserted:
                found.append(Splice(position, deleted, inserted))
            position += deleted + passed
            deleted, inserted = 0, ""
    except UnicodeDecodeError:
        return None
    return found if _spliced(before, found) == after else None


def _spliced(text: str, found: Iterable[Splice]) -> str:
    parts, done = list[str](), 0
    for position, deleted, inserted in found:
        parts += (text[done:position], inserted)
        done = position + deleted
    return "".join([*parts, text[done:]])
