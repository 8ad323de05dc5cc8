"""One run of the worker's process: started, fed and listened to at once, and told apart in how it ends.

Nothing here blocks for ever. Both pipes are served by one loop, so that neither side waits for the other to read.
"""

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from crdtlog.errors import Malformed, WorkerUnavailable
from crdtlog.kinds.text import Job, Result, TextFailure
from crdtlog.textworker.wire import HELLO, LENGTH_BYTES, MAX_FRAME_BYTES, pack_job, unpack_answer

_START_SECONDS = 60.0
_END_SECONDS = 5.0
#: How long a process without input may take to end by itself.
_PATIENCE_SECONDS = 1.0
#: Jobs are handed over while less than that waits in front of them.
_AHEAD_BYTES = 1 << 18
_PIECE_BYTES = 1 << 20
_LAST_WORDS_BYTES = 2_048
#: What a person or a service manager sends: no job's fault.
_FROM_OUTSIDE = {-signal.SIGTERM, -signal.SIGHUP, -signal.SIGINT, -signal.SIGQUIT}
#: In /proc/PID/stat behind the program's name: states of a process that computes or waits for the disk, and the place
#: of the time it has computed.
_BUSY = "RD"
_USER_TIME = 10
#: Beside the way to the program's modules, nothing else of the environment reaches the worker.
_KEPT_VARIABLES = ("LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "PYTHONHOME", "TZ")


class Gone(Exception):
    """The process has ended. `failure` is what that says of the job it was at, if anything.

    `certain` is False for an end that the job need not have caused.
    """

    def __init__(self, failure: TextFailure | None, *, certain: bool = True) -> None:
        super().__init__(failure)
        self.failure = failure
        self.certain = certain


class Process:
    """A running worker. `answered` counts what it has done."""

    def __init__(self, module: str, memory_bytes: int, cpu_seconds: float, stall_seconds: float) -> None:
        self.answered = 0
        self._stall_seconds = stall_seconds
        self._inbox = bytearray()
        self._err_open = True
        self._last_words = b""
        self._computed = 0
        self._owner = os.getpid()
        try:
            self._popen = subprocess.Popen(
                [sys.executable, "-P", "-m", module, str(memory_bytes), str(cpu_seconds)],
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                cwd="/",
                env=_environment(),
                # A Ctrl-C in our terminal is not for the worker.
                start_new_session=True,
            )
        except OSError as error:
            raise WorkerUnavailable(f"the text worker cannot be started: {error.strerror}") from error
        pipes = (self._popen.stdin, self._popen.stdout, self._popen.stderr)
        self._in, self._out, self._err = (pipe.fileno() for pipe in pipes if pipe is not None)
        for pipe in (self._in, self._out, self._err):
            os.set_blocking(pipe, False)
            _widen(pipe)
        try:
            self._await_hello()
        except Gone as gone:
            self.end()
            why = gone.failure.detail if gone.failure else "it was ended from outside"
            raise WorkerUnavailable(f"the text worker cannot be started: {why}") from None

    @property
    def is_ours(self) -> bool:
        """Whether this process started it (and was not forked off from the one that did)."""
        return self._owner == os.getpid()

    def answer(self, jobs: Sequence[Job], results: list[Result], *, singly: bool = False) -> None:
        """Have the jobs that have no result yet answered in order, appending to `results`. Raises `Gone`.

        `singly`: each only when the one before it is answered, so that it is known at which job the process ends.
        """
        handed = len(results)
        unsent = bytearray()
        deadline = time.monotonic() + self._stall_seconds
        while len(results) < len(jobs):
            while (
                handed < len(jobs) and len(unsent) < _AHEAD_BYTES and (not singly or handed == len(results))
            ):
                unsent += pack_job(jobs[handed])
                handed += 1
            self._exchange(unsent, deadline)
            if self._take_answers(jobs, results):
                deadline = time.monotonic() + self._stall_seconds
            elif time.monotonic() >= deadline:
                if self._has_computed():
                    # However long that takes on a busy machine: it is the kernel that ends who computes for ever.
                    deadline = time.monotonic() + self._stall_seconds
                    continue
                self._popen.kill()
                seconds = f"{self._stall_seconds:g}"
                raise Gone(
                    TextFailure("hung", f"the worker did not answer within {seconds} seconds"), certain=False
                )

    def _has_computed(self) -> bool:
        """Whether it has computed since this was last asked, or would if it could; False where nobody can tell."""
        try:
            stat = Path(f"/proc/{self._popen.pid}/stat").read_text()
        except OSError:
            return False
        state, *numbers = stat.rsplit(")", 1)[1].split()
        user, system = numbers[_USER_TIME], numbers[_USER_TIME + 1]
        before, self._computed = self._computed, int(user) + int(system)
        return state in _BUSY or self._computed > before

    def end(self) -> None:
        """End it, if it has not ended, and let go of it."""
        for pipe in (self._popen.stdin, self._popen.stdout, self._popen.stderr):
            if pipe is not None:
                pipe.close()
        if self.is_ours:
            try:
                self._popen.wait(_PATIENCE_SECONDS)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait()

    # --- pipes --------------------------------------------------------------------------------------------------------

    def _exchange(self, unsent: bytearray, deadline: float) -> None:
        """Write what can be written and read what can be read, waiting for either until the deadline."""
        poll = select.poll()
        poll.register(self._out, select.POLLIN)
        if self._err_open:
            poll.register(self._err, select.POLLIN)
        if unsent:
            poll.register(self._in, select.POLLOUT)
        ready = {fd for fd, _ in poll.poll(max(0.0, deadline - time.monotonic()) * 1000)}
        if self._err in ready:
            self._hear_last_words()
        if self._in in ready:
            try:
                written = os.write(self._in, unsent[:_PIECE_BYTES])
                del unsent[:written]
            except BrokenPipeError:
                # It may have answered some before it went: read on until its output ends.
                unsent.clear()
        if self._out in ready:
            piece = os.read(self._out, _PIECE_BYTES)
            if not piece:
                raise self._ended()
            self._inbox += piece

    def _take_answers(self, jobs: Sequence[Job], results: list[Result]) -> bool:
        """Append the answers that are here whole; returns whether there were any. Raises `Gone` after the last."""
        before, at = len(results), 0
        try:
            while (end := self._frame_end(at)) <= len(self._inbox):
                try:
                    answer = unpack_answer(self._inbox[at + LENGTH_BYTES : end], jobs[len(results)])
                except (Malformed, IndexError):
                    raise self._babbled() from None
                at = end
                results.append(answer.result)
                self.answered += 1
                if answer.leaving:
                    raise Gone(None)
        finally:
            del self._inbox[:at]
        return len(results) > before

    def _frame_end(self, at: int) -> int:
        """Where the answer ends that begins there, as far as is known."""
        head = self._inbox[at : at + LENGTH_BYTES]
        if len(head) < LENGTH_BYTES:
            return at + LENGTH_BYTES
        length = int.from_bytes(head, "big")
        if length > MAX_FRAME_BYTES:
            raise self._babbled()
        return at + LENGTH_BYTES + length

    def _await_hello(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while len(self._inbox) < len(HELLO) and time.monotonic() < deadline:
            self._exchange(bytearray(), deadline)
        if bytes(self._inbox) != HELLO:
            raise self._babbled()
        self._inbox.clear()

    def _hear_last_words(self) -> None:
        piece = os.read(self._err, _PIECE_BYTES)
        self._err_open = bool(piece)
        self._last_words = (self._last_words + piece)[-_LAST_WORDS_BYTES:]

    # --- the end ------------------------------------------------------------------------------------------------------

    def _babbled(self) -> Gone:
        self._popen.kill()
        return Gone(TextFailure("crashed", "the worker answered what is no answer"))

    def _ended(self) -> Gone:
        """How it ended, once its output has."""
        try:
            status = self._popen.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            status = self._popen.wait()
        with contextlib.suppress(BlockingIOError):
            while self._err_open:
                self._hear_last_words()
        said = [line.strip() for line in self._last_words.decode(errors="replace").splitlines()]
        last = next((line for line in reversed(said) if line and not line.startswith("note:")), "")
        if status in _FROM_OUTSIDE:
            return Gone(None)
        if status == -signal.SIGXCPU:
            return Gone(TextFailure("hung", "it computes without end"))
        if any("memory allocation of" in line or "MemoryError" in line for line in said):
            return Gone(TextFailure("memory", "it takes more memory than the worker has"))
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        return Gone(TextFailure("crashed", f"{how} {last}".strip()), certain=status != -signal.SIGKILL)


def _widen(pipe: int) -> None:
    """Let a pipe hold a whole large text, where the system can: fewer turns from one process to the other."""
    widen = getattr(fcntl, "F_SETPIPE_SZ", None)
    if widen is not None:
        with contextlib.suppress(OSError):
            fcntl.fcntl(pipe, widen, _PIECE_BYTES)


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _KEPT_VARIABLES if name in os.environ}
    root = str(Path(__file__).resolve().parents[2])
    places = [root, *(os.path.abspath(place) for place in sys.path if place)]
    return {**kept, "PYTHONPATH": os.pathsep.join(dict.fromkeys(places)), "PYTHONUTF8": "1"}
