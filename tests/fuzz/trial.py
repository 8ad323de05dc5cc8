"""One case tried on one target, and what may come of it.

A target's reader gives a value or raises one of the errors that it documents. What it accepts can be written and read
again, and is the same then; further promises of a value are checked by `holds`.
"""

import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tests.fuzz.mutate import Form

ACCEPTED = "accepted"
_OWN = ("tests/fuzz", "tests/fuzz/targets")


@dataclass(frozen=True)
class Subject:
    """What is tried: `read`, with the errors that it documents, and good bytes from which cases are made.

    `write` gives bytes that `read` reads as a value that is `alike`. `holds` raises for an accepted value that breaks
    another promise. `known` are cases that once did harm: they are tried first, every time.
    """

    seeds: Sequence[bytes]
    read: Callable[[bytes], Any]
    errors: tuple[type[Exception], ...]
    form: Form | None = None
    words: Sequence[bytes] = ()
    write: Callable[[Any], bytes] | None = None
    alike: Callable[[Any, Any], bool] = operator.eq
    holds: Callable[[Any], None] | None = None
    known: Sequence[bytes] = ()


@dataclass(frozen=True)
class Target:
    """A subject by name, made when it is needed; `cases` is how many of its cases a test takes."""

    name: str
    cases: int
    make: Callable[[], Subject]


class Broken(Exception):
    """An accepted value breaks a promise."""


def attempt(subject: Subject, case: bytes) -> str:
    """Try a case; returns what came of it: `ACCEPTED`, or which check refused it.

    Raises whatever comes out of the reader that it does not document, and `Broken`.
    """
    try:
        value = subject.read(case)
    except subject.errors as error:
        return place(error)
    if subject.holds is not None:
        subject.holds(value)
    if subject.write is None:
        return ACCEPTED
    written = subject.write(value)
    try:
        again = subject.read(written)
    except subject.errors as error:
        raise Broken(f"what was accepted is refused once it is written again: {error}") from error
    if not subject.alike(value, again):
        raise Broken("what was accepted is another value once it is written and read again")
    return ACCEPTED


def require(condition: bool, promise: str) -> None:
    """Raise `Broken` unless a promise holds."""
    if not condition:
        raise Broken(promise)


def place(error: BaseException) -> str:
    """An error's type and the last calls to it: alike for cases that meet the same check, or fault."""
    calls = []
    at = error.__traceback__
    while at is not None:
        path, _, name = at.tb_frame.f_code.co_filename.rpartition("/")
        if not path.endswith(_OWN):
            calls.append(f"{name}:{at.tb_lineno}")
        at = at.tb_next
    return " ".join([type(error).__name__, "at", *(calls[-3:] or ["the test"])])
