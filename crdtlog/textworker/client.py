"""The worker as seen by who needs it: hands jobs over, takes answers, and outlives whatever happens to the process.

Answers come in order, several at a time: when the process dies, hangs or babbles, any job without an answer may have
caused it. From then on jobs are handed over one by one, and the first without an answer is the suspect. It is tried
again as the first job of a fresh process, and only what a fresh process does not survive has failed; all others go on.
A merge of several patches that fails is halved until the patches that fail are known.

The process is started when it is first needed, and ends when its input does. One thread at a time may use a worker.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from typing import Self

from crdtlog.errors import WorkerUnavailable
from crdtlog.kinds.text import Job, MergedText, MergeText, OpenText, Result, TextFailure
from crdtlog.textworker.process import Gone, Process

MEMORY_BYTES = 1 << 30
#: What a job may compute, beside one second for each megabyte of it. An honest one takes a twentieth of that.
CPU_SECONDS = 10.0
#: For a process that neither computes nor answers. Many times longer, because a busy machine is no job's fault; and one
#: that computes slowly there is not ended by it where the system tells how long it has computed.
STALL_SECONDS = 60.0


class TextWorker:
    """A worker process, started when needed. A context manager; `close` ends the process."""

    def __init__(
        self,
        *,
        memory_bytes: int = MEMORY_BYTES,
        cpu_seconds: float = CPU_SECONDS,
        stall_seconds: float = STALL_SECONDS,
        module: str = "crdtlog.textworker",
    ) -> None:
        self._limits = (memory_bytes, cpu_seconds, stall_seconds)
        self._module = module
        self._process: Process | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        with contextlib.suppress(AttributeError):  # the constructor may not have got that far
            self.close()

    def close(self) -> None:
        """End the process. The next job starts another."""
        process, self._process = self._process, None
        if process is not None:
            process.end()

    def run(self, jobs: Sequence[Job]) -> list[Result]:
        """Each job's result, or its `TextFailure`. Raises `WorkerUnavailable` where no worker can be had."""
        results: list[Result] = []
        doubtful = -1
        singly = len(jobs) == 1
        while len(results) < len(jobs):
            process = self._started()
            try:
                process.answer(jobs, results, singly=singly)
            except Gone as gone:
                self.close()
                if process.answered or not singly:
                    singly = True
                    continue
                if gone.failure is None:
                    raise WorkerUnavailable("the text worker was ended from outside") from None
                if gone.certain or doubtful == len(results):
                    results.append(gone.failure)
                doubtful = len(results)
            except BaseException:
                # An answer that nobody waited for would be taken for the next one's.
                self.close()
                raise
        return [self._apart(job, result) for job, result in zip(jobs, results, strict=True)]

    def _started(self) -> Process:
        if self._process is not None and not self._process.is_ours:
            self.close()
        if self._process is None:
            self._process = Process(self._module, *self._limits)
        return self._process

    def _apart(self, job: Job, result: Result) -> Result:
        """For a merge that failed: what is left of it when the patches that fail are told from the others."""
        if (
            not isinstance(job, MergeText)
            or not isinstance(result, TextFailure)
            or result.reason == "unreadable"
        ):
            return result
        if len(job.patches) == 1:
            # The patch, or the document itself?
            (opened,) = self.run([OpenText(job.begun, job.base)])
            if isinstance(opened, TextFailure):
                return TextFailure("unreadable", f"{opened.reason}: {opened.detail}")
            return MergedText(None, None, {0: result}, tried=True)
        middle = len(job.patches) // 2
        (first,) = self.run([replace(job, patches=job.patches[:middle])])
        if not isinstance(first, MergedText):
            return first
        base = job.base if first.state is None else first.state
        (second,) = self.run([replace(job, base=base, patches=job.patches[middle:])])
        if not isinstance(second, MergedText):
            second = MergedText(
                None, None, dict.fromkeys(range(len(job.patches) - middle), _as_failure(second))
            )
        return MergedText(
            first.state if second.state is None else second.state,
            first.text if second.text is None else second.text,
            first.refused | {middle + at: why for at, why in second.refused.items()},
            tried=True,
        )


def _as_failure(result: Result) -> TextFailure:
    if not isinstance(result, TextFailure):
        raise AssertionError(result)
    return result
