"""What a sync session asks of its driver, and why sessions end.

Values only. The driver performs the effects of one call in their order, and answers Fetch with
`Session.fetched`, Apply with `Session.applied` or `Session.refused`; everything else needs no answer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Code(StrEnum):
    """Why a session ended, for programs. Codes travel in Refuse messages: a peer may send others."""

    VERSION = "version"
    DATABASE = "database"
    IDENTITY = "identity"
    SELF = "self"
    COPIED_HOME = "copied-home"
    FORK = "fork"
    RESTORED = "restored"
    NO_EPOCH = "no-epoch"
    VIOLATION = "violation"
    WINDOW = "window"
    FLOOD = "flood"
    TOO_OFTEN = "too-often"
    TOO_LARGE = "too-large"
    ENTRY_REFUSED = "entry-refused"
    SILENT = "silent"
    STOPPED = "stopped"
    REMOVED = "removed"


@dataclass(frozen=True, slots=True)
class Send:
    """Send this frame, after all earlier ones."""

    frame: bytes


@dataclass(frozen=True, slots=True)
class Fetch:
    """Read entries from the local log and call `fetched`.

    Wanted: in log order from just behind `after_position`, those with seq > lacking.get(writer, 0), about
    `max_bytes` of them, but at least one if there is one, however large.
    """

    after_position: int
    lacking: Mapping[bytes, int]
    max_bytes: int


@dataclass(frozen=True, slots=True)
class Apply:
    """Apply these signed entries in this order, make them durable, then call `applied` (or `refused`)."""

    entries: tuple[bytes, ...]
    total_bytes: int


@dataclass(frozen=True, slots=True)
class Look:
    """Tell with `looked` the hashes of these entries, by writer and number, as far as they are held."""

    number: int
    asked: Mapping[bytes, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Show:
    """Read one entry as it was signed, and call `shown`; with None if it is not held."""

    writer: bytes
    seq: int


@dataclass(frozen=True, slots=True)
class Learn:
    """This signed entry proves, with the one held under its number, that a log is forked: settle that, then `learned`.

    Or call `refused`. It is to be done also if the session ends meanwhile.
    """

    signed: bytes


@dataclass(frozen=True, slots=True)
class Held:
    """The peer holds these logs durably up to these numbers (only what grew; it never shrinks)."""

    vector: Mapping[bytes, int]


@dataclass(frozen=True, slots=True)
class PeerKnown:
    """The peer said who it is and may stay. `clock_offset_ms`: its clock minus ours, less time on the way."""

    name: str
    device: bytes
    writer: bytes
    version: int
    versions: tuple[int, int]
    clock_offset_ms: int


@dataclass(frozen=True, slots=True)
class CaughtUp:
    """Both sides hold the same and nothing is under way. Comes each time this becomes true again."""


@dataclass(frozen=True, slots=True)
class Close:
    """The session is over: send what was to be sent, then close the connection.

    `permanent` means that dialling again is useless until somebody changes something. `by_peer` means that
    the other side ended it and `reason` is its text. `writer` and `seq` name the log that a fork or a
    restored backup concerns.
    """

    reason: str
    permanent: bool
    code: str
    hint: str = ""
    by_peer: bool = False
    writer: bytes | None = None
    seq: int | None = None


Effect = Send | Fetch | Apply | Look | Show | Learn | Held | PeerKnown | CaughtUp | Close


class SessionEnds(Exception):
    """Raised inside the session's own modules to end it; `Session` turns it into a Close."""

    def __init__(self, close: Close) -> None:
        super().__init__(close.reason)
        self.close = close


def violation(reason: str, code: Code = Code.VIOLATION) -> SessionEnds:
    """The peer broke the protocol. Not permanent (it may get a better version): dial again, but rarely."""
    return SessionEnds(Close(f"The other device broke the sync protocol: {reason}.", False, code))
