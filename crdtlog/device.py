"""This device's keys, and the directories of one person on one machine.

Knows where files of a home live, how to create private files so that no crash and no second process leaves
half a key or two keys, and how a device signs. Must not know databases, certificates or networks. The one
idea: a device *is* its Ed25519 key; its id is a hash of the public half, and everything here protects the
private half: files of mode 0600 in directories of mode 0700, refused when others could read them, and never
shown in a `repr`.
"""

import base64
import binascii
import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import secrets
import stat
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from crdtlog import errors

if TYPE_CHECKING:  # loading cryptography takes as long as starting Python: only who uses keys pays for it
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

KEY_FILE_NAME = "device.json"
KEY_FILE_VERSION = 1
MAX_KEY_FILE_BYTES = 64 * 1024
_WRITER_RANDOM_BYTES = 8
MAX_NAME_CHARACTERS = 64
DEVICE_ID_BYTES = 16


# --- directories --------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, slots=True, init=False)
class Home:
    """The directories of one person on one machine: keys, state, and sockets and locks of running processes.

    `Home(path)` puts all three below `path`. Nothing is created before `prepare`.
    """

    path: Path
    keys: Path
    state: Path
    run: Path

    def __init__(
        self, path: Path | str, *, state: Path | str | None = None, run: Path | str | None = None
    ) -> None:
        root = Path(path).expanduser().absolute()
        object.__setattr__(self, "path", root)
        object.__setattr__(self, "keys", root / "keys")
        object.__setattr__(self, "state", Path(state).absolute() if state is not None else root / "state")
        object.__setattr__(self, "run", Path(run).absolute() if run is not None else root / "run")

    @staticmethod
    def default() -> "Home":
        """The home named by `CRDTLOG_HOME`, or the platform's usual directories (XDG on Linux)."""
        moved = os.environ.get("CRDTLOG_HOME")
        if moved:
            return Home(moved)
        import platformdirs

        data = Path(platformdirs.user_data_dir("crdtlog", appauthor=False))
        state = Path(platformdirs.user_state_dir("crdtlog", appauthor=False))
        if state == data:
            state = data / "state"
        # Where the login gives no directory of one's own, platformdirs falls back to a shared one, in which another
        # user could be first.
        shared = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
        if os.name == "posix" and not (shared.is_absolute() and _is_owned(shared)):
            return Home(data, state=state, run=state / "run")
        return Home(data, state=state, run=Path(platformdirs.user_runtime_dir("crdtlog", appauthor=False)))

    @staticmethod
    def of(home: "Home | Path | str | None") -> "Home":
        """`home` itself, the home at a path, or the default one for None."""
        if home is None:
            return Home.default()
        return home if isinstance(home, Home) else Home(home)

    def prepare(self) -> "Home":
        """Create the three directories, closed to other users. Errors: KeysUnusable, ReadOnly."""
        for directory in (self.keys, self.state, self.run):
            private_directory(directory)
        return self


def _is_owned(directory: Path) -> bool:
    try:
        return directory.stat().st_uid == os.geteuid()
    except OSError:
        return False


def private_directory(path: Path) -> Path:
    """Make `path` and its missing parents directories of mode 0700, or check that others cannot write the one there.

    Errors: KeysUnusable if other users may write it (they could swap the files inside), ReadOnly.
    """
    try:
        # One by one: mkdir(parents=True) gives parents what the umask leaves, and who may write one may swap the rest.
        for directory in (*reversed(path.parents), path):
            if not directory.exists():
                with contextlib.suppress(FileExistsError):
                    directory.mkdir(mode=0o700)
        status = path.stat()
    except OSError as error:
        raise errors.ReadOnly(
            f"The directory {path} cannot be created: {error.strerror}.",
            "Choose another place with CRDTLOG_HOME, or fix the permissions.",
        ) from error
    if not path.is_dir():
        raise errors.ReadOnly(f"{path} should be a directory, but is a file.", "Move that file away.")
    if os.name == "posix" and status.st_mode & 0o022:
        raise errors.KeysUnusable(
            f"Other users may write the directory {path}, so they could replace what is in it.",
            f"Run: chmod 700 '{path}'",
        )
    return path


def own_directory(path: Path, otherwise: str) -> Path:
    """`private_directory` in a place where every user may put things, such as /tmp: ours, and closed to all others.

    Errors: KeysUnusable, ReadOnly. `otherwise` says what to do if another user was first ("or …").
    """
    with contextlib.suppress(OSError):  # `private_directory` says which
        path.mkdir(mode=0o700)
    status = path.lstat() if os.path.lexists(path) else None
    if status is not None and (stat.S_ISLNK(status.st_mode) or status.st_uid != os.geteuid()):
        raise errors.KeysUnusable(
            f"The directory {path}, which crdtlog needs, was made by another user.",
            f"Have it removed, or {otherwise}.",
        )
    if private_directory(path).lstat().st_mode & 0o077:
        raise errors.KeysUnusable(
            f"Other users may enter the directory {path}, which is for this one alone.",
            f"Run: chmod 700 '{path}'",
        )
    return path


