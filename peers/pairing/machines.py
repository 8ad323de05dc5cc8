"""Pairing: how a device that knows a code becomes a member, as two machines without input or output.

Knows what each side says after what the other said, who is believed when, and when a code is spent. Must not
know sockets, clocks or databases: frames and the time come in, effects go out, and a driver performs them.
The one idea: no side believes anything before the other has confirmed the whole exchange under the code, and
one wrong guess ends the code. The transition tables at the end of this file are the protocol; the formats are
in `frames`, and what a code has been through in `offers`.

    joiner                                      issuer
    HELLO    versions, SPAKE2            ->
                                         <-     REPLY    version, SPAKE2, commitment
    CONFIRM  its keys, name, certificate ->     a person looks at name and fingerprint
                                         <-     WELCOME  database, role, its keys, welcome     (or DECLINE)
    adopts the database
    FINISH   adopted, or why not         ->                   (why not: the same device may begin again)
"""

import enum
import logging
import math
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

from crdtlog import errors
from crdtlog.device import Device, DevicePublic, device_id, verify_bytes
from peers.identity import check_certificate, fingerprint
from peers.pairing import frames
from peers.pairing.codes import Code
from peers.pairing.effects import (
    FOR_ISSUER,
    FOR_JOINER,
    Approve,
    Burned,
    Close,
    Done,
    Effect,
    Explanations,
    Failed,
    Joined,
    Send,
)
from peers.pairing.frames import FrameKind, Random, Reason, Refused
from peers.pairing.offers import MAX_ATTEMPTS, Attempts, Offer, OfferState

__all__ = [
    "CODE_SECONDS", "MAX_ATTEMPTS", "Approve", "Attempts", "Burned", "Close", "Done", "Effect", "Failed", "Issuer",
    "Joined", "Joiner", "Offer", "OfferState", "Reason", "Send", "State",
]  # fmt: skip

logger = logging.getLogger(__name__)

CODE_SECONDS = 10 * 60
"""How long a code is open: `Offer(code, expires_at=now + CODE_SECONDS)`."""

STEP_SECONDS = 30
"""How long a side waits for a frame that the other's program, not a person, has to send."""

FINISH_SECONDS = 10 * 60
"""How long the issuer waits for a joiner that receives the welcome and builds its tables."""

BURNING = frozenset({Reason.WRONG_CODE, Reason.WRONG_SERVER})
"""Refusals of a confirmation that withdraw the code."""

# --- what both machines have in common ----------------------------------------------------------------------


class State(enum.Enum):
    """What a machine waits for."""

    START = "start"
    HELLO = "hello"
    REPLY = "reply"
    CONFIRM = "confirmation"
    PERSON = "the person's approval"
    WELCOME = "welcome"
    ADOPTION = "adoption"
    FINISH = "finish"
    CLOSED = "closed"


class Step(NamedTuple):
    """What a frame does in a state: its handler, the state after it, and how long the frame may be."""

    handle: Callable[[Any, list[Any], bytes, float], list[Effect]]
    next: State
    max_bytes: int


Steps = Mapping[State, Mapping[FrameKind, Step]]


