"""`make demo`: two devices, one SQLite file each, from a plain SQL write on one to the other's table. A story.

Two homes on this machine stand for two machines; everything between them is real: daemons, a pairing code, TLS on
loopback. All writing is done by other programs with plain SQL.
"""

import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from simulations.bench_engine import in_one_transaction, plain
from simulations.machines import Machine, link_by_code
from simulations.rows import INSERT, SCHEMA, notes

_ROWS = 100_000
_PLAIN_PROGRAM = (
    "import sqlite3, sys; c = sqlite3.connect(sys.argv[1]); c.executescript(sys.argv[2]); c.commit()"
)


def tell(text: str = "") -> None:
    """Say the next sentence."""
    print(text, flush=True)


def sql(machine: Machine, statement: str) -> None:
    """Let another program write: the sqlite3 shell, or Python's sqlite3 module in a process of its own."""
    shell = shutil.which("sqlite3")
    tell(f"  {machine.name}$ {'sqlite3' if shell else 'python'} {machine.file.name} {statement!r}")
    command = (
        [shell, str(machine.file)] if shell else [sys.executable, "-c", _PLAIN_PROGRAM, str(machine.file)]
    )
    wait = ["-cmd", ".timeout 5000"] if shell else []
    subprocess.run([*command[:1], *wait, *command[1:], statement], check=True, env=machine.environment)


def crdtlog(machine: Machine, *arguments: str) -> str:
    """Run a command, showing what a person would type and what they would see."""
    shown = " ".join(Path(word).name if word == str(machine.file) else word for word in arguments)
    tell(f"  {machine.name}$ crdtlog {shown}")
    output = machine.run(*arguments)
    for line in output.splitlines():
        tell(f"  {line}")
    return output


def rows(
    machine: Machine, query: str = "SELECT id, title, body, done FROM notes ORDER BY id"
) -> list[tuple[object, ...]]:
    """What the device's own file holds."""
    connection = sqlite3.connect(machine.file, timeout=5)
    try:
        return connection.execute(query).fetchall()
    finally:
        connection.close()


def wait_until_equal(a: Machine, b: Machine, query: str, timeout_s: float = 45) -> float:
    """Seconds until both files answer alike."""
    begin = time.perf_counter()
    while rows(a, query) != rows(b, query):
        if time.perf_counter() - begin > timeout_s:
            raise RuntimeError(f"the two files still differ after {timeout_s} seconds")
        time.sleep(0.02)
    return time.perf_counter() - begin


def story(directory: Path) -> None:
    """The whole demonstration."""
    laptop, desktop = Machine(directory, "laptop"), Machine(directory, "desktop")
    try:
        _meet(laptop, desktop)
        _part_and_meet_again(laptop, desktop)
        _many_rows(directory, laptop, desktop)
    finally:
        laptop.down()
        desktop.down()


def _meet(laptop: Machine, desktop: Machine) -> None:
    tell("1. On the laptop there is an ordinary SQLite file. crdtlog makes it a replicated one.\n")
    sql(laptop, " ".join(SCHEMA.split()))
    sql(laptop, "INSERT INTO notes (id, title, body, done) VALUES ('milk', 'Shopping', 'milk, bread', 0)")
    crdtlog(laptop, "init", str(laptop.file), "--device", "laptop")
    tell("\n2. A daemon runs beside it; a code links the desktop, which has no file yet.\n")
    tell("  laptop$ crdtlog up laptop.db &")
    laptop.up()
    tell("  laptop$ crdtlog pair laptop.db")
    code = link_by_code(laptop, desktop)
    tell(f"  {code}")
    tell(f"  desktop$ crdtlog join {code} desktop.db --device desktop")
    tell("  desktop$ crdtlog up desktop.db &")
    desktop.up("--peer", laptop.address)
    tell("\n3. Any program writes on either side; the other side's file follows.\n")
    sql(desktop, "UPDATE notes SET body = body || ', eggs' WHERE id = 'milk'")
    sql(
        laptop, "INSERT INTO notes (id, title, body, done) VALUES ('call', 'Call Ada', 'about the engine', 0)"
    )
    took = wait_until_equal(laptop, desktop, "SELECT * FROM notes ORDER BY id")
    tell(f"  After {took * 1000:.0f} ms both files hold:")
    for row in rows(desktop):
        tell(f"    {row}")
    crdtlog(laptop, "status", str(laptop.file))