# --- private files ------------------------------------------------------------------------------------------


def read_private(path: Path, max_bytes: int = MAX_KEY_FILE_BYTES) -> bytes:
    """The bytes of a secret file.

    Errors: FileNotFoundError, KeysUnusable (open to others, too large, unreadable).
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        with open(descriptor, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            if os.name == "posix" and mode & 0o077:
                raise errors.KeysUnusable(
                    f"The key file {path} is open to other users (mode {mode & 0o777:04o}).",
                    f"Run: chmod 600 '{path}'  (and make new keys if others use this machine)",
                )
            data = file.read(max_bytes + 1)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise errors.KeysUnusable(
            f"The key file {path} cannot be read: {error.strerror}.", "Run as the user who owns it."
        ) from error
    if len(data) > max_bytes:
        raise errors.KeysUnusable(f"{path} is larger than any key file is.", "Restore it from a backup.")
    return data


def create_private(path: Path, data: bytes) -> bool:
    """Create `path` with mode 0600 and exactly `data`, durably; False if it was already there (and is left
    alone).

    A complete, synced temporary file is hard-linked to its name: `link` fails if the name exists, so of two
    processes one wins, and whoever reads the name finds all bytes. (Writing into a file opened with O_EXCL
    would show a second process an empty file.) Errors: ReadOnly.
    """
    return _publish(path, data, replace=False)


def write_private(path: Path, data: bytes) -> None:
    """Create or replace `path` with mode 0600 and exactly `data`, durably, in one step. Errors: ReadOnly."""
    _publish(path, data, replace=True)


def _publish(path: Path, data: bytes, *, replace: bool) -> bool:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        _write_synced(temporary, data)
        if replace:
            os.replace(temporary, path)
        else:
            os.link(temporary, path)
    except FileExistsError:
        return False
    except OSError as error:
        raise _not_writable(path, error) from error
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()
    _sync_directory(path.parent)
    return True


def _write_synced(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags, 0o600), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    if os.name != "posix":  # Windows cannot open a directory; NTFS journals the name by itself
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _not_writable(path: Path, error: OSError) -> errors.CrdtlogError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return errors.DiskFull(f"No room to write {path}.", "Free some space and try again.")
    if error.errno in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP):
        # FAT and the like: neither links nor permissions
        return errors.ReadOnly(
            f"{path.parent} lies on a file system that cannot keep private files.",
            "Set CRDTLOG_HOME to a directory on this machine's own disk.",
        )
    why = f"{path} cannot be written: {error.strerror}."
    return errors.ReadOnly(why, "Fix the permissions, or set CRDTLOG_HOME.")


# --- names --------------------------------------------------------------------------------------------------


def is_name(name: object) -> bool:
    """Whether `name` can name a device: 1 to 64 printable characters (no control or bidi codes), not padded.

    Names come from other machines and are shown on terminals, so what could move a cursor is refused.
    """
    return (
        isinstance(name, str)
        and 0 < len(name) <= MAX_NAME_CHARACTERS
        and name.isprintable()
        and name == name.strip()
    )


def default_name() -> str:
    """This machine's host name, made fit for a device name."""
    host = os.uname().nodename if hasattr(os, "uname") else os.environ.get("COMPUTERNAME", "")
    name = "".join(c for c in host.split(".")[0] if c.isprintable()).strip()[:MAX_NAME_CHARACTERS].strip()
    return name or "device"


# --- the device ---------------------------------------------------------------------------------------------


def device_id(sign_key: bytes) -> bytes:
    """The 16-byte id of the device that signs with this Ed25519 public key (32 bytes)."""
    return hashlib.sha256(b"crdtlog device" + sign_key).digest()[:DEVICE_ID_BYTES]


class DevicePublic(NamedTuple):
    """What others may know of a device: its name and its public keys (32 raw bytes each)."""

    name: str
    sign_key: bytes
    receive_key: bytes

    @property
    def id(self) -> bytes:
        """The device's id, 16 bytes."""
        return device_id(self.sign_key)


