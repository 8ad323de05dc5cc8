"""Recovery words on the command line: shown once and to people alone, kept nowhere, and typed without being seen."""

import io
import os
import pty
import re
import select
import subprocess
import sys
import termios
from pathlib import Path

import pytest

import crdtlog as engine
from crdtlog.errors import DiskFull, Usage
from crdtlog.recovery import RecoveryKey, read_words
from peers.cli.recovery import ask_words
from tests.peers.cli_world import NOTES, ROOT, TIMEOUT_S, Crdtlog, finished, made, program

KEY = RecoveryKey(bytes(range(32)))
SHOWN = re.compile(r"(?:^ +1\. .*\n)(?:^ +\d+\. .*\n){5}", re.MULTILINE)


def shown_in(said: str) -> RecoveryKey:
    """The key whose words were shown, copied from the screen as they stand."""
    (words,) = SHOWN.findall(said)
    return read_words(words)


def public_half(file: Path) -> bytes | None:
    with engine.open(file, create=False) as database:
        return database.recovery


# --- shown --------------------------------------------------------------------------------------------------------


def test_init_shows_the_words_of_the_databases_key(notes: Path, crdtlog: Crdtlog) -> None:
    done = crdtlog("init", notes)

    assert shown_in(done.err).public == public_half(notes)
    assert "make a device\nan admin" in done.err and "kept nowhere" in done.err
    assert "tracked" in done.out and not SHOWN.search(done.out)


def test_each_database_has_its_own(tmp_path: Path, crdtlog: Crdtlog) -> None:
    first, second = (crdtlog("init", tmp_path / name).err for name in ("a.db", "b.db"))

    assert shown_in(first) != shown_in(second)


def test_a_second_init_says_that_they_cannot_be_shown_again(notes: Path, crdtlog: Crdtlog) -> None:
    key = shown_in(crdtlog("init", notes).err)

    for more in ([], ["--no-recovery"]):
        again = crdtlog("init", notes, *more)
        assert not SHOWN.search(again.out + again.err)
        assert "cannot be shown again" in again.err and f"crdtlog pair {notes}" in again.err

    assert public_half(notes) == key.public


def test_without_a_recovery_key_none_is_shown_or_told_of_later(notes: Path, crdtlog: Crdtlog) -> None:
    done = crdtlog("init", notes, "--no-recovery")

    assert not SHOWN.search(done.err) and "no recovery key" in done.err
    assert public_half(notes) is None
    again = crdtlog("init", notes)
    assert not SHOWN.search(again.err) and "ecovery words" not in again.err


