"""The worker may die of what it is given; whoever asked it lives, learns which job it was, and has all other results.

Poison (see poison.py) is tried twice: on the worker as it is, which refuses it before the library sees it, and on one
without its reader, in which the library really panics, crashes, loops or runs out of memory.
"""

import os
import random
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from crdtlog.errors import WorkerUnavailable
from crdtlog.kinds import yjs
from crdtlog.kinds.text import (
    EditedText,
    EditText,
    Job,
    MergedText,
    MergeText,
    OpenedText,
    OpenText,
    Result,
    TextBase,
    TextFailure,
)
from crdtlog.kinds.textdoc import Texts
from crdtlog.textworker.client import TextWorker
from tests.crdtlog import poison

BEGUN = (b"b" * 24, 7)
A, B, C = b"A" * 24, b"B" * 24, b"C" * 24
UNGUARDED = "tests.crdtlog.unguarded_worker"
POISONS = {p.name: p for p in poison.poisons()}

# What a process is doing, holds and has open is asked of the system, and others tell it otherwise, if at all. What the
# worker survives is tested everywhere.
linux = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")


@pytest.fixture(scope="module")
def worker() -> Iterator[TextWorker]:
    """The worker as it is, running."""
    with TextWorker() as worker:
        worker.run([OpenText(BEGUN, "")])
        yield worker


@pytest.fixture
def unguarded() -> Iterator[TextWorker]:
    """A worker that lets everything through to the library.

    A new one for each test: some poison damages memory without a sign, and what hurts next depends on it.
    """
    with TextWorker(module=UNGUARDED, cpu_seconds=1.0, memory_bytes=256 << 20) as worker:
        yield worker


def pid(worker: TextWorker) -> int:
    """The worker's process."""
    assert worker._process is not None
    return worker._process._popen.pid


def is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


def patch_of(base: TextBase, writer: bytes, value: str) -> tuple[bytes, bytes]:
    return writer, Texts().edit(BEGUN, base, writer, value)[0]


GOOD = MergeText(
    BEGUN, "one two", [patch_of("one two", A, "one and two"), patch_of("one two", B, "one two three")]
)


def is_good(result: Result) -> bool:
    return isinstance(result, MergedText) and result.text == "one and two three" and not result.refused


def only_refusal(result: Result) -> TextFailure:
    assert isinstance(result, MergedText), result
    assert (result.state, result.text) == (None, None)
    assert list(result.refused) == [0]
    return result.refused[0]


# --- ordinary work ----------------------------------------------------------------------------------------------------


def test_what_it_answers(worker: TextWorker) -> None:
    opened, edited, merged = worker.run(
        [OpenText(BEGUN, "one two"), EditText(BEGUN, "one two", A, "one \0\U0001f600 two"), GOOD]
    )

    assert isinstance(opened, OpenedText)
    assert opened.text == "one two"
    assert isinstance(edited, EditedText)
    assert is_good(merged)
    assert worker.run([OpenText(BEGUN, edited.state)]) == [OpenedText(edited.state, "one \0\U0001f600 two")]
    assert worker.run([]) == []


def test_a_merge_names_what_it_refused(worker: TextWorker) -> None:
    (result,) = worker.run(
        [MergeText(BEGUN, "one two", [*GOOD.patches, (C, b"junk"), (C, GOOD.patches[0][1])])]
    )

    assert isinstance(result, MergedText)
    assert result.text == "one and two three"
    assert {at: why.reason for at, why in result.refused.items()} == {2: "malformed", 3: "missing"}


def test_thousands_of_jobs_in_one_batch(worker: TextWorker) -> None:
    edits: list[Job] = [EditText((b"b" * 24, n), f"text {n}", A, f"a text {n}") for n in range(3_000)]
    results = worker.run(edits)
    merges = worker.run(
        [
            MergeText((b"b" * 24, n), f"text {n}", [(A, result.patch)])
            for n, result in enumerate(results)
            if isinstance(result, EditedText)
        ]
    )

    assert [result.text for result in merges if isinstance(result, MergedText)] == [
        f"a text {n}" for n in range(3_000)
    ]