@dataclasses.dataclass(frozen=True, slots=True, repr=False, eq=False)
class Device:
    """This device: its name, the key it signs with and the key it receives secrets with."""

    name: str
    sign: "Ed25519PrivateKey"
    receive: "X25519PrivateKey"
    public: DevicePublic = dataclasses.field(init=False)
    id: bytes = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        """Derive the public half."""
        sign_key = self.sign.public_key().public_bytes_raw()
        receive_key = self.receive.public_key().public_bytes_raw()
        object.__setattr__(self, "public", DevicePublic(self.name, sign_key, receive_key))
        object.__setattr__(self, "id", device_id(sign_key))

    def __repr__(self) -> str:
        return f"Device(name={self.name!r}, id={self.id.hex()})"

    def sign_bytes(self, domain: bytes, body: bytes) -> bytes:
        """The 64-byte Ed25519 signature (RFC 8032) over `domain` followed by `body`.

        Domains keep a signature from meaning something else elsewhere: no domain may be a prefix of another.
        They begin with `crdtlog`, and so differ from what TLS 1.3 (64 spaces) and X.509 (0x30) sign with the
        same key.
        """
        return self.sign.sign(domain + body)


def new_writer(device: Device) -> bytes:
    """A fresh writer id of a device: its id and random bytes, as a restored device cannot know which it has used."""
    return device.id + secrets.token_bytes(_WRITER_RANDOM_BYTES)


def verify_bytes(sign_key: bytes, domain: bytes, body: bytes, signature: bytes) -> bool:
    """Whether `signature` is what the owner of `sign_key` gave `sign_bytes(domain, body)`."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        Ed25519PublicKey.from_public_bytes(sign_key).verify(signature, domain + body)
    except (InvalidSignature, ValueError):
        return False
    return True


def device_from_secrets(name: str, sign_secret: bytes, receive_secret: bytes) -> Device:
    """The device with these raw private keys (32 bytes each). Errors: ValueError."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return Device(
        name,
        Ed25519PrivateKey.from_private_bytes(sign_secret),
        X25519PrivateKey.from_private_bytes(receive_secret),
    )


def load_device(home: Home, *, name: str | None = None, create: bool = True) -> Device:
    """This home's device; made, with new keys, on first use.

    `name` is kept with new keys (default: the host name); for keys that exist it only names the returned
    value. Errors: KeysUnusable (absent with `create=False`, damaged, open to others), ReadOnly, DiskFull,
    Usage (bad name).
    """
    if name is not None and not is_name(name):
        raise errors.Usage(
            f"{name!r} cannot name a device.", f"Use 1 to {MAX_NAME_CHARACTERS} visible characters."
        )
    path = home.keys / KEY_FILE_NAME
    if create or home.keys.exists():
        private_directory(home.keys)
    try:
        device = _read_device(path)
    except FileNotFoundError:
        if not create:
            raise errors.KeysUnusable(
                f"There are no device keys in {home.keys}.", "Run crdtlog init, or set CRDTLOG_HOME."
            ) from None
        create_private(path, _new_key_file(name or default_name()))
        device = _read_device(path)  # ours, or those of the process that was first
    return device if name in (None, device.name) else device_from_secrets(str(name), *_secrets_of(device))


def _secrets_of(device: Device) -> tuple[bytes, bytes]:
    return device.sign.private_bytes_raw(), device.receive.private_bytes_raw()


def _new_key_file(name: str) -> bytes:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    return encode_key_file(Device(name, Ed25519PrivateKey.generate(), X25519PrivateKey.generate()))


def encode_key_file(device: Device) -> bytes:
    """The key file's bytes: JSON with the private keys in base64 and the device's id, which guards against
    damage.
    """
    sign_secret, receive_secret = _secrets_of(device)
    content = {
        "v": KEY_FILE_VERSION,
        "id": device.id.hex(),
        "name": device.name,
        "sign": base64.b64encode(sign_secret).decode(),
        "receive": base64.b64encode(receive_secret).decode(),
        "receive_public": base64.b64encode(device.public.receive_key).decode(),
    }
    return json.dumps(content, indent=1).encode() + b"\n"


def decode_key_file(data: bytes) -> Device:
    """The device in a key file. Errors: Unsupported (a newer version), Malformed."""
    try:
        content = json.loads(data)
        if content["v"] > KEY_FILE_VERSION:
            raise errors.Unsupported("A newer crdtlog wrote these keys.", "Update crdtlog on this machine.")
        device = device_from_secrets(
            content["name"],
            base64.b64decode(content["sign"], validate=True),
            base64.b64decode(content["receive"], validate=True),
        )
        receive_public = base64.b64decode(content["receive_public"], validate=True)
        intact = content["id"] == device.id.hex() and receive_public == device.public.receive_key
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error) as error:
        raise errors.Malformed("These bytes are not a key file.") from error
    if not intact or not is_name(device.name):
        raise errors.Malformed("The parts of this key file do not belong together.")
    return device


def _read_device(path: Path) -> Device:
    try:
        return decode_key_file(read_private(path))
    except errors.Malformed as error:
        raise errors.KeysUnusable(
            f"The key file {path} is damaged.",
            "Restore it from a backup; or move it away, and pair this machine again as a new device.",
        ) from error
