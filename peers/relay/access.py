"""Who may use a mailbox: whoever signs the relay's nonce with the private half of the mailbox's name.

Knows Ed25519 and the names of hosts in URLs. Must not know where seeds come from. The one idea: what is signed names
the host that the client dialled, so that a relay which passes on another one's nonce gains nothing: the other one finds
a name that is not its own.
"""

import ipaddress
from typing import TYPE_CHECKING, NamedTuple

from crdtlog.errors import Usage

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

DOMAIN = b"crdtlog relay open 1"
SEED_BYTES = 32
DEFAULT_PORTS = {"ws": 80, "wss": 443}


class MailboxKey(NamedTuple):
    """A mailbox's name (its public key, 32 bytes), and the key that opens it."""

    mailbox: bytes
    private: "Ed25519PrivateKey"

    @classmethod
    def of(cls, seed: bytes) -> "MailboxKey":
        """The key of a seed of 32 bytes."""
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

        private = Ed25519PrivateKey.from_private_bytes(seed)
        return cls(private.public_key().public_bytes_raw(), private)

    def sign(self, nonce: bytes, host: str) -> bytes:
        """The signature that opens the mailbox on the connection with that nonce, at the host that was dialled."""
        return self.private.sign(statement(nonce, host, self.mailbox))

    def __repr__(self) -> str:
        return "MailboxKey(…)"


def statement(nonce: bytes, host: str, mailbox: bytes) -> bytes:
    """What is signed: all parts but the host have fixed lengths, so none can pass for another."""
    return DOMAIN + nonce + host.encode("ascii") + mailbox


def is_signed(signature: bytes, nonce: bytes, host: str, mailbox: bytes) -> bool:
    """Whether a signature opens that mailbox."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        key = Ed25519PublicKey.from_public_bytes(mailbox)
        key.verify(signature, statement(nonce, host, mailbox))
    except (InvalidSignature, ValueError):
        return False
    return True


def host_name(host: str, port: int | None, scheme: str = "wss") -> str:
    """A host as it is signed: lower case, IPv6 in brackets, and the port unless it is the scheme's own.

    Raises `Usage` for what cannot be a host of a URL.
    """
    name = host.lower().removesuffix(".")
    bare = name.removeprefix("[").removesuffix("]")
    try:
        address = ipaddress.ip_address(bare.partition("%")[0])
    except ValueError:
        if not name or not name.isascii() or len(name) > 255 or any(c in "/@:?#[]% \t\r\n" for c in name):
            raise Usage(
                f"{host!r} is not the name of a host", "Write it as in a URL: relay.example"
            ) from None
    else:
        name = f"[{address}]" if address.version == 6 else str(address)
    if port is None or port == DEFAULT_PORTS[scheme]:
        return name
    if not 0 < port < 1 << 16:
        raise Usage(f"{port} is not a port")
    return f"{name}:{port}"


def split_host(text: str) -> tuple[str, int | None]:
    """Host and port of `host`, `host:port`, `[v6]` or `[v6]:port`. Raises `Usage`."""
    host, port = text, ""
    if text.startswith("["):
        host, bracket, rest = text.partition("]")
        host += bracket
        if not bracket or (rest and not rest.startswith(":")):
            raise Usage(f"{text!r} is not HOST or HOST:PORT")
        port = rest[1:]
        has_port = bool(rest)
    else:
        host, colon, port = text.partition(":")
        has_port = bool(colon)
    if not has_port:
        return host, None
    if not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) < 1 << 16):
        raise Usage(f"{text!r} is not HOST or HOST:PORT")
    return host, int(port)
