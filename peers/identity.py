"""How devices know one another on the wire: one self-signed certificate a device, pinned by members.

Knows X.509 and TLS contexts. Must not know members' names or roles, sockets, or who may do what. The one
idea: there is no authority; a certificate is a fixed function of the device's Ed25519 key, every member's log
carries the certificates of all members, and TLS 1.3 accepts exactly those. Whatever TLS said, a handler asks
`member_of` again with the certificate it got: the list may have changed since the context was made.
"""

import hashlib
import logging
import ssl
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from crdtlog import errors
from crdtlog.certificate import NOT_AFTER, NOT_BEFORE, certificate_of
from crdtlog.device import Device, Home, private_directory, read_private, write_private

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

logger = logging.getLogger(__name__)

CERTIFICATE_FILE_NAME = "device.pem"
MAX_CERTIFICATE_BYTES = 4096


class Identity(NamedTuple):
    """This device on the wire: its certificate (DER) and the private file with certificate and key that ssl
    reads.
    """

    certificate: bytes
    pem_path: Path

    @property
    def fingerprint(self) -> bytes:
        """SHA-256 of the certificate, 32 bytes."""
        return fingerprint(self.certificate)


# --- certificates -------------------------------------------------------------------------------------------


def load_identity(home: Home, device: Device) -> Identity:
    """The device's certificate, and its key in the one form ssl can load: a PEM file of mode 0600 beside the
    keys.

    The file is written where it is absent or differs. Errors: KeysUnusable (open to others), ReadOnly,
    DiskFull.
    """
    from cryptography.hazmat.primitives import serialization

    certificate = certificate_of(device)
    key_pem = device.sign.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pem = key_pem + ssl.DER_cert_to_PEM_cert(certificate).encode()
    path = private_directory(home.keys) / CERTIFICATE_FILE_NAME
    try:
        is_current = read_private(path) == pem
    except FileNotFoundError:
        is_current = False
    if not is_current:
        write_private(path, pem)  # two processes at once write the same bytes
    return Identity(certificate, path)


def fingerprint(certificate: bytes) -> bytes:
    """SHA-256 of a certificate's DER, 32 bytes."""
    return hashlib.sha256(certificate).digest()


def readable(fingerprint: bytes, digits: int = 32) -> str:
    """The first hex digits of a fingerprint in groups of four, for people to compare: `3f2a 91c0 …`.

    32 digits are 128 bits: nobody finds a second key with the same.
    """
    text = fingerprint.hex()[:digits]
    return " ".join(text[i : i + 4] for i in range(0, len(text), 4))


def check_certificate(certificate: bytes) -> bytes:
    """The Ed25519 public key (32 bytes) of a device certificate from elsewhere. Errors: Malformed.

    Checked: size, canonical DER, the self-signature, the name, CA:FALSE, no key usages. A certificate that
    could sign others must never get among the trusted ones.
    """
    if len(certificate) > MAX_CERTIFICATE_BYTES:
        raise errors.Malformed("A certificate is larger than any device's is.")
    try:
        return _checked_key(certificate)
    except errors.Malformed:
        raise
    except Exception as error:  # the parser of X.509 has many ways to refuse, not all of them ValueError
        raise errors.Malformed("A certificate cannot be read.") from error


def _checked_key(der: bytes) -> bytes:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    certificate = x509.load_der_x509_certificate(der)
    key = certificate.public_key()
    if not isinstance(key, Ed25519PublicKey):
        raise errors.Malformed("A device certificate must hold an Ed25519 key.")
    certificate.verify_directly_issued_by(certificate)
    if _is_authority(certificate):
        raise errors.Malformed("A certificate authority cannot be a device.")
    if certificate.public_bytes(_der()) != der or not _has_own_shape(certificate, key):
        raise errors.Malformed("A certificate does not have the shape of a device's.")
    return key.public_bytes_raw()


