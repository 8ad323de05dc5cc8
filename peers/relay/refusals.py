"""What a relay refuses, with the code that travels, and whether and when trying again makes sense.

Knows codes. Must not know who found the reason. The one idea: every refusal says whether it is temporary, and for how
long, so that a client never has to guess between waiting and telling a person.
"""

from enum import StrEnum

from crdtlog.errors import CrdtlogError, Temporary


class Code(StrEnum):
    """Why something was refused. A later version may add codes: `temporary` says enough to act on."""

    # The connection cannot go on.
    MALFORMED = "malformed"
    VERSION = "version"
    TOKEN = "token"
    HOST = "host"
    STOPPING = "stopping"
    CONNECTIONS = "connections"
    # One request cannot be done.
    SIGNATURE = "signature"
    NOT_OPEN = "not-open"
    BLOB_SIZE = "blob-size"
    MAILBOX_FULL = "mailbox-full"
    RELAY_FULL = "relay-full"
    RATE = "rate"
    NEW_MAILBOXES = "new-mailboxes"
    MAILBOXES = "mailboxes"
    STORE = "store"
    # A rendezvous channel.
    CHANNEL_TAKEN = "channel-taken"
    NO_CHANNEL = "no-channel"
    CHANNEL_SPENT = "channel-spent"
    CHANNEL_EXPIRED = "channel-expired"
    CHANNELS = "channels"


class Refused(CrdtlogError):
    """The relay does not do what was asked. `code` is one of `Code` or a newer one's text.

    `retry_after_s` is after how many seconds trying again may help, None where it does not (or nobody knows).
    """

    temporary = False

    def __init__(self, code: str, message: str, retry_after_s: int | None = None, hint: str = "") -> None:
        super().__init__(message, hint)
        self.code = code
        self.retry_after_s = retry_after_s


class RefusedForNow(Refused, Temporary):
    """The same request may succeed later, after `retry_after_s` seconds if that is known."""

    temporary = True


def stopping() -> Refused:
    """What everybody is told when the relay ends."""
    return RefusedForNow(Code.STOPPING, "the relay is being stopped", 5)


def refused(code: str, message: str, *, temporary: bool, retry_after_s: int | None = None) -> Refused:
    """The error of a refusal."""
    return (RefusedForNow if temporary else Refused)(code, message, retry_after_s)
