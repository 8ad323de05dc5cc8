"""What an operator can set, and how often somebody may do something.

Knows numbers. Must not know what is counted. The one idea: a rate is kept as one moment per key, until which what was
taken is paid for (the "generic cell rate algorithm" of ATM networks), so that millions of keys cost little and those at
rest nothing.
"""

from collections.abc import Hashable
from typing import NamedTuple

from peers.relay.messages import LARGEST_BLOB
from peers.relay.store import Quota

DAY_S = 86_400
HOUR_S = 3_600
APPEND_COST_BYTES = 64 << 10
"""A large blob counts like as many appends as it has of these bytes."""


class Rate(NamedTuple):
    """So many in so many seconds on average, and as many at once."""

    number: int
    seconds: float


class Settings(NamedTuple):
    """All limits of a relay. Times in seconds, sizes in bytes."""

    hosts: tuple[str, ...] = ()
    """Names by which clients dial the relay, as `access.host_name` gives them; see `Hosts`."""
    tokens: frozenset[str] = frozenset()
    """Whoever knows one of them may use the relay; everybody, if there is none."""
    behind_proxy: bool = False
    """Believe `X-Forwarded-For`: a proxy in front sets it."""

    quota: Quota = Quota()
    largest_blob: int = LARGEST_BLOB
    ttl_s: int = 30 * DAY_S
    mailboxes: int = 256
    """Open mailboxes of one connection."""
    window_bytes: int = 1 << 20
    requests: int = 64
    """Appends of one connection that may wait for the store."""

    connections: int = 15_000
    connections_per_source: int = 64
    requests_per_connection: Rate = Rate(2_000, 10)
    """Beyond it, the connection is read more slowly."""
    appends_per_connection: Rate = Rate(2_000, 20)
    """Counted in `APPEND_COST_BYTES`, each begun one."""
    appends_per_mailbox: Rate = Rate(4_000, 40)
    new_mailboxes_per_source: Rate = Rate(200, HOUR_S)

    channels: int = 1_000
    channels_per_source: Rate = Rate(120, HOUR_S)
    channel_s: float = 600.0
    channel_messages: int = 64

    hello_s: float = 15.0
    """So long the first messages may take."""
    expire_every_s: float = 600.0


class Pace:
    """How much of a rate each key has used."""

    def __init__(self, rate: Rate) -> None:
        self._each_s = rate.seconds / rate.number
        self._burst_s = rate.seconds
        self._paid_until: dict[Hashable, float] = {}
        self._sweep_at = 1_000

    def take(self, key: Hashable, now: float, cost: int = 1) -> float:
        """Take so many: 0 if there were as many to take, else after how many seconds there will be."""
        paid = max(now, self._paid_until.get(key, now)) + cost * self._each_s
        wait = paid - now - self._burst_s
        if wait > 1e-9:
            return wait
        self._paid_until[key] = paid
        if len(self._paid_until) > self._sweep_at:
            self._sweep(now)
        return 0.0

    def give_back(self, key: Hashable) -> None:
        """What was taken was not used."""
        if key in self._paid_until:
            self._paid_until[key] -= self._each_s

    def __len__(self) -> int:
        return len(self._paid_until)

    def _sweep(self, now: float) -> None:
        self._paid_until = {key: paid for key, paid in self._paid_until.items() if paid > now}
        self._sweep_at = max(1_000, 2 * len(self._paid_until))
