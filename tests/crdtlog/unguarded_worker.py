"""The text worker without its reader of patches: whatever bytes come reach the library, so that it fails for real.

Started by tests as TextWorker's `module`. Patches that begin with a word below do, without the library, what it might.
"""

import os
import signal
import sys
import time
from typing import Any

from crdtlog.kinds import textdoc, yjs
from crdtlog.kinds.text import Job, Merge
from crdtlog.textworker.__main__ import main, texts


def hook(job: Job) -> None:
    """Do what a patch tells, if it is one of ours."""
    word = job.patches[0][1] if isinstance(job, Merge) and job.patches else b""
    if word == b"sleep for ever":
        time.sleep(10_000)
    elif word == b"compute for ever":
        while True:
            pass
    elif word == b"kill":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == b"terminate":
        os.kill(os.getpid(), signal.SIGTERM)
    elif word == b"babble":
        os.write(1, b"\0\0\0\4junk")
    elif word == b"giant answer":
        os.write(1, b"\xff\xff\xff\xff")
    elif word == b"flood":
        while True:
            os.write(2, b"noise\n" * 1000)
    elif word == b"memory":
        bytearray(1 << 40)


if __name__ == "__main__":
    read_patch, work = yjs.read_patch, texts()
    textdoc._continue = lambda clocks, patch: None
    yjs.read_patch = lambda data, client: yjs.Patch(client, 0, 0, {})

    def hooked(job: Job) -> list[Any]:
        hook(job)
        return work(job)

    main(int(sys.argv[1]), float(sys.argv[2]), hooked)
