"""What a relay counts of itself, in the text format of Prometheus (version 0.0.4).

Knows names and numbers. Must not know mailboxes: nothing counted here tells one from another.
"""

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator, Mapping

from peers.relay.refusals import Code

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

_TEXTS = {
    "connections": "Open WebSocket connections.",
    "subscriptions": "Mailboxes that connections are subscribed to.",
    "channels": "Open rendezvous channels.",
    "mailboxes": "Mailboxes in the store.",
    "blobs": "Blobs in the store.",
    "bytes": "Bytes of blobs in the store.",
    "store_up": "1 if the store answered when it was last asked.",
    "connections_total": "Connections that were accepted.",
    "appends_total": "Blobs that were appended.",
    "appended_bytes_total": "Bytes of blobs that were appended.",
    "sent_blobs_total": "Blobs that were read or pushed.",
    "sent_bytes_total": "Bytes of blobs that were read or pushed.",
    "new_mailboxes_total": "Mailboxes that began.",
    "expired_blobs_total": "Blobs that this relay dropped because of their age.",
}


class Metrics:
    """Counters and one histogram. `count` adds; gauges are given when the text is made."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter({name: 0 for name in _TEXTS if name.endswith("_total")})
        self._refusals: Counter[str] = Counter({code.value: 0 for code in Code})
        self._buckets = [0] * (len(SECONDS) + 1)
        self._seconds = 0.0

    def count(self, name: str, by: int = 1) -> None:
        """Add to a counter that is described above."""
        self._counts[name] += by

    def refused(self, code: str) -> None:
        """Count a refusal."""
        self._refusals[code] += 1

    def appended(self, size: int, seconds: float) -> None:
        """Count an append and how long it took from its arrival to its answer."""
        self._counts["appends_total"] += 1
        self._counts["appended_bytes_total"] += size
        self._buckets[bisect_left(SECONDS, seconds)] += 1
        self._seconds += seconds

    def text(self, gauges: Mapping[str, int]) -> str:
        """Everything, as Prometheus reads it."""
        return "\n".join(self._lines(gauges)) + "\n"

    def _lines(self, gauges: Mapping[str, int]) -> Iterator[str]:
        for kind, values in (("gauge", gauges), ("counter", self._counts)):
            for name, value in values.items():
                yield f"# HELP crdtlog_relay_{name} {_TEXTS[name]}"
                yield f"# TYPE crdtlog_relay_{name} {kind}"
                yield f"crdtlog_relay_{name} {value}"
        yield "# HELP crdtlog_relay_refusals_total Requests and connections that were refused, by reason."
        yield "# TYPE crdtlog_relay_refusals_total counter"
        for code, number in self._refusals.items():
            yield f'crdtlog_relay_refusals_total{{code="{code}"}} {number}'
        yield "# HELP crdtlog_relay_append_seconds From an append's arrival to its answer."
        yield "# TYPE crdtlog_relay_append_seconds histogram"
        total = 0
        for limit, number in zip((*map(str, SECONDS), "+Inf"), self._buckets, strict=True):
            total += number
            yield f'crdtlog_relay_append_seconds_bucket{{le="{limit}"}} {total}'
        yield f"crdtlog_relay_append_seconds_sum {self._seconds:.6f}"
        yield f"crdtlog_relay_append_seconds_count {total}"
