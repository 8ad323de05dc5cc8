"""What pairing sends: its frames, their limits, and the keys and statements that bind them together.

Knows formats and cryptography. Must not know states, time or who answers what: that is `pairing`. The one
idea: both sides derive everything from the SPAKE2 key *and* the exact bytes of the two clear frames, and then
sign and confirm statements that name every value a person would mind seeing exchanged.

Frames are msgpack arrays `[kind, …]`:

    REFUSE   [0, reason, versions]               either way, in clear; never changes between versions
    HELLO    [1, versions, spake2]               joiner
    REPLY    [2, version, spake2, commitment]    issuer; the commitment hides and fixes what WELCOME will say
    CONFIRM  [3, box]  box of [sign key, receive key, name, certificate, server, confirmation, signature]
    WELCOME  [4, box]  box of [database, role, name, sign key, receive key, blind, confirmation, signature,
    welcome] DECLINE  [5, box]  box of [text]             issuer, instead of WELCOME
    FINISH   [6, box]  box of [text]             joiner; an empty text means it has adopted the database

The joiner confirms first. Were the issuer first, anybody could connect, guess, look whether the issuer's box
opens, and go away without the issuer noticing: an endless supply of guesses. Yet the joiner's signature must
cover the database and the issuer's keys, which a stranger who connects should not learn: hence the
commitment.

SPAKE2: Abdalla, Pointcheval: Simple Password-Based Encrypted Key Exchange Protocols, CT-RSA 2005; over
Ed25519's group by the package `spake2`.
"""

import dataclasses
import enum
import hashlib
import hmac
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgpack

from crdtlog.device import DevicePublic, is_name
from peers.envelope import hkdf

VERSIONS = (1,)
"""The versions of this protocol that this program speaks."""

MAX_WELCOME_BYTES = 8 * 1024 * 1024
MAX_CLEAR_FRAME_BYTES = 1024
MAX_CONFIRM_FRAME_BYTES = 8 * 1024
MAX_FINISH_FRAME_BYTES = 4 * 1024
MAX_WELCOME_FRAME_BYTES = MAX_WELCOME_BYTES + 8 * 1024
MAX_FRAME_BYTES = MAX_WELCOME_FRAME_BYTES
"""No frame of pairing is longer: the limit for the transport."""

MAX_TEXT_CHARACTERS = 500
SPAKE2_BYTES = 33
DATABASE_ID_BYTES = 32
BLIND_BYTES = 32
HASH_BYTES = 32
_TAG_BYTES = 16

Random = Callable[[int], bytes]


class FrameKind(enum.IntEnum):
    """The first element of a frame."""

    REFUSE = 0
    HELLO = 1
    REPLY = 2
    CONFIRM = 3
    WELCOME = 4
    DECLINE = 5
    FINISH = 6


class Reason(enum.StrEnum):
    """Why a pairing did not come about. The values are the words of REFUSE frames."""

    VERSION = "version"
    WRONG_CODE = "wrong-code"
    WRONG_SERVER = "wrong-server"
    UNCONFIRMED = "unconfirmed"
    IN_USE = "in-use"
    USED = "used"
    WITHDRAWN = "withdrawn"
    EXPIRED = "expired"
    MALFORMED = "malformed"
    SAME_DEVICE = "same-device"
    DECLINED = "declined"
    NOT_ADOPTED = "not-adopted"
    TOO_MANY_ATTEMPTS = "too-many-attempts"
    TIMEOUT = "timeout"
    LOST = "lost"
    INTERNAL = "internal"


class Refused(Exception):
    """What arrived is not acceptable. Raised and caught inside pairing; `text` is only for people."""

    def __init__(self, reason: Reason, text: str = "") -> None:
        super().__init__(reason, text)
        self.reason = reason
        self.text = text


# --- shapes -------------------------------------------------------------------------------------------------

Check = Callable[[Any], bool]


def _bytes(low: int, high: int | None = None) -> Check:
    return lambda value: type(value) is bytes and low <= len(value) <= (low if high is None else high)


def _text(high: int) -> Check:
    return lambda value: type(value) is str and len(value) <= high


def _is_version(value: Any) -> bool:
    return type(value) is int and 0 <= value < 1 << 31


def _is_versions(value: Any) -> bool:
    return type(value) is list and 1 <= len(value) <= 16 and all(map(_is_version, value))


def _is_role(value: Any) -> bool:
    return type(value) is str and 0 < len(value) <= 16 and value.isascii() and value.isalpha()


_KEY = _bytes(32)
_HASH = _bytes(HASH_BYTES)
_SIGNATURE = _bytes(64)

