"""How `format_2.zip` was made: a device's file and keys, written by the last program whose file format was 2.

That is the commit before "What counts is found by the group's records: held entries and applied ones are two things".
In a clone at that commit, with the clone as PYTHONPATH, `python format_2.py DIRECTORY` leaves the archive in the empty
directory. With today's program it would make a file of today's format, which is of no use here.
"""

import sqlite3
import sys
import zipfile
from contextlib import closing
from pathlib import Path

from tests.crdtlog.devices import World, devices, sync, sync_all, write_apart

TABLES = ["CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER, body TEXT, plain)"]
ROWS = "INSERT INTO t VALUES ('a', 1, 'first', NULL), ('b', 2, 'second', x'00ff')"

directory = Path(sys.argv[1])
with World(directory) as world:
    one, other = devices(world, ["one", "other"], TABLES, ROWS)
    one.track("t", {"n": "counter", "body": "text"})
    sync(one, other)
    write_apart([one, other], "UPDATE t SET n = n + 1, body = :name || ' ' || body WHERE id = 'a'")
    write_apart([one, other], "UPDATE t SET plain = :name WHERE id = 'b'")
    sync(one, other)
    # A device that writes before the record that let it in has reached it.
    third = world.join("third", one)
    third.execute("INSERT INTO t VALUES ('early', 3, 'third', NULL)")
    third.drain_all()
    sync_all([one, other, third])
with closing(sqlite3.connect(directory / "one.db")) as connection, connection:
    connection.execute("UPDATE t SET n = n + 5 WHERE id = 'b'")  # captured, not drained
with zipfile.ZipFile(directory / "format_2.zip", "w", zipfile.ZIP_DEFLATED) as archive:
    for path in sorted(directory.glob("**/*")):
        name = str(path.relative_to(directory))
        if path.is_file() and path.suffix != ".zip" and "other" not in name and "third" not in name:
            archive.write(path, name)
