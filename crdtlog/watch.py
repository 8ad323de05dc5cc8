"""Live queries: the rows of a SELECT, again whenever they change."""

import sqlite3
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

Row = tuple[Any, ...]


class Change(NamedTuple):
    """A query's rows now, and which of them are new or gone since the change before."""

    rows: list[Row]
    added: list[Row]
    removed: list[Row]


def watch(
    connection: sqlite3.Connection,
    sql: str,
    parameters: Sequence[object] = (),
    *,
    poll_seconds: float = 0.05,
    timeout: float | None = None,
) -> Iterator[Change]:
    """Yield the query's rows at once, and then each time that they differ, whoever wrote.

    SQLite's `data_version` and the connection's own change counter tell cheaply whether anything was written. Ends
    after `timeout` seconds without a change; never, by default.
    """
    before: Counter[Row] = Counter()
    seen: object = None
    first = True
    deadline = None if timeout is None else time.monotonic() + timeout
    while deadline is None or time.monotonic() < deadline:
        now = (connection.execute("PRAGMA data_version").fetchone()[0], connection.total_changes)
        if now != seen:
            seen = now
            rows = connection.execute(sql, parameters).fetchall()
            current = Counter(rows)
            if first or current != before:
                change = Change(
                    rows, list((current - before).elements()), list((before - current).elements())
                )
                before, first = current, False
                yield change
                deadline = None if timeout is None else time.monotonic() + timeout
                continue
        time.sleep(poll_seconds)