def test_thousands_of_patches_to_one_text(worker: TextWorker) -> None:
    texts = Texts()
    value, state = "", b"\0\0"
    patches = []
    for n in range(1_000):
        value += f"{n} "
        patch, state = texts.edit(BEGUN, state, A, value)
        patches.append((A, patch))

    (result,) = worker.run([MergeText(BEGUN, "", patches)])

    assert isinstance(result, MergedText)
    assert result.text == value


def test_large_texts_fill_both_pipes_at_once(worker: TextWorker) -> None:
    large = "".join(f"line {n} \U0001f600\n" for n in range(60_000))

    results = worker.run([OpenText((b"b" * 24, n), large) for n in range(20)])

    assert all(isinstance(result, OpenedText) and result.text == large for result in results)


def test_a_run_of_edits_is_the_same_whether_kept_decoded_or_not(worker: TextWorker) -> None:
    value, state = "start", worker.run([OpenText(BEGUN, "start")])
    kept: TextBase = "start"
    fresh: TextBase = "start"
    for n in range(30):
        value = value[: n % 5] + str(n) + value[n % 5 :]
        (by_worker,) = worker.run([EditText(BEGUN, kept, A, value)])
        assert isinstance(by_worker, EditedText)
        patch, fresh = Texts().edit(BEGUN, fresh, A, value)
        assert by_worker.patch == patch
        kept = by_worker.state

    assert state
    assert worker.run([OpenText(BEGUN, kept)])[0].text == value  # type: ignore[union-attr]


# --- poison -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", POISONS)
def test_poison_is_refused_before_the_library_sees_it(worker: TextWorker, name: str) -> None:
    spoiled = POISONS[name]
    before = pid(worker)

    first, result, last = worker.run([GOOD, MergeText(BEGUN, spoiled.base, [(A, spoiled.patch)]), GOOD])

    assert is_good(first) and is_good(last)
    assert only_refusal(result).reason == "malformed"
    assert pid(worker) == before


@pytest.mark.parametrize("name", POISONS)
def test_poison_that_gets_through_fails_alone(unguarded: TextWorker, name: str) -> None:
    spoiled = POISONS[name]

    first, result, last = unguarded.run([GOOD, MergeText(BEGUN, spoiled.base, [(A, spoiled.patch)]), GOOD])

    assert is_good(first) and is_good(last)
    assert only_refusal(result).reason in spoiled.reasons


def test_poison_of_every_kind_in_one_batch(unguarded: TextWorker) -> None:
    chosen = [p for p in POISONS.values() if "hung" not in p.reasons]  # each takes seconds
    jobs: list[Job] = []
    for spoiled in chosen:
        jobs += [GOOD, MergeText(BEGUN, spoiled.base, [(A, spoiled.patch)])]

    results = unguarded.run(jobs)

    assert all(is_good(result) for result in results[::2])
    for spoiled, result in zip(chosen, results[1::2], strict=True):
        assert only_refusal(result).reason in spoiled.reasons


def test_poison_among_the_patches_of_one_text_is_told_from_the_others(unguarded: TextWorker) -> None:
    base = b"\0\0"
    panics = next(p for p in POISONS.values() if p.base == base and p.reasons == ["crashed"])
    _, state = Texts().edit(BEGUN, base, A, "one ")
    patches = [
        (C, panics.patch),
        patch_of(base, A, "one "),
        (C, panics.patch),
        patch_of(state, B, "one two"),
        (C, panics.patch),
    ]

    (result,) = unguarded.run([MergeText(BEGUN, base, patches)])

    assert isinstance(result, MergedText)
    assert result.text == "one two"
    assert {at: why.reason for at, why in result.refused.items()} == dict.fromkeys((0, 2, 4), "crashed")