def _is_authority(certificate: "x509.Certificate") -> bool:
    from cryptography import x509

    return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def _has_own_shape(certificate: "x509.Certificate", key: "Ed25519PublicKey") -> bool:
    from cryptography import x509
    from cryptography.x509.oid import NameOID

    common_name = hashlib.sha256(key.public_bytes_raw()).hexdigest()
    key_id = x509.SubjectKeyIdentifier.from_public_key(key)
    expected = {
        x509.BasicConstraints.oid: x509.BasicConstraints(ca=False, path_length=None),
        x509.SubjectKeyIdentifier.oid: key_id,
        x509.AuthorityKeyIdentifier.oid: (
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id)
        ),
    }
    return (
        certificate.subject == x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
        and certificate.issuer == certificate.subject
        and {extension.oid: extension.value for extension in certificate.extensions} == expected
        and certificate.not_valid_before_utc.replace(tzinfo=None) == NOT_BEFORE
        and certificate.not_valid_after_utc.replace(tzinfo=None) == NOT_AFTER
    )


# --- TLS ----------------------------------------------------------------------------------------------------


def server_context(members: Iterable[bytes], own: Identity) -> ssl.SSLContext:
    """A listener's TLS: a certificate is optional, but one that is sent must be one of `members` (DER).

    Who sends none may only pair (the handler sees to it); a stranger's certificate fails the handshake. No
    session tickets: a resumed session would not show its certificate to a context whose members have changed.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0
    context.load_cert_chain(own.pem_path)
    context.verify_mode = ssl.CERT_OPTIONAL
    trust(context, members)
    return context


def client_context(expected: Iterable[bytes], own: Identity | None) -> ssl.SSLContext:
    """A dialer's TLS: the listener must show one of `expected` (DER); we show `own` (None: no certificate).

    The host name plays no part: a device has many addresses and is known by its key.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_REQUIRED
    if own is not None:
        context.load_cert_chain(own.pem_path)
    trust(context, expected)
    return context


def pairing_context() -> ssl.SSLContext:
    """A joiner's TLS, before it knows anybody: any listener will do, and pairing confirms the certificate it
    showed.

    For pairing only: without that confirmation, whoever sits between would be believed.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _context(protocol: int) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Members' certificates are leaves that we trust as they are. Python 3.13 turns on the strict RFC 5280
    # profile for default contexts, written for public authorities; whatever a version's default, these flags
    # are ours.
    context.verify_flags = (
        ssl.VerifyFlags.VERIFY_X509_PARTIAL_CHAIN | ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST
    )
    return context


def trust(context: ssl.SSLContext, certificates: Iterable[bytes]) -> None:
    """Trust the well-formed ones: a malformed record of one member must not keep the others out."""
    accepted = []
    for certificate in dict.fromkeys(certificates):
        try:
            check_certificate(certificate)
        except errors.Malformed as error:
            logger.warning(
                "The certificate %s is not trusted: %s", fingerprint(certificate).hex()[:16], error
            )
        else:
            accepted.append(certificate)
    if accepted:
        context.load_verify_locations(cadata=b"".join(accepted))


class HasPeerCertificate(Protocol):
    """What `ssl.SSLSocket` and `ssl.SSLObject` have in common for us."""

    def getpeercert(self, binary_form: bool = False, /) -> object:
        """The peer's certificate (DER bytes in binary form), or None."""


def peer_certificate(ssl_object: HasPeerCertificate | None) -> bytes | None:
    """The certificate (DER) the other side showed on this connection; None without one, or without TLS."""
    certificate = ssl_object.getpeercert(True) if ssl_object is not None else None
    return certificate if isinstance(certificate, bytes) and certificate else None


def member_of(certificate: bytes | None, members: Mapping[bytes, bytes]) -> bytes | None:
    """The device id whose pinned certificate this exactly is (`members`: id → DER), or None."""
    if certificate is None:
        return None
    shown = fingerprint(certificate)
    return next((device for device, pinned in members.items() if fingerprint(pinned) == shown), None)


def _der() -> "serialization.Encoding":
    from cryptography.hazmat.primitives import serialization

    return serialization.Encoding.DER
