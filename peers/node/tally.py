"""Rows that came or changed, told to people as few lines: a million rows are a handful of them.

Knows what is counted as text before and after the number. Must not know files or links. The one idea: the first rows
after a quiet time are told soon, and while rows keep coming there is a pause between two lines.
"""

import asyncio
import math
import time
from collections import Counter
from collections.abc import Callable

REPORT_SECONDS = 1.0
"""Rows that come within this time are one line of the log."""
REPORT_AGAIN_SECONDS = 5.0
"""While rows keep coming, so much time passes between two such lines."""


class Tally:
    """Counts rows, and tells of them by `say`. Belongs to the running event loop."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._rows: Counter[tuple[str, str]] = Counter()
        self._told_at = -math.inf

    def count(self, before: str, rows: int, after: str) -> None:
        """So many more rows, to be told of as "`before` 5 rows `after`"; either may be empty."""
        if not self._rows:
            again = self._told_at + REPORT_AGAIN_SECONDS - time.monotonic()
            asyncio.get_running_loop().call_later(max(REPORT_SECONDS, again), self.tell)
        self._rows[before, after] += rows

    def tell(self) -> None:
        """Say now what is not yet said."""
        rows, self._rows = self._rows, Counter()
        if rows:
            self._told_at = time.monotonic()
        for (before, after), count in rows.items():
            self._say(f"{before} {'1 row' if count == 1 else f'{count:,} rows'} {after}".strip())
