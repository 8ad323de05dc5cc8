"""Texts that merge by character, as the engine asks for them: many at a time, in a worker process of the file's own.

The worker (`textworker`) is started by the first text that anybody edits. A patch in an entry is a *lane* and a Yjs
update: one writer edits a text as one client for each lane, so that a program that holds a text open and the diffs of
plain SQL never use a number twice. Lane b"" is that of diffs.
"""

import math
import secrets
from collections.abc import Mapping, Sequence

from crdtlog.errors import Malformed, WorkerUnavailable
from crdtlog.kinds import (
    Base,
    Edit,
    Edited,
    Failure,
    LeftOut,
    Merge,
    Merged,
    Origin,
    text,
    textdiff,
)
from crdtlog.textworker.client import TextWorker
from crdtlog.versions import WRITER_BYTES

LANE_BYTES = 8

#: What a job may compute beside one second for each megabyte of it, and wait; an honest one takes a hundredth of that.
_CPU_SECONDS = 1.0
_STALL_SECONDS = 10.0
#: What an edit of a text costs, and each byte of it.
_JOB_MS, _BYTE_MS = 0.15, 0.000_01


def with_lane(lane: bytes, update: bytes) -> bytes:
    """The bytes of a patch."""
    return bytes([len(lane)]) + lane + update


def new_lane() -> bytes:
    """A lane that nobody has used."""
    return secrets.token_bytes(LANE_BYTES)


def split_lane(patch: bytes) -> tuple[bytes, bytes]:
    """Lane and update of a patch. Raises `Malformed`."""
    size = patch[0] if patch else -1
    if size not in (0, LANE_BYTES) or len(patch) <= size:
        raise Malformed("a patch of a text begins with its lane")
    return patch[1 : 1 + size], patch[1 + size :]


class TextDocuments:
    """The documents of kind `text`."""

    def __init__(self) -> None:
        # What a job computes is computed under the file's write lock: a hostile one must not hold it for long.
        self._worker = TextWorker(cpu_seconds=_CPU_SECONDS, stall_seconds=_STALL_SECONDS)
        self._is_warm = False
        #: why there is no worker, when it was last tried to have one; empty if there is
        self.trouble = ""

    def warm(self) -> None:
        """Have the worker running: its start takes a good part of a second, too long for the write lock.

        If it cannot be had, `trouble` says so.
        """
        if not self._is_warm:
            try:
                self._worker.run([text.OpenText((bytes(WRITER_BYTES), 1), "")])
            except WorkerUnavailable as error:
                self.trouble = str(error)
            else:
                self._is_warm, self.trouble = True, ""

    def close(self) -> None:
        """End the worker, if there is one."""
        self._worker.close()

    def milliseconds(self, job: Edit | Merge) -> float:
        """About how long a job takes; what others wrote may take for ever."""
        if isinstance(job, Merge):
            # A state without a patch is our own, and was read back when it was made.
            return math.inf if job.patches else 0.0
        size = len(_start(job.state, job.base)) + len(str(job.value))
        return _JOB_MS + size * _BYTE_MS

    def edit(self, jobs: Sequence[Edit]) -> list[Edited | Failure]:
        """Make each document show a value. Without a worker each fails: what is written here is never held up."""
        asked = [job for job in jobs if text.is_mergeable(job.value) and _has_form(job.state, job.base)]
        if asked and self.trouble:
            return [Failure(self.trouble)] * len(jobs)
        try:
            results = iter(self._worker.run([_asked_edit(job) for job in asked]))
        except WorkerUnavailable as error:
            self._is_warm, self.trouble = False, str(error)
            return [Failure(self.trouble)] * len(jobs)
        kept = set(map(id, asked))
        return [_edited(job, next(results) if id(job) in kept else None) for job in jobs]

    def merge(self, jobs: Sequence[Merge]) -> list[Merged | Failure]:
        """Put patches into each document. Raises `Malformed` for a patch that no honest device writes."""
        if not all(_has_form(job.state, job.base) for job in jobs):
            raise Malformed("a patch of a text to a value that is none")
        patches = [_in_order(job.patches) for job in jobs]
        asked = [_asked(job, some) for job, some in zip(jobs, patches, strict=True)]
        results = self._worker.run(asked)
        again = ((job, self._tried_again(job, result)) for job, result in zip(asked, results, strict=True))
        return [
            _merged(job, [origin for _, origin in some], result)
            for (job, result), some in zip(again, patches, strict=True)
        ]

    def _tried_again(self, job: text.Job, result: text.Result) -> text.Result:
        """Where patches were told apart by halves: with those that lacked what is in the other half."""
        while isinstance(job, text.MergeText) and isinstance(result, text.MergedText) and result.tried:
            left = sorted(result.refused)
            if result.state is None or all(why.reason != "missing" for why in result.refused.values()):
                break
            patches = [job.patches[at] for at in left]
            (more,) = self._worker.run([text.MergeText(job.begun, result.state, patches)])
            if not isinstance(more, text.MergedText) or more.state is None:
                break
            refused = {left[at]: why for at, why in more.refused.items()}
            result = text.MergedText(more.state, more.text, refused, tried=True)
        return result

    def splice(
        self,
        state: bytes,
        base: Base,
        lane: bytes,
        writer: bytes,
        value: str,
        splices: Sequence[textdiff.Splice] | None,
    ) -> Edited | Failure:
        """A writer's edit of a document on a lane of its own: to `value`, by these splices if given."""
        (result,) = self._worker.run([text.EditText(_begun(base), state, writer + lane, value, splices)])
        match result:
            case text.EditedText(patch, after):
                return Edited(with_lane(lane, patch) if patch else b"", after, value)
            case text.TextFailure(reason, detail):
                return Failure(f"{reason}: {detail}")
            case _:
                raise AssertionError("an edit was answered by something else")

    def needs(self, patch: bytes, origin: Origin) -> Mapping[bytes, int]:
        """Nothing that can be told: characters are named by clients. A patch that lacks some is set aside."""
        return {}


