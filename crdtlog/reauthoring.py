"""Own entries that nobody else can have, written once more as a new writer (R11).

Whose file was restored from a backup, or copied, may have told others more under its old writer's numbers than its log
holds, so what it wrote since must not travel under them. The log is rewound to before the first such entry. From there
everything happens again in its order: others' entries are merged as they are, own ones are written as plain changes of
the rows to what they held after them. So they keep what they had seen, and the times at which they were made.
"""

from crdtlog import entry, tracking
from crdtlog.drain import Drainer, has_pending
from crdtlog.entry import Entry
from crdtlog.holding import accept_entry
from crdtlog.plain_rows import PlainRow, put, rows_now, rows_of
from crdtlog.rewinding import Rewound, rewind
from crdtlog.settling import settle
from crdtlog.state import State


def reauthor(state: State, drainer: Drainer, seq: int, writer: bytes) -> int:
    """Go on as another writer, own entries from `seq` on included, inside the caller's transaction.

    What is captured has been drained. Returns how many entries were written anew.
    """
    own = state.writer
    found = state.connection.execute(
        "SELECT position FROM crdtlog__log WHERE writer = ? AND seq = ?", (own.number, seq)
    ).fetchone()
    rewound = rewind(state, found[0]) if found else []
    # Once as it was, to see what each own entry left; then anew.
    left = {item.seq: _left_by(state, item) for item in rewound if _again(state, item, own.id)}
    if found:
        rewind(state, found[0])
    state.become(writer)
    for item in rewound:
        if item.writer != own.id:
            _accept(state, item)
        elif item.kind == "data":
            _write_again(state, drainer, left[item.seq])
        else:
            _say_again(state, entry.decode(entry.split(item.signed).body))
    return len(left)


def _again(state: State, item: Rewound, own: bytes) -> bool:
    """Merge an entry as it was; whether it is an own one."""
    _accept(state, item)
    return item.writer == own


def _accept(state: State, item: Rewound) -> None:
    accept_entry(state, item.signed)
    settle(state)


def _say_again(state: State, item: Entry) -> None:
    """An entry that changes no rows, with the same payload."""
    stamps = (item.first_stamp, item.last_stamp)
    signed = state.append_own(item.kind, item.payload(), stamps=stamps, summary="written anew")
    own = state.writer
    if item.kind == "schema":
        tracking.apply_schema(state, entry.decode(signed.body), own.context)


def _left_by(state: State, item: Rewound) -> dict[bytes, list[PlainRow]]:
    """The rows that an entry wrote, by table, as they are now."""
    if item.kind != "data":
        return {}
    rows = rows_of(entry.decode(entry.split(item.signed).body))
    return {table: rows_now(state, state.tables[table], some) for table, some in rows.items()}


def _write_again(state: State, drainer: Drainer, rows: dict[bytes, list[PlainRow]]) -> None:
    """What an entry left, as changes of those rows that are drained now."""
    for table, some in rows.items():
        put(state, state.tables[table], some)
    while has_pending(state):
        drainer.prepare()
        drainer.step()
    drainer.rest()
