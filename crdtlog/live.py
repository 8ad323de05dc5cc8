"""What a program holds open as a `pycrdt` object: its edits travel as they were made, and others' edits come in.

The object is the program's own copy. It is filled with what the cell shows, never with bytes that another device had a
hand in, which reach pycrdt only in the text worker (R5): what comes in is put in as a program would. What is edited in
it becomes a patch to the *known* document, the one that the object shows, and is merged with whatever was written
beside it. Patch and row are written at once, in one transaction. What cannot be written now (a locked file, a full
disk) is kept and tried again with the next edit, drain, or at the end, which then say why.

Here is what all kinds share; `live_text` and `live_json` know what an edit is.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cache
from typing import Any, NamedTuple

from crdtlog import document, kinds, reverting, rowdocs
from crdtlog.catalog import Tracked
from crdtlog.clock import stamp
from crdtlog.connection import execute_rows, fetch
from crdtlog.drain import Drainer
from crdtlog.errors import CrdtlogError, Malformed, NoSuchRow, StaleDocument, Temporary, Usage
from crdtlog.finding import find_row, slot_of
from crdtlog.kinds import Base, Failure, Merge, Merged, Origin
from crdtlog.merging import OwnEdit
from crdtlog.payload import Patch
from crdtlog.rowdocs import Name
from crdtlog.rows import document_key
from crdtlog.state import State
from crdtlog.values import Key, Value, key_text, unpack_own

#: The origin of transactions that bring in what others wrote: an editor can tell them from its own.
ORIGIN = "crdtlog"
_AGAIN = "Open it again, and put the change in once more."


class Cell(NamedTuple):
    """The document that a cell shows: its name, the write that began it, its state."""

    of: Name
    base: Base
    state: bytes


class Said(NamedTuple):
    """An edit as a patch (empty: nothing changed), and the known document with it, unless that depends on the stamp."""

    patch: bytes
    known: Merged | None = None


def each(lives: Iterable["Live"], *steps: Callable[["Live"], None]) -> None:
    """Take all of them through one step after the other, whatever happens to one; then raise what happened first."""
    lives = list(lives)
    first: tuple[Live, CrdtlogError] | None = None
    for step in steps:
        for live in lives:
            try:
                step(live)
            except CrdtlogError as error:
                first = first or (live, error)
    if first is not None:
        whose, what = first
        whose.told(what)
        raise what


def _replaced(why: CrdtlogError) -> StaleDocument:
    return why if isinstance(why, StaleDocument) else StaleDocument(f"it was replaced: {why}", _AGAIN)


class Live(ABC):
    """One cell, held open. `shared` is the `pycrdt` object, `doc` the `pycrdt.Doc` that it is in."""

    kind: int

    def __init__(
        self, state: State, drainer: Drainer, table: str, key: Value | Sequence[Value], column: str
    ) -> None:
        from pycrdt import Doc

        self._state = state
        self._drainer = drainer
        self.table = table
        with self._transaction():
            pass  # what was captured may be what is asked for
        tracked = state.table(table)
        self.slot = slot_of(tracked, column)
        self.column = column
        name = kinds.NAMES[self.kind]
        if tracked.kinds.get(self.slot) != self.kind:
            raise Usage(
                f"column {column} of {tracked.name} does not merge as {name}",
                f"Run: crdtlog track {state.path} {tracked.name} --merge {column}={name}",
            )
        self.key: Key = find_row(state, tracked, key).key
        with self._transaction():
            self._of, self._base, self._known = self._cell()
        self._unwritten: list[Any] = []
        self._is_taking_in = False
        self._broken: StaleDocument | None = None
        self._is_told = False
        self.doc: Any = Doc()
        self.shared = self._open(self._merged(self._known, self._base).shown)
        self._subscription = self._observe()

    # --- what an edit is ------------------------------------------------------------------------------------------

    @abstractmethod
    def _open(self, shown: Value) -> Any:
        """Fill the document; returns the object in it. Raises `Usage` for what it cannot hold."""

    @abstractmethod
    def _observe(self) -> Any:
        """Have `_edited` called; returns the subscription."""

    @abstractmethod
    def _note(self, event: Any) -> None:
        """Put what was edited among `_unwritten`. Raises `StaleDocument` for what the file cannot hold."""

    @abstractmethod
    def _say(self, edit: Any, origin: Origin) -> Said:
        """The patch that says an edit of the known document. Raises `StaleDocument`."""

    @abstractmethod
    def _take_in(self, shown: Value) -> None:
        """Have the object show the known document. Raises `StaleDocument` if it cannot."""

    @abstractmethod
    def _written(self) -> None:
        """Go on from an edit that is in the known document now."""

    def _may_write(self, state: bytes) -> bool:
        """Whether an edit can be written before what is in the cell is taken in."""
        return True

    # --- the cell -------------------------------------------------------------------------------------------------

    def _cell(self) -> Cell:
        """The document that shows; nothing waits to be drained."""
        state, tracked, name = self._state, self._state.table(self.table), kinds.NAMES[self.kind]
        if self.slot not in tracked.cell_slots or tracked.kinds.get(self.slot) != self.kind:
            raise StaleDocument(f"the column does not merge as {name} any more", "Open it as what it is.")
        row = find_row(state, tracked, self.key)
        if row.compact.dead:
            raise NoSuchRow(f"the row of table {tracked.name} was deleted")
        version = document.expand(row.compact, (self.slot,)).showing[self.slot]
        docs = rowdocs.load(state, tracked, document_key(tracked, self.key))
        of = docs.of(self.slot, (version.writer, version.seq))
        if of is not None and of.kind == self.kind and docs.docs[of].problem is None:
            return Cell(of, Base(None, Origin(0, state.log.ids[of.writer], of.seq)), docs.docs[of].state)
        if of is not None:
            raise StaleDocument(
                "the cell holds another kind of document", "Write it anew by SQL, and open it again."
            )
        base, _ = rowdocs.base_of(state, tracked, self.key, self.slot, (version.writer, version.seq))
        if not kinds.has_form(self.kind, base.value):
            raise Usage(f"the cell holds no {name} that merges", f"Write a {name} into it first.")
        return Cell(
            Name(self.slot, version.writer, version.seq, self.kind), base, self._merged(None, base).state
        )

    def _merged(
        self, state: bytes | None, base: Base, patches: Sequence[tuple[bytes, Origin]] = ()
    ) -> Merged:
        """A document with patches in it, and what it shows. Raises `StaleDocument`."""
        try:
            with self._readable():
                (merged,) = self._state.documents(self.kind).merge([Merge(state, base, patches)])
        except Malformed as error:
            raise StaleDocument(f"an edit cannot be merged: {error}", _AGAIN) from error
        if isinstance(merged, Failure):
            what = "an edit cannot be merged" if patches else "the cell cannot be opened"
            raise StaleDocument(f"{what}: {merged.reason}", _AGAIN)
        if patches and merged.left:
            raise StaleDocument(f"an edit cannot be merged: {merged.left[0].reason}", _AGAIN)
        return merged

    def _readable(self) -> AbstractContextManager[None]:
        return rowdocs.readable(self._state, self._state.table(self.table))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """A transaction in which nothing waits to be drained."""
        while True:
            self._state.refresh()
            if not self._state.may_write:
                reverting.revert(self._state)
            self._drainer.prepare()
            with self._state.transaction():
                if self._drainer.settle():
                    yield
                    return

    # --- out ------------------------------------------------------------------------------------------------------

    def _edited(self, event: Any) -> None:
        if self._is_taking_in:
            return
        if self._broken:
            self._is_told = False  # whoever goes on editing has not heard
            return
        try:
            self._note(event)
        except StaleDocument as error:
            self._end(error)
        try:
            self._flush(may_wait=True)
        except CrdtlogError:
            return  # kept: the next edit, drain or close tries again, and says why it cannot

    def flush(self) -> None:
        """Write what was edited here and is not in the file yet. Raises `StaleDocument` if that cannot be.

        Once that is `told`, not again before the object is edited again: the program may have opened another.
        """
        self._flush(may_wait=False)

    def told(self, error: CrdtlogError) -> None:
        """An error of this object has reached the program."""
        self._is_told = self._is_told or error is self._broken

    def _flush(self, *, may_wait: bool) -> None:
        try:
            while self._unwritten and self._write(self._unwritten[0], may_wait):
                del self._unwritten[0]
        except StaleDocument as error:
            self._end(error)
        if self._broken and not self._is_told:
            raise self._broken

    def _end(self, why: CrdtlogError) -> None:
        """Take no more edits."""
        cell = f"{self.column} in row {key_text(self.key)!r} of {self.table}"
        self._broken = StaleDocument(f"{cell} takes no more edits: {why}", why.hint or _AGAIN)
        self._unwritten.clear()

    def _write(self, edit: Any, may_wait: bool) -> bool:
        self._state.require_writer()
        with self._transaction():
            try:
                cell = self._cell()
            except (NoSuchRow, Usage) as error:
                raise _replaced(error) from error
            if cell.of != self._of:
                raise StaleDocument("it was replaced", _AGAIN)
            with self._readable():
                if may_wait and not self._may_write(cell.state):
                    return False
            known = self._append(cell, edit)
        self._known = known
        self._written()
        return True

    def _append(self, cell: Cell, edit: Any) -> bytes:
        """Write an edit; returns the known document with it."""
        state, tracked = self._state, self._state.table(self.table)
        guess = max(stamp(state.now_ms()), state.writer.last_stamp + 1)
        origin = Origin(guess, state.writer.id, state.writer.seq + 1)
        said = self._say(edit, origin)
        if not said.patch:
            return self._known
        named = Patch(self.kind, state.log.ids[cell.of.writer], cell.of.seq, said.patch)
        taken: list[int] = []

        @cache
        def merged(before: bytes, at: int) -> Merged:
            if said.known is not None and before == self._known:
                return said.known
            return self._merged(before, cell.base, [(said.patch, origin._replace(stamp=at))])

        def own_edit(at: int) -> OwnEdit:
            taken.append(at)
            after = merged(cell.state, guess if said.known is not None else at)
            shown = rowdocs.as_stored(state, tracked.affinity(self.slot), after.shown)
            return OwnEdit(None, shown, named, cell.of, after.state)

        column = tracked.cell_names[tracked.cell_slots.index(self.slot)]
        sql = f"UPDATE main.{tracked.quoted} SET {column} = ? WHERE {tracked.where_key}"
        execute_rows(state.connection, sql, [(own_edit(guess).shown, *self.key)], odd=True)
        state.prepared[tracked.number, document_key(tracked, self.key), self.slot] = own_edit
        try:
            self._drainer.step((self.slot,))
        finally:
            state.prepared.clear()
        if len(taken) == 1:  # it would travel as a difference, which the known document does not know of
            raise StaleDocument("an edit is too large to travel as one", _AGAIN)
        return said.known.state if said.known is not None else merged(self._known, taken[-1]).state

    # --- in -------------------------------------------------------------------------------------------------------

    def refresh(self) -> None:
        """Take in what others wrote, if nothing waits to be written.

        Where somebody began another document in the cell, the object goes on with that one.
        """
        if self._unwritten or self._broken:
            return
        tracked = self._state.table(self.table)
        rows, _ = fetch(
            self._state.connection,
            "SELECT state, versions, problem FROM crdtlog__merge WHERE tab = ? AND key = ? AND slot = ? AND writer = ? "
            "AND seq = ? AND kind = ?",
            (tracked.number, document_key(tracked, self.key), *self._of),
        )
        state, versions, problem = rows[0] if rows else (None, None, None)
        if problem is not None:
            return  # the next edit says so
        if not self._is_shown(tracked, unpack_own(versions) if versions else ()):
            self._follow()
        elif state is not None and (state != self._known or not self._is_tidy()):
            self._show(state)

    def _is_shown(self, tracked: Tracked, patched: Iterable[Sequence[int]]) -> bool:
        """Whether the cell shows this document, which these writes patched."""
        if self.slot not in tracked.cell_slots or tracked.kinds.get(self.slot) != self.kind:
            return False
        row = find_row(self._state, tracked, self.key)
        if row.compact.dead:
            return False
        version = document.expand(row.compact, (self.slot,)).showing[self.slot]
        dots = {(self._of.writer, self._of.seq), *((writer, seq) for writer, seq in patched)}
        return (version.writer, version.seq) in dots

    def _follow(self) -> None:
        """Go on with the document that the cell shows now."""
        try:
            with self._transaction():
                cell = self._cell()
        except Temporary:
            return  # the next refresh tries again
        except (StaleDocument, NoSuchRow, Usage) as error:
            return self._end(_replaced(error))
        if cell.of != self._of:
            self._of, self._base = cell.of, cell.base
            self._show(cell.state)

    def _show(self, state: bytes) -> None:
        """Have the object show a state of its document."""
        try:
            shown = self._merged(state, self._base).shown
        except StaleDocument:
            return  # the next edit says so
        self._is_taking_in = True
        try:
            with self.doc.transaction(origin=ORIGIN):
                self._known = state
                self._take_in(shown)
        except StaleDocument as error:
            self._end(error)
        finally:
            self._is_taking_in = False

    def _is_tidy(self) -> bool:
        """Whether the object looks as the document that it shows does."""
        return True

    def close(self) -> None:
        """Write what is left, and let go of the document."""
        self.shared.unobserve(self._subscription)
        self.flush()
