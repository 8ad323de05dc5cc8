"""What pairing asks of its driver, and what it tells the person in front of it.

Knows words and values. Must not know the protocol. The one idea: a reason travels as one word, and each side
says in its own sentences what it means there, so that no other machine puts sentences on this one's screen
(except the two short texts that a device sends sealed, after it has shown that it knows the code).
"""

import dataclasses
from collections.abc import Mapping

from crdtlog import errors
from crdtlog.device import DevicePublic
from peers.pairing.frames import Reason

# --- effects ------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True)
class Send:
    """Send this frame, as one binary message."""

    frame: bytes = dataclasses.field(repr=False)


@dataclasses.dataclass(frozen=True, slots=True)
class Close:
    """Close the connection once what was to be sent has been sent. Always the last effect."""


@dataclasses.dataclass(frozen=True, slots=True)
class Approve:
    """Issuer: somebody who knows the code asks to join. Show name and fingerprint; then `approve` or
    `decline`.
    """

    name: str
    device_id: bytes
    fingerprint: bytes
    sign_key: bytes
    receive_key: bytes
    certificate: bytes
    role: str


@dataclasses.dataclass(frozen=True, slots=True)
class Joined:
    """Joiner: we are in. Adopt the database from `welcome`, then call `finished`."""

    welcome: bytes = dataclasses.field(repr=False)
    database_id: bytes
    role: str
    issuer: DevicePublic


@dataclasses.dataclass(frozen=True, slots=True)
class Done:
    """Issuer: the new device has adopted the database."""


@dataclasses.dataclass(frozen=True, slots=True)
class Burned:
    """Issuer: a guess was wrong, so the code is withdrawn for all connections."""


@dataclasses.dataclass(frozen=True, slots=True)
class Failed:
    """This attempt is over. `message` and `hint` are for the person on this side."""

    reason: Reason
    message: str
    hint: str

    def error(self) -> errors.CrdtlogError:
        """The failure as an error to raise."""
        kind = errors.NoPeer if self.reason in (Reason.LOST, Reason.TIMEOUT) else errors.PairingFailed
        return kind(self.message, self.hint)


Effect = Send | Close | Approve | Joined | Done | Burned | Failed


# --- what people are told -----------------------------------------------------------------------------------

NEW_CODE = "Make a new code with: crdtlog pair FILE"
_NEW_CODE_THERE = "Make a new code on the other device with: crdtlog pair FILE"
_UPDATE = "Update crdtlog on the device with the older version."
_AGAIN = "Try the same code again."

Explanations = Mapping[Reason, tuple[str, str]]
"""For each reason: what happened and why, and the next step."""

FOR_ISSUER: Explanations = {
    Reason.VERSION: ("The two devices speak different versions.", _UPDATE),
    Reason.WRONG_CODE: ("A device tried to join with a wrong code, so this code is withdrawn.", NEW_CODE),
    Reason.WRONG_SERVER: (
        "A device tried to join through a stranger in between, so this code is withdrawn.",
        "Pair on a network you trust. " + NEW_CODE,
    ),
    Reason.UNCONFIRMED: ("What the two devices said was altered on its way.", NEW_CODE),
    Reason.IN_USE: ("A second device tried the code while it was in use.", ""),
    Reason.USED: ("A device tried a code that was already used.", NEW_CODE),
    Reason.WITHDRAWN: ("A device tried a code that was withdrawn after a wrong guess.", NEW_CODE),
    Reason.EXPIRED: ("The code has expired.", NEW_CODE),
    Reason.MALFORMED: ("What the joining device sent makes no sense.", _AGAIN),
    Reason.SAME_DEVICE: (
        "The joining device has the same keys as this one: its crdtlog directory is a copy.",
        "Set CRDTLOG_HOME there to a new directory, or remove the copied keys, and join again.",
    ),
    Reason.DECLINED: ("You declined the device.", NEW_CODE),
    Reason.NOT_ADOPTED: (
        "The new device could not take the database.",
        "The code stays open for that device until it expires: see the message there, and join again.",
    ),
    Reason.TOO_MANY_ATTEMPTS: ("The joining device gave up after several failed attempts.", NEW_CODE),
    Reason.TIMEOUT: ("The joining device did not answer in time.", _AGAIN),
    Reason.LOST: ("The connection to the joining device broke off.", _AGAIN),
    Reason.INTERNAL: ("Pairing met an internal fault.", "Please report it, with the log."),
}
FOR_JOINER: Explanations = {
    Reason.VERSION: ("The two devices speak different versions.", _UPDATE),
    Reason.WRONG_CODE: ("The code is wrong, and the other device has withdrawn it.", _NEW_CODE_THERE),
    Reason.WRONG_SERVER: (
        "A stranger sits between the two devices, so the code was withdrawn.",
        "Pair on a network you trust. " + _NEW_CODE_THERE,
    ),
    Reason.UNCONFIRMED: ("The other device could not show that it knows the code.", _NEW_CODE_THERE),
    Reason.IN_USE: ("Another device is using this code right now.", "Try again in a minute."),
    Reason.USED: ("This code has already been used.", _NEW_CODE_THERE),
    Reason.WITHDRAWN: ("This code was withdrawn after a wrong guess.", _NEW_CODE_THERE),
    Reason.EXPIRED: ("This code has expired.", _NEW_CODE_THERE),
    Reason.MALFORMED: ("The two devices did not understand each other.", _AGAIN),
    Reason.SAME_DEVICE: (
        "The other device has the same keys as this one: the crdtlog directory here is a copy.",
        "Set CRDTLOG_HOME to a new directory, or remove the copied keys, and join again.",
    ),
    Reason.DECLINED: ("The other device declined.", "Talk to whoever answers there. " + _NEW_CODE_THERE),
    Reason.NOT_ADOPTED: ("The database could not be taken over.", _NEW_CODE_THERE),
    Reason.TOO_MANY_ATTEMPTS: (
        "Several devices answered and none knew the code, so no further one is tried.",
        "Compare the code. " + _NEW_CODE_THERE,
    ),
    Reason.TIMEOUT: ("The other device did not answer in time.", _AGAIN),
    Reason.LOST: ("The connection to the other device broke off.", _AGAIN),
    Reason.INTERNAL: ("Pairing met an internal fault.", "Please report it, with the log."),
}
