"""One file as its group sees it: what it drains, takes in, holds and passes on, and who belongs.

For those who exchange entries: the daemon, the simulator, tests. Programs use `Database`, which is one of these. It
belongs to one thread at a time, opens no socket and starts no thread. Several processes may each have one on the same
file: SQLite's write lock orders them, and cached facts are refreshed under it.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path

from crdtlog import (
    accept,
    drain,
    forks,
    members,
    proof,
    reverting,
    rotating,
    tracking,
    welcome,
)
from crdtlog.abridged import giving, needed
from crdtlog.abridged.needed import Unsettled
from crdtlog.accept import Applied
from crdtlog.device import Device, Home
from crdtlog.drain import Drained, Drainer
from crdtlog.epoch_keys import EpochKeys
from crdtlog.errors import EntryRefused
from crdtlog.live import Live, each
from crdtlog.log import Batch, LogEntry
from crdtlog.members import Member
from crdtlog.membership import Conflict, Newcomer
from crdtlog.recovery import RecoveryKey
from crdtlog.relays import Relays
from crdtlog.state import State
from crdtlog.telling import Telling
from crdtlog.versions import Head


class Replica:
    """One replicated file, opened by this device."""

    def __init__(self, state: State, home: Home) -> None:
        self._state = state
        self._drainer = Drainer(state)
        self._data_version = -1
        self._live: list[Live] = []
        self.home = home
        self._telling = Telling(state, home)
        #: the relays that this file's devices use, and how far they were read
        self.relays = Relays(state)
        #: the epochs' secrets, for those who seal
        self.epoch_keys = EpochKeys(state)
        #: how many entries were written anew when the file was opened; None if its log went on as it was
        self.written_anew: int | None = None

    # --- identity -------------------------------------------------------------------------------------------------

    @property
    def path(self) -> Path:
        """The file."""
        return self._state.path

    @property
    def id(self) -> bytes:
        """The database's 32-byte id, the same on every device."""
        return self._state.database

    @property
    def device(self) -> Device:
        """This device."""
        return self._state.device

    @property
    def writer(self) -> bytes:
        """The id of this device's current log (24 bytes)."""
        return self._state.writer.id

    @property
    def epoch(self) -> bytes:
        """The id of the current epoch."""
        return self._state.epoch

    @property
    def recovery(self) -> bytes | None:
        """The recovery key's public half (32 bytes) that the founding record names for ever, or None."""
        return self._state.founding.recovery

    @property
    def taken_back(self) -> int:
        """How many rows of this device's log were put aside since the file was opened; see `crdtlog_aside`."""
        return self._state.taken_back

    def epochs(self) -> dict[bytes, bytes]:
        """The secrets of all epochs this device holds, by id: the current one first, then the deepest."""
        self._state.refresh()
        return self.epoch_keys.held()

    # --- draining and applying ------------------------------------------------------------------------------------

    def drain(self) -> Drained:
        """Take captured changes into documents and the log: one entry at most; call again while `more`.

        Holds the write lock for tens of milliseconds. On a reader's device, what was captured is undone and put aside
        instead (`crdtlog_aside`); on one that was removed it is left as it is. Raises `Busy`, `DiskFull`.
        """
        self._state.refresh()
        if self._state.awaits_snapshot:
            return Drained(0, 0, False)
        if not self._state.may_write:
            return self._undo_written()
        rotating.before_writing(self._state)
        try:
            return drain.drain(self._state, self._drainer)
        finally:
            self._state.forget_answers()

    def _undo_written(self) -> Drained:
        if self._state.role(self.device.id) is None:
            return Drained(0, 0, False)
        rows = reverting.revert(self._state)
        count = "1 row" if rows == 1 else f"{rows:,} rows"
        told = f"{reverting.REASON}: what was written here was undone, and put aside ({count})"
        return Drained(0, 0, False, told=told if rows else "")

    def drain_all(self) -> int:
        """Drain until nothing is captured; returns the number of changed rows."""
        rows = 0
        while True:
            step = self.drain()
            rows += step.rows
            if not step.more:
                self.refresh()
                return rows

    def pending(self) -> int:
        """About how many captured changes wait to be drained."""
        self._state.refresh()
        return drain.pending_rows(self._state)

    def must_drain(self, most: int) -> bool:
        """Whether more than about so many captured changes wait, and can be drained."""
        return self.pending() > most and not self._state.awaits_snapshot

    def apply(self, signed: Sequence[bytes], hold_ms: float = 20) -> Applied:
        """Merge other devices' entries, in the order given, which must be causal; what is captured is drained first.

        Stops after holding the write lock for about `hold_ms`; call again with what is left. An entry already held is
        skipped. Raises `EntryRefused`, `Malformed`, `TooLarge`, `TablePaused` if the first entry cannot be accepted; a
        later one ends the batch early instead.
        """
        self._state.refresh()
        rotating.before_writing(self._state)
        applied = accept.apply(self._state, self._drainer, signed, hold_ms)
        each(self._live, Live.refresh)
        return applied

    def learn_fork(self, signed: bytes) -> None:
        """Know that a log is forked, by an entry that is not the one held under its number (R11); raises as `apply`."""
        accept.learn(self._state, self._drainer, signed)
        each(self._live, Live.refresh)

    def caught_up(self) -> None:
        """Tell that everything a first peer had is applied: rows that were here before joining are now taken in."""
        if self._state.awaits_snapshot:
            return
        tracking.take_in_what_waited(self._state)

    def begin_anew_if_ahead(self, peer_ms: int) -> bool:
        """Go on as a new writer if this log's stamps are over five minutes ahead of both clocks; True if so.

        `peer_ms` is another device's clock. Otherwise one bad hour with a wrong clock would win over everybody's
        concurrent writes until the right time had caught up (R9): within a log, stamps never run backwards.
        """
        return self._telling.begin_anew_if_ahead(peer_ms, self.drain_all)

    def confirm(self) -> bool:
        """Note outside of the file, durably, that this device's log may be told to others as it is now (R11).

        False if others may know other entries under its numbers (a restored or copied file): then `begin_anew`.
        """
        return self._telling.confirm()

    def unconfirmed(self) -> dict[int, bytes]:
        """The hashes of this device's last entries that others cannot know, by sequence number."""
        return self._telling.unconfirmed()

    def begin_anew(self) -> int:
        """Go on as a new writer, and write anew the own entries that nobody else can have (R11); returns how many.

        What is captured is drained first, under the old name.
        """
        self.drain_all()
        return self._telling.begin_anew(self._drainer)

    def check_mark(self) -> None:
        """Go on as a new writer if others may know more of this log than it holds."""
        if self._telling.is_behind():
            self.written_anew = self.begin_anew()

    def data_changed(self) -> bool:
        """Whether another connection committed since this was last asked."""
        version = self._state.connection.execute("PRAGMA data_version").fetchone()[0]
        changed = bool(version != self._data_version)
        self._data_version = version
        return changed

    def refresh(self) -> None:
        """Write what open documents still hold, and take into them what was written elsewhere; quick if nothing was."""
        each(self._live, Live.flush, Live.refresh)

    # --- logs -----------------------------------------------------------------------------------------------------

    def heads(self) -> dict[bytes, Head]:
        """The last entry held of every log."""
        self._state.refresh()
        return self._state.log.heads()

    def position(self) -> int:
        """The last position of the local log order."""
        return self._state.log.position()

    def entries_after(self, position: int, lacking: Mapping[bytes, int], max_bytes: int) -> Batch:
        """Entries behind `position` that a holder of the vector `lacking` lacks, in causal order."""
        return self._state.log.entries_after(position, lacking, max_bytes)

    def hashes(self, asked: Mapping[bytes, Collection[int]]) -> dict[bytes, dict[int, bytes]]:
        """Of the entries asked for, by writer and number, the hashes of those that are held."""
        self._state.refresh()
        return forks.hashes(self._state.log, asked)

    def signed_entry(self, writer: bytes, seq: int, *, to: bytes | None = None) -> bytes:
        """The bytes of a held entry as its author signed them. Raises `EntryRefused` for one that is not held.

        So it does for an entry from before the device `to` was let in without history.
        """
        self._state.refresh()
        if to is not None and self._state.is_withheld(to, writer, seq):
            raise EntryRefused(
                f"entry {seq} of writer {writer.hex()[:12]} is from before {self._state.device_name(to)} joined, which "
                "has no history"
            )
        return self._state.log.original_of(writer, seq)

    def forks(self) -> list[proof.Fork]:
        """Where devices signed different entries under one number; the proofs are kept, and `verify` reads them."""
        self._state.refresh()
        return proof.forks(self._state.connection)

    def record_held(self, device: bytes, vector: Mapping[bytes, int]) -> None:
        """Remember what another device has acknowledged; never less than before."""
        with self._state.transaction():
            members.record_held(self._state, device, vector)

    def held(self) -> dict[bytes, dict[bytes, int]]:
        """What each other device has acknowledged: device → writer → sequence number."""
        self._state.refresh()
        return members.held(self._state)

    # --- members --------------------------------------------------------------------------------------------------

    def members(self) -> list[Member]:
        """The devices of the database, this one first."""
        return members.members(self._state)

    def devices(self) -> list[Member]:
        """All devices that belong or belonged, removed ones (role None) last."""
        self._state.refresh()
        return members.members(self._state, removed=True)

    def add_member(self, newcomer: Newcomer, note: str = "", *, history: bool = True) -> None:
        """Add a device, by an entry of the log; one that belongs already (and lost its file) stays as it is.

        `note` goes into its line of this file's log alone. Without `history` it gets the keys of what is written from
        now on, and what stands now (see `snapshot_parts`). Raises `EntryRefused` if this device may not add others.
        """
        if not history:
            self.drain_all()
        with self._state.transaction():
            members.add(self._state, newcomer, note, history=history)
            if not history and newcomer.device not in members.recipients(self._state, self._state.epoch):
                rotating.rotate(self._state)

    def change_role(self, device: bytes, role: str) -> None:
        """Have a device do more, or less: `admin`, `writer` or `reader`.

        Raises `EntryRefused` if this device may not say so, `Usage` for no member and for the last admin.
        """
        self.drain_all()
        with self._state.transaction():
            members.change_role(self._state, device, role)

    def remove_member(self, device: bytes) -> None:
        """Have a device belong no more, or leave (its own id). Raises as `change_role`."""
        self.drain_all()
        with self._state.transaction():
            members.remove(self._state, device)
            if device != self.device.id:
                rotating.rotate(self._state)

    def rotate_if_due(self) -> bool:
        """Hand out a new secret if somebody removed knows every other, or a member lacks the current; whether it was.

        To be called when nothing else is on its way: the one who removed a device does it, too.
        """
        self._state.refresh()
        if not rotating.is_rotation_due(self._state):
            return False
        self.drain_all()
        return rotating.rotate_if_due(self._state)

    def recover(self, key: RecoveryKey) -> None:
        """Make this device an admin by the recovery key, whatever was said of it. Raises `Usage` for another key."""
        if self._state.may_write:
            self.drain_all()
        with self._state.transaction():
            members.recover(self._state, key)
            rotating.rotate(self._state)

    def admins_conflict(self) -> list[Conflict]:
        """The devices about which admins who did not know of one another said different things."""
        self._state.refresh()
        return [] if self._state.group.is_plain else self._state.group.found.conflicts

    def welcome(self, device: bytes | None = None) -> bytes:
        """What a new device needs to join, or that one; secret, for the inside of a pairing only."""
        self._state.refresh()
        return welcome.encode(members.welcome(self._state, device))

    # --- without history ------------------------------------------------------------------------------------------

    @property
    def awaits_snapshot(self) -> bool:
        """Whether this device was let in without history, and has not been given what stands now."""
        return self._state.awaits_snapshot

    def has_history(self, device: bytes) -> bool:
        """Whether a device may read what was written before it was let in."""
        self._state.refresh()
        return device not in self._state.group.withheld

    def unsettled(self) -> Unsettled:
        """Of how many rows a device without history would be given earlier values now, and whom that is due to.

        Their last changes may not be known to every device yet, and what those write may need the values.
        """
        self._state.refresh()
        return needed.unsettled(self._state)

    def record_given(self, device: bytes) -> None:
        """Remember that a device without history says that it was given a snapshot."""
        self._state.refresh()
        self.record_held(device, self._state.group.withheld.get(device, {}))

    def must_give(self, device: bytes, vector: Mapping[bytes, int]) -> bool:
        """Whether a device that holds those entries gets no others before it was given a snapshot."""
        self._state.refresh()
        withheld = self._state.group.withheld.get(device, {})
        return any(seq > vector.get(writer, 0) for writer, seq in withheld.items())

    def without_snapshot(self) -> list[bytes]:
        """The members that were let in without history and, as far as is known here, were not given a snapshot."""
        self._state.refresh()
        if not self._state.group.withheld:
            return []
        known = needed.acknowledged(self._state, is_given=False)
        return [
            device
            for device, vector in known.items()
            if self._state.role(device) is not None and self.must_give(device, vector)
        ]

    def snapshot_parts(self) -> Iterator[LogEntry]:
        """What a device without history is given instead of the log: signed parts, to be `apply`d there in order.

        They are a log of their own, which nobody stores.

        What is captured is drained first. The file is read until the last part; nothing is written. Raises `Busy`,
        `TablePaused`.
        """
        self.drain_all()
        return giving.snapshot(self._state)

    def addresses(self) -> dict[bytes, list[str]]:
        """Where other devices were last reached, `host:port`, latest first."""
        return members.addresses(self._state)

    def record_address(self, device: bytes, address: str, seen_ms: int) -> None:
        """Remember that a device was reached at `host:port`; the last few are kept."""
        with self._state.transaction():
            members.record_address(self._state, device, address, seen_ms)
