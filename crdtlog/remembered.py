"""Merge documents whose answers can be had ahead: what takes long is worked out while no other program waits (R4).

Under the write lock a kind's documents answer what was asked before, and what is quick. For all else they signal
`WorkFirst`: the lock is given back, the work done, and the same asked again. Where something changed in between, that
is another question with another answer.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from crdtlog.kinds import Documents, Edit, Edited, Failure, Merge, Merged, Origin

_Job = TypeVar("_Job", Edit, Merge)
_Answer = TypeVar("_Answer")


class WorkFirst(Exception):
    """What takes too long under the write lock must be worked out before it is taken again: `work` does it."""

    def __init__(self, work: Callable[[], None]) -> None:
        super().__init__()
        self.work = work


class Remembered:
    """The documents of a kind; what is worked out from `remember` to `forget` is known afterwards.

    What is not known and takes longer than `most_ms` gives signals `WorkFirst`.
    """

    def __init__(self, documents: Documents, most_ms: Callable[[], float]) -> None:
        self.documents = documents
        self._most_ms = most_ms
        self._known: dict[object, Any] | None = None

    def remember(self) -> None:
        """Remember answers from now on."""
        if self._known is None:
            self._known = {}

    def forget(self) -> None:
        """Remember no more."""
        self._known = None

    def edit(self, jobs: Sequence[Edit]) -> list[Edited | Failure]:
        """Make each document show a value."""
        return self._answers(jobs, self.documents.edit)

    def merge(self, jobs: Sequence[Merge]) -> list[Merged | Failure]:
        """Put patches into each document. Raises `Malformed` for a patch that no honest device writes."""
        return self._answers(jobs, self.documents.merge)

    def needs(self, patch: bytes, origin: Origin) -> Mapping[bytes, int]:
        """See `Mergeable.needs`."""
        return self.documents.needs(patch, origin)

    def milliseconds(self, job: Edit | Merge) -> float:
        """See `Documents.milliseconds`."""
        return self.documents.milliseconds(job)

    def _answers(
        self, jobs: Sequence[_Job], work: Callable[[Sequence[_Job]], list[_Answer]]
    ) -> list[_Answer]:
        known = self._known
        if known is None:
            self._require_quick(jobs, work)
            return work(jobs)
        questions = [_question(job) for job in jobs]
        asked = {what: job for what, job in zip(questions, jobs, strict=True) if what not in known}
        todo = list(asked.values())
        self._require_quick(todo, work)
        known.update(zip(asked, work(todo), strict=True))
        return [known[what] for what in questions]

    def _require_quick(self, jobs: Sequence[_Job], work: Callable[[Sequence[_Job]], list[_Answer]]) -> None:
        most = self._most_ms()
        if most < math.inf and sum(map(self.milliseconds, jobs)) > most:
            raise WorkFirst(partial(self._ahead, jobs, work))

    def _ahead(self, jobs: Sequence[_Job], work: Callable[[Sequence[_Job]], list[_Answer]]) -> None:
        self.remember()
        self._answers(jobs, work)


def _question(job: Edit | Merge) -> object:
    """A job by what its answer depends on: the order of patches is none of that, and 1 is not 1.0."""
    start = (job.state, job.base.origin, job.base.value, type(job.base.value))
    if isinstance(job, Edit):
        return (*start, job.value, type(job.value), job.origin)
    return (*start, tuple(sorted(job.patches, key=_by_origin)))


def _by_origin(patch: tuple[bytes, Origin]) -> Origin:
    return patch[1]