class _Machine:
    """Frames in, effects out, by a table. Any fault becomes a refusal; after it the machine is closed and
    silent.
    """

    steps: ClassVar[Steps]
    explanations: ClassVar[Explanations]

    def __init__(self, state: State, deadline: float) -> None:
        self.state = state
        self.deadline = deadline

    def receive(self, frame: bytes, now: float) -> list[Effect]:
        """What to do about a frame that arrived at this time (Unix seconds). Never raises."""
        if self.state is State.CLOSED:
            return []
        if now >= self.deadline:
            return self.tick(now)
        try:
            return self._step(frame, now)
        except Refused as refused:
            return self._refuse(refused)
        except Exception:
            logger.exception("a pairing frame met a fault of ours in state %s", self.state.name)
            return self._refuse(Refused(Reason.INTERNAL))

    def tick(self, now: float) -> list[Effect]:
        """What to do because time passes. Call it at `deadline` (Unix seconds), which changes with each step."""
        if self.state is State.CLOSED or now < self.deadline:
            return []
        return self._refuse(Refused(self._reason_of_deadline(now)))

    def lost(self) -> list[Effect]:
        """What to do because the connection is gone."""
        return [] if self.state is State.CLOSED else self._fail(Refused(Reason.LOST))

    def _step(self, frame: bytes, now: float) -> list[Effect]:
        steps = self.steps[self.state]
        kind, fields = frames.decode_frame(frame, max(step.max_bytes for step in steps.values()))
        if kind is FrameKind.REFUSE:
            return [*self._fail(frames.refused_by_other(fields)), Close()]
        step = steps.get(kind)
        if step is None or len(frame) > step.max_bytes:
            raise Refused(Reason.MALFORMED)
        effects = step.handle(self, fields, frame, now)
        self.state = step.next
        return effects

    def _refuse(self, refused: Refused) -> list[Effect]:
        return [Send(frames.refusal(refused.reason)), *self._fail(refused), Close()]

    def _fail(self, refused: Refused) -> list[Effect]:
        self.state, self.deadline = State.CLOSED, math.inf
        message, hint = self.explanations[refused.reason]
        return [Failed(refused.reason, f"{message} {refused.text}".strip(), hint)]

    def _expect(self, state: State) -> None:
        if self.state is not state:
            raise RuntimeError(f"a pairing that waits for {self.state.value} does not wait for {state.value}")

    def _reason_of_deadline(self, now: float) -> Reason:
        return Reason.TIMEOUT


# --- the issuer ---------------------------------------------------------------------------------------------


