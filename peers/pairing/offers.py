"""A code as its connections share it: open, in use, burned or used; and how often a joiner may still guess.

Codes: an `Offer` is one code as its connections share it. It is claimed by HELLO, so a second joiner is
refused without harm; freed when the holder goes away; burned by a failed confirmation; used up once the
welcome has gone out. An attempt that ends before its CONFIRM has tested no guess, because SPAKE2 messages
alone allow none. A used code opens again for one device: the one that was let in with it and said that it
could not take the database. Whoever guesses then has the one guess that everybody had before.
"""

import enum

from peers.pairing.codes import Code
from peers.pairing.frames import Reason, Refused

MAX_ATTEMPTS = 3


class OfferState(enum.Enum):
    """What has become of a code."""

    OPEN = "open"
    IN_USE = "in use"
    BURNED = "burned"
    USED = "used"


class Offer:
    """One code and what has become of it: shared by all connections that try it, used from one thread."""

    def __init__(self, code: Code, expires_at: float) -> None:
        self.code = code
        self.expires_at = expires_at
        self.state = OfferState.OPEN
        self.admitted: bytes | None = None
        """The sign key of the device for which alone it is open again."""
        self._holder: object = None

    def is_open(self, now: float) -> bool:
        """Whether somebody may still join with it (perhaps after the one who is trying now)."""
        return self.state in (OfferState.OPEN, OfferState.IN_USE) and now < self.expires_at

    def claim(self, holder: object, now: float) -> None:
        """Make `holder` the one who may try. Errors: Refused with the reason why it may not."""
        if self.state is OfferState.USED:
            raise Refused(Reason.USED)
        if self.state is OfferState.BURNED:
            raise Refused(Reason.WITHDRAWN)
        if now >= self.expires_at:
            raise Refused(Reason.EXPIRED)
        if self.state is OfferState.IN_USE:
            raise Refused(Reason.IN_USE)
        self.state, self._holder = OfferState.IN_USE, holder

    def leave(self, holder: object, state: OfferState) -> None:
        """The holder is finished with it; it becomes `state`. From anybody else this means nothing."""
        if self._holder is holder:
            self.state, self._holder = state, None

    def reopen(self, sign_key: bytes) -> None:
        """The device that used it could not take the database: it may try again until the code expires."""
        if self.state is OfferState.USED:
            self.state, self.admitted = OfferState.OPEN, sign_key


class Attempts:
    """How often a joiner may still send a confirmation: each shows whoever answers whether one guess is
    right.
    """

    def __init__(self, limit: int = MAX_ATTEMPTS) -> None:
        self.left = limit

    def spend(self) -> None:
        """Count one. Errors: Refused if none is left."""
        if self.left <= 0:
            raise Refused(Reason.TOO_MANY_ATTEMPTS)
        self.left -= 1
