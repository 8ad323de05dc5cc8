"""What an entry says, in the names that logs have here.

Who writes names logs as it knows them. If it does not know of a fork, one name stands for what others tell apart; if it
knows of one more, it has a name for what others do not. But its context tells which entries it means, by their hashes.
So each entry is read in its author's names, and stored as if it had been written in ours; what was signed is kept
beside it (`crdtlog__original`). Once more is known, the entries are taken in anew (`forks`).

Without forks nothing is translated, and nothing here costs anything.
"""

from collections.abc import Mapping
from dataclasses import replace

from crdtlog import entry, kinds
from crdtlog.entry import Entry
from crdtlog.errors import AnotherHistory, EntryRefused, Malformed
from crdtlog.log import Log
from crdtlog.payload import Patch, Section, decode_data, encode_data
from crdtlog.textnames import Clients, Place
from crdtlog.versions import Named
from crdtlog.writers import Writer


def read(log: Log, item: Entry, own: Writer) -> Entry:
    """An entry as it is stored, the next of the log `own`. Raises `EntryRefused` if its context is not held (L3)."""
    meant = {named: _held(log, item, named) for named in item.context}
    said = [(named.writer, to) for named, to in meant.items() if to.id != named.writer]
    _check_news(item, own, meant)
    if own.id == item.writer and not said and not log.called.is_other(own):
        return item
    for name, to in meant.items():
        log.called.note(own, item.seq, name.writer, to, log.writers.get(name.writer))
    translated = replace(item, writer=own.id, context=_context(log, meant, own))
    if item.kind != "data":
        return translated
    names = _Names(log, item, own)
    try:
        payload = decode_data(item.payload(), item.first_stamp, item.last_stamp)
    except Malformed:
        return translated  # is refused when it is merged, under any names
    sections = [names.section(section) for section in payload.sections]
    if sections == payload.sections:
        return translated
    raw = encode_data(sections, item.first_stamp)
    return replace(translated, raw_size=len(raw), packed=entry.compress(raw))


def _held(log: Log, item: Entry, named: Named) -> Writer:
    found = log.resolve(named)
    if found is not None:
        return found
    known = log.writers.get(named.writer)
    if known is None or known.seq < named.seq:
        raise EntryRefused(
            f"entry {item.seq} of writer {item.writer.hex()[:12]} came before what it builds on"
        )
    raise AnotherHistory(
        f"entry {item.seq} of writer {item.writer.hex()[:12]} builds on another history of writer "
        f"{named.writer.hex()[:12]}"
    )


def _check_news(item: Entry, own: Writer, meant: Mapping[Named, Writer]) -> None:
    """What a log saw it never unsees."""
    if any(named.seq <= own.context.get(to.id, 0) for named, to in meant.items()):
        raise EntryRefused(
            f"entry {item.seq} of writer {item.writer.hex()[:12]} names again what its log named before"
        )


def _context(logs: Log, meant: Mapping[Named, Writer], own: Writer) -> tuple[Named, ...]:
    """Whoever has an entry of a log has all of its history: what stands before a fork is named by its own log."""
    lines: dict[bytes, Named] = {}

    def add(log: Writer, seq: int, hash8: bytes) -> None:
        known = lines.get(log.id)
        if log is not own and seq > max(own.context.get(log.id, 0), known.seq if known else 0):
            lines[log.id] = Named(log.id, seq, hash8)

    for named, log in meant.items():
        add(log, named.seq, named.hash8)
        while log.parent is not None and log.first > 1:
            log, before = log.parent.owner(log.first - 1), log
            digest = logs.hash_at(log, before.first - 1)
            assert digest is not None, "a log that left another one which is not held"
            add(log, before.first - 1, digest[:8])
    return tuple(lines[writer] for writer in sorted(lines))


class _Names:
    """The logs that one entry's author means by their names."""

    def __init__(self, log: Log, item: Entry, own: Writer) -> None:
        self._log = log
        self._own = own
        self._item = item
        self._meant = log.called.by(own, item.seq)
        self._meant[item.writer] = own

    def section(self, section: Section) -> Section:
        """A section in our names."""
        births = section.births
        if births is not None:
            births = [None if birth is None else self.dot(*birth) for birth in births]
        patches = {
            slot: [
                None if patch is None else self._patch(patch, Place(section.table, section.key(row), slot))
                for row, patch in enumerate(column)
            ]
            for slot, column in section.patches.items()
        }
        return replace(section, births=births, patches=patches)

    def dot(self, name: bytes, seq: int) -> tuple[bytes, int]:
        """A dot in our names."""
        log = self._history(name)
        return (name if log is None else log.owner(seq).id, seq)

    def pieces(self, name: bytes, seq: int) -> list[tuple[bytes, int]]:
        """What the author had of a log's history, by the logs that hold it: the last entry of each, latest first."""
        log = self._history(name)
        if log is None:
            return [(name, seq)]
        log = log.owner(seq)
        found = [(log.id, seq)]
        while log.parent is not None and log.first > 1:
            end = log.first - 1
            log = log.parent.owner(end)
            found.append((log.id, end))
        return found

    def _history(self, name: bytes) -> Writer | None:
        """The log whose history an author means by a name; None if nothing of it is held."""
        return self._meant.get(name) or self._log.writers.get(name)

    def _patch(self, patch: Patch, place: Place) -> Patch:
        dot = self.dot(patch.writer, patch.seq)
        try:
            data = self._data(patch, place, dot) if patch.data else patch.data
        except Malformed:
            data = patch.data  # is refused when it is merged, on every device
        return Patch(patch.kind, *dot, data)

    def _data(self, patch: Patch, place: Place, dot: tuple[bytes, int]) -> bytes:
        match patch.kind:
            case kinds.TEXT:
                clients = Clients(self._log, place, ((patch.writer, patch.seq), dot), self._meant)
                return clients.renamed(patch.data, self._own, self._item.seq)
            case kinds.JSON:
                from crdtlog.kinds import jsonnames

                return jsonnames.renamed(patch.data, self._item.writer, self.pieces)
            case kinds.SET:
                from crdtlog.kinds import addset

                return addset.renamed(patch.data, self.dot)
            case _:
                return patch.data