class Issuer(_Machine):
    """The side that is a member already, for one connection. `server_certificate` is what our TLS shows
    (DER).
    """

    explanations = FOR_ISSUER

    def __init__(
        self,
        offer: Offer,
        device: Device,
        *,
        database_id: bytes,
        role: str,
        server_certificate: bytes | None,
        random: Random,
        now: float,
    ) -> None:
        # Whoever says nothing must not keep one of the few places for as long as the code is open.
        super().__init__(State.HELLO, min(offer.expires_at, now + STEP_SECONDS))
        self._offer = offer
        self._device = device
        self._server = frames.server_hash(server_certificate)
        self._random = random
        self._grant = frames.Grant(database_id, role, device.public, random(frames.BLIND_BYTES))
        self._keys: frames.Keys
        self._version = 0
        self._hello = b""
        self._reply = b""
        self._joiner_statement = b""
        self._joiner_key = b""

    def approve(self, welcome: bytes, now: float) -> list[Effect]:
        """The person agreed: hand over the welcome (`Database.welcome()`, at most 8 MiB). It uses up the
        code.

        Errors: TooLarge (still waiting for approval then); RuntimeError if no approval was asked for.
        """
        if len(welcome) > frames.MAX_WELCOME_BYTES:
            raise errors.TooLarge(
                f"The welcome has {len(welcome)} bytes, at most {frames.MAX_WELCOME_BYTES} can be sent."
            )
        if self.state is State.CLOSED or now >= self.deadline:
            return self.tick(now)
        self._expect(State.PERSON)
        self._offer.leave(self, OfferState.USED)
        self.state, self.deadline = State.FINISH, now + FINISH_SECONDS
        return [Send(self._welcome_frame(welcome))]

    def decline(self, text: str, now: float) -> list[Effect]:
        """The person disagreed; `text` tells the joiner why and may be empty. It uses up the code.

        Errors: RuntimeError if no approval was asked for.
        """
        if self.state is State.CLOSED or now >= self.deadline:
            return self.tick(now)
        self._expect(State.PERSON)
        self._offer.leave(self, OfferState.USED)
        frame = frames.seal_box(self._keys.issuer_box, FrameKind.DECLINE, frames.printable(text))
        return [Send(frame), *self._fail(Refused(Reason.DECLINED)), Close()]

    def _on_hello(self, fields: list[Any], frame: bytes, now: float) -> list[Effect]:
        version = frames.common_version(
            fields[0] if fields else None
        )  # before shapes: a newer one may have others
        frames.check_shape(fields, frames.FRAME_SHAPES[FrameKind.HELLO])
        self._offer.claim(self, now)
        spake2 = frames.Spake2(self._offer.code.password, is_joiner=False, random=self._random)
        shared = spake2.finish(fields[1])
        self._version, self._hello = version, frame
        self._reply = frames.encode_frame(FrameKind.REPLY, version, spake2.message, self._grant.commitment())
        self._keys = frames.derive_keys(shared, self._hello, self._reply)
        self.deadline = min(self._offer.expires_at, now + STEP_SECONDS)
        return [Send(self._reply)]

    def _on_confirm(self, fields: list[Any], frame: bytes, now: float) -> list[Effect]:
        frames.check_shape(fields, frames.FRAME_SHAPES[FrameKind.CONFIRM])
        opened = frames.open_box(self._keys.joiner_box, FrameKind.CONFIRM, fields[0], Reason.WRONG_CODE)
        sign_key, receive_key, name, certificate, server, confirmation, signature = opened
        if server != self._server:
            raise Refused(Reason.WRONG_SERVER)
        statement = frames.joiner_statement(
            self._version,
            self._hello,
            self._reply,
            DevicePublic(name, sign_key, receive_key),
            certificate,
            server,
        )
        if not frames.confirms(self._keys.joiner_confirm, statement, confirmation):
            raise Refused(Reason.WRONG_CODE)
        if not verify_bytes(sign_key, frames.JOINER_DOMAIN, statement, signature):
            raise Refused(Reason.WRONG_CODE)
        if self._offer.admitted not in (None, sign_key):
            raise Refused(Reason.USED)
        _check_joiner(sign_key, receive_key, certificate, self._device)
        self._joiner_statement, self._joiner_key = statement, sign_key
        self.deadline = self._offer.expires_at
        shown = fingerprint(certificate)
        role = self._grant.role
        return [Approve(name, device_id(sign_key), shown, sign_key, receive_key, certificate, role)]

    def _welcome_frame(self, welcome: bytes) -> bytes:
        statement = frames.issuer_statement(self._joiner_statement, self._grant, welcome)
        return frames.seal_box(
            self._keys.issuer_box,
            FrameKind.WELCOME,
            self._grant.database_id,
            self._grant.role,
            *self._grant.issuer,
            self._grant.blind,
            frames.confirmation(self._keys.issuer_confirm, statement),
            self._device.sign_bytes(frames.ISSUER_DOMAIN, statement),
            welcome,
        )

    def _on_finish(self, fields: list[Any], frame: bytes, now: float) -> list[Effect]:
        frames.check_shape(fields, frames.FRAME_SHAPES[FrameKind.FINISH])
        (text,) = frames.open_box(self._keys.joiner_box, FrameKind.FINISH, fields[0], Reason.UNCONFIRMED)
        if text:
            self._offer.reopen(self._joiner_key)
            return [*self._fail(Refused(Reason.NOT_ADOPTED, frames.printable(text))), Close()]
        self.deadline = math.inf
        return [Done(), Close()]

    def _refuse(self, refused: Refused) -> list[Effect]:
        """Refuse, and burn the code if this was a guess: only the holder's failed confirmation is one."""
        if refused.reason not in BURNING or self.state is not State.CONFIRM:
            return super()._refuse(refused)
        self._offer.leave(self, OfferState.BURNED)
        sent, *rest = super()._refuse(refused)
        return [sent, Burned(), *rest]

    def _fail(self, refused: Refused) -> list[Effect]:
        self._offer.leave(self, OfferState.OPEN)
        return super()._fail(refused)

    def _reason_of_deadline(self, now: float) -> Reason:
        is_before_approval = self.state is not State.FINISH
        return Reason.EXPIRED if is_before_approval and now >= self._offer.expires_at else Reason.TIMEOUT


