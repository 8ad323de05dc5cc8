"""How often one device may begin a link: some at once, and then so many a minute.

Knows devices and time. Must not know links. The one idea: a refused attempt costs nothing, so that whoever is too quick
is let in again after some seconds, and nobody can be kept out by what was done in their name.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

LINKS_AT_ONCE = 20
"""A few restarts, or a script that syncs after each of some steps, are nothing unusual."""
LINKS_PER_MINUTE = 10


class TooOften(NamedTuple):
    """A link that must not begin: it may after so many seconds. `is_news`: the first refusal since it was calm."""

    seconds: int
    is_news: bool


@dataclass(slots=True)
class _Account:
    calm_at: float
    """When all links that were begun are forgotten; each puts it off by its share of a minute."""
    is_told: bool = False


class Pace:
    """Counts the links of each device. `clock` is in seconds and never goes back."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._accounts: dict[bytes, _Account] = {}

    def begin(self, device: bytes) -> TooOften | None:
        """Count a link of the device; or say why it must not begin, and count nothing."""
        now, share = self._clock(), 60 / LINKS_PER_MINUTE
        account = self._accounts.setdefault(device, _Account(now))
        if account.calm_at <= now:
            account.calm_at, account.is_told = now, False
        wait = account.calm_at - now - (LINKS_AT_ONCE - 1) * share
        if wait <= 0:
            account.calm_at += share
            return None
        is_news, account.is_told = not account.is_told, True
        return TooOften(math.ceil(wait), is_news)