def test_words_are_not_shown_for_a_key_that_is_not_the_databases(
    notes: Path, crdtlog: Crdtlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program made the file a database between our look at it and our turn."""
    from peers.cli import init

    survey = init.survey

    def and_another_is_faster(file: Path) -> init.Survey:
        found = survey(file)
        engine.open(file, recovery=KEY.public).close()
        return found

    monkeypatch.setattr(init, "survey", and_another_is_faster)

    done = crdtlog("init", notes)

    assert not SHOWN.search(done.err) and "cannot be shown again" in done.err
    assert public_half(notes) == KEY.public


def test_words_are_shown_before_what_can_be_interrupted(
    notes: Path, crdtlog: Crdtlog, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: engine.Database, *_: object, **__: object) -> bool:
        raise DiskFull("the disk is full", "Free some space.")

    monkeypatch.setattr(engine.Database, "track", full)

    done = crdtlog("init", notes, fails=75)

    assert shown_in(done.err).public == public_half(notes)
    assert done.err.index(" 24. ") < done.err.index("disk is full")


def test_a_refused_init_shows_none(tmp_path: Path, crdtlog: Crdtlog) -> None:
    file = made(tmp_path / "keyless.db", "CREATE TABLE a (x)")

    assert "ecovery key of" not in crdtlog("init", file, fails=1).err


# --- kept nowhere -------------------------------------------------------------------------------------------------


def test_words_and_seed_are_in_no_file_and_in_no_output_but_the_screen(
    tmp_path: Path, crdtlog: Crdtlog
) -> None:
    file = made(tmp_path / "notes.db", NOTES)
    done = finished(program("init", file, "--json"))
    key = shown_in(done.err)
    home = Path(os.environ["CRDTLOG_HOME"])

    outputs = [done.out]
    for command in ("status", "devices", "log", "doctor", "verify"):
        for more in ([], ["--json"]):
            said = crdtlog(command, file, *more)
            outputs += said.out, said.err
    kept = b"".join(
        path.read_bytes() for place in (tmp_path, home) for path in place.rglob("*") if path.is_file()
    )
    kept += "\n".join(outputs).encode()

    assert key.public in kept, "the search finds what is there"
    assert key._seed not in kept and key._seed.hex().encode() not in kept
    assert not re.search("[^a-z]+".join(key.words[:3]).encode(), kept)


def test_where_words_could_be_shown_nowhere_no_database_is_made(notes: Path) -> None:
    """A closed standard error must not send them to standard output, which is data."""
    command = f'exec "{sys.executable}" -m peers.cli init "{notes}" --json 2>&-'
    before = notes.read_bytes()

    def run(text: str) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(["bash", "-c", text], env=environment, stdout=subprocess.PIPE, text=True)

    refused = run(command)
    assert (refused.returncode, refused.stdout) == (2, "")
    assert notes.read_bytes() == before

    without = run(f"{command} --no-recovery")
    assert without.returncode == 0 and without.stdout.count("\n") == 1


# --- asked for ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "given",
    [
        " ".join(KEY.words) + "\n",
        " ".join(KEY.words),
        "\n".join(f"{n}. {word}" for n, word in enumerate(KEY.words, 1)),
        "\n".join(KEY.words).replace("liar", "liar\n\n") + "\nsomething for another program\n",
    ],
    ids=["a line", "no line's end", "numbered lines", "empty lines and more"],
)
def test_words_come_from_standard_input(
    given: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(given))

    assert ask_words("Recovery words:") == KEY

    said = capsys.readouterr()
    assert said.out == "" and said.err == "Recovery words:\n"


@pytest.mark.parametrize("given", [b"", b"abandon\n", b"\xff\xfe" * 24, b"x" * 1_000_000, b"a\n" * 30])
def test_what_are_no_words_is_refused(given: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(given), encoding="utf-8"))

    with pytest.raises(Usage):
        ask_words("Recovery words:")


def test_a_closed_standard_input_has_no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)

    with pytest.raises(Usage, match="not 0"):
        ask_words("Recovery words:")


ASK = """
from peers.cli.recovery import ask_words
try:
    print("public", ask_words("Recovery words:").public.hex())
except Exception as error:
    print("refused", error)
"""


def read_until(screen: int, wanted: bytes) -> bytes:
    """What a terminal shows until that has come."""
    shown = b""
    while wanted not in shown:
        assert select.select([screen], [], [], TIMEOUT_S)[0], shown
        shown += os.read(screen, 4096)
    return shown


@pytest.mark.parametrize(
    ("typed", "answer"),
    [
        (" ".join(KEY.words) + "\n", f"public {KEY.public.hex()}"),
        ("\n".join(KEY.words) + "\nrm -rf .\n", f"public {KEY.public.hex()}"),
        ("abandon amount\n\n", "refused A recovery key has 24 words, and not 2."),
    ],
    ids=["one line", "pasted in lines, and more", "an empty line ends"],
)
def test_what_is_typed_on_a_terminal_is_not_seen(typed: str, answer: str) -> None:
    ours, theirs = pty.openpty()
    before = termios.tcgetattr(theirs)
    process = subprocess.Popen(
        [sys.executable, "-c", ASK],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
    )
    try:
        screen = read_until(ours, b"Recovery words:")  # from here on nothing is shown
        os.write(ours, typed.encode())
        screen += read_until(ours, answer.encode())
        assert process.wait(timeout=60) == 0

        assert b"amount" not in screen and b"rm" not in screen
        assert termios.tcgetattr(theirs) == before
        os.set_blocking(theirs, False)
        with pytest.raises(BlockingIOError):  # nothing is left for the shell
            os.read(theirs, 1)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)
