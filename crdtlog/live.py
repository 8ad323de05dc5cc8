"""Texts that a program holds open, as `pycrdt` objects: its edits travel as they were made, and others' edits come in.

The document in this process is made only of states that the worker has read and written anew (R5). Its edits are put
into the file at once, each as a patch, in one transaction with the row. What cannot be written now (a locked file, a
full disk) is kept and tried again with the next edit, drain, or at the end, which then say why.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from crdtlog import document, merging
from crdtlog.connection import execute_rows, fetch
from crdtlog.drain import Drainer
from crdtlog.entry import Patch
from crdtlog.errors import CrdtlogError, NoSuchRow, StaleText, Usage
from crdtlog.history import find_row, slot_of
from crdtlog.kinds import TEXT, Base, Failure, Merge, Origin
from crdtlog.kinds.text import is_mergeable
from crdtlog.merging import Name, OwnEdit
from crdtlog.rows import document_key
from crdtlog.state import State
from crdtlog.texts import new_lane, with_lane
from crdtlog.values import Key, Value

if TYPE_CHECKING:
    pass


class LiveText:
    """One cell's text in this process. `text` is the `pycrdt.Text`."""

    def __init__(
        self, state: State, drainer: Drainer, table: str, key: Value | Sequence[Value], column: str
    ) -> None:
        from pycrdt import Doc, Text

        self._state = state
        self._drainer = drainer
        self.table = table
        self._settled()
        tracked = state.table(table)
        self.slot = slot_of(tracked, column)
        if tracked.kinds.get(self.slot) != TEXT:
            raise Usage(
                f"column {column} of {tracked.name} does not merge as text",
                f"Run: crdtlog track {state.path} {tracked.name} --merge {column}=text",
            )
        self.key: Key = find_row(state, tracked, key).key
        self._of, self._base, self._known = self._document()
        self._lane = new_lane()
        client = self._client()
        self._unwritten: list[bytes] = []
        self._is_taking_in = False
        self.doc: Any = Doc(client_id=client)
        self.doc.apply_update(self._known)
        self.text: Text = self.doc.get("text", type=Text)
        self._subscription = self.doc.observe(self._edited)

    def _client(self) -> int:
        from crdtlog.kinds.yjs import edit_client

        begun = (self._state.log.ids[self._of.writer], self._of.seq)
        return edit_client(begun, self._state.writer.id + self._lane)

    def _document(self) -> tuple[Name, Base, bytes]:
        """The document that shows, the write that began it, and its state; nothing waits to be drained."""
        state, tracked = self._state, self._state.table(self.table)
        row = find_row(state, tracked, self.key)
        if row.compact.dead:
            raise NoSuchRow(f"the row of table {tracked.name} was deleted")
        version = document.expand(row.compact, (self.slot,)).showing[self.slot]
        docs = merging.load(state, tracked, document_key(tracked, self.key))
        of = docs.of(self.slot, (version.writer, version.seq))
        if of is not None and of.kind == TEXT and docs.docs[of].problem is None:
            return of, Base(None, Origin(0, state.log.ids[of.writer], of.seq)), docs.docs[of].state
        if of is not None:
            raise StaleText(
                "the cell holds another kind of document", "Write it anew by SQL, and open it again."
            )
        base, _ = merging.base_of(state, tracked, self.key, self.slot, (version.writer, version.seq))
        if not is_mergeable(base.value):
            raise Usage("the cell holds no text that merges", "Write a text into it first.")
        (opened,) = state.documents(TEXT).merge([Merge(None, base, ())])
        if isinstance(opened, Failure):
            raise StaleText(f"the text cannot be opened: {opened.reason}")
        return Name(self.slot, version.writer, version.seq, TEXT), base, opened.state

    def _settled(self) -> None:
        """Have everything captured drained."""
        while True:
            self._state.refresh()
            self._drainer.prepare()
            with self._state.transaction():
                if self._drainer.settle():
                    return

    # --- out ------------------------------------------------------------------------------------------------------

    def _edited(self, event: Any) -> None:
        if self._is_taking_in:
            return
        self._unwritten.append(event.update)
        try:
            self.flush()
        except CrdtlogError:
            return  # kept: the next edit, drain or close tries again, and says why it cannot

    def flush(self) -> None:
        """Write what was edited here and is not in the file yet. Raises `StaleText` if the text was replaced."""
        while self._unwritten:
            self._write(self._unwritten[0])
            del self._unwritten[0]

    def _write(self, update: bytes) -> None:
        state = self._state
        while True:
            state.refresh()
            self._drainer.prepare()
            with state.transaction():
                if not self._drainer.settle():
                    continue
                of, base, known = self._document()
                if of != self._of:
                    raise StaleText(
                        "the text was replaced while it was open",
                        "Open it again, and put the change in once more.",
                    )
                self._append(of, base, known, with_lane(self._lane, update))
                return

    def _append(self, of: Name, base: Base, known: bytes, patch: bytes) -> None:
        state, tracked = self._state, self._state.table(self.table)
        origin = Origin(0, state.writer.id, state.writer.seq + 1)
        (merged,) = state.documents(TEXT).merge([Merge(known, base, [(patch, origin)])])
        if isinstance(merged, Failure):
            raise StaleText(f"the edit cannot be merged: {merged.reason}", "Open the text again.")
        name = document_key(tracked, self.key)
        named = Patch(TEXT, state.log.ids[of.writer], of.seq, patch)
        column = tracked.cell_names[tracked.cell_slots.index(self.slot)]
        sql = f"UPDATE main.{tracked.quoted} SET {column} = ? WHERE {tracked.where_key}"
        execute_rows(state.connection, sql, [(merged.shown, *self.key)], odd=True)
        state.prepared[tracked.number, name, self.slot] = OwnEdit(None, merged.shown, named, of, merged.state)
        try:
            self._drainer.step((self.slot,))
        finally:
            state.prepared.clear()

    # --- in -------------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Take in what others wrote, if the text is still the same."""
        if self._unwritten:
            return
        tracked = self._state.table(self.table)
        name = document_key(tracked, self.key)
        rows, _ = fetch(
            self._state.connection,
            "SELECT state FROM crdtlog__merge WHERE tab = ? AND key = ? AND slot = ? AND writer = ? AND seq = ? "
            "AND kind = ? AND problem IS NULL",
            (tracked.number, name, *self._of),
        )
        if rows and rows[0][0] != self._known:
            self._known = rows[0][0]
            self._is_taking_in = True
            try:
                self.doc.apply_update(self._known)
            finally:
                self._is_taking_in = False

    def close(self) -> None:
        """Write what is left, and let go of the document."""
        self.doc.unobserve(self._subscription)
        self.flush()