FRAME_SHAPES: dict[FrameKind, tuple[Check, ...]] = {
    FrameKind.REFUSE: (_text(32), _is_versions),
    FrameKind.HELLO: (_is_versions, _bytes(SPAKE2_BYTES)),
    FrameKind.REPLY: (_is_version, _bytes(SPAKE2_BYTES), _HASH),
    FrameKind.CONFIRM: (_bytes(_TAG_BYTES, MAX_CONFIRM_FRAME_BYTES),),
    FrameKind.WELCOME: (_bytes(_TAG_BYTES, MAX_WELCOME_FRAME_BYTES),),
    FrameKind.DECLINE: (_bytes(_TAG_BYTES, MAX_FINISH_FRAME_BYTES),),
    FrameKind.FINISH: (_bytes(_TAG_BYTES, MAX_FINISH_FRAME_BYTES),),
}
BOX_SHAPES: dict[FrameKind, tuple[Check, ...]] = {
    FrameKind.CONFIRM: (_KEY, _KEY, is_name, _bytes(1, 4096), _bytes(0, HASH_BYTES), _HASH, _SIGNATURE),
    FrameKind.WELCOME: (
        *(_bytes(DATABASE_ID_BYTES), _is_role, is_name, _KEY, _KEY, _bytes(BLIND_BYTES), _HASH, _SIGNATURE),
        _bytes(0, MAX_WELCOME_BYTES),
    ),
    FrameKind.DECLINE: (_text(MAX_TEXT_CHARACTERS),),
    FrameKind.FINISH: (_text(MAX_TEXT_CHARACTERS),),
}


def check_shape(fields: Sequence[Any], shape: tuple[Check, ...]) -> None:
    """Errors: Refused unless there is one field for each check and all pass."""
    if len(fields) != len(shape) or not all(check(field) for check, field in zip(shape, fields, strict=True)):
        raise Refused(Reason.MALFORMED)


def encode_frame(kind: FrameKind, *fields: Any) -> bytes:
    """The bytes of a frame."""
    return _packed([kind, *fields])


def decode_frame(frame: bytes, max_bytes: int) -> tuple[FrameKind, list[Any]]:
    """Kind and fields, the latter not checked yet: versions are compared before shapes. Errors: Refused."""
    if len(frame) > max_bytes:
        raise Refused(Reason.MALFORMED, f"A frame of {len(frame)} bytes is too long.")
    fields = _unpacked_array(frame)
    if not fields or type(fields[0]) is not int or not 0 <= fields[0] < len(FrameKind):
        raise Refused(Reason.MALFORMED)
    return FrameKind(fields[0]), fields[1:]


def refusal(reason: Reason) -> bytes:
    """A REFUSE frame."""
    return encode_frame(FrameKind.REFUSE, reason.value, list(VERSIONS))


def refused_by_other(fields: Sequence[Any]) -> Refused:
    """What a REFUSE frame says. It is not authenticated: it may end a pairing, and nothing else."""
    check_shape(fields, FRAME_SHAPES[FrameKind.REFUSE])
    try:
        reason = Reason(fields[0])
    except ValueError:
        return Refused(Reason.MALFORMED, "The other device refused for a reason this version does not know.")
    if reason is Reason.VERSION:
        return Refused(reason, _version_text(fields[1]))
    return Refused(reason)


def common_version(theirs: Any) -> int:
    """The highest version both speak. Errors: Refused with `VERSION`."""
    if not _is_versions(theirs):
        raise Refused(Reason.MALFORMED)
    both = set(VERSIONS) & set(theirs)
    if not both:
        raise Refused(Reason.VERSION, _version_text(theirs))
    return max(both)


def _version_text(theirs: Sequence[int]) -> str:
    ours, others = (", ".join(map(str, versions)) for versions in (VERSIONS, theirs))
    return f"The other device pairs with version {others}, this one with {ours}."


def printable(text: str) -> str:
    """Text from or for another machine, cut to the limit and without what could move a terminal's cursor."""
    return "".join(c if c.isprintable() else " " for c in text)[:MAX_TEXT_CHARACTERS].strip()


def _packed(value: list[Any]) -> bytes:
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def _unpacked_array(data: bytes) -> list[Any]:
    try:
        value = msgpack.unpackb(
            data,
            max_array_len=32,
            max_map_len=0,
            max_ext_len=0,
            max_bin_len=MAX_FRAME_BYTES,
            max_str_len=4096,
        )
    except (ValueError, TypeError, OverflowError, msgpack.UnpackException):
        raise Refused(Reason.MALFORMED) from None
    if type(value) is not list:
        raise Refused(Reason.MALFORMED)
    return value


# --- SPAKE2 -------------------------------------------------------------------------------------------------


