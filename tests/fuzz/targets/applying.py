"""Whole entries that a member signed, whatever is in them, applied by an honest device to a real file.

What the device takes, every other device takes and shows alike, `verify` finds nothing wrong, and it can write on. Each
case is an array of the entry's kind and its raw payload, in which stand-ins name tables and writers: their ids differ
from one database to the next.
"""

import tempfile
from pathlib import Path
from typing import Any

from crdtlog import entry, membership, tracking
from crdtlog.database import Database
from crdtlog.errors import CrdtlogError, EntryRefused, Malformed, TablePaused, TooLarge
from crdtlog.values import pack, unpack
from tests.crdtlog.devices import World, apply_all, lacking, sync, table_rows
from tests.crdtlog.liar import Three, made_three, next_entry, picture, signed
from tests.fuzz.mutate import MSGPACK
from tests.fuzz.targets.log import records
from tests.fuzz.targets.schemas import tables
from tests.fuzz.trial import Broken, Subject, Target, require

_MERGE = {"j": "json", "c": "counter", "s": "set"}
_CHANGES = [
    "INSERT INTO t VALUES ('new', x'00ff', 3), ('newer', 1.5, 4)",
    "UPDATE t SET v = 'changed' WHERE id = 'k'",
    "DELETE FROM t WHERE id = 'l'",
    "INSERT INTO i VALUES (2, 2.5)",
    "INSERT OR REPLACE INTO f VALUES ('F', 'other case')",
    """UPDATE m SET j = '{"a": [1, 3], "b": 2}', c = c + 5, s = '["y", "z"]'""",
    "INSERT INTO m VALUES ('second', '[]', 1, '[]')",
]


class _Fleet:
    """Three devices, made anew once an entry was taken."""

    def __init__(self) -> None:
        self._world: World | None = None
        self.renew()

    def renew(self) -> None:
        """Make new devices."""
        if self._world is not None:
            self._world.close()
        self._directory = tempfile.TemporaryDirectory(prefix="crdtlog-fuzz-")
        self._world = World(Path(self._directory.name))
        self.three = liar, honest, other = made_three(self._world)
        liar.execute("CREATE TABLE m (id TEXT PRIMARY KEY, j TEXT, c INT, s TEXT)")
        liar.execute("""INSERT INTO m VALUES ('k', '{"a": [1, 2]}', 1, '["x", "y"]')""")
        liar.track("m", merge=_MERGE)
        liar.drain_all()
        sync(liar, honest)
        sync(honest, other)
        ids = {f"table: {name}".encode(): tracking.table_id(liar.id, name) for name in ("t", "i", "f", "m")}
        ids[b"a table!"] = tracking.table_id(liar.id, "plain")
        writers = zip((b"the liar", b"honestly", b"an other"), self.three, strict=True)
        self._names = ids | {name * 3: db._state.writer.id for name, db in writers}

    def real(self, raw: bytes) -> bytes:
        """A payload with the names of this database in it."""
        for stand_in, name in self._names.items():
            raw = raw.replace(stand_in, name)
        return raw

    def stand_ins(self, raw: bytes) -> bytes:
        """A payload of this database, fit for any."""
        for stand_in, name in self._names.items():
            raw = raw.replace(name, stand_in)
        return raw


def _check_taken(three: Three, blob: bytes) -> None:
    """What must hold once an entry was taken. Raises `Broken`."""
    _, honest, other = three
    try:
        apply_all(other, [blob])
        require(_shown(honest) == _shown(other), "devices that hold the same show the same")
        require(honest.verify().ok, "what was taken is in order")
        honest.execute("UPDATE t SET v = 'after'")
        honest.execute("UPDATE m SET c = 1")
        honest.drain_all()
    except CrdtlogError as error:
        raise Broken(f"an entry that was taken does harm later: {error!r}") from error


def _shown(db: Database) -> Any:
    """What devices that hold the same show alike, member lists in whatever order."""
    state, heads, rows, conflicts, members = picture(db)
    return state, heads, rows, conflicts, set(members), table_rows(db, "m")


def _apply() -> Subject:
    fleet = _Fleet()
    liar, honest, _ = fleet.three
    for change in _CHANGES:
        liar.execute(change)
        liar.drain_all()
    made = [entry.decode(entry.split(blob).body) for blob in lacking(liar, honest)]
    seeds = [pack([item.kind, fleet.stand_ins(item.payload())]) for item in made]
    seeds += [
        pack(["schema", tracking.encode_track(b"a table!", tables()[0])]),
        pack(["schema", tracking.encode_merge(b"table: t", {"v": "set"})]),
        *(pack(["member", membership.encode_content(content)]) for content in records()),
        *(pack([kind, pack(["what", 1])]) for kind in ("event", "error", "command")),
    ]
    fleet.renew()

    def read(case: bytes) -> None:
        match unpack(case):
            case [str(kind), bytes(raw)] if kind in entry.KINDS and len(raw) < 1 << 20:
                pass
            case _:
                raise Malformed("no kind with a payload")
        liar, honest, _ = fleet.three
        blob = signed(liar, next_entry(liar, fleet.real(raw), kind=kind))
        try:
            honest.apply([blob])
            _check_taken(fleet.three, blob)
        except CrdtlogError:
            raise
        except BaseException:
            fleet.renew()
            raise
        fleet.renew()

    return Subject(seeds, read, (Malformed, EntryRefused, TooLarge, TablePaused), MSGPACK)


TARGETS = [Target("log.apply", 300, _apply)]