def _check_joiner(sign_key: bytes, receive_key: bytes, certificate: bytes, own: Device) -> None:
    """Errors: Refused if these cannot be the keys and certificate of a new device."""
    if sign_key == own.public.sign_key:
        raise Refused(Reason.SAME_DEVICE)
    try:
        belongs = check_certificate(certificate) == sign_key
    except errors.Malformed as error:
        raise Refused(Reason.MALFORMED, str(error)) from None
    if not belongs or not frames.can_receive(receive_key):
        raise Refused(Reason.MALFORMED, "The joining device's keys do not belong together.")


# --- the joiner ---------------------------------------------------------------------------------------------


class Joiner(_Machine):
    """The side that knows the code, for one connection.

    `certificate` is this device's own (DER), `server_certificate` what TLS showed on this connection (DER),
    or None where the connection has no TLS of the issuer's (a relay). `attempts` is shared by all connections
    of a join.
    """

    explanations = FOR_JOINER

    def __init__(
        self,
        code: Code,
        device: Device,
        *,
        certificate: bytes,
        server_certificate: bytes | None,
        attempts: Attempts,
        random: Random,
    ) -> None:
        super().__init__(State.START, math.inf)
        self._device = device
        self._certificate = certificate
        self._server_certificate = server_certificate
        self._attempts = attempts
        self._spake2 = frames.Spake2(code.password, is_joiner=True, random=random)
        self._hello = frames.encode_frame(FrameKind.HELLO, list(frames.VERSIONS), self._spake2.message)
        self._keys: frames.Keys
        self._statement = b""
        self._commitment = b""

    def start(self, now: float) -> list[Effect]:
        """Say hello. Errors: RuntimeError if called twice."""
        self._expect(State.START)
        self.state, self.deadline = State.REPLY, now + STEP_SECONDS
        return [Send(self._hello)]

    def finished(self, error: str | None) -> list[Effect]:
        """The database was adopted, or could not be because of `error`. Errors: RuntimeError before `Joined`."""
        if self.state is State.CLOSED:
            return []
        self._expect(State.ADOPTION)
        self.state = State.CLOSED
        text = frames.printable(error) or "unknown reason" if error is not None else ""
        return [Send(frames.seal_box(self._keys.joiner_box, FrameKind.FINISH, text)), Close()]

    def lost(self) -> list[Effect]:
        """The connection is gone. During adoption this changes nothing: the joiner has all it needs."""
        if self.state is State.ADOPTION:
            self.state = State.CLOSED
        return super().lost()

    def _on_reply(self, fields: list[Any], frame: bytes, now: float) -> list[Effect]:
        version = frames.common_version([fields[0]] if fields else None)
        frames.check_shape(fields, frames.FRAME_SHAPES[FrameKind.REPLY])
        shared = self._spake2.finish(fields[1])
        self._attempts.spend()
        self._keys = frames.derive_keys(shared, self._hello, frame)
        self._commitment = fields[2]
        public, server = self._device.public, frames.server_hash(self._server_certificate)
        self._statement = frames.joiner_statement(
            version, self._hello, frame, public, self._certificate, server
        )
        self.deadline = now + CODE_SECONDS + FINISH_SECONDS  # a person thinks, then up to 8 MiB travel
        return [Send(self._confirm_frame(public, server))]

    def _confirm_frame(self, public: DevicePublic, server: bytes) -> bytes:
        return frames.seal_box(
            self._keys.joiner_box,
            FrameKind.CONFIRM,
            public.sign_key,
            public.receive_key,
            public.name,
            self._certificate,
            server,
            frames.confirmation(self._keys.joiner_confirm, self._statement),
            self._device.sign_bytes(frames.JOINER_DOMAIN, self._statement),
        )

    def _on_welcome(self, fields: list[Any], frame: bytes, now: float) -> list[Effect]:
        frames.check_shape(fields, frames.FRAME_SHAPES[FrameKind.WELCOME])
        opened = frames.open_box(self._keys.issuer_box, FrameKind.WELCOME, fields[0], Reason.UNCONFIRMED)
        database_id, role, name, sign_key, receive_key, blind, confirmation, signature, welcome = opened
        grant = frames.Grant(database_id, role, DevicePublic(name, sign_key, receive_key), blind)
        statement = frames.issuer_statement(self._statement, grant, welcome)
        is_confirmed = (
            grant.commitment() == self._commitment
            and frames.confirms(self._keys.issuer_confirm, statement, confirmation)
            and verify_bytes(sign_key, frames.ISSUER_DOMAIN, statement, signature)
        )
        if not is_confirmed:
            raise Refused(Reason.UNCONFIRMED)
        if not self._is_server_of(sign_key):
            raise Refused(Reason.WRONG_SERVER)
        self.deadline = math.inf
        return [Joined(welcome, database_id, role, grant.issuer)]

    def _is_server_of(self, sign_key: bytes) -> bool:
        if self._server_certificate is None:
            return True
        try:
            return check_certificate(self._server_certificate) == sign_key
        except errors.Malformed:
            return False

    def _on_decline(self, fields: list[Any], frame: bytes, now: float) -> list[Effect]:
        frames.check_shape(fields, frames.FRAME_SHAPES[FrameKind.DECLINE])
        (text,) = frames.open_box(self._keys.issuer_box, FrameKind.DECLINE, fields[0], Reason.UNCONFIRMED)
        return [*self._fail(Refused(Reason.DECLINED, frames.printable(text))), Close()]


