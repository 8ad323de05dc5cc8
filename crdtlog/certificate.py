"""A device's certificate: the form in which its signing key is named in records and shown on the wire.

Knows X.509 and nothing of networks. The one idea: there is no authority; the certificate is a fixed function of the
device's Ed25519 key, and members' records carry it.
"""

import datetime
import hashlib

from crdtlog.device import Device

# A device with a dead clock battery lives in 1970, and one bad hour may reach the year 9999: validity is no protection
# here (removal is), so it covers all that X.509 can say from the Unix epoch on.
NOT_BEFORE = datetime.datetime(1970, 1, 1)
NOT_AFTER = datetime.datetime(9999, 12, 31, 23, 59, 59)


def belongs_to(certificate: bytes, sign_key: bytes) -> bool:
    """Whether a certificate (DER) holds that 32-byte Ed25519 key."""
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = x509.load_der_x509_certificate(certificate).public_key()
    except Exception:  # whatever another machine's bytes provoke in the parser, they are no certificate
        return False
    return isinstance(key, Ed25519PublicKey) and key.public_bytes_raw() == sign_key


def certificate_of(device: Device) -> bytes:
    """The device's self-signed certificate (DER, about 400 bytes).

    The common name is the hash of the public key, so that no two devices share a name and ssl, which looks up trusted
    certificates by name, can never try the wrong one. CA:FALSE, and no extended key usage, as it serves both ends.
    Every field, serial and signature included, follows from the key: a lost file comes back the same, pinned.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives.serialization import Encoding
    from cryptography.x509.oid import NameOID

    public_key = device.sign.public_key()
    common_name = hashlib.sha256(device.public.sign_key).hexdigest()
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])
    key_id = x509.SubjectKeyIdentifier.from_public_key(public_key)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(public_key)
        .serial_number(int(common_name[:30], 16) + 1)  # 15 bytes: positive and below the limit of 20
        .not_valid_before(NOT_BEFORE)
        .not_valid_after(NOT_AFTER)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(key_id, critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(key_id), critical=False)
    )
    return builder.sign(device.sign, None).public_bytes(Encoding.DER)