class Spake2:
    """One side of one SPAKE2 exchange. `random(n)` gives n secret bytes."""

    def __init__(self, password: bytes, *, is_joiner: bool, random: Random) -> None:
        from spake2 import SPAKE2_A, SPAKE2_B

        side = SPAKE2_A if is_joiner else SPAKE2_B
        self._side = side(password, idA=b"crdtlog joiner", idB=b"crdtlog issuer", entropy_f=random)
        self.message: bytes = self._side.start()

    def finish(self, message: bytes) -> bytes:
        """The shared key (32 bytes), equal on both sides if the passwords are. Errors: Refused."""
        from spake2 import SPAKEError
        from spake2.ed25519_basic import NotOnCurve

        # Asserts inside the package check less than we do, and nothing under `python -O`.
        if len(message) != SPAKE2_BYTES:
            raise Refused(Reason.MALFORMED)
        try:
            key: bytes = self._side.finish(message)
        except (SPAKEError, NotOnCurve, ValueError, AssertionError, TypeError):
            raise Refused(Reason.MALFORMED) from None
        return key


# --- keys and boxes -----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, repr=False)
class Keys:
    """The keys of one exchange: a box and a confirmation for each direction."""

    joiner_box: bytes
    joiner_confirm: bytes
    issuer_box: bytes
    issuer_confirm: bytes


def derive_keys(shared: bytes, hello: bytes, reply: bytes) -> Keys:
    """Keys that are equal on both sides only if they saw the same two clear frames, to the bit."""
    salt = _hash(b"crdtlog pairing frames" + _hash(hello) + _hash(reply))
    uses = (b"joiner box", b"joiner confirms", b"issuer box", b"issuer confirms")
    return Keys(*(hkdf(shared, salt=salt, info=b"crdtlog pairing " + use) for use in uses))


def seal_box(key: bytes, kind: FrameKind, *fields: Any) -> bytes:
    """A frame whose fields are sealed. A side sends each kind once, so the kind is the nonce (AES-256-GCM)."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    return encode_frame(
        kind, AESGCM(key).encrypt(kind.to_bytes(12, "big"), _packed(list(fields)), _label(kind))
    )


def open_box(key: bytes, kind: FrameKind, box: bytes, otherwise: Reason) -> list[Any]:
    """The sealed fields, of the right shape. Errors: Refused, for the reason `otherwise` if it does not open."""
    from cryptography.exceptions import InvalidTag
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    try:
        packed = AESGCM(key).decrypt(kind.to_bytes(12, "big"), box, _label(kind))
    except InvalidTag:
        raise Refused(otherwise) from None
    fields = _unpacked_array(packed)
    check_shape(fields, BOX_SHAPES[kind])
    return fields


def _label(kind: FrameKind) -> bytes:
    return b"crdtlog pairing frame" + bytes((kind,))


# --- statements ---------------------------------------------------------------------------------------------

JOINER_DOMAIN = b"crdtlog pairing joiner 1"
ISSUER_DOMAIN = b"crdtlog pairing issuer 1"


class Grant(NamedTuple):
    """What the issuer offers: into which database, as what, by whom. `blind` makes the commitment hide it."""

    database_id: bytes
    role: str
    issuer: DevicePublic
    blind: bytes

    def commitment(self) -> bytes:
        """A hash that fixes these values and reveals none of them."""
        return _hash(b"crdtlog pairing commitment" + _packed(self._fields_to_bind()))

    def _fields_to_bind(self) -> list[Any]:
        return [self.blind, self.database_id, self.role, *self.issuer]


def server_hash(certificate: bytes | None) -> bytes:
    """How statements name the certificate TLS showed; empty where there was none (through a relay)."""
    return _hash(certificate) if certificate else b""


def joiner_statement(
    version: int, hello: bytes, reply: bytes, joiner: DevicePublic, certificate: bytes, server: bytes
) -> bytes:
    """What the joiner signs and confirms: all it has sent and seen, and the server's certificate as it saw
    it.
    """
    frames = [version, _hash(hello), _hash(reply)]
    return _hash(JOINER_DOMAIN + _packed([*frames, "joiner", *joiner, _hash(certificate), "issuer", server]))


def issuer_statement(joiner_statement: bytes, grant: Grant, welcome: bytes) -> bytes:
    """What the issuer signs and confirms: all that the joiner stated, the grant, and the welcome."""
    fields = [joiner_statement, "issuer", *grant._fields_to_bind(), _hash(welcome)]
    return _hash(ISSUER_DOMAIN + _packed(fields))


def confirmation(key: bytes, statement: bytes) -> bytes:
    """Proof of knowing the code, for a statement."""
    return hmac.digest(key, statement, "sha256")


def confirms(key: bytes, statement: bytes, received: bytes) -> bool:
    """Whether `received` is the confirmation of this statement."""
    return hmac.compare_digest(confirmation(key, statement), received)


def can_receive(receive_key: bytes) -> bool:
    """Whether secrets can be wrapped to this X25519 key: points of low order would give all the same secret."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey

    try:
        X25519PrivateKey.from_private_bytes(b"\x40" * 32).exchange(
            X25519PublicKey.from_public_bytes(receive_key)
        )
    except ValueError:
        return False
    return True


def _hash(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()
