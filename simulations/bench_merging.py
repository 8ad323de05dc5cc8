"""What columns that merge cost: counters and texts, edited on two devices by plain SQL, drained and applied.

Every row has a document of its own here, so fewer rows are measured than where rows are registers.
"""

import random
import time
from collections.abc import Callable
from pathlib import Path

import crdtlog
from simulations.bench_engine import Figures, drain, in_one_transaction, lacking, pair, plain, send

_MOST_ROWS = 10_000
_LONG_TEXT_WORDS = 180_000
_LONG_TEXT_EDITS = 15
_TABLE = "CREATE TABLE merged (id TEXT PRIMARY KEY, body TEXT, likes INTEGER)"
_INSERT = "INSERT INTO merged VALUES (?, ?, ?)"


def measure(directory: Path, count: int, say: Callable[[str], None]) -> Figures:
    """Figures of merging columns: small edits in many rows, and one edit after the other in a text of a megabyte."""
    count = min(count, _MOST_ROWS)
    say(f"merging: {count:,} rows")
    figures = Figures()
    rows: list[tuple[object, ...]] = [
        (f"{number:08x}", f"a little text, number {number}", number) for number in range(count)
    ]
    baseline = plain(directory / "plain-merged.db")
    baseline.execute(_TABLE)
    with figures.timed("plain merged insert"):
        in_one_transaction(baseline, _INSERT, rows)
    with crdtlog.open(directory / "m-a.db", home=directory / "home-m-a", name="m-a") as a:
        a.execute(_TABLE)
        a.track("merged", {"body": "text", "likes": "counter"})
        in_one_transaction(a.connection, _INSERT, rows)
        drain(a)
        with pair(directory, a, "m-b") as b:
            send(a, b, lacking(b))
            _steps(figures, a, b, "likes = likes + 1", "counters")
            _steps(figures, a, b, "body = body || ', longer'", "texts")
            figures.ratios["texts: apply each"] = 1e6 * figures.seconds["texts: apply"] / count
            _long_text(figures, a, b)
    return figures


def _steps(figures: Figures, a: crdtlog.Database, b: crdtlog.Database, change: str, name: str) -> None:
    """The same change of every row on both devices, apart; what is measured is the second round, warm."""
    for _ in range(2):
        for db in (a, b):
            db.execute(f"UPDATE merged SET {change}")
        with figures.timed(f"{name}: drain"):
            drain(a)
        drain(b)
        of_a, of_b = lacking(a), lacking(b)
        with figures.timed(f"{name}: apply"):
            send(a, b, of_b)
        send(b, a, of_a)
    for step in ("drain", "apply"):
        figures.ratio(f"{name}: {step}", "plain merged insert")


def _long_text(figures: Figures, a: crdtlog.Database, b: crdtlog.Database) -> None:
    words = random.Random(1)
    text = " ".join(words.choice(("alpha", "beta", "gamma")) for _ in range(_LONG_TEXT_WORDS))
    a.execute(_INSERT, ("long", text, 0))
    drain(a)
    send(a, b, lacking(b))
    drained, applied = [], []
    for _ in range(_LONG_TEXT_EDITS):
        at = words.randrange(len(text))
        text = f"{text[:at]}word{text[at:]}"
        a.execute("UPDATE merged SET body = ? WHERE id = 'long'", (text,))
        begin = time.perf_counter()
        drain(a)
        drained.append(time.perf_counter() - begin)
        begin = time.perf_counter()
        send(a, b, lacking(b))
        applied.append(time.perf_counter() - begin)
    figures.ratios["long text: drain"] = 1_000 * sorted(drained)[len(drained) // 2]
    figures.ratios["long text: apply"] = 1_000 * sorted(applied)[len(applied) // 2]
