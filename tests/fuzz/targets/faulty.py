"""Readers that do harm on purpose, by which the search itself is tested. They are in no list of what is searched."""

import os
import signal
from typing import Any

from crdtlog.errors import Malformed
from crdtlog.values import pack, unpack
from tests.fuzz.mutate import MSGPACK
from tests.fuzz.trial import Subject, Target


def _deep() -> Subject:
    """Looks up, in an array within a byte string within an array, what may be no key."""

    def read(case: bytes) -> bool:
        match unpack(case):
            case [_, bytes(inner)]:
                match unpack(inner):
                    case [known, [name]] if known == 1:
                        return name in {1: "one"}
        raise Malformed("no name")

    return Subject([pack([0, pack([1, [1]])])], read, (Malformed,), MSGPACK)


def _forgets() -> Subject:
    """Writes something else than it read."""
    return Subject([b"abc"], bytes, (Malformed,), write=lambda value: value[:-1])


def _hangs() -> Subject:
    def read(case: bytes) -> Any:
        while case == b"hang":
            pass
        return case

    return Subject([b"fine", b"hang"], read, (Malformed,))


def _waits() -> Subject:
    def read(case: bytes) -> Any:
        if case == b"wait":
            signal.pause()
        return case

    return Subject([b"fine", b"wait"], read, (Malformed,))


def _dies() -> Subject:
    def read(case: bytes) -> Any:
        if case == b"die":
            os.kill(os.getpid(), signal.SIGSEGV)
        return case

    return Subject([b"fine", b"die"], read, (Malformed,))


def _swallows() -> Subject:
    return Subject([b"fine", b"much"], lambda case: bytes((4 << 30) * (case == b"much")), (Malformed,))


TARGETS = [
    Target("faulty.deep", 3_000, _deep),
    Target("faulty.forgets", 10, _forgets),
    Target("faulty.hangs", 10, _hangs),
    Target("faulty.waits", 10, _waits),
    Target("faulty.dies", 10, _dies),
    Target("faulty.swallows", 10, _swallows),
]
