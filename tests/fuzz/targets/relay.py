"""What a relay reads of its clients, and what they read of it."""

from collections.abc import Callable
from typing import Any

from crdtlog.errors import Malformed
from peers.relay import messages
from tests.fuzz.mutate import MSGPACK
from tests.fuzz.targets.vectors import vectors
from tests.fuzz.trial import Subject, Target


def _read(decode: Callable[[bytes], Any]) -> Subject:
    """All messages are seeds: those of the other direction are refused."""
    frames = [bytes.fromhex(vector["frame"]) for vector in vectors("relay")["messages"]]
    return Subject(frames, decode, (Malformed,), MSGPACK, write=messages.encode)


TARGETS = [
    Target("relay.request", 10_000, lambda: _read(messages.decode_request)),
    Target("relay.answer", 10_000, lambda: _read(messages.decode_answer)),
]
