"""Databases whose texts are merged by a worker that reads nothing first (see unguarded_worker.py), or by none."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from crdtlog.kinds import text
from crdtlog.textworker.client import TextWorker

if TYPE_CHECKING:
    import pytest


class Unguarded(TextWorker):
    """A worker that reads nothing first, to put in place of TextWorker. Its limits are small, to be reached soon."""

    def __init__(self, **limits: float) -> None:
        super().__init__(module="tests.crdtlog.unguarded_worker", cpu_seconds=0.5, memory_bytes=256 << 20)


def without_reader(monkeypatch: "pytest.MonkeyPatch") -> list[text.TextFailure]:
    """Have texts merged by workers that read nothing first; returns what becomes of patches that hurt them."""
    told: list[text.TextFailure] = []

    class Telling(Unguarded):
        def run(self, jobs: Sequence[text.Job]) -> list[text.Result]:
            results = super().run(jobs)
            for result in results:
                told.extend(result.refused.values() if isinstance(result, text.MergedText) else ())
            return results

    monkeypatch.setattr("crdtlog.texts.TextWorker", Telling)
    return told


def without_worker(monkeypatch: "pytest.MonkeyPatch") -> None:
    """Have no worker start."""
    none = partial(TextWorker, module="crdtlog.no_such_module")
    monkeypatch.setattr("crdtlog.texts.TextWorker", none)
