"""Appending to a mailbox: blobs some at once and in order, and a few helpers for tasks that end together.

Knows a relay's client. Must not know what blobs hold.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any

from peers.mailbox.uploads import Upload
from peers.relay.client import Client

APPENDS = 16
"""So many appends are under way at once."""


async def append_all(
    client: Client, mailbox: bytes, uploads: Sequence[Upload], appended: Callable[[Upload, int], None]
) -> None:
    """Append blobs, some at once and in order; `appended(upload, last index)` once all of one is durable there."""
    room = asyncio.Semaphore(max(1, min(APPENDS, client.limits.requests)))
    under_way: deque[tuple[Upload, list[asyncio.Task[int]]]] = deque()

    async def append(blob: bytes) -> int:
        try:
            return await client.append(mailbox, blob)
        finally:
            room.release()

    async def note_first() -> None:
        upload, tasks = under_way[0]
        indexes = [await task for task in tasks]
        under_way.popleft()
        appended(upload, max(indexes))

    try:
        for upload in uploads:
            under_way.append((upload, []))
            for blob in upload.blobs:
                await room.acquire()
                under_way[-1][1].append(asyncio.create_task(append(blob)))
            while under_way and all(task.done() for task in under_way[0][1]):
                await note_first()
        while under_way:
            await note_first()
    finally:
        await ended([task for _, tasks in under_way for task in tasks])


async def together(*works: Coroutine[Any, Any, None]) -> None:
    """Run several until one of them ends or raises, and end the others."""
    tasks = [asyncio.create_task(work) for work in works]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        await ended(tasks)


async def wait_for(event: asyncio.Event) -> None:
    """Return when that has happened."""
    await event.wait()


async def ended(tasks: Iterable[asyncio.Task[Any]]) -> None:
    """Cancel tasks, and return when they have ended."""
    tasks = list(tasks)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
