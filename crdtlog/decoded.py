"""Data entries that were read last, decoded: rows are looked up in them one by one."""

from collections import OrderedDict
from collections.abc import Callable

from crdtlog import entry
from crdtlog.payload import NOTHING, Section, decode_data
from crdtlog.values import Key, normal_key

#: So many decoded entries are remembered, of so many bytes of payload; but always the last.
_ENTRIES = 256
_BYTES = 32 << 20


class Decoded:
    """A data entry's sections, and where each of its rows is written, found out for the tables that are asked for."""

    def __init__(self, sections: list[Section], size: int) -> None:
        self.sections = sections
        self.size = size
        self._places: dict[bytes, dict[Key, tuple[Section, int]]] = {}

    def place(self, table: bytes, key: Key, collations: list[str]) -> tuple[Section, int] | None:
        """The section that wrote a row, and the row's place in it."""
        places = self._places.get(table)
        if places is None:
            places = self._places[table] = {
                normal_key(section.key(row), collations): (section, row)
                for section in self.sections
                if section.table == table
                for row in range(section.rows)
            }
        return places.get(normal_key(key, collations))


class Decoder:
    """Decodes entries by log number and sequence number; `signed(number, seq)` reads one."""

    def __init__(self, signed: Callable[[int, int], bytes]) -> None:
        self._signed = signed
        self._known: OrderedDict[tuple[int, int], Decoded] = OrderedDict()
        self._bytes = 0

    def forget(self) -> None:
        """Forget what was decoded."""
        self._known.clear()
        self._bytes = 0

    def decoded(self, number: int, seq: int) -> Decoded:
        """A held data entry."""
        dot = (number, seq)
        if dot in self._known:
            self._known.move_to_end(dot)
            return self._known[dot]
        item = entry.decode(entry.split(self._signed(number, seq)).body)
        raw = item.payload()
        sections = [] if raw == NOTHING else decode_data(raw, item.first_stamp, item.last_stamp).sections
        decoded = self._known[dot] = Decoded(sections, item.raw_size)
        self._bytes += item.raw_size
        while len(self._known) > 1 and (len(self._known) > _ENTRIES or self._bytes > _BYTES):
            _, oldest = self._known.popitem(last=False)
            self._bytes -= oldest.size
        return decoded
