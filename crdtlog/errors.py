"""Every error that crdtlog raises on purpose, as one family.

An error says what happened and why (its message) and what to do next (`hint`). Temporary conditions, which may pass
if one waits and tries again, derive from `Temporary`; everything else is permanent until somebody changes something.
This file knows no other module.
"""


class CrdtlogError(Exception):
    """Something crdtlog cannot do. `str(error)` tells what and why, `error.hint` the next step (may be empty)."""

    exit_code = 1

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint


class Temporary(CrdtlogError):
    """A condition that may pass by itself: waiting and trying again is reasonable."""

    exit_code = 75


# --- the file -----------------------------------------------------------------------------------------------------


class NotADatabase(CrdtlogError):
    """The file is not an SQLite database that can be read (another format, encrypted, or damaged)."""


class ReadOnly(CrdtlogError):
    """The file or its directory cannot be written."""


class DiskFull(Temporary):
    """The disk has no room; the transaction was rolled back and nothing changed."""


class Busy(Temporary):
    """Another program holds the file's lock longer than we wait."""


class Locked(Temporary):
    """Another crdtlog process holds a lock that only one may hold."""


class DamagedDocument(CrdtlogError):
    """What stands beside a row in the file, for its columns that merge, is not what crdtlog wrote there."""


class NotInitialised(CrdtlogError):
    """The file is not (yet) a crdtlog database."""


class WrongDevice(CrdtlogError):
    """The file belongs to another device or another database."""


class Unsupported(CrdtlogError):
    """The file was written by a newer version, or uses something this version refuses."""


# --- tables -------------------------------------------------------------------------------------------------------


class NoSuchTable(CrdtlogError):
    """A table or column that was named does not exist or is not tracked."""


class NoSuchRow(CrdtlogError):
    """A row that was named has never been in its table, as far as the log goes."""


class NoSuchVersion(CrdtlogError):
    """A version that was named was not written of that row and column, or there is nothing to bring back."""


class StaleDocument(CrdtlogError):
    """What a program holds open was replaced, or cannot take an edit; what is in the file is unchanged."""


class Untrackable(CrdtlogError):
    """A table cannot be tracked (no primary key, or something this version refuses)."""


class SchemaRefused(CrdtlogError):
    """A received table description is not acceptable, or does not fit the table that is already there."""


class TablePaused(Temporary):
    """A tracked table's schema changed; its changes are kept but not exchanged until it fits again."""


# --- the log ------------------------------------------------------------------------------------------------------


class Malformed(CrdtlogError):
    """Bytes that are not what they claim to be: wrong structure, out of bounds, too large."""


class EntryRefused(CrdtlogError):
    """A log entry that cannot be accepted: bad signature, broken chain, unknown author, missing context."""


class AnotherHistory(EntryRefused):
    """An entry continues, or builds on, another history of a log than the one held: that log may be forked."""


class WorkerUnavailable(Temporary):
    """The process that merges texts cannot be started, or somebody ends it."""


class TooLarge(CrdtlogError):
    """A row, an entry or a message exceeds its limit."""


# --- other machines -----------------------------------------------------------------------------------------------


class NoPeer(Temporary):
    """No other device could be found or reached."""


class PeerRefused(CrdtlogError):
    """The other side is not a member, or refused us."""


class PairingFailed(CrdtlogError):
    """A pairing did not succeed: wrong, expired or used code, or not approved."""


class AddressInUse(CrdtlogError):
    """The address to listen on is taken by another program."""


class CopiedHome(CrdtlogError):
    """Two machines run with the keys of one device."""


class DaemonUnavailable(Temporary):
    """No daemon answers on this home's socket."""


class Usage(CrdtlogError):
    """The command was called with arguments that do not fit."""

    exit_code = 2


class KeysUnusable(CrdtlogError):
    """This device's own keys cannot be used: absent, damaged, or open to other users of the machine."""


class UnknownEpoch(EntryRefused):
    """A sealed entry names an epoch whose secret this device does not hold (yet)."""
