"""How `format_1.zip` was made: a device's file and keys, written by the last program whose file format was 1.

That is the commit "Counters: exact sums of changes; entries may carry patches and mark counters" (where the number
changed, `git log -S'FORMAT = 2' -- crdtlog/catalog.py` tells). In a clone at that commit, with the clone as PYTHONPATH,
`python format_1.py DIRECTORY` leaves the archive in the empty directory. With today's program it would make a file of
today's format, which is of no use here.
"""

import sqlite3
import sys
import zipfile
from contextlib import closing
from pathlib import Path

from tests.crdtlog.devices import World, devices, sync, write_apart

TABLES = [
    "CREATE TABLE t (id TEXT PRIMARY KEY, n INTEGER, body TEXT, plain)",
    "CREATE TABLE born (id INTEGER PRIMARY KEY, v)",
]
ROWS = """INSERT INTO t VALUES ('a', 1, 'first', NULL), ('b', 2, 'second', x'00ff'), ('gone', 3, 'third', 1.5);
INSERT INTO born VALUES (1, 'one'), (2, 'two')"""

directory = Path(sys.argv[1])
with World(directory) as world:
    one, other = devices(world, ["one", "other"], TABLES, ROWS)
    other.execute("UPDATE t SET n = 20 WHERE id = 'b'")
    sync(one, other)
    write_apart([one, other], "UPDATE t SET body = 'by ' || :name WHERE id = 'a'")
    write_apart([one, other], "INSERT INTO born VALUES (3, :name)")
    write_apart([one], "DELETE FROM t WHERE id = 'gone'")
    write_apart([other], "UPDATE t SET n = 30 WHERE id = 'gone'")
    write_apart([one], "DELETE FROM born WHERE id = 2")
    sync(one, other)
with closing(sqlite3.connect(directory / "one.db")) as connection, connection:
    connection.execute("UPDATE t SET n = 21 WHERE id = 'b'")  # captured, not drained
with zipfile.ZipFile(directory / "format_1.zip", "w", zipfile.ZIP_DEFLATED) as archive:
    for path in sorted(directory.glob("**/*")):
        if path.is_file() and path.suffix != ".zip" and "other" not in str(path.relative_to(directory)):
            archive.write(path, path.relative_to(directory))