def test_a_spoiled_document_is_not_blamed_on_a_patch(unguarded: TextWorker) -> None:
    first, second, third = unguarded.run(
        [MergeText(BEGUN, b"junk", GOOD.patches), OpenText(BEGUN, poison.nested_arrays(26_500)), GOOD]
    )

    assert isinstance(first, TextFailure)
    assert first.reason == "unreadable"
    assert isinstance(second, TextFailure)
    assert second.reason == "crashed"
    assert is_good(third)


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        # What the library was never seen to do, done by the worker without it (see unguarded_worker.py).
        (b"kill", "crashed"),
        (b"babble", "crashed"),
        (b"giant answer", "crashed"),
        (b"other answer", "crashed"),
        # What it does, once more and surely.
        (b"compute for ever", "hung"),
        (b"memory", "memory"),
    ],
)
def test_whatever_the_worker_does_only_one_job_fails(unguarded: TextWorker, told: bytes, reason: str) -> None:
    first, result, last = unguarded.run([GOOD, MergeText(BEGUN, "one", [(A, told)]), GOOD])

    assert is_good(first) and is_good(last)
    assert only_refusal(result).reason == reason


@pytest.mark.parametrize("told", [b"sleep for ever", b"flood"])
def test_a_worker_that_neither_answers_nor_ends_is_ended(told: bytes) -> None:
    """The one does not compute, so that the kernel does not end it. Nor was the library ever seen to do that."""
    with TextWorker(module=UNGUARDED, cpu_seconds=1.0, stall_seconds=2.0) as worker:
        first, result, last = worker.run([GOOD, MergeText(BEGUN, "one", [(A, told)]), GOOD])

    assert is_good(first) and is_good(last)
    assert only_refusal(result).reason == "hung"


@linux
def test_who_computes_is_not_ended_for_taking_long() -> None:
    """On a busy machine an honest job may take any time."""
    with TextWorker(module=UNGUARDED, stall_seconds=0.2) as worker:
        assert is_good(worker.run([GOOD])[0])
        before = pid(worker)
        (result,) = worker.run([MergeText(BEGUN, "one", [(A, b"compute for a second")])])

        assert only_refusal(result).reason == "malformed"
        assert pid(worker) == before


def test_what_the_reader_lets_through_never_hurts(worker: TextWorker) -> None:
    """Well formed patches in senseless places: refused or merged, and then the text can be edited or is given up."""
    choose = random.Random(3)
    begin = "hello \U0001f600 wörld \U0001f601\U0001f602 end"
    clocks = {yjs.start_client(BEGUN): yjs.utf16_length(begin)}
    jobs: list[Job] = []
    for _ in range(1_500):
        writer = choose.choice([A, B])
        jobs.append(
            MergeText(
                BEGUN,
                begin,
                [(writer, poison.plausible_patch(choose, yjs.edit_client(BEGUN, writer), clocks))],
            )
        )
    before = pid(worker)
    results = worker.run(jobs)
    states = [
        result.state for result in results if isinstance(result, MergedText) and result.state is not None
    ]
    after = worker.run([EditText(BEGUN, state, C, "something else at the end") for state in states])

    assert pid(worker) == before
    assert len(states) > 300
    refused = [only_refusal(r).reason for r in results if isinstance(r, MergedText) and r.state is None]
    assert set(refused) <= {"malformed"}
    assert len(states) + len(refused) == len(jobs)
    assert {r.reason for r in after if isinstance(r, TextFailure)} <= {"unreadable"}


def test_random_updates_never_hurt(worker: TextWorker) -> None:
    choose = random.Random(4)
    jobs = [MergeText(BEGUN, "hello", [(A, poison.random_update(choose))]) for _ in range(1_000)]
    before = pid(worker)

    results = worker.run(jobs)

    assert pid(worker) == before
    refused = [
        only_refusal(result).reason for result in results if isinstance(result, MergedText) and result.refused
    ]
    assert len(refused) > 900
    assert set(refused) == {"malformed", "missing"}


# --- the process ------------------------------------------------------------------------------------------------------


def test_it_starts_when_needed_and_ends_when_closed() -> None:
    worker = TextWorker()
    assert worker._process is None
    worker.close()
    assert is_good(worker.run([GOOD])[0])
    first = pid(worker)

    worker.close()

    assert not is_running(first)
    assert is_good(worker.run([GOOD])[0])
    second = pid(worker)
    del worker
    assert not is_running(second)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
def test_killed_from_outside_it_is_started_again(how: signal.Signals) -> None:
    with TextWorker() as worker:
        worker.run([GOOD])
        first = pid(worker)
        os.kill(first, how)

        assert is_good(worker.run([GOOD])[0])
        assert pid(worker) != first


