"""Databases whose texts are merged by a worker that reads nothing first (see unguarded_worker.py), or by none."""

from collections.abc import Sequence
from functools import partial

import pytest

from crdtlog.kinds import text
from crdtlog.textworker.client import TextWorker


def without_reader(monkeypatch: pytest.MonkeyPatch) -> list[text.Failure]:
    """Have texts merged by workers that read nothing first; returns what becomes of patches that hurt them."""
    told: list[text.Failure] = []

    class Unguarded(TextWorker):
        def __init__(self, **limits: float) -> None:
            super().__init__(module="tests.crdtlog.unguarded_worker", cpu_seconds=0.5, memory_bytes=256 << 20)

        def run(self, jobs: Sequence[text.Job]) -> list[text.Result]:
            results = super().run(jobs)
            for result in results:
                told.extend(result.refused.values() if isinstance(result, text.Merged) else ())
            return results

    monkeypatch.setattr("crdtlog.texts.TextWorker", Unguarded)
    return told


def without_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have no worker start."""
    none = partial(TextWorker, module="crdtlog.no_such_module")
    monkeypatch.setattr("crdtlog.texts.TextWorker", none)
