"""One mailbox of one relay as this device follows it: what was read, what is there, what is to be done next.

Knows blobs by index, heads and members as they are passed in. Must not know connections, the file or a clock. The one
idea: nothing that a relay says or leaves out is believed further than what it proves. A blob that does not open is
passed over; an entry counts as being there only if it is the one that is held here; what cannot be applied yet waits;
and if the relay lost the mailbox, it is as if it had never been read. So it is when logs have got other names, because
one more fork is known (R11).

Invariants:
    M1  `resume_index` never passes a blob of which something is still to be done, so that stopping loses nothing.
    M2  Entries leave in causal order (`ready`), and are uploaded in causal order (`Uploads`).
    M3  Nothing is uploaded before the mailbox was read to its end, so that a device whose file was restored hears
        of its later entries first (R11).
    M4  Memory is bounded: what waits, pieces, and names of refused entries.
"""

from collections import OrderedDict, deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from crdtlog import entry, proof
from crdtlog.device import verify_bytes
from crdtlog.errors import CrdtlogError, EntryRefused, Malformed
from crdtlog.forks import Stand
from crdtlog.proof import Fork
from crdtlog.relays import Place
from crdtlog.values import check_bytes, check_int, pack, unpack
from crdtlog.versions import Head, Named, device_of
from peers.mailbox import contents
from peers.mailbox.candidates import Candidate, Waiting, candidate
from peers.mailbox.forked import Forked
from peers.mailbox.holding import Holding
from peers.mailbox.keys import Mailbox
from peers.mailbox.uploads import Uploads
from peers.relay.messages import LIFE_BYTES, MAX_INT

VERSION = 2
NEVER = bytes(LIFE_BYTES)
"""The life of a mailbox to which nothing was ever appended."""
BATCH_BYTES = 1 << 20
MAX_REFUSED = 1_000
MAX_HINTS = 100
MAX_ASKED = 1_000
"""Where so many entries stand is asked at a time: the file has other work, too."""


class Asked(NamedTuple):
    """What only the file tells: where entries stand, by their signed bytes, and which of those named are held."""

    entries: tuple[bytes, ...]
    named: tuple[Named, ...]


