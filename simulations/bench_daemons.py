"""What two daemons cost: memory, latency, the command line's start, and what other programs feel meanwhile.

Real processes on loopback, started and paired through the command line as a person would.
"""

import sqlite3
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from simulations.machines import WAIT_S, Machine, link_by_code
from simulations.rows import INSERT, SCHEMA, notes

_LATENCY_WRITES = 200
_STATUS_RUNS = 15
#: Long enough for what a daemon does now and then.
_IDLE_SECONDS = 20


def measure(directory: Path, count: int, say: Callable[[str], None]) -> dict[str, float]:
    """All figures that need daemons, with that many rows."""
    if not Path("/proc/self/status").exists():
        say("daemons: left out, as this system has no /proc")
        return {}
    a, b = Machine(directory, "a"), Machine(directory, "b")
    connection = sqlite3.connect(a.file)
    connection.execute(SCHEMA)
    connection.close()
    a.run("init", str(a.file), "--device", "a")
    a.up()
    link_by_code(a, b)
    b.up("--peer", a.address)
    try:
        figures = _idle(a, say)
        figures.update(_latency(a, b, say))
        figures.update(_status(a, say))
        figures.update(_bulk(a, b, count, say))
    finally:
        a.down()
        b.down()
    return figures


def _idle(a: Machine, say: Callable[[str], None]) -> dict[str, float]:
    say("daemons: idle")
    time.sleep(2)
    begin, used = time.monotonic(), a.cpu_seconds()
    time.sleep(_IDLE_SECONDS)
    return {"idle": 100 * (a.cpu_seconds() - used) / (time.monotonic() - begin)}


def _latency(a: Machine, b: Machine, say: Callable[[str], None]) -> dict[str, float]:
    say("daemons: latency")
    source = sqlite3.connect(a.file, isolation_level=None, timeout=5)
    target = sqlite3.connect(b.file, isolation_level=None, timeout=5)
    _wait(lambda: _has_table(target), "the table on the second device")
    times = []
    for row in notes(_LATENCY_WRITES, seed=2):
        begin = time.perf_counter()
        source.execute(INSERT, row)
        while not target.execute("SELECT 1 FROM notes WHERE id = ?", (row.id,)).fetchone():
            time.sleep(0.001)
            if time.perf_counter() - begin > 30:
                raise RuntimeError("a write did not arrive within 30 seconds")
        times.append((time.perf_counter() - begin) * 1000)
        time.sleep(0.05)
    return {
        "latency median": statistics.median(times),
        "latency 99%": sorted(times)[int(len(times) * 0.99) - 1],
    }


def _status(a: Machine, say: Callable[[str], None]) -> dict[str, float]:
    say("daemons: status")

    def seconds(command: list[str]) -> float:
        begin = time.perf_counter()
        subprocess.run(command, env=a.environment, check=True, capture_output=True)
        return time.perf_counter() - begin

    installed = Path(sys.executable).with_name("crdtlog")
    status = [str(installed)] if installed.exists() else a.command()
    status += ["status", str(a.file)]
    pairs = [(seconds([sys.executable, "-c", "pass"]), seconds(status)) for _ in range(_STATUS_RUNS)]
    return {"status": statistics.median(b for _, b in pairs) / statistics.median(a for a, _ in pairs)}


def _bulk(a: Machine, b: Machine, count: int, say: Callable[[str], None]) -> dict[str, float]:
    say(f"daemons: {count:,} rows from one to the other, while another program writes")
    source = sqlite3.connect(a.file, isolation_level=None, timeout=5)
    target = sqlite3.connect(b.file, isolation_level=None, timeout=5)
    before = target.execute("SELECT count(*) FROM notes").fetchone()[0]
    written: list[float] = []
    failed: list[str] = []
    done = threading.Event()

    def write_beside() -> None:
        other = sqlite3.connect(b.file, isolation_level=None, timeout=1)
        number = 0
        while not done.is_set():
            number += 1
            begin = time.perf_counter()
            try:
                other.execute("INSERT INTO notes (id, title) VALUES (?, 'beside')", (f"beside {number}",))
                written.append((time.perf_counter() - begin) * 1000)
            except sqlite3.OperationalError as error:
                failed.append(str(error))
            time.sleep(0.02)

    beside = threading.Thread(target=write_beside)
    beside.start()
    source.execute("BEGIN IMMEDIATE")
    source.executemany(INSERT, notes(count, seed=3))
    source.execute("COMMIT")
    sql = "SELECT count(*) FROM notes WHERE id NOT LIKE 'beside %'"
    _wait(lambda: target.execute(sql).fetchone()[0] >= before + count, "all rows", pause_s=0.5)
    done.set()
    beside.join()
    return {
        "memory of the sender": a.peak_mib(),
        "memory of the receiver": b.peak_mib(),
        "writes beside apply 99%": sorted(written)[int(len(written) * 0.99) - 1],
        "writes beside apply failed": float(len(failed)),
    }


def _has_table(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'notes'").fetchone())


def _wait(ready: Callable[[], bool], what: str, pause_s: float = 0.05) -> None:
    until = time.monotonic() + WAIT_S
    while not ready():
        if time.monotonic() > until:
            raise RuntimeError(f"waited {WAIT_S} seconds for {what}")
        time.sleep(pause_s)