def test_an_end_from_outside_is_no_verdict_on_a_job(unguarded: TextWorker) -> None:
    """A service manager that stops everything at once must not make a text's patch look bad."""
    with pytest.raises(WorkerUnavailable):
        unguarded.run([MergeText(BEGUN, "one", [(A, b"terminate")])])

    assert is_good(unguarded.run([GOOD])[0])


def test_a_worker_that_cannot_start_says_why() -> None:
    with (
        TextWorker(module="crdtlog.no_such_module") as worker,
        pytest.raises(WorkerUnavailable, match="no_such_module"),
    ):
        worker.run([GOOD])


def test_an_interrupted_caller_does_not_get_old_answers() -> None:
    """After Ctrl-C in the middle of a batch, the next batch must not be answered with what is left of it."""
    with TextWorker(module=UNGUARDED) as worker:
        previous = signal.signal(signal.SIGALRM, lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        try:
            signal.setitimer(signal.ITIMER_REAL, 1.0)
            with pytest.raises(KeyboardInterrupt):
                worker.run([MergeText(BEGUN, "one", [(A, b"sleep for ever")])])
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, previous)

        assert worker.run([OpenText(BEGUN, "fresh")])[0].text == "fresh"  # type: ignore[union-attr]


@linux
def test_a_forked_copy_of_the_program_starts_its_own(worker: TextWorker) -> None:
    worker.run([GOOD])
    mine = pid(worker)
    child = os.fork()
    if not child:
        status = 1
        try:
            good = is_good(worker.run([GOOD])[0])
            status = 0 if good and pid(worker) != mine else 2
            worker.close()
        finally:
            os._exit(status)

    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert is_good(worker.run([GOOD])[0])
    assert pid(worker) == mine


@linux
def test_it_ends_with_the_program_that_started_it() -> None:
    read, write = os.pipe()
    child = os.fork()
    if not child:
        worker = TextWorker()
        worker.run([GOOD])
        os.write(write, str(pid(worker)).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(child, 0)
    orphan = int(os.read(read, 100))

    deadline = time.monotonic() + 20
    while _state(orphan) not in ("Z", "") and time.monotonic() < deadline:
        time.sleep(0.02)

    assert _state(orphan) in ("Z", "")


@linux
def test_it_has_only_what_it_needs(worker: TextWorker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET_TOKEN", "hidden")
    with TextWorker(memory_bytes=1 << 30) as fresh, open(__file__) as inherited:
        os.set_inheritable(inherited.fileno(), True)
        fresh.run([GOOD])
        process = Path(f"/proc/{pid(fresh)}")
        environment = process.joinpath("environ").read_bytes()
        limits = {
            line[:25].strip(): line[25:].split()
            for line in process.joinpath("limits").read_text().splitlines()
        }
        files = [os.readlink(link) for link in process.joinpath("fd").iterdir()]

        assert b"SECRET_TOKEN" not in environment
        assert b"CRDTLOG_HOME" not in environment
        assert limits["Max address space"][0] == str(1 << 30)
        assert limits["Max core file size"][0] == "0"
        assert limits["Max file size"][0] == "0"
        assert limits["Max open files"][0] == "16"
        assert limits["Max cpu time"][0] != "unlimited"
        assert len(files) == 3 and all(name.startswith("pipe:") for name in files)
        assert os.readlink(process / "cwd") == "/"
        assert os.getsid(pid(fresh)) == pid(fresh)


@linux
def test_its_memory_does_not_grow_with_its_work(worker: TextWorker) -> None:
    def resident() -> int:
        return int(Path(f"/proc/{pid(worker)}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def work(times: int) -> None:
        for n in range(times):
            old, new = f"{n} " * 500, f"{n} " * 250 + "new " + f"{n} " * 250
            worker.run([EditText(BEGUN, old, A, new), MergeText(BEGUN, old, [patch_of(old, A, new)])])

    work(400)
    before = resident()
    work(800)

    assert resident() < before + (8 << 20)


def _state(process: int) -> str:
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return ""
