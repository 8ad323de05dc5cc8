"""`make bench`: what crdtlog costs beside plain SQLite, as a table and as JSON.

    python -m simulations.bench [--rows N] [--repeat N] [--json FILE] [--engine-only]

Figures are ratios to plain SQLite in the same run wherever that makes sense; of several repetitions the median counts.
"""

import argparse
import json
import platform
import sqlite3
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from simulations import bench_daemons, bench_engine, bench_merging


@dataclass(frozen=True)
class Line:
    """One line of the table: what, where its figure is found, how it is written, and what it should reach."""

    what: str
    name: str
    reach: float
    unit: str = "x"

    def text(self, value: float) -> str:
        """The figure as people read it."""
        if self.unit in ("x", "%"):
            return f"{value:.2f} {self.unit}"
        return f"{value:,.0f} {self.unit}"


LINES = [
    Line("insert in one transaction, captured", "captured insert", 1.6),
    Line("drain of those rows", "drain", 3.0),
    Line("apply on an empty device", "apply", 4.0),
    Line("update one column of every row, captured", "captured update", 3.0),
    Line("drain of that update", "drain of the update", 5.0),
    Line("apply of that update", "apply of the update", 5.0),
    Line("2,000 single-row transactions, captured", "captured single", 1.5),
    Line("both sides updated every row, exchange (of a plain upsert)", "exchange", 4.0),
    Line("file with its log", "file", 2.0),
    Line("bytes on the wire (of the rows as msgpack with zstd)", "wire", 1.15),
    Line("one step of a counter in every row: drain", "counters: drain", 100),
    Line("applying those steps", "counters: apply", 100),
    Line("one small edit of a text in every row: drain", "texts: drain", 200),
    Line("applying one such edit", "texts: apply each", 500, "us"),
    Line("a small edit of a text of 1 MB: drain, median", "long text: drain", 30, "ms"),
    Line("applying it, median", "long text: apply", 30, "ms"),
    Line("memory of the sending daemon", "memory of the sender", 300, "MiB"),
    Line("memory of the receiving daemon", "memory of the receiver", 300, "MiB"),
    Line("a write until it shows on the other device, median", "latency median", 60, "ms"),
    Line("a write until it shows on the other device, 99%", "latency 99%", 250, "ms"),
    Line("`crdtlog status` beside a daemon (of `python -c pass`)", "status", 8.0),
    Line("another program's writes while rows are applied, 99%", "writes beside apply 99%", 150, "ms"),
    Line("such writes that failed", "writes beside apply failed", 0, "failed"),
    Line("an idle daemon's share of a core", "idle", 1.0, "%"),
]


def machine() -> dict[str, object]:
    """What the figures were measured on."""
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [
            line.split(":", 1)[1].strip()
            for line in info.read_text().splitlines()
            if line.startswith("model name")
        ]
        cpu = f"{len(names)} x {names[0]}" if names else cpu
    return {
        "system": platform.platform(),
        "cpu": cpu,
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }


def table(figures: dict[str, float]) -> list[str]:
    """The figures as lines of text."""
    width = max(len(line.what) for line in LINES)
    result = [f"{'what':{width}}  {'measured':>12}  {'reach':>12}"]
    for line in LINES:
        if line.name in figures:
            value = figures[line.name]
            mark = "" if value <= line.reach else "   over"
            result.append(f"{line.what:{width}}  {line.text(value):>12}  {line.text(line.reach):>12}{mark}")
    return result


def main() -> int:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description="What crdtlog costs beside plain SQLite.")
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument(
        "--repeat", type=int, default=3, help="repetitions of the engine's part; the median counts"
    )
    parser.add_argument("--json", type=Path, default=Path("bench.json"), help="where to write the figures")
    parser.add_argument("--engine-only", action="store_true", help="leave the daemons out")
    arguments = parser.parse_args()

    def say(text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def engine(directory: Path) -> dict[str, float]:
        ratios = bench_engine.measure(directory, arguments.rows, say).ratios
        return ratios | bench_merging.measure(directory, arguments.rows, say).ratios

    figures = repeated(arguments.repeat, engine)
    if not arguments.engine_only:
        with tempfile.TemporaryDirectory(prefix="crdtlog-bench-") as directory:
            figures.update(bench_daemons.measure(Path(directory), arguments.rows, say))
    about = machine()
    print(f"{arguments.rows:,} rows on {about['cpu']}, Python {about['python']}, SQLite {about['sqlite']}")
    print("\n".join(table(figures)))
    if arguments.json:
        arguments.json.write_text(
            json.dumps({"v": 1, "rows": arguments.rows, "machine": about, "figures": figures}, indent=2)
            + "\n"
        )
    return 0


def repeated(times: int, measure: Callable[[Path], dict[str, float]]) -> dict[str, float]:
    """The medians of several measurements, each in a directory of its own."""
    runs = []
    for _ in range(times):
        with tempfile.TemporaryDirectory(prefix="crdtlog-bench-") as directory:
            runs.append(measure(Path(directory)))
    return {name: statistics.median(run[name] for run in runs) for name in runs[0]}


if __name__ == "__main__":
    sys.exit(main())
