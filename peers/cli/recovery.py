"""Recovery words on a terminal: shown once, when a database is made, and asked for when they are needed.

Knows terminals and paper. Must not know databases. Words go to standard error, never to the data on standard output,
which scripts log, and come from standard input, never from arguments, which other users of the machine can see.
"""

import io
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from peers.cli.output import is_terminal, say, visible

if TYPE_CHECKING:
    from crdtlog import RecoveryKey

_WORDS_A_LINE = 4
_LONGEST_WORD = 8
_WHAT_FOR = """
They are for the day when no admin is left, because devices were lost or admins removed one another: they make a device
an admin. Write them on paper now, as they are shown this once and kept nowhere; whoever has them can take the database
over.
"""


def require_somewhere_to_show() -> None:
    """Before a key is made: refuse where its words could be shown nowhere. Raises `Usage`."""
    from crdtlog.errors import Usage

    if sys.stderr is None:
        raise Usage(
            "standard error is closed, so the recovery words could be shown nowhere",
            "Leave it open, or make a database without a recovery key: --no-recovery",
        )


def show_words(file: Path, key: "RecoveryKey") -> None:
    """Show the words of a database's key, this once, and what they are for."""
    say(f"The recovery key of {visible(file)}, as {len(key.words)} words:\n")
    cells = [f"{number:4}. {word:{_LONGEST_WORD}}" for number, word in enumerate(key.words, 1)]
    for first in range(0, len(cells), _WORDS_A_LINE):
        say("".join(cells[first : first + _WORDS_A_LINE]).rstrip())
    say(_WHAT_FOR)


def say_shown_before(file: Path) -> None:
    """Say that a database has a recovery key whose words cannot be shown again, and what to do without them."""
    name = visible(file)
    say(
        f"The recovery words of {name} were shown when it was made; they are kept nowhere, and cannot be shown again."
    )
    say(f"  If nobody has them, be sure that there is a second admin: crdtlog pair {name}")
    say(
        "  Or, while no other device shares the rows, copy them into a new file, and run crdtlog init with that."
    )


def ask_words(prompt: str) -> "RecoveryKey":
    """The key whose words somebody types, hidden on a terminal, or gives on standard input; on one line or several.

    Reading ends with the 24th word, with the input, or on a terminal with an empty line. Raises `Usage` for what is no
    recovery key.
    """
    from crdtlog.recovery import MAX_TYPED_CHARACTERS, WORDS, read_words, split_words

    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    typed = ""
    with _hidden(sys.stdin) as hidden:
        say(prompt)
        while len(typed) <= MAX_TYPED_CHARACTERS and len(split_words(typed)) < WORDS:
            line = sys.stdin.readline(MAX_TYPED_CHARACTERS + 1) if sys.stdin is not None else ""
            if not line or (hidden and typed and not line.strip()):
                break
            typed += line
    return read_words(typed)


@contextmanager
def _hidden(stream: TextIO) -> Iterator[bool]:
    """Keep a terminal from showing what is typed; whether it is one.

    `getpass` would do so for a single line: of words pasted in several, the rest would go to the shell and its history.
    What was typed beyond is thrown away for the same reason.
    """
    if not is_terminal(stream):
        yield False
        return
    import termios

    before = termios.tcgetattr(stream.fileno())
    silent = [*before[:3], before[3] & ~termios.ECHO | termios.ECHONL, *before[4:]]
    termios.tcsetattr(stream.fileno(), termios.TCSAFLUSH, silent)
    try:
        yield True
    finally:
        termios.tcsetattr(stream.fileno(), termios.TCSAFLUSH, before)
