"""What peers send: a session's messages, sealed entries, certificates, what they announce, and what people type."""

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from zeroconf import ServiceInfo

from crdtlog.certificate import NOT_AFTER, NOT_BEFORE, belongs_to, certificate_of
from crdtlog.errors import EntryRefused, Malformed, Usage
from peers import envelope, identity
from peers.node import discovery, transport
from peers.pairing import codes
from peers.session import messages
from tests.fuzz.mutate import MSGPACK
from tests.fuzz.targets.log import signed_entries
from tests.fuzz.targets.vectors import LAPTOP, PHONE, vectors
from tests.fuzz.trial import Subject, Target, require

# --- sessions -----------------------------------------------------------------------------------------------------


def _message() -> Subject:
    frames = [bytes.fromhex(vector["frame"]) for vector in vectors("messages")["messages"]]
    return Subject(frames, messages.decode, (Malformed,), MSGPACK, write=messages.encode)


def _hello_database() -> Subject:
    frames = [bytes.fromhex(vector["frame"]) for vector in vectors("messages")["messages"]]
    return Subject(frames, messages.hello_database, (Malformed,), MSGPACK)


# --- sealed entries -----------------------------------------------------------------------------------------------

_EPOCH, _SECRET, _SALT, _BINDING = b"e" * 16, b"s" * 32, b"\x05" * 16, b"session"
_SEALED_MAX_BYTES = 5_000


def _seal(signed: bytes) -> bytes:
    return envelope.seal(signed, epoch_id=_EPOCH, secret=_SECRET, salt=_SALT, binding=_BINDING)


def _sealed() -> Subject:
    recorded = vectors("sealed")["sealed"]
    secrets = {bytes.fromhex(some["epoch_id"]): bytes.fromhex(some["secret"]) for some in recorded}
    secrets[_EPOCH] = _SECRET
    seeds = [bytes.fromhex(some["blob"]) for some in recorded] + [
        _seal(signed) for signed in signed_entries()
    ]
    return Subject(
        seeds,
        lambda blob: envelope.open_sealed(blob, secrets, _BINDING, _SEALED_MAX_BYTES),
        (Malformed, EntryRefused),
        write=_seal,
    )


def _padded() -> Subject:
    """What a member sealed as it should be, but padded as it liked."""

    def read(padded: bytes) -> bytes:
        header = bytes((envelope.VERSION,)) + _EPOCH + _SALT
        key = envelope.hkdf(_SECRET, salt=_SALT, info=envelope.SEAL_INFO)
        blob = header + AESGCM(key).encrypt(envelope.NONCE, padded, header + _BINDING)
        return envelope.open_sealed(blob, {_EPOCH: _SECRET}, _BINDING, _SEALED_MAX_BYTES)

    def write(signed: bytes) -> bytes:
        length = envelope.LENGTH_BYTES + len(signed)
        padding = bytes(envelope.padded_length(length) - length)
        return len(signed).to_bytes(envelope.LENGTH_BYTES, "big") + signed + padding

    seeds = [write(bytes(length)) for length in (0, 1, 100, 5_000, 5_001)] + [write(b"\xff" * 333)]
    return Subject(seeds, read, (Malformed, EntryRefused), write=write)


# --- certificates -------------------------------------------------------------------------------------------------


def _foreign_certificate() -> bytes:
    """A certificate of a web server."""
    key = ec.derive_private_key(1234567, ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "example.org")])
    names = x509.SubjectAlternativeName([x509.DNSName("example.org")])
    builder = x509.CertificateBuilder(name, name, key.public_key(), 7, NOT_BEFORE, NOT_AFTER)
    return builder.add_extension(names, critical=False).sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def _certificate() -> Subject:
    def holds(key: bytes) -> None:
        require(key in (LAPTOP.public.sign_key, PHONE.public.sign_key), "nobody signs with another's key")

    def read(certificate: bytes) -> bytes:
        for device in (LAPTOP, PHONE):
            belongs_to(certificate, device.public.sign_key)
        return identity.check_certificate(certificate)

    seeds = [certificate_of(LAPTOP), certificate_of(PHONE), _foreign_certificate()]
    return Subject(seeds, read, (Malformed,), holds=holds)


# --- announcements ------------------------------------------------------------------------------------------------


def _announced() -> Subject:
    """A TXT record's bytes, read by zeroconf and then by us."""
    keys = {b"d" * 32: b"k" * 32}
    now = 1_760_000_000.0

    def read(record: bytes) -> tuple[list[str], int | None]:
        info = ServiceInfo(discovery.PEER_TYPE, f"x.{discovery.PEER_TYPE}", properties=record)
        texts = discovery._texts_of(info.properties)
        ids = discovery.ids_in(texts)
        envelope.recognise(ids, keys, now)
        return ids, discovery.nameplate_in(texts)

    def holds(read: tuple[list[str], int | None]) -> None:
        ids, nameplate = read
        require(len(ids) <= discovery.MAX_DATABASES, "no more ids than a record has room for")
        require(nameplate is None or 0 <= nameplate <= 999, "a nameplate has three digits")

    own = envelope.discovery_id(b"k" * 32, now)
    texts = [discovery.peer_texts([own] * count) for count in (1, 20, 60)]
    texts += [{"v": "1", "n": "417"}, {"v": "1", "n": "999", "d0": own}]
    seeds = [
        ServiceInfo(discovery.PEER_TYPE, f"x.{discovery.PEER_TYPE}", properties=each).text for each in texts
    ]
    return Subject(
        seeds, read, (), None, [b"\x06n=\xd9\xa3", b"\x02n=", b"\x01n", b"\x00", b"\xff"], holds=holds
    )


# --- what people type or scan -------------------------------------------------------------------------------------


def _text(case: bytes) -> str:
    return case.decode("utf-8", "surrogateescape")


def _code() -> Subject:
    seeds = [b"417-abandon-zebra-lucky", b" 7 ABAND\xe2\x80\x93zebr/luck\n", "１２-zoo-ſtick-élan".encode()]
    return Subject(
        seeds,
        lambda case: codes.parse_code(_text(case)),
        (Usage,),
        words=[b"-", b" ", b"0", b"000417", b"zoo", "\u2212".encode(), "ß".encode(), "İ".encode(), b"art"],
        write=lambda code: str(code).encode(),
    )


def _address() -> Subject:
    """An address as `--peer` takes it, and as a joiner hears it."""

    def write(read: tuple[str, int]) -> bytes:
        return discovery.address(*read).encode("utf-8", "surrogateescape")

    seeds = [b"192.168.1.5:4567", b"[fe80::1%eth0]:4567", b":0", b"host.local:65535"]
    return Subject(
        seeds,
        lambda case: transport.parse_address(_text(case)),
        (Usage,),
        words=[b"[", b"]", b":", b"::", "٣".encode(), "²".encode(), b"+1", b"-1", b"1_0", b" 1"],
        write=write,
        known=[b"host:" + b"1" * 5_000],
    )


TARGETS = [
    Target("session.message", 20_000, _message),
    Target("session.hello_database", 20_000, _hello_database),
    Target("envelope.sealed", 10_000, _sealed),
    Target("envelope.padded", 10_000, _padded),
    Target("identity.certificate", 5_000, _certificate),
    Target("discovery.announced", 5_000, _announced),
    Target("pairing.code", 3_000, _code),
    Target("address", 20_000, _address),
]
