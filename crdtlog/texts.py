"""Texts that merge by character, as the engine asks for them: many at a time, in a worker process of the file's own.

The worker (`textworker`) is started by the first text that anybody edits. A patch in an entry is a *lane* and a Yjs
update: one writer edits a text as one client for each lane, so that a program that holds a text open and the diffs of
plain SQL never use a number twice. Lane b"" is that of diffs.
"""

import secrets
from collections.abc import Mapping, Sequence

from crdtlog.errors import Malformed
from crdtlog.kinds import Base, Edit, Edited, Failure, Merge, Merged, Origin, text, textdiff
from crdtlog.textworker.client import TextWorker
from crdtlog.versions import WRITER_BYTES

LANE_BYTES = 8

_Question = tuple[text.Dot, text.Base, tuple[tuple[bytes, bytes], ...]]

#: What a job may compute beside one second for each megabyte of it, and wait; an honest one takes a hundredth of that.
_CPU_SECONDS = 1.0
_STALL_SECONDS = 10.0


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
        self._known: dict[_Question, Merged | Failure] | None = None

    def remember(self) -> None:
        """Remember the results of merges from now on: what was asked ahead of a lock is asked again under it."""
        self._known = {}

    def forget(self) -> None:
        """Remember no more."""
        self._known = None

    def warm(self) -> None:
        """Have the worker running: its start takes a good part of a second, too long for the write lock."""
        if not self._is_warm:
            self._worker.run([text.Open((bytes(WRITER_BYTES), 1), "")])
            self._is_warm = True

    def close(self) -> None:
        """End the worker, if there is one."""
        self._worker.close()

    def edit(self, jobs: Sequence[Edit]) -> list[Edited | Failure]:
        """Make each document show a value."""
        asked = [job for job in jobs if text.is_mergeable(job.value) and _has_form(job.state, job.base)]
        results = iter(
            self._worker.run(
                [
                    text.Edit(
                        _begun(job.base), _start(job.state, job.base), job.origin.writer, str(job.value)
                    )
                    for job in asked
                ]
            )
        )
        kept = set(map(id, asked))
        return [_edited(job, next(results) if id(job) in kept else None) for job in jobs]

    def merge(self, jobs: Sequence[Merge]) -> list[Merged | Failure]:
        """Put patches into each document. Raises `Malformed` for a patch that no honest device writes."""
        known = self._known
        if known is None:
            return self._merge(jobs)
        asked = [job for job in jobs if _question(job) not in known]
        for job, result in zip(asked, self._merge(asked), strict=True):
            known[_question(job)] = result
        return [known[_question(job)] for job in jobs]

    def _merge(self, jobs: Sequence[Merge]) -> list[Merged | Failure]:
        if not all(_has_form(job.state, job.base) for job in jobs):
            raise Malformed("a patch of a text to a value that is none")
        asked: list[text.Job] = []
        for job in jobs:
            begun, start = _begun(job.base), _start(job.state, job.base)
            if job.patches:
                split = [(origin, *split_lane(patch)) for patch, origin in job.patches if patch]
                asked.append(
                    text.Merge(
                        begun, start, [(origin.writer + lane, update) for origin, lane, update in split]
                    )
                )
            else:
                asked.append(text.Open(begun, start))
        return [_merged(job, result) for job, result in zip(jobs, self._worker.run(asked), strict=True)]

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
        (result,) = self._worker.run([text.Edit(_begun(base), state, writer + lane, value, splices)])
        match result:
            case text.Edited(patch, after):
                return Edited(with_lane(lane, patch) if patch else b"", after, value)
            case text.Failure(reason, detail):
                return Failure(f"{reason}: {detail}")
            case _:
                raise AssertionError("an edit was answered by something else")

    def needs(self, patch: bytes, origin: Origin) -> Mapping[bytes, int]:
        """Nothing that can be told: characters are named by clients. A patch that lacks some is set aside."""
        return {}


def _question(job: Merge) -> _Question:
    patches = tuple((patch, origin.writer) for patch, origin in job.patches)
    return _begun(job.base), _start(job.state, job.base), patches


def _begun(base: Base) -> text.Dot:
    return (base.origin.writer, base.origin.seq)


def _has_form(state: bytes | None, base: Base) -> bool:
    return state is not None or text.is_mergeable(base.value)


def _start(state: bytes | None, base: Base) -> text.Base:
    return state if state is not None else str(base.value)


def _edited(job: Edit, result: text.Result | None) -> Edited | Failure:
    match result:
        case text.Edited(patch, state):
            return Edited(with_lane(b"", patch) if patch else b"", state, job.value)
        case text.Failure(reason="too large") | None:
            return Edited(None, b"", job.value)
        case text.Failure(reason, detail):
            return Failure(f"{reason}: {detail}")
        case _:
            raise AssertionError("an edit was answered by something else")


def _merged(job: Merge, result: text.Result) -> Merged | Failure:
    match result:
        case text.Opened(state, shown):
            return Merged(state, shown)
        case text.Merged(bytes(state), str(shown), refused) if len(job.patches) - 1 not in refused:
            return Merged(state, shown)
        case text.Merged(_, _, refused):
            reason, detail = refused[max(refused)]
            return Failure(f"{reason}: {detail}")
        case text.Failure(reason, detail):
            return Failure(f"{reason}: {detail}")
        case _:
            raise AssertionError("a merge was answered by something else")
