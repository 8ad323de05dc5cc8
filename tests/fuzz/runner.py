"""Many cases of one target, in a process of its own with bounded memory, in which a case that hangs ends everything.

The process writes each case to a file before it tries it, so that the case which killed it is known. Seeds are joined
by cases of which something new came (another refusal, or being accepted): so the search gets past the first check.
"""

import faulthandler
import json
import os
import random
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.fuzz.mutate import Mutator
from tests.fuzz.targets import FAULTY, TARGETS
from tests.fuzz.trial import ACCEPTED, Subject, attempt, place

ROOT = Path(__file__).resolve().parents[2]
#: A case that keeps the processor busy for longer counts as a hang; the slowest honest ones take a hundredth.
HANG_SECONDS = 5
#: So much longer it may wait: for its turn on a busy machine, or for ever, which is a hang too.
_PATIENCE = 20
#: What a target may use beside what the interpreter and its libraries use already.
MEMORY_BYTES = 1 << 30
#: Cases that were kept because something new came of them.
MAX_KEPT = 400


class Finding(NamedTuple):
    """A case that did harm: what came out, and where."""

    target: str
    case: bytes
    what: str

    def __str__(self) -> str:
        shown = (
            self.case.hex()
            if len(self.case) <= 2_000
            else f"{self.case[:2_000].hex()}… ({len(self.case):,} bytes)"
        )
        return (
            f"{self.target}: {self.what}\n  again: python -m tests.fuzz --target {self.target} --case {shown}"
        )


class Report(NamedTuple):
    """How many cases were tried, how many of them accepted, how many different things came of them, in what time."""

    target: str
    cases: int
    accepted: int
    outcomes: int
    seconds: float
    findings: list[Finding]


def search(
    target: str,
    *,
    seed: int = 0,
    cases: int | None = None,
    seconds: float | None = None,
    hang_seconds: float = HANG_SECONDS,
) -> Report:
    """Try so many cases of a target, or for so long, in another process."""
    with tempfile.TemporaryDirectory(prefix="crdtlog-fuzz-") as directory:
        job = {"target": target, "seed": seed, "cases": cases, "seconds": seconds, "hang": hang_seconds}
        job["directory"] = directory
        started = time.monotonic()
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz", "--job", json.dumps(job)],
            cwd=ROOT,
            env={**os.environ, "CRDTLOG_HOME": directory},
            capture_output=True,
            check=False,
        )
        if done.returncode == 0:
            said = json.loads(done.stdout)
            findings = [Finding(target, bytes.fromhex(case), what) for case, what in said.pop("findings")]
            return Report(target, **said, findings=findings)
        path = Path(directory) / "case"
        case = path.read_bytes() if path.exists() else b""
        hung = done.returncode in (-signal.SIGPROF, -signal.SIGALRM)
        why = (
            f"took more than {hang_seconds:g} seconds, or waited for ever"
            if hung
            else f"ended the process ({done.returncode})"
        )
        told = done.stderr.decode(errors="replace")[-4_000:]
        return Report(target, 0, 0, 0, time.monotonic() - started, [Finding(target, case, f"{why}\n{told}")])


# --- within the process -------------------------------------------------------------------------------------------


def work(job: dict[str, Any]) -> dict[str, Any]:
    """Do what `search` asks for; returns the fields of its report."""
    subject = (TARGETS | FAULTY)[job["target"]].make()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _bound_memory()
    for alarm in (signal.SIGPROF, signal.SIGALRM):
        signal.signal(alarm, signal.SIG_DFL)
        faulthandler.register(alarm, chain=True)  # first says where it hangs, then dies of it
    started = time.monotonic()
    findings: dict[str, Finding] = {}
    outcomes: set[str] = set()
    kept = list(subject.seeds)
    tried = accepted = 0
    with open(Path(job["directory"]) / "case", "wb", buffering=0) as file:
        for case in _cases(subject, kept, job["seed"]):
            if tried == job["cases"] or (job["seconds"] and time.monotonic() - started > job["seconds"]):
                break
            tried += 1
            _remember(file.fileno(), case)
            _watch(job["hang"])
            try:
                outcome = attempt(subject, case)
                accepted += outcome == ACCEPTED
            except BaseException as error:  # a panic of a library in Rust is no Exception
                if isinstance(error, KeyboardInterrupt):
                    raise
                outcome = place(error)
                if outcome not in findings or len(case) < len(findings[outcome].case):
                    findings[outcome] = Finding(job["target"], case, f"{outcome}: {str(error)[:300]}")
            _watch(0)
            if outcome not in outcomes or (outcome == ACCEPTED and accepted & (accepted - 1) == 0):
                outcomes.add(outcome)
                if len(kept) < len(subject.seeds) + MAX_KEPT:
                    kept.append(case)
    return {
        "cases": tried,
        "accepted": accepted,
        "outcomes": len(outcomes),
        "seconds": time.monotonic() - started,
        "findings": [(found.case.hex(), found.what) for found in findings.values()],
    }


def _cases(subject: Subject, kept: list[bytes], seed: int) -> Iterator[bytes]:
    """What did harm before, the seeds themselves, and then cases without end. `kept` may grow meanwhile."""
    yield from subject.known
    yield from subject.seeds
    choose = random.Random(seed)
    mutator = Mutator(choose, subject.form, subject.words)
    while True:
        yield mutator.case(choose.choice(kept), choose.choice(kept))


def _watch(seconds: float) -> None:
    """End the process unless this is called again in time; 0: no longer."""
    signal.setitimer(signal.ITIMER_PROF, seconds)
    signal.setitimer(signal.ITIMER_REAL, seconds * _PATIENCE)


def _remember(descriptor: int, case: bytes) -> None:
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, case, 0)


def _bound_memory() -> None:
    statm = Path("/proc/self/statm")
    if not statm.exists():  # no Linux: what is used already cannot be told
        return
    used = int(statm.read_text().split()[0]) * resource.getpagesize()
    _, hard = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, hard))
