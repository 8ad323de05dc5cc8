"""One file and one relay: keeps a connection, reads the file's mailboxes, and uploads what they lack.

Performs what `peers.mailbox` decides, with the relay's client and the file. Must not know other relays, links to
devices or people. The one idea: everything that goes wrong ends the connection or pauses uploading, is told once, and
is tried again later; what was done until then is not done twice.
"""

import asyncio
import contextlib
import logging
import os
import random
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

from crdtlog.database import Database
from crdtlog.errors import (
    CrdtlogError,
    EntryRefused,
    Malformed,
    NoPeer,
    PeerRefused,
    TablePaused,
    Temporary,
    TooLarge,
)
from crdtlog.log import Batch
from crdtlog.relays import Place
from crdtlog.versions import Head, Named, device_of
from peers.mailbox.candidates import Candidate
from peers.mailbox.keys import Mailbox, epoch_mailbox
from peers.mailbox.sync import BATCH_BYTES, Asked, MailboxSync
from peers.mailbox.uploads import Due
from peers.node.appending import append_all, ended, together, wait_for
from peers.node.files import Facts, SharedFile
from peers.node.giving_by_relay import ByRelay
from peers.node.handing import hand_over
from peers.node.relay_address import RelayAddress
from peers.node.wording import sentences
from peers.relay.client import Client
from peers.relay.refusals import Code, Refused

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0
PERMANENT_PAUSE_S = 600.0
"""What a relay refuses for good is asked again this late: somebody may have changed it."""
FIRST_QUIET_S = 5.0
RETRY_S = 1.0
SAVE_S = 1.0
"""How far a mailbox was read is written down this often at most."""
SHORTEST_WAIT_S, LONGEST_WAIT_S = 0.05, 60.0


class Owner(Protocol):
    """Whoever a relay link belongs to."""

    def say(self, text: str) -> None:
        """One line for a person."""

    def relay_received(self, link: "RelayLink", rows: int) -> None:
        """Rows came through the relay."""

    def relay_changed(self, link: "RelayLink") -> None:
        """It is connected or is not any more, or it has read or uploaded something."""

    async def begin_anew(self) -> None:
        """The log of this device has to begin anew: others may know other entries of it (R11)."""


class _Box:
    """One mailbox of the file at this relay."""

    def __init__(self, mailbox: Mailbox, sync: MailboxSync, saved: bytes | None) -> None:
        self.mailbox = mailbox
        self.sync = sync
        self.saved = saved
        self.woken = asyncio.Event()
        self.set_back = asyncio.Event()
        """The mailbox is to be read again from an earlier index."""
        self.settling = asyncio.Lock()
        self.quiet_until = 0.0
        self.quiet_s = FIRST_QUIET_S
        self.save_at = 0.0
        self.must_reach: int | None = None
        """The mailbox's last index when somebody asked for all that is there; None: it was not looked for yet."""


