"""The worker's own process: reads jobs from its standard input and answers them on its standard output, in order.

Answers are handed over when nothing more is there to be done, or when some have gathered: two processes that take turns
for every job would wait for one another most of the time.

Before it reads the first byte it gives up what no job needs: memory beyond a limit, files, core dumps. Each job gets
its own allowance of processor time; who exceeds it is killed by the kernel. After a panic of the library its memory may
be damaged: the worker answers that job and leaves.
"""

import contextlib
import os
import resource
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from crdtlog.errors import Malformed, TooLarge
from crdtlog.kinds.text import EditText, Job, OpenText, Reason
from crdtlog.textworker.wire import HELLO, LENGTH_BYTES, MAX_FRAME_BYTES, frame, unpack_job

BYTES_PER_CPU_SECOND = 1 << 20
MAX_FILES = 16
_PIECE_BYTES = 1 << 16
#: Answers are handed over at the latest when so many bytes have gathered, or so long after the last.
_ANSWERS_BYTES = 1 << 16
_ANSWERS_SECONDS = 0.05

Work = Callable[[Job], list[Any]]
"""Does a job and returns the answer's kind and parts."""


def main(memory_bytes: int, cpu_seconds: float, work: Work | None = None) -> None:
    """Be a worker until standard input ends or memory may be damaged."""
    # Ctrl-C in a terminal is for the program that started this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    work = work or texts()
    limit(memory_bytes)
    os.write(1, HELLO)
    jobs, answers, handed = _Input(), bytearray(), time.monotonic()
    while (body := jobs.next()) is not None:
        allow_cpu(cpu_seconds + len(body) / BYTES_PER_CPU_SECOND)
        (kind, *parts), leaving = _answer(work, body)
        answers += frame([kind, leaving, *parts])
        now = time.monotonic()
        if leaving or len(answers) >= _ANSWERS_BYTES or now > handed + _ANSWERS_SECONDS or not jobs.has_next:
            _write(answers)
            answers, handed = bytearray(), now
        if leaving:
            return


def texts() -> Work:
    """What the worker is for. Loads pycrdt."""
    from crdtlog.kinds.textdoc import Texts, Unreadable

    kept = Texts()

    def work(job: Job) -> list[Any]:
        try:
            if isinstance(job, OpenText):
                return ["opened", *kept.open(job.begun, job.base)]
            if isinstance(job, EditText):
                return ["edited", *kept.edit(job.begun, job.base, job.writer, job.value, job.splices)]
            state, text, refused = kept.merge(job.begun, job.base, job.patches)
            return ["merged", state, text, [[at, *why] for at, why in refused.items()]]
        except Unreadable as error:
            return ["failure", "unreadable", str(error)]

    return work


def limit(memory_bytes: int) -> None:
    """Give up for good what no job needs."""
    for which, most in (
        (resource.RLIMIT_AS, memory_bytes),
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, 0),
        (resource.RLIMIT_NOFILE, MAX_FILES),
    ):
        _, hard = resource.getrlimit(which)
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        # Some systems refuse to limit the address space.
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(which, (most, most))


def allow_cpu(seconds: float) -> None:
    """Let the kernel kill this process if it computes longer than that from now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    soft = int(used.ru_utime + used.ru_stime + seconds) + 1
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_CPU, (soft if hard < 0 else min(soft, hard), hard))


def _answer(work: Work, body: bytearray) -> tuple[list[Any], bool]:
    """The answer to a job, and whether to leave after it."""
    reason: Reason
    try:
        job = unpack_job(body)
        body.clear()  # a large text is in memory often enough
        return work(job), False
    except TooLarge as error:
        return ["failure", "too large", str(error)], False
    except (Malformed, ValueError, RuntimeError) as error:  # the last two are how pycrdt refuses bytes
        return ["failure", "malformed", str(error)], False
    except MemoryError:
        reason, detail = "memory", "it takes more memory than the worker has"
    except BaseException as error:  # a panic of the library is no Exception
        reason, detail = "crashed", f"{type(error).__name__}: {error}"
    return ["failure", reason, detail], True


# --- pipes ------------------------------------------------------------------------------------------------------------


class _Input:
    """Frames from the standard input."""

    def __init__(self) -> None:
        self._read = bytearray()

    def next(self) -> bytearray | None:
        """The next frame's body, or None where the input ends or is no frame."""
        while not self.has_next:
            if self._length > MAX_FRAME_BYTES or not (piece := os.read(0, _PIECE_BYTES)):
                return None
            self._read += piece
        body, end = self._read, LENGTH_BYTES + self._length
        self._read = body[end:]  # less than a piece: what is copied is not the large text
        del body[end:], body[:LENGTH_BYTES]
        return body

    @property
    def has_next(self) -> bool:
        """Whether a whole frame is there already."""
        return len(self._read) >= LENGTH_BYTES + self._length

    @property
    def _length(self) -> int:
        return int.from_bytes(self._read[:LENGTH_BYTES], "big")


def _write(data: bytes | bytearray) -> None:
    left = memoryview(data)
    while left:
        left = left[os.write(1, left) :]


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]))
    # Nothing is left to tidy up, and freeing every document one by one takes long.
    os._exit(0)
