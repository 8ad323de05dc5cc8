"""Certificates of a relay: one of its own where the operator has none, and TLS with either.

Knows X.509 and TLS contexts. Must not know where files are kept. The one idea: clients that are told a certificate's
SHA-256 as part of the URL need no authority.
"""

import datetime
import hashlib
import secrets
import ssl
from pathlib import Path

from crdtlog.errors import Usage

NOT_BEFORE = datetime.datetime(1970, 1, 1)
NOT_AFTER = datetime.datetime(9999, 12, 31, 23, 59, 59)


def self_signed() -> bytes:
    """A new Ed25519 key and its certificate, both as PEM. It says nothing but a random number, and does not expire."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
    from cryptography.x509.oid import NameOID

    key = Ed25519PrivateKey.generate()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"crdtlog relay {secrets.token_hex(8)}")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, None)
    )
    private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return private + certificate.public_bytes(Encoding.PEM)


def pin_of(pem: bytes) -> str:
    """The SHA-256 of a PEM file's first certificate, as it stands in a URL."""
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding

    certificate = x509.load_pem_x509_certificate(pem[pem.index(b"-----BEGIN CERTIFICATE") :])
    return hashlib.sha256(certificate.public_bytes(Encoding.DER)).hexdigest()


def names_of(pem: bytes) -> tuple[str, ...]:
    """The host names and addresses that a PEM file's first certificate is for, but those with a wildcard."""
    from cryptography import x509

    try:
        certificate = x509.load_pem_x509_certificate(pem)
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except (ValueError, x509.ExtensionNotFound):
        return ()
    addresses = names.get_values_for_type(x509.IPAddress)
    found = [*names.get_values_for_type(x509.DNSName), *(_written(address) for address in addresses)]
    return tuple(name for name in found if "*" not in name)


def _written(address: object) -> str:
    return f"[{address}]" if ":" in str(address) else str(address)


def server_context(certificate: Path, key: Path | None) -> ssl.SSLContext:
    """TLS 1.3 with a certificate (and what it was issued by) and its key, PEM files. Raises `Usage`."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.num_tickets = 0  # connections last for days: resuming one gains nothing
    load(context, certificate, key)
    return context


def load(context: ssl.SSLContext, certificate: Path, key: Path | None) -> None:
    """Take a certificate for connections to come. Raises `Usage`."""
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:  # an SSLError is an OSError, too
        why = error.strerror or error.args[-1] if error.args else error
        raise Usage(
            f"{certificate} and {key or 'its key'} cannot be used as certificate and key: {why}",
            "Name PEM files that belong together, which the user of the relay may read.",
        ) from error
