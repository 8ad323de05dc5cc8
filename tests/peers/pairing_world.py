"""A pretend world for pairing: devices with known keys and randomness, and an exchange over a wire that may lie."""

import hashlib
from collections.abc import Callable
from typing import Any

from crdtlog.certificate import certificate_of
from crdtlog.device import Device, device_from_secrets
from peers.pairing.codes import Code
from peers.pairing.machines import (
    CODE_SECONDS,
    Approve,
    Attempts,
    Effect,
    Failed,
    Issuer,
    Joined,
    Joiner,
    Offer,
    Reason,
    Send,
)

NOW = 1_760_000_000.0
CODE = Code(417, ("abandon", "zebra", "lucky"))
WRONG = Code(417, ("abandon", "zebra", "luggage"))
LAPTOP = device_from_secrets("laptop", bytes(range(32)), bytes(range(32, 64)))
PHONE = device_from_secrets("phone", bytes(range(64, 96)), bytes(range(96, 128)))
MALLORY = device_from_secrets("mallory", b"m" * 32, b"n" * 32)
DATABASE = bytes(range(100, 132))
WELCOME = b"genesis, epochs, members, tables"

Mutate = Callable[[int, bytes], bytes]


def drawn(seed: str) -> Callable[[int], bytes]:
    """Reproducible randomness."""
    state = iter(range(10_000))
    return lambda n: hashlib.shake_256(f"{seed} {next(state)}".encode()).digest(n)


def make_issuer(offer: Offer | None = None, device: Device = LAPTOP, **changes: Any) -> Issuer:
    """The laptop with a code that is open, unless told otherwise."""
    arguments: dict[str, Any] = {
        "database_id": DATABASE,
        "role": "writer",
        "server_certificate": certificate_of(device),
        "random": drawn("issuer"),
        "now": NOW,
    }
    return Issuer(offer or Offer(CODE, NOW + CODE_SECONDS), device, **{**arguments, **changes})


def make_joiner(code: Code = CODE, device: Device = PHONE, **changes: Any) -> Joiner:
    """The phone with the right code, unless told otherwise."""
    arguments: dict[str, Any] = {
        "certificate": certificate_of(device),
        "server_certificate": certificate_of(LAPTOP),
        "attempts": Attempts(),
        "random": drawn("joiner"),
    }
    return Joiner(code, device, **{**arguments, **changes})


class Exchange:
    """Issuer and joiner over a pretend wire. The person approves; the joiner adopts, unless told otherwise."""

    def __init__(self, issuer: Issuer, joiner: Joiner, mutate: Mutate = lambda number, frame: frame) -> None:
        self.issuer, self.joiner = issuer, joiner
        self.mutate = mutate
        self.frames: list[bytes] = []
        self.issuer_saw: list[Effect] = []
        self.joiner_saw: list[Effect] = []
        self.adoption_error: str | None = None
        self.welcome: bytes | None = WELCOME

    def run(self, now: float = NOW) -> "Exchange":
        self._perform(self.joiner.start(now), True, now)
        return self

    def _perform(self, effects: list[Effect], by_joiner: bool, now: float) -> None:
        (self.joiner_saw if by_joiner else self.issuer_saw).extend(effects)
        other = self.issuer if by_joiner else self.joiner
        for effect in effects:
            match effect:
                case Send(frame):
                    self.frames.append(frame)
                    self._perform(
                        other.receive(self.mutate(len(self.frames) - 1, frame), now), not by_joiner, now
                    )
                case Approve() if self.welcome is not None:
                    self._perform(self.issuer.approve(self.welcome, now), False, now)
                case Approve():
                    self._perform(self.issuer.decline("ask me first", now), False, now)
                case Joined():
                    self._perform(self.joiner.finished(self.adoption_error), True, now)

    def reasons(self) -> tuple[Reason | None, Reason | None]:
        """Why it failed, as issuer and joiner tell it."""
        return reason_of(self.issuer_saw), reason_of(self.joiner_saw)


def reason_of(effects: list[Effect]) -> Reason | None:
    """Why it failed, if it did."""
    return next((effect.reason for effect in effects if isinstance(effect, Failed)), None)


def seen(effects: list[Effect], kind: type[Any]) -> list[Any]:
    """The effects of one kind."""
    return [effect for effect in effects if isinstance(effect, kind)]


def sent(effects: list[Effect]) -> bytes:
    """The one frame to send."""
    (send,) = seen(effects, Send)
    frame: bytes = send.frame
    return frame


def wait_for_person(issuer: Issuer, joiner: Joiner) -> None:
    """The first three frames, up to the question."""
    reply = sent(issuer.receive(sent(joiner.start(NOW)), NOW))
    (approve,) = issuer.receive(sent(joiner.receive(reply, NOW)), NOW)
    assert isinstance(approve, Approve)


REFERENCE = Exchange(make_issuer(), make_joiner()).run().frames
"""An exchange in which all goes well: what the issuer and the joiner send."""
