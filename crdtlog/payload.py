"""The payload of a `data` entry: rows of one table that were written alike, as columns, which compress well.

Msgpack array of sections. Whatever another device sent is checked before it is believed: `decode_data` raises
`Malformed` alone. This file opens no file and reads no clock.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, cast

from crdtlog.errors import Malformed
from crdtlog.values import Key, Value, check_bytes, check_column, check_int, check_ints, pack, unpack
from crdtlog.versions import MAX_SEQ, WRITER_BYTES

#: Rows in one entry at most, so that one transaction that changed this many shows whole elsewhere (R3).
MAX_ROWS = 5_000
#: Raw payload bytes aimed at: a larger row travels alone in its entry.
TARGET_RAW_BYTES = 4 << 20
MAX_SECTIONS = 20_000
MAX_PATCH_KIND = 15
#: What is left of a data payload of which nothing stands (see `abridged`); no device writes such an entry.
NOTHING = pack([])

INSERT, UPDATE, DELETE = 0, 1, 2


class Patch(NamedTuple):
    """A change to a merge document, in place of a value: its kind's code, the dot that began it, and what changes."""

    kind: int
    writer: bytes
    seq: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Section:
    """Rows of one table that were written alike, as columns: `keys[k][row]`, `cells[c][row]`, `stamps[row]`.

    `slots` are the ids of the columns in `cells`. `births` names, for tables keyed by INTEGER PRIMARY KEY, the insert
    that each row descends from, as (writer, seq) or None for this very entry; None as a whole means all None. `unseen`
    lists the rows inserted over a document that was not standing in the author's table. `patches` gives, for some of
    the slots, each row's patch; where it is None the cell holds a value, and where it is not the cell holds None.
    `counters` are the slots whose values begin a counter.
    """

    table: bytes
    operation: int
    slots: tuple[int, ...]
    keys: list[list[Value]]
    cells: list[list[Value]]
    stamps: list[int]
    births: list[tuple[bytes, int] | None] | None = None
    unseen: tuple[int, ...] = ()
    patches: Mapping[int, list[Patch | None]] = field(default_factory=dict)
    counters: tuple[int, ...] = ()

    @property
    def rows(self) -> int:
        """How many rows the section has."""
        return len(self.stamps)

    def key(self, row: int) -> Key:
        """The key of one of its rows."""
        return tuple(column[row] for column in self.keys)

    def values(self, row: int) -> dict[int, Value]:
        """Slot → value of one of its rows; patched cells, which hold none, are left out."""
        patched = {slot for slot, column in self.patches.items() if column[row] is not None}
        cells = zip(self.slots, self.cells, strict=True)
        return {slot: column[row] for slot, column in cells if slot not in patched}

    def picked(self, rows: Sequence[int]) -> "Section":
        """Some of its rows, given in ascending order."""
        places = {row: place for place, row in enumerate(rows)}
        return replace(
            self,
            keys=[[column[row] for row in rows] for column in self.keys],
            cells=[[column[row] for row in rows] for column in self.cells],
            stamps=[self.stamps[row] for row in rows],
            births=None if self.births is None else [self.births[row] for row in rows],
            unseen=tuple(places[row] for row in self.unseen if row in places),
            patches={slot: [column[row] for row in rows] for slot, column in self.patches.items()},
        )


# --- written ------------------------------------------------------------------------------------------------------


def encode_data(sections: Sequence[Section], first_stamp: int) -> bytes:
    """A data entry's raw payload. Stamps are stored as differences to the entry's first stamp."""
    return pack([_section_out(section, first_stamp) for section in sections])


def _section_out(section: Section, first: int) -> list[object]:
    offsets: int | list[int] = [value - first for value in section.stamps]
    if isinstance(offsets, list) and len(set(offsets)) == 1:
        offsets = offsets[0]
    births = _births_out(section.births) if section.births is not None and any(section.births) else None
    fields = [
        section.table,
        section.operation,
        list(section.slots),
        section.keys,
        section.cells,
        offsets,
        births,
        list(section.unseen) or None,
    ]
    if section.patches or section.counters:
        fields += [_patches_out(section.patches), list(section.counters)]
    return fields


class _Names:
    """Writers that are named often, once each."""

    def __init__(self) -> None:
        self.index: dict[bytes, int] = {}

    def number(self, writer: bytes) -> int:
        return self.index.setdefault(writer, len(self.index))


def _births_out(births: list[tuple[bytes, int] | None]) -> list[object]:
    names = _Names()
    dots = [None if birth is None else [names.number(birth[0]), birth[1]] for birth in births]
    return [list(names.index), dots]


def _patches_out(patches: Mapping[int, list[Patch | None]]) -> list[object]:
    names = _Names()
    columns = [
        [slot, [None if p is None else [p.kind, names.number(p.writer), p.seq, p.data] for p in column]]
        for slot, column in sorted(patches.items())
    ]
    return [list(names.index), columns]


# --- read ---------------------------------------------------------------------------------------------------------


class Payload(NamedTuple):
    """A decoded data payload; `odd` tells that some text is not valid UTF-8."""

    sections: list[Section]
    odd: bool


def decode_data(raw: bytes, first_stamp: int, last_stamp: int) -> Payload:
    """The sections of a raw data payload, every value checked. Raises `Malformed`."""
    items, odd = _unpack_strict(raw)
    if not isinstance(items, list) or not 0 < len(items) <= MAX_SECTIONS:
        raise Malformed("a data payload must be a short array of sections")
    sections = [_section_in(item, first_stamp, last_stamp) for item in items]
    if sum(section.rows for section in sections) > MAX_ROWS:
        raise Malformed(f"an entry may hold {MAX_ROWS:,} rows")
    return Payload(sections, odd)