# --- the protocol -------------------------------------------------------------------------------------------
#
# Besides frames there are commands of the driver:
#   issuer  PERSON --approve--> FINISH      PERSON --decline--> CLOSED
#   joiner  START --start--> REPLY          ADOPTION --finished--> CLOSED
# and in every state: a refusal, a deadline or the loss of the connection --> CLOSED.

_REFUSE = Step(
    lambda machine, fields, frame, now: [], State.CLOSED, frames.MAX_CLEAR_FRAME_BYTES
)  # see _step

Issuer.steps = {
    State.HELLO: {
        FrameKind.HELLO: Step(Issuer._on_hello, State.CONFIRM, frames.MAX_CLEAR_FRAME_BYTES),
        FrameKind.REFUSE: _REFUSE,
    },
    State.CONFIRM: {
        FrameKind.CONFIRM: Step(Issuer._on_confirm, State.PERSON, frames.MAX_CONFIRM_FRAME_BYTES),
        FrameKind.REFUSE: _REFUSE,
    },
    State.PERSON: {FrameKind.REFUSE: _REFUSE},
    State.FINISH: {
        FrameKind.FINISH: Step(Issuer._on_finish, State.CLOSED, frames.MAX_FINISH_FRAME_BYTES),
        FrameKind.REFUSE: _REFUSE,
    },
}
Joiner.steps = {
    State.START: {FrameKind.REFUSE: _REFUSE},
    State.REPLY: {
        FrameKind.REPLY: Step(Joiner._on_reply, State.WELCOME, frames.MAX_CLEAR_FRAME_BYTES),
        FrameKind.REFUSE: _REFUSE,
    },
    State.WELCOME: {
        FrameKind.WELCOME: Step(Joiner._on_welcome, State.ADOPTION, frames.MAX_WELCOME_FRAME_BYTES),
        FrameKind.DECLINE: Step(Joiner._on_decline, State.CLOSED, frames.MAX_FINISH_FRAME_BYTES),
        FrameKind.REFUSE: _REFUSE,
    },
    State.ADOPTION: {FrameKind.REFUSE: _REFUSE},
}