class MailboxSync:
    """What is known of one mailbox at one relay. `saved` is what `dump` gave in an earlier run.

    `database` is the database's id, `sign_key` this device's own, `random` gives n bytes from a secure source, and
    `forks` are those that the file knows.
    """

    def __init__(
        self,
        mailbox: Mailbox,
        *,
        database: bytes,
        sign_key: bytes,
        random: Callable[[int], bytes],
        saved: bytes | None = None,
        forks: Sequence[Fork] = (),
    ) -> None:
        self.mailbox = mailbox
        self.read = 0
        """Everything up to this index was read."""
        self.is_at_end = False
        """Nothing was behind it when the relay last said so."""
        self.skipped = 0
        """How many blobs and entries could not be used."""
        self._database = database
        self._sign_key = sign_key
        self._life = NEVER
        self._holding = Holding()
        self._waiting = Waiting()
        self._pieces = contents.Pieces()
        self._forked = Forked(forks)
        self._unchecked: list[Candidate] = []
        self._rivals: deque[Candidate] = deque()
        self._refused: OrderedDict[bytes, None] = OrderedDict()
        self._news: deque[str] = deque(maxlen=8)
        self._has_told = False
        self._hints: set[str] = set()
        self._has_progress = False
        self._is_set_back = False
        self._gap_from: int | None = None
        self._last = 0
        self._reread_for: bytes | None = None
        self._may_look_again = True
        self.is_restored = False
        """The mailbox holds entries that this device signed under numbers that its file does not have: see R11."""
        if saved is not None:
            self._load(saved)
        self._holding.begin(self._forked.begins)
        self._waiting.begin(self._forked)
        self.uploads = Uploads(mailbox, self._holding, random)

    def spare(self, vector: Mapping[bytes, int]) -> None:
        """The entries up to these do not belong into the mailbox: not all who read there may read them."""
        self._holding.spare(vector)

    # --- the relay's answers --------------------------------------------------------------------------------------

    def opened(self, life: bytes, first: int, last: int) -> bool:
        """The mailbox is open and keeps the blobs from `first` to `last`; whether the relay had lost it."""
        self.is_at_end = False
        self.uploads.opened()
        self._may_look_again = True
        if self._gap_from is not None:
            # The relay gets a chance to do better.
            self.read, self._gap_from = min(self.read, self._gap_from - 1), None
        is_known = self.read > 0 or bool(self._holding)
        is_lost = last < self.read or (is_known and self._life != life)
        if is_lost:
            self._begin_anew()
        self._life, self._last = life, last
        self._holding.lose_before(first)
        return is_lost

    def look_again(self) -> None:
        """Somebody waits: if something is missing at the end, all is read again, once."""
        self._may_look_again = True

    @property
    def needs_life(self) -> bool:
        """Whether the mailbox has to be opened once more, as it began after it was opened."""
        return self._life == NEVER and bool(self._holding)

    def began(self, life: bytes) -> None:
        """It was opened once more: the life that it has got."""
        self._life = life

    def receive(
        self, first: int, blobs: Sequence[tuple[int, bytes]], end: bool, heads: Mapping[bytes, Head]
    ) -> None:
        """Blobs were read, `first` being the lowest index that is kept; `heads` are those held here. Never raises."""
        self._holding.lose_before(first)
        for index, blob in blobs:
            if index <= self.read:
                continue
            if index > max(self.read + 1, first):
                self._note_gap(self.read + 1)
            self.read = index
            try:
                self._take(index, blob, heads)
            except (Malformed, EntryRefused) as error:
                self._skip(f"a blob of it is passed over ({error})")
        if end and self.read < self._last:
            self._note_gap(self.read + 1)
        self._pieces.pass_over(self.read)
        self.is_at_end = end

    def _note_gap(self, index: int) -> None:
        """The relay skipped blobs from that index on, which an honest one does not."""
        self._gap_from = min(index, self._gap_from or index)

    def _take(self, index: int, blob: bytes, heads: Mapping[bytes, Head]) -> None:
        found = contents.read(self.mailbox.open(blob))
        if isinstance(found, contents.Piece):
            whole = self._pieces.add(index, found)
            if whole is not None:
                self._take_entry(whole[1], whole[0], heads)
            return
        for signed in found:
            try:
                self._take_entry(signed, index, heads)
            except (Malformed, EntryRefused) as error:
                self._skip(f"an entry of it is passed over ({error})")

    def _take_entry(self, signed: bytes, index: int, heads: Mapping[bytes, Head]) -> None:
        """An entry; what comes with it as the proof of a fork is one, too."""
        item = candidate(signed, self._database, index)
        self._sort(item, heads)
        if item.proof is not None:
            self._sort(candidate(item.proof, self._database, index), heads)

    def _sort(self, item: Candidate, heads: Mapping[bytes, Head]) -> None:
        if item.digest in self._refused:
            return
        head = heads.get(item.writer)
        if device_of(item.writer) in self._forked or (head is not None and item.seq <= head.seq):
            self._unchecked.append(item)
        else:
            self._waiting.add(item)

    # --- what is to be done with entries --------------------------------------------------------------------------

    def renamed(self, forks: Sequence[Fork]) -> None:
        """The file knows these forks: if they are others than before, all is to be read again.

        By its name an entry may have been taken for one that is held, for one that is missing, or for one that cannot
        be taken in.
        """
        if tuple(forks) == self._forked.forks:
            return
        self._forked = Forked(forks)
        self._holding.clear()
        self._holding.begin(self._forked.begins)
        self._waiting.begin(self._forked)
        self.uploads.opened()
        self._pieces.clear()
        self._unchecked.clear()
        self._rivals.clear()
        self._read_again()

    def asks(self, heads: Mapping[bytes, Head]) -> Asked | None:
        """What has to be looked for in the file before anything else is done, for `answered`; None if nothing has."""
        self._unchecked.extend(self._waiting.unplaced(heads))
        if not self._unchecked:
            self.uploads.read_back(self.read)
        entries = tuple(item.signed for item in self._unchecked[:MAX_ASKED])
        asked = Asked(entries, self._waiting.sought.asks(heads))
        return asked if any(asked) else None

    def answered(
        self, asked: Asked, places: Sequence[Place | CrdtlogError], held: Collection[Named], own: bytes
    ) -> None:
        """Where the entries stand that were asked for last, or why they never can; and which of those named are held.

        `own` is this device's writer.
        """
        items, self._unchecked = self._unchecked[: len(places)], self._unchecked[len(places) :]
        self._waiting.sought.told(asked.named, held)
        for item, place in zip(items, places, strict=True):
            if isinstance(place, CrdtlogError):
                self._refuse(item, place)
            elif place.stand is Stand.HELD:
                # Without the proof of a fork it may be taken for another one: such a one has yet to be uploaded.
                if place.is_whole and self._holding.note(place.log, item.seq, item.blob):
                    self.uploads.others_upload()
            elif item.writer == own and self._is_ours(item):
                self.is_restored = True
                return
            elif place.stand is Stand.BESIDE:
                self._rivals.append(item)
            elif place.stand is Stand.NEXT or device_of(item.writer) in self._forked:
                self._waiting.add(item)
            else:
                self._waiting.set_apart(item)

    def rival(self) -> Candidate | None:
        """An entry that proves a log to be forked, which the file has yet to learn: see `learned`, `refused`."""
        return self._rivals[0] if self._rivals else None

    def learned(self, item: Candidate) -> None:
        """The file knows of the fork that this entry proved; the entry itself may have to be taken in."""
        if item in self._rivals:
            self._rivals.remove(item)
            self._unchecked.append(item)

    def ready(self, heads: Mapping[bytes, Head], members: Collection[bytes], own: bytes) -> list[Candidate]:
        """Entries to apply now, in this order; `members` are device ids, `own` is this device's writer."""
        for item in self._waiting.of(own):
            if self._is_ours(item):
                self.is_restored = True
                return []
            self._waiting.remove(item)
            self._refuse(item, EntryRefused("its signature is wrong"))
        return self._waiting.ready(heads, members, BATCH_BYTES)

    def applied(self, items: Sequence[Candidate]) -> None:
        """These are durable here."""
        for item in items:
            self._waiting.remove(item)
            self._has_progress = True
            if device_of(item.writer) in self._forked:
                self._unchecked.append(item)  # the file knows what its log is called
            else:
                self._holding.note(item.writer, item.seq, item.blob)

    def refused(self, item: Candidate, error: CrdtlogError) -> None:
        """This one cannot be applied, or learned, unless its author becomes a member, or more is known of a log."""
        if item in self._rivals:
            self._rivals.remove(item)
        elif self._waiting.keep(item, error):
            return
        self._waiting.remove(item)
        self._refuse(item, error)

    def forget_restored(self) -> None:
        """The own log began anew, perhaps from an earlier entry: those of the old one are read again, as anybody's."""
        self.is_restored = False
        self._read_again()

    def _read_again(self) -> None:
        """From the beginning, as nothing that was refused or passed over before."""
        self._is_set_back = True
        self.read, self.is_at_end = 0, False
        self._refused.clear()

    def reread(self) -> bool:
        """Whether to read again, from `read`, which was set back: something was missing, or had no room."""
        if self._is_set_back:
            self._is_set_back = False
            return True
        if self.is_at_end and self._may_look_again:
            self._may_look_again = False
            if len(self._waiting) and self._waiting.digest() != self._reread_for:
                # What the others wait for may have been kept from us before, at an index that counts as read.
                self._reread_for = self._waiting.digest()
                self.read, self.is_at_end = 0, False
                return True
        lost = self._waiting.lost_from
        if lost is None or not (self.is_at_end and self._has_progress):
            return False
        self.read, self.is_at_end, self._has_progress = min(self.read, lost - 1), False, False
        self._waiting.lost_from = None
        return True

    def logs(self) -> Iterable[bytes]:
        """The logs of which the mailbox is known to hold something."""
        return self._holding.logs()

    @property
    def waits(self) -> int:
        """How many entries wait for others that are not here."""
        return len(self._waiting)

    def may_upload(self, own: bytes) -> bool:
        """Whether everything was read, and nothing of it can show that this device (its writer) was restored (M3)."""
        return self.is_done and not self.is_restored and not self._is_set_back and not self._waiting.of(own)

    @property
    def is_done(self) -> bool:
        """Whether everything that was read has been dealt with, as far as it can be."""
        return self.is_at_end and not self._unchecked and not self._rivals

    @property
    def resume_index(self) -> int:
        """From where to read on after a stop (M1)."""
        indexes = [self._waiting.first_index(), self._pieces.first_index()]
        indexes += [self._gap_from, *(item.blob for item in (*self._unchecked, *self._rivals))]
        return min([self.read, *(index - 1 for index in indexes if index is not None)])

    def news(self) -> str | None:
        """What a person should know once, if there is anything new."""
        return self._news.popleft() if self._news else None

    # --- what is kept ---------------------------------------------------------------------------------------------

    def dump(self) -> bytes:
        """What a later run begins with. Made after everything that was read and `applied` is durable."""
        return pack([VERSION, self._life, self.resume_index, self._holding.dump(), self._forked.digest])

    def _load(self, saved: bytes) -> None:
        """What cannot be read is as if it were not there: then the mailbox is read again.

        So it is if logs had other names.
        """
        try:
            parts = unpack(saved)
            if not isinstance(parts, list) or len(parts) != 5 or parts[0] != VERSION:
                raise Malformed("another form")
            if parts[4] != self._forked.digest:
                raise Malformed("other names")
            check_bytes(parts[1], LIFE_BYTES, "life")
            check_int(parts[2], 0, MAX_INT, "index")
            self._holding = Holding.load(parts[3])
            self._life, self.read = parts[1], parts[2]
        except (Malformed, UnicodeError):
            self._begin_anew()

    def _begin_anew(self) -> None:
        self.read = 0
        self._life = NEVER
        self._holding.clear()
        self._pieces.clear()
        self._waiting.lost_from = self._gap_from = None

    def _is_ours(self, item: Candidate) -> bool:
        split, _ = proof.split(item.signed)
        return verify_bytes(self._sign_key, entry.SIGN_DOMAIN, split.body, split.signature)

    def _refuse(self, item: Candidate, error: CrdtlogError) -> None:
        self._refused[item.digest] = None
        while len(self._refused) > MAX_REFUSED:
            self._refused.popitem(last=False)
        text = f"entry {item.seq} of log {item.writer.hex()[:12]} is passed over ({error})"
        self._skip(text, error.hint)

    def _skip(self, text: str, hint: str = "") -> None:
        """Something could not be used: the first is told, and of the later ones each with something else to do."""
        self.skipped += 1
        if not self._has_told or (hint and hint not in self._hints and len(self._hints) < MAX_HINTS):
            self._has_told = True
            self._hints.add(hint)
            self._news.append(f"{text}. {hint}" if hint else text)