def _begun(base: Base) -> text.Dot:
    return (base.origin.writer, base.origin.seq)


def _has_form(state: bytes | None, base: Base) -> bool:
    return state is not None or text.is_mergeable(base.value)


def _start(state: bytes | None, base: Base) -> text.TextBase:
    return state if state is not None else str(base.value)


def _asked_edit(job: Edit) -> text.EditText:
    return text.EditText(_begun(job.base), _start(job.state, job.base), job.origin.writer, str(job.value))


def _edited(job: Edit, result: text.Result | None) -> Edited | Failure:
    match result:
        case text.EditedText(patch, state):
            return Edited(with_lane(b"", patch) if patch else b"", state, job.value)
        case text.TextFailure(reason="too large") | None:
            return Edited(None, b"", job.value)
        case text.TextFailure(reason, detail):
            return Failure(f"{reason}: {detail}")
        case _:
            raise AssertionError("an edit was answered by something else")


def _in_order(patches: Sequence[tuple[bytes, Origin]]) -> list[tuple[bytes, Origin]]:
    """The patches that say anything, in an order that is the same on every device, each writer's as they were written.

    By time, if their writers tell it truly: should they not go together, those that came later are left out.
    """
    latest: dict[bytes, int] = {}
    placed = []
    for item in sorted((item for item in patches if item[0]), key=lambda item: item[1][1:]):
        stamp, writer, seq = item[1]
        latest[writer] = max(stamp, latest.get(writer, 0))
        placed.append((latest[writer], writer, seq, item))
    return [item for *_, item in sorted(placed, key=lambda place: place[:3])]


def _asked(job: Merge, patches: Sequence[tuple[bytes, Origin]]) -> text.Job:
    begun, start = _begun(job.base), _start(job.state, job.base)
    if not patches:
        return text.OpenText(begun, start)
    split = [(origin, *split_lane(patch)) for patch, origin in patches]
    return text.MergeText(begun, start, [(origin.writer + lane, update) for origin, lane, update in split])


def _merged(job: text.Job, origins: list[Origin], result: text.Result) -> Merged | Failure:
    match result:
        case text.OpenedText(state, shown):
            return Merged(state, shown)
        case text.MergedText(state, shown, refused, tried) if isinstance(job, text.MergeText):
            left = _left_out(job, origins, refused)
            if state is None or shown is None:
                return Failure(left[0].reason, left, tried)
            return Merged(state, shown, left, tried)
        case text.TextFailure(reason, detail):
            return Failure(f"{reason}: {detail}")
        case _:
            raise AssertionError("a merge was answered by something else")


def _left_out(
    job: text.MergeText, origins: list[Origin], refused: Mapping[int, text.TextFailure]
) -> tuple[LeftOut, ...]:
    """The refused patches, without those behind one of their author's that no other patch will ever help."""
    left = []
    barred = set()
    for at in sorted(refused):
        author = job.patches[at][0]
        if author not in barred:
            left.append(LeftOut(origins[at], f"{refused[at].reason}: {refused[at].detail}"))
        if refused[at].reason == "malformed":
            barred.add(author)
    return tuple(left)