def _part_and_meet_again(laptop: Machine, desktop: Machine) -> None:
    tell(
        "\n4. Say that texts merge, and cut the desktop off. Both go on writing: both change one title and one text.\n"
    )
    crdtlog(laptop, "track", str(laptop.file), "notes", "--merge", "body=text")
    wait_until_equal(laptop, desktop, "SELECT count(*) FROM crdtlog__kind")
    desktop.down()
    sql(desktop, "UPDATE notes SET title = 'Groceries', body = body || ', butter' WHERE id = 'milk'")
    sql(desktop, "INSERT INTO notes (id, title, done) VALUES ('plants', 'Water the plants', 1)")
    time.sleep(0.05)
    sql(laptop, "UPDATE notes SET title = 'Weekend shopping', body = 'oat ' || body WHERE id = 'milk'")
    sql(laptop, "DELETE FROM notes WHERE id = 'call'")
    tell("\n5. They meet again.\n")
    tell("  desktop$ crdtlog up desktop.db &")
    desktop.up("--peer", laptop.address)
    wait_until_equal(laptop, desktop, "SELECT * FROM notes ORDER BY id")
    tell("  Both files hold the same rows. Both edits of the text stand, and the later title shows:")
    for row in rows(laptop):
        tell(f"    {row}")
    tell("\n   The other title is not lost; every device lists it:\n")
    crdtlog(desktop, "conflicts", str(desktop.file))
    tell("\n   A write that has seen both settles it everywhere:\n")
    sql(desktop, "UPDATE notes SET title = 'Weekend groceries' WHERE id = 'milk'")
    wait_until_equal(laptop, desktop, "SELECT * FROM notes ORDER BY id")
    until = time.monotonic() + 10
    while rows(laptop, "SELECT count(*) FROM crdtlog_conflicts") != [(0,)] and time.monotonic() < until:
        time.sleep(0.05)
    crdtlog(laptop, "conflicts", str(laptop.file))


def _many_rows(directory: Path, laptop: Machine, desktop: Machine) -> None:
    tell(f"\n6. And {_ROWS:,} rows at once, beside plain SQLite.\n")
    many = notes(_ROWS)
    alone = plain(directory / "plain.db")
    begin = time.perf_counter()
    in_one_transaction(alone, INSERT, many)
    plain_s = time.perf_counter() - begin
    connection = sqlite3.connect(laptop.file, isolation_level=None, timeout=5)
    begin = time.perf_counter()
    in_one_transaction(connection, INSERT, many)
    captured_s = time.perf_counter() - begin
    wait_until_equal(laptop, desktop, "SELECT count(*) FROM notes")
    whole_s = time.perf_counter() - begin
    tell(f"  plain SQLite, one insert of them:        {_ROWS / plain_s:>9,.0f} rows a second")
    tell(f"  the same into the replicated file:       {_ROWS / captured_s:>9,.0f} rows a second")
    tell(
        f"  until all of them show on the desktop:   {_ROWS / whole_s:>9,.0f} rows a second ({whole_s:.1f} s)"
    )
    same = wait_until_equal(laptop, desktop, "SELECT * FROM notes ORDER BY id")
    del same
    tell("\n   Both devices' documents, down to the last version of each cell:\n")
    states = {crdtlog(machine, "verify", str(machine.file)).strip() for machine in (laptop, desktop)}
    if len(states) != 1:
        raise RuntimeError("the two devices' documents differ")


def main() -> int:
    """Tell the story in a temporary directory, and clean up."""
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="crdtlog-demo-") as directory:
        story(Path(directory))
    tell(f"\nThat took {time.perf_counter() - begin:.0f} seconds. To use it yourself: see README.md.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