def _unpack_strict(raw: bytes) -> tuple[Any, bool]:
    try:
        return unpack(raw, max_array=MAX_SECTIONS, odd_text=False), False
    except UnicodeDecodeError:
        return unpack(raw, max_array=MAX_SECTIONS), True


def _section_in(item: object, first: int, last: int) -> Section:
    if not isinstance(item, list) or len(item) not in (8, 10):
        raise Malformed("a section has eight fields, or ten")
    table, operation, slots, keys, cells, offsets, births, unseen, *merging = item
    check_bytes(table, 8, "table id")
    check_int(operation, INSERT, DELETE, "operation")
    slots = check_ints(slots, 1, 4_000, "column ids")
    if len(set(slots)) != len(slots) or (operation == DELETE and slots):
        raise Malformed("a section names each column once, and none for deletes")
    keys = _columns(keys, None)
    if not keys:
        raise Malformed("a section needs keys")
    rows = len(keys[0])
    _columns(keys, rows)
    if not 0 < rows <= MAX_ROWS:
        raise Malformed("a section has between one row and the limit")
    cells = _columns(cells, rows)
    if len(cells) != len(slots):
        raise Malformed("a section has as many columns of cells as it names")
    for column in (*keys, *cells):
        check_column(column)
    if any(value is None for column in keys for value in column):
        raise Malformed("a key holds NULL")
    span = last - first
    stamps = (
        [first + offsets] * rows
        if isinstance(offsets, int) and not isinstance(offsets, bool) and 0 <= offsets <= span
        else [first + offset for offset in check_ints(offsets, 0, span, "stamps")]
    )
    if len(stamps) != rows:
        raise Malformed("a section has a stamp for each row")
    return Section(
        table,
        operation,
        tuple(slots),
        keys,
        cells,
        stamps,
        _births_in(births, rows),
        _unseen_in(unseen, rows),
        _patches_in(merging[0], slots, cells) if merging else {},
        _counters_in(merging[1], slots) if merging else (),
    )


def _births_in(item: object, rows: int) -> list[tuple[bytes, int] | None] | None:
    if item is None:
        return None
    if not (
        isinstance(item, list) and len(item) == 2 and isinstance(item[0], list) and isinstance(item[1], list)
    ):
        raise Malformed("births are a list of writers and a list of dots")
    names, births = item
    for name in names:
        check_bytes(name, WRITER_BYTES, "writer of a birth")
    if len(births) != rows:
        raise Malformed("a section has a birth for each row")
    result: list[tuple[bytes, int] | None] = []
    for birth in births:
        if birth is None:
            result.append(None)
            continue
        if not (isinstance(birth, list) and len(birth) == 2):
            raise Malformed("a birth is a dot")
        check_int(birth[0], 0, len(names) - 1, "writer of a birth")
        check_int(birth[1], 1, MAX_SEQ, "sequence number of a birth")
        result.append((names[birth[0]], birth[1]))
    return result


def _patches_in(item: object, slots: list[int], cells: list[list[Value]]) -> dict[int, list[Patch | None]]:
    match item:
        case [list(names), list(columns)]:
            pass
        case _:
            raise Malformed("patches are a list of writers and a list of columns")
    for name in names:
        check_bytes(name, WRITER_BYTES, "writer of a patched cell")
    result: dict[int, list[Patch | None]] = {}
    for column in columns:
        match column:
            case [int(slot), list(patches)] if slot in slots and slot not in result:
                result[slot] = [_patch_in(patch, names) for patch in patches]
            case _:
                raise Malformed("a column of patches belongs to a column that the section names, once")
        values = cells[slots.index(slot)]
        if len(patches) != len(values) or not any(patches):
            raise Malformed("a column of patches has a place for each row, and a patch")
        if any(patch is not None and value is not None for patch, value in zip(patches, values, strict=True)):
            raise Malformed("a cell holds a patch or a value")
    return result


def _patch_in(item: object, names: list[bytes]) -> Patch | None:
    match item:
        case None:
            return None
        case [int(kind), int(name), int(seq), bytes(data)]:
            check_int(kind, 1, MAX_PATCH_KIND, "kind of a patch")
            check_int(name, 0, len(names) - 1, "writer of a patched cell")
            check_int(seq, 1, MAX_SEQ, "sequence number of a patched cell")
            return Patch(kind, names[name], seq, data)
        case _:
            raise Malformed("a patch has four fields")


def _counters_in(item: object, slots: list[int]) -> tuple[int, ...]:
    counters = check_ints(item, 1, 4_000, "counters")
    if not set(counters) <= set(slots) or len(set(counters)) != len(counters):
        raise Malformed("counters are columns that the section names, once each")
    return tuple(counters)


def _unseen_in(item: object, rows: int) -> tuple[int, ...]:
    return () if item is None else tuple(check_ints(item, 0, rows - 1, "unseen rows"))


def _columns(item: object, rows: int | None) -> list[list[Value]]:
    if not isinstance(item, list) or not all(isinstance(column, list) for column in item):
        raise Malformed("columns must be arrays")
    if rows is not None and any(len(column) != rows for column in item):
        raise Malformed("columns must have one length")
    return cast("list[list[Value]]", item)
