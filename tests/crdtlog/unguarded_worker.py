"""The text worker without its reader of patches: whatever bytes come reach the library, so that it fails for real.

Started by tests as TextWorker's `module`. Patches that begin with a word below do, without the library, what it might.
"""

import os
import signal
import sys
import time
from dataclasses import replace
from typing import Any

from crdtlog.errors import Malformed
from crdtlog.kinds import yjs
from crdtlog.kinds.text import Job, MergeText
from crdtlog.textworker.__main__ import main, texts
from crdtlog.textworker.wire import frame
from tests.crdtlog import poison


def hook(job: Job) -> None:
    """Do what a patch tells, if it is one of ours."""
    word = job.patches[0][1] if isinstance(job, MergeText) and job.patches else b""
    if word == b"sleep for ever":
        time.sleep(10_000)
    elif word == b"compute for ever":
        while True:
            pass
    elif word == b"compute for a second":
        end = time.process_time() + 1.0
        while time.process_time() < end:
            pass
    elif word == b"kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == b"terminate":
        os.kill(os.getpid(), signal.SIGTERM)
    elif word == b"babble":
        os.write(1, b"\0\0\0\4junk")
    elif word == b"giant answer":
        os.write(1, b"\xff\xff\xff\xff")
    elif word == b"other answer":
        os.write(1, frame(["opened", False, b"state", "text"]))
    elif word == b"flood":
        while True:
            os.write(2, b"noise\n" * 1000)
    elif word == b"memory":
        bytearray(1 << 40)


def read_leniently(data: bytes, client: int) -> yjs.Patch:
    """What an honest patch says; nothing of any other, which goes to the library all the same."""
    try:
        return read_patch(data, client)
    except Malformed:
        return yjs.Patch(client, 0, 0, {})


def spoiled(job: Job) -> Job:
    """The job, on the document that its patch spoils if it is a known one: databases of tests have other documents."""
    for known in poisons if isinstance(job, MergeText) else ():
        if any(patch == known.patch for _, patch in job.patches):
            return replace(job, base=known.base)
    return job


def hooked(job: Job) -> list[Any]:
    """Do a job, or what it tells."""
    hook(job)
    return work(spoiled(job))


if __name__ == "__main__":
    read_patch, work, poisons = yjs.read_patch, texts(), poison.small_poisons()
    yjs.read_patch = read_leniently
    yjs.check_present = lambda patch, clocks: ""
    main(int(sys.argv[1]), float(sys.argv[2]), hooked)
