"""Certificates of devices and of attackers, and real TLS handshakes between them on loopback."""

import asyncio
import datetime
import hashlib
import ssl
from pathlib import Path
from typing import NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from crdtlog.device import Home, load_device
from peers import identity
from peers.identity import Identity


def make_identity(directory: Path) -> Identity:
    """A device's own, as it makes it."""
    home = Home(directory)
    return identity.load_identity(home, load_device(home))


LONG_AGO, FOR_EVER = datetime.datetime(1970, 1, 1), datetime.datetime(9999, 12, 31, 23, 59, 59)


def custom_identity(
    directory: Path,
    *,
    common_name: str | None = None,
    ca: bool = False,
    usage: bool = False,
    signer: Identity | None = None,
    key: Ed25519PrivateKey | None = None,
    serial: int = 1,
    until: datetime.datetime = FOR_EVER,
    ids_of: Ed25519PublicKey | None = None,
) -> Identity:
    """A certificate such as an attacker might make; `ids_of`: the key of which it claims to be, in its key ids."""
    key = key or Ed25519PrivateKey.generate()
    raw = key.public_key().public_bytes_raw()
    name = x509.Name(
        [x509.NameAttribute(NameOID.COMMON_NAME, common_name or hashlib.sha256(raw).hexdigest())]
    )
    issuer, signing = name, key
    if signer is not None:
        issuer = x509.load_der_x509_certificate(signer.certificate).subject
        signing = key_of(signer)
    own_id, issuer_id = ids_of or key.public_key(), ids_of or signing.public_key()
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(serial)
        .not_valid_before(LONG_AGO)
        .not_valid_after(until)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(own_id), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_id), critical=False)
    )
    if usage:
        builder = builder.add_extension(
            x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False
        )
    certificate = builder.sign(signing, None)
    path = directory / f"{certificate.fingerprint(hashes.SHA256()).hex()[:8]}.pem"
    chain = signer.pem_path.read_bytes() if signer else b""
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
        + chain
    )
    return Identity(certificate.public_bytes(serialization.Encoding.DER), path)


def key_of(identity: Identity) -> Ed25519PrivateKey:
    """The private key of a certificate."""
    loaded = serialization.load_pem_private_key(identity.pem_path.read_bytes(), None)
    assert isinstance(loaded, Ed25519PrivateKey)
    return loaded


def name_of(identity: Identity) -> str:
    """The common name in a certificate."""
    return x509.load_der_x509_certificate(identity.certificate).subject.rfc4514_string().removeprefix("CN=")


class Meeting(NamedTuple):
    """What each side saw of the other; `answered` is False where the handshake or first read failed."""

    answered: bool
    server_saw: bytes | None
    client_saw: bytes | None


def meet(server: ssl.SSLContext, client: ssl.SSLContext) -> Meeting:
    """Dial, shake hands, and see whether a byte comes back."""

    async def run() -> Meeting:
        seen: list[bytes | None] = []

        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            seen.append(identity.peer_certificate(writer.get_extra_info("ssl_object")))
            writer.write(b"!")
            await writer.drain()
            writer.close()

        listener = await asyncio.start_server(handler, "127.0.0.1", 0, ssl=server)
        host, port = listener.sockets[0].getsockname()
        try:
            reader, writer = await asyncio.open_connection(host, port, ssl=client)
            shown = identity.peer_certificate(writer.get_extra_info("ssl_object"))
            answered = await reader.read(1) == b"!"
            writer.close()
        except (ssl.SSLError, ConnectionError):
            return Meeting(False, None, None)
        finally:
            listener.close()
        return Meeting(answered, seen[0] if seen else None, shown)

    return asyncio.run(asyncio.wait_for(run(), 10))
