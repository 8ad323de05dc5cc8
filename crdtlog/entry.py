"""One log entry: its bytes, its signature, and its payload compressed; what a `data` entry's holds is in `payload`.

Body: msgpack array of version, database id, writer, sequence, previous entry's hash, context difference, first and last
stamp, kind, epoch of writing, payload's raw size, payload (zstd). Signature (Ed25519) and chain hash (SHA-256) cover
the body's bytes as sent, domain-separated; they are never re-encoded. This file opens no file and reads no clock; it
checks sizes and structure before it believes anything, and raises `Malformed` alone.
"""

import hashlib
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import zstandard

from crdtlog.clock import MAX_STAMP
from crdtlog.errors import Malformed, TooLarge
from crdtlog.values import check_bytes, check_int, pack, unpack
from crdtlog.versions import MAX_SEQ, WRITER_BYTES, Named

VERSION = 1
SIGN_DOMAIN = b"crdtlog entry signature 1\0"
HASH_DOMAIN = b"crdtlog entry"
HASH_BYTES = 32
EPOCH_BYTES = 16
SIGNATURE_BYTES = 64
#: What a device without history is given travels in entries of this kind, which are in no log (see `abridged`).
SNAPSHOT = "snapshot"
KINDS = ("data", "schema", "member", "event", "error", "command", SNAPSHOT)

#: No entry may be larger than this, raw or packed; a session carries entries of up to 64 MiB.
MAX_RAW_BYTES = 60 << 20
#: What a header and a signature may take beside the payload.
MAX_HEADER_BYTES = 1 << 20
MAX_CONTEXT = 10_000

_LEVEL = 3


class Signer(Protocol):
    """Whoever can sign for a device."""

    def sign_bytes(self, domain: bytes, body: bytes) -> bytes:
        """The 64-byte Ed25519 signature of domain and body."""
        ...


@dataclass(frozen=True, slots=True)
class Entry:
    """A log entry's header and its still compressed payload; stamps are unsigned 64-bit."""

    database: bytes
    writer: bytes
    seq: int
    previous: bytes
    context: tuple[Named, ...]
    first_stamp: int
    last_stamp: int
    kind: str
    epoch: bytes
    raw_size: int
    packed: bytes

    def payload(self) -> bytes:
        """The decompressed payload; never more than the size that the header declares and the limit allows."""
        return decompress(self.packed, self.raw_size)


class Signed(NamedTuple):
    """An entry as it travels and rests: body, signature, and the body's chain hash."""

    body: bytes
    signature: bytes
    hash: bytes

    def bytes(self) -> bytes:
        """The two as one msgpack array."""
        return pack([self.body, self.signature])


def encode(entry: Entry) -> bytes:
    """The body's bytes."""
    return pack(
        [
            VERSION,
            entry.database,
            entry.writer,
            entry.seq,
            entry.previous,
            [list(named) for named in entry.context],
            entry.first_stamp,
            entry.last_stamp,
            entry.kind,
            entry.epoch,
            entry.raw_size,
            entry.packed,
        ]
    )


def sign(entry: Entry, signer: Signer) -> Signed:
    """The signed form of an entry."""
    body = encode(entry)
    return Signed(body, signer.sign_bytes(SIGN_DOMAIN, body), entry_hash(body))


def entry_hash(body: bytes) -> bytes:
    """The 32 bytes by which the next entry of the log names this one."""
    return hashlib.sha256(HASH_DOMAIN + body).digest()


def split(signed: bytes) -> Signed:
    """Body, signature and hash of a signed entry's bytes, nothing verified."""
    if len(signed) > MAX_RAW_BYTES + MAX_HEADER_BYTES:
        raise TooLarge(f"an entry is larger than {MAX_RAW_BYTES:,} bytes")
    parts = unpack(signed)
    if not (
        isinstance(parts, list)
        and len(parts) == 2
        and isinstance(parts[0], bytes)
        and isinstance(parts[1], bytes)
    ):
        raise Malformed("an entry must be a body and a signature")
    if len(parts[1]) != SIGNATURE_BYTES:
        raise Malformed("an entry's signature must have 64 bytes")
    return Signed(parts[0], parts[1], entry_hash(parts[0]))


def decode(body: bytes) -> Entry:
    """The entry in a body whose signature has been verified."""
    parts = unpack(body)
    if not isinstance(parts, list) or not parts:
        raise Malformed("an entry's body must be an array")
    if parts[0] != VERSION:
        raise Malformed(f"an entry of version {parts[0]!r}; this program reads version {VERSION}")
    if len(parts) != 12:
        raise Malformed(f"an entry's body has {len(parts)} fields instead of 12")
    _, database, writer, seq, previous, context, first, last, kind, epoch, raw_size, packed = parts
    check_bytes(database, 32, "database id")
    check_bytes(writer, WRITER_BYTES, "writer")
    check_int(seq, 1, MAX_SEQ, "sequence number")
    check_bytes(previous, HASH_BYTES if seq > 1 else 0, "previous hash")
    check_int(first, 0, MAX_STAMP, "first stamp")
    check_int(last, first, MAX_STAMP, "last stamp")
    if kind not in KINDS:
        raise Malformed("an entry of an unknown kind")
    check_bytes(epoch, EPOCH_BYTES, "epoch")
    check_int(raw_size, 0, MAX_RAW_BYTES, "payload size")
    if not isinstance(packed, bytes):
        raise Malformed("an entry's payload must be bytes")
    return Entry(
        database, writer, seq, previous, _context(context, writer), first, last, kind, epoch, raw_size, packed
    )


def _context(items: object, own: bytes) -> tuple[Named, ...]:
    if not isinstance(items, list) or len(items) > MAX_CONTEXT:
        raise Malformed("an entry's context must be a short array")
    result = []
    for item in items:
        if not isinstance(item, list) or len(item) != 3:
            raise Malformed("a context names writer, sequence number and hash")
        check_bytes(item[0], WRITER_BYTES, "writer in a context")
        check_int(item[1], 1, MAX_SEQ, "sequence number in a context")
        check_bytes(item[2], 8, "hash in a context")
        result.append(Named(item[0], item[1], item[2]))
    writers = [named.writer for named in result]
    if sorted(set(writers)) != writers or own in writers:
        raise Malformed("a context names other writers once each, in order")
    return tuple(result)


# --- compression --------------------------------------------------------------------------------------------------


def compress(raw: bytes) -> bytes:
    """A payload's packed form."""
    if len(raw) > MAX_RAW_BYTES:
        raise TooLarge(f"a row of {len(raw):,} bytes is over the limit of {MAX_RAW_BYTES:,}")
    return zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True).compress(raw)


def decompress(packed: bytes, raw_size: int) -> bytes:
    """The raw payload: one frame, exactly as large as declared, with nothing behind it. Raises `Malformed`."""
    # Of a frame that is to be skipped the library would make room for the length that it claims, up to 4 GiB.
    if not packed.startswith(zstandard.FRAME_HEADER):
        raise Malformed("a payload that is not compressed")
    try:
        declared = zstandard.frame_content_size(packed)
        if declared != raw_size:
            raise Malformed("a payload's size is not the one declared")
        # Of a frame that declares no bytes the library reads nothing more, and would not see what stands behind it.
        if not raw_size:
            raise Malformed("a payload is empty")
        raw = zstandard.ZstdDecompressor(max_window_size=1 << 27).decompress(
            packed, max_output_size=raw_size + 1, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise Malformed(f"a payload does not decompress: {error}") from None
    if len(raw) != raw_size:
        raise Malformed("a payload's size is not the one declared")
    return raw