class RelayLink:
    """A file at one relay, from `start` to `close`."""

    def __init__(self, file: SharedFile, address: RelayAddress, owner: Owner) -> None:
        self.address = address
        self.is_connected = False
        self.is_tried = False
        """Whether it was connected, or could not be, since it was last poked."""
        self.problem: str | None = None
        """Why nothing is read or uploaded for now."""
        self._file = file
        self._owner = owner
        self._boxes: dict[bytes, _Box] = {}
        self._farewells: Mapping[bytes, Mapping[bytes, int]] = {}
        self._poked = asyncio.Event()
        self._epochs_changed = asyncio.Event()
        self._is_admitted = False
        self._is_handed_over = False
        """Whether what members leave for one another alone was looked through, since the epochs changed."""
        self._is_hurried = False
        self._told: str | None = None
        self._stalled: str | None = None
        self._task: asyncio.Task[None] | None = None
        self._snapshots = ByRelay(file)

    def start(self) -> None:
        """Begin to connect."""
        self._task = asyncio.create_task(self._run(), name=f"relay {self.address.url.host}")

    async def close(self) -> None:
        """Disconnect, and write down how far the mailboxes were read."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        for box in self._boxes.values():
            try:
                await self._save(box)
            except CrdtlogError as error:
                logger.warning("%s: %s", self._file.path.name, error)

    def changed(self, before: Facts, after: Facts) -> None:
        """The file's log grew, or its members or epochs changed."""
        if tuple(before.epochs) != tuple(after.epochs):
            self._epochs_changed.set()
        if before.members != after.members:
            self._snapshots.members_changed()
        self._wake()

    def poke(self) -> None:
        """Somebody waits: connect at once if it is not connected, and upload what others wrote at once, too."""
        self.is_tried = self.is_connected
        self._is_hurried = True
        self._poked.set()
        for box in self._boxes.values():
            box.sync.uploads.is_hurried = True
            box.sync.look_again()
            box.must_reach = None
        self._wake()

    @property
    def is_exchanged(self) -> bool:
        """Whether everything there was read and dealt with, and everything here is there."""
        current = self._current()
        return (
            self.is_read
            and current is not None
            and self._file.facts.is_safe
            and not current.sync.uploads.lacks_any(self._file.facts.heads)
        )

    @property
    def is_read(self) -> bool:
        """Whether everything there was read and dealt with."""
        return (
            self.is_connected
            and self._is_admitted
            and self._is_handed_over
            and not self._file.facts.awaits_snapshot
            and all(map(self._is_read, self._boxes.values()))
        )

    def _is_read(self, box: _Box) -> bool:
        if self._is_hurried and (box.must_reach is None or box.sync.read < box.must_reach):
            return False
        return box.sync.is_done and not box.settling.locked()

    @property
    def waits(self) -> int:
        """How many entries that were read wait for others that are not here."""
        return sum(box.sync.waits for box in self._boxes.values())

    def devices(self) -> set[bytes]:
        """The devices whose entries are known to be there."""
        return {device_of(writer) for box in self._boxes.values() for writer in box.sync.logs()}

    # --- the connection -------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        failures = 0
        while True:
            self._poked.clear()
            began = asyncio.get_running_loop().time()
            pause: float | None = None
            try:
                client = await Client.connect(self.address.url, self.address.token)
                try:
                    await self._serve(client)
                finally:
                    self.is_connected = False
                    await client.close()
            except CrdtlogError as error:
                pause = self._pause_after(error)
                self._tell(error)
            except Exception as error:
                logger.exception("the relay %s met a fault of ours", self.address.shown)
                self.problem = f"an internal fault: {error!r}"
            self.is_tried = True
            self._owner.relay_changed(self)
            is_healthy = asyncio.get_running_loop().time() - began > LONGEST_PAUSE_S
            failures = 0 if is_healthy else failures + 1
            backoff = min(FIRST_PAUSE_S * 2 ** min(failures, 10), LONGEST_PAUSE_S) * (
                0.5 + random.random() / 2
            )
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(pause or 0.0, backoff)):
                    await self._poked.wait()

    def _pause_after(self, error: CrdtlogError) -> float:
        match error:
            case Refused(temporary=True):
                return float(min(error.retry_after_s or 0, PERMANENT_PAUSE_S))
            case Refused() | PeerRefused() | Malformed():
                return PERMANENT_PAUSE_S
        return 0.0

    def _tell(self, error: CrdtlogError) -> None:
        """Say once why it does not work."""
        self.problem = sentences(error, error.hint)
        if self._told != str(error):
            self._told = str(error)
            is_temporary = isinstance(error, Temporary)
            text = f"{str(error).rstrip('.')}; trying again" if is_temporary else self.problem
            is_named = self.address.url.host in text
            self._owner.say(text if is_named else f"relay {self.address.shown}: {text}")

    async def _serve(self, client: Client) -> None:
        """Tend all mailboxes until the connection ends, which raises."""
        tasks: dict[bytes, asyncio.Task[None]] = {}
        handing = asyncio.create_task(asyncio.sleep(0))
        snapshots = asyncio.create_task(self._snapshots.run(client))
        try:
            await handing
            while True:
                self._epochs_changed.clear()
                self._farewells = await self._file.run(lambda engine: engine.epoch_keys.farewells())
                if handing.done():
                    self._is_handed_over = False
                    handing = asyncio.create_task(self._hand_over(client))
                for epoch, secret in list(self._file.facts.epochs.items())[: client.limits.mailboxes]:
                    if epoch not in tasks:
                        box = self._boxes.get(epoch) or await self._new_box(epoch, secret)
                        self._boxes[epoch] = box
                        tasks[epoch] = asyncio.create_task(self._attend(client, box))
                news = asyncio.create_task(self._epochs_changed.wait())
                try:
                    done, _ = await asyncio.wait(
                        (news, snapshots, *tasks.values()), return_when=asyncio.FIRST_COMPLETED
                    )
                finally:
                    news.cancel()
                for task in done - {news}:
                    task.result()
        finally:
            await ended([handing, snapshots, *tasks.values()])

    async def _hand_over(self, client: Client) -> None:
        done: bytes | None = None
        try:
            while done != (current := next(iter(self._file.facts.epochs))):
                await hand_over(client, self._file)
                done = current
        except CrdtlogError as error:
            logger.debug("relay %s: keys were not handed over: %s", self.address.shown, error)
        self._is_handed_over = True
        self._wake()
        self._owner.relay_changed(self)

    def _heads(self, box: _Box) -> Mapping[bytes, Head] | None:
        """What belongs into a mailbox of what is held here; None if nothing is put there now.

        All of it into the current epoch's, if nobody removed can read that. Into one that others follow, what those who
        still read there need to follow, too.
        """
        facts = self._file.facts
        if box is self._current():
            return facts.heads if facts.is_safe else None
        until = self._farewells.get(box.mailbox.epoch)
        if until is None:
            return None
        return {
            writer: head._replace(seq=min(head.seq, until[writer]))
            for writer, head in facts.heads.items()
            if writer in until
        }

    async def _new_box(self, epoch: bytes, secret: bytes) -> _Box:
        mailbox = epoch_mailbox(self._file.database, epoch, secret)
        saved = await self._file.run(lambda engine: engine.relays.mailbox(self.address.text, mailbox.id))
        sync = MailboxSync(
            mailbox,
            database=self._file.database,
            sign_key=self._file.device.public.sign_key,
            random=os.urandom,
            saved=saved,
            forks=self._file.facts.forks,
        )
        sync.uploads.is_hurried = self._is_hurried
        return _Box(mailbox, sync, saved)

    async def _attend(self, client: Client, box: _Box) -> None:
        await together(self._follow(client, box), self._tend(client, box))

    def _current(self) -> _Box | None:
        """The mailbox of the epoch that is written under."""
        return self._boxes.get(next(iter(self._file.facts.epochs)))

    def _wake(self) -> None:
        for box in self._boxes.values():
            box.woken.set()

    # --- reading --------------------------------------------------------------------------------------------------

    async def _follow(self, client: Client, box: _Box) -> None:
        opened = await client.open(box.mailbox.key)
        if box.sync.opened(opened.life, opened.first, opened.last):
            self._owner.say(f"relay {self.address.shown} has lost what it kept; it gets it again")
        if not self.is_connected:
            self.is_connected, self.is_tried, self.problem = True, True, None
            self._told = None
            self._owner.say(f"relay {self.address.shown} connected")
            self._owner.relay_changed(self)
        while True:
            box.set_back.clear()
            await together(self._read(client, box), wait_for(box.set_back))

    async def _read(self, client: Client, box: _Box) -> None:
        async with contextlib.aclosing(client.subscribe(box.mailbox.id, box.sync.read)) as pages:
            async for page in pages:
                if box.set_back.is_set():
                    return  # this page follows what is to be read again
                box.sync.receive(page.first, page.blobs, page.end, self._file.facts.heads)
                async with box.settling:
                    await self._settle(box)
                self._wake()

    async def _settle(self, box: _Box) -> None:
        """Deal with all entries that were read, as far as they can be."""
        if self._file.facts.awaits_snapshot:
            return
        while True:
            facts = self._file.facts
            box.sync.renamed(facts.forks)
            if asked := box.sync.asks(facts.heads):
                box.sync.answered(asked, *await self._file.run(_answering(asked)), facts.writer)
            batch = box.sync.ready(facts.heads, {member.device for member in facts.members}, facts.writer)
            if box.sync.is_restored:
                await self._owner.begin_anew()
                if self._file.facts.writer == facts.writer:
                    raise CrdtlogError("the log of this device has to begin anew, and cannot yet")
                box.sync.forget_restored()
            elif rival := box.sync.rival():
                await self._learn(box, rival)
            elif batch:
                await self._apply(box, batch)
            elif box.sync.asks(self._file.facts.heads) is None:
                break
        if box.sync.reread():
            box.set_back.set()
        if text := box.sync.news():
            self._owner.say(f"relay {self.address.shown}: {text}")
        if not self._is_admitted and box.sync.is_at_end:
            self._is_admitted = await self._file.run(lambda engine: engine.relays.is_admitted())

    async def _learn(self, box: _Box, rival: Candidate) -> None:
        try:
            await self._patiently(lambda: self._file.hold(lambda engine: engine.learn_fork(rival.signed)))
        except (EntryRefused, Malformed, TooLarge) as error:
            box.sync.refused(rival, error)
        else:
            box.sync.learned(rival)

    async def _apply(self, box: _Box, batch: Sequence[Candidate]) -> None:
        rest = [item.signed for item in batch]
        try:
            await self._patiently(
                lambda: self._file.apply(rest, lambda rows: self._owner.relay_received(self, rows))
            )
        except (EntryRefused, Malformed, TooLarge) as error:
            done = len(batch) - len(rest)
            box.sync.applied(batch[:done])
            box.sync.refused(batch[done], error)
        else:
            box.sync.applied(batch)

    async def _patiently(self, work: Callable[[], Awaitable[None]]) -> None:
        """Have something done with the file; again and again, while it cannot be for now."""
        while True:
            try:
                await work()
            except TablePaused as error:
                self._stall(error)
                await self._file.schema_may_have_changed()
            except Temporary as error:
                self._stall(error)
                await asyncio.sleep(RETRY_S)
            else:
                self._stall(None)
                return

    def _stall(self, error: CrdtlogError | None) -> None:
        """Nothing is taken for now while there is an error; it is told once."""
        reason = sentences(error, error.hint) if error is not None else None
        if reason != self._stalled:
            self._stalled = self.problem = reason
            self._owner.say(
                f"nothing is taken from relay {self.address.shown} for now: {reason}"
                if reason
                else f"taking from relay {self.address.shown} again"
            )
            self._owner.relay_changed(self)

    # --- uploading ------------------------------------------------------------------------------------------------

    async def _tend(self, client: Client, box: _Box) -> None:
        """Upload and write down whatever there is to, whenever something has changed."""
        while True:
            if not box.settling.locked():
                async with box.settling:
                    await self._settle(box)
            if box.sync.needs_life:
                box.sync.began((await client.open(box.mailbox.key)).life)
            if self._is_hurried and box.must_reach is None and box.sync.is_at_end:
                # What others appended a moment ago may not have been pushed yet.
                box.must_reach = (await client.open(box.mailbox.key)).last
            box.sync.spare(self._file.facts.spared.get(box.mailbox.epoch, {}))
            if self._heads(box) is not None:
                await self._upload_or_pause(client, box)
            await self._save_soon(box)
            if self.is_exchanged:
                self._is_hurried = False
                for each in self._boxes.values():
                    each.sync.uploads.is_hurried = False
            self._owner.relay_changed(self)
            await self._wait(box)

    async def _wait(self, box: _Box) -> None:
        now = asyncio.get_running_loop().time()
        times = [box.save_at or None]
        if self._heads(box) is not None and self._may_upload(box):
            upload_at = box.sync.uploads.wake_at
            times.append(max(upload_at or 0.0, box.quiet_until) or None)
        # What has become due while other things were done is due at once.
        wake_at = min(
            (max(at, now + SHORTEST_WAIT_S) for at in times if at is not None), default=now + LONGEST_WAIT_S
        )
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(wake_at - now):
                await box.woken.wait()
        box.woken.clear()

    async def _upload_or_pause(self, client: Client, box: _Box) -> None:
        now = asyncio.get_running_loop().time()
        if now < box.quiet_until:
            return
        try:
            await self._upload(client, box)
        except (NoPeer, Malformed):
            raise
        except CrdtlogError as error:
            wait = PERMANENT_PAUSE_S
            if isinstance(error, Refused) and error.temporary and error.retry_after_s is not None:
                wait = float(error.retry_after_s)
            elif isinstance(error, Temporary):
                wait = box.quiet_s
                box.quiet_s = min(2 * box.quiet_s, PERMANENT_PAUSE_S)
            box.quiet_until = asyncio.get_running_loop().time() + min(wait, PERMANENT_PAUSE_S)
            if isinstance(error, Refused) and error.code == Code.RATE:
                return  # with much to upload that is nothing unusual
            text = sentences(error, error.hint)
            if self.problem != text:
                self.problem = text
                self._owner.say(f"nothing is uploaded to relay {self.address.shown} for now: {text}")
        else:
            if box.quiet_until and self.problem is not None and self._stalled is None:
                self.problem = None
                self._owner.say(f"uploading to relay {self.address.shown} again")
            box.quiet_until, box.quiet_s = 0.0, FIRST_QUIET_S

    def _may_upload(self, box: _Box) -> bool:
        """Whether everything was read; of earlier epochs' mailboxes, too, unless nothing can be taken for now (R11)."""
        own = self._file.facts.writer
        others = [each for each in self._boxes.values() if each is not box and self._stalled is None]
        return all(each.sync.may_upload(own) for each in (box, *others))

    async def _upload(self, client: Client, box: _Box) -> None:
        now = asyncio.get_running_loop().time()
        uploads = box.sync.uploads
        tried: set[Due] = set()
        while self._may_upload(box):
            own = self._file.facts.writer
            heads = self._heads(box)
            due = None if heads is None else uploads.due(heads, own, now)
            if heads is None or due is None or due in tried:
                return  # what has come meanwhile wakes us again
            tried.add(due)
            lacking = uploads.lacking(due, heads, own)
            position, is_end, forks = 0, False, self._file.facts.forks
            while not is_end:
                batch = await self._file.run(_reading(position, lacking))
                if self._file.facts.forks != forks:
                    return  # logs have other names than those that were looked at
                if batch is None:
                    await self._owner.begin_anew()
                    return
                wanted = [
                    item
                    for item in batch.entries
                    if item.writer in heads and item.seq <= heads[item.writer].seq
                ]
                await append_all(
                    client,
                    box.mailbox.id,
                    uploads.plan(wanted, due, client.limits.largest_blob),
                    uploads.appended,
                )
                position, is_end = batch.position, batch.end
            uploads.done(due, heads, own)
            if due is Due.ALL:
                await self._save_soon(box)

    # --- what is kept ---------------------------------------------------------------------------------------------

    async def _save_soon(self, box: _Box) -> None:
        """Write down how far the mailbox was read, unless that was done a moment ago: then later."""
        now = asyncio.get_running_loop().time()
        if box.sync.dump() == box.saved:
            box.save_at = 0.0
        elif box.save_at == 0.0:
            box.save_at = now + SAVE_S
        elif now >= box.save_at:
            box.save_at = 0.0
            await self._save(box)

    async def _save(self, box: _Box) -> None:
        dumped = box.sync.dump()
        if dumped != box.saved:
            await self._file.hold(
                lambda engine: engine.relays.save(self.address.text, box.mailbox.id, dumped)
            )
            box.saved = dumped


def _answering(
    asked: Asked,
) -> Callable[[Database], tuple[list[Place | CrdtlogError], set[Named]]]:
    return lambda engine: (engine.relays.places(asked.entries), engine.relays.held(asked.named))


def _reading(position: int, lacking: dict[bytes, int]) -> Callable[[Database], Batch | None]:
    def read(engine: Database) -> Batch | None:
        batch = engine.entries_after(position, lacking, BATCH_BYTES)
        return batch if engine.confirm() else None  # what is uploaded must be marked before (R11)

    return read
