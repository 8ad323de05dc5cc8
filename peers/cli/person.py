"""Showing a pairing code to a person, and asking whether a device may join.

Knows terminals. Must not know how pairing works. The code goes to standard output, alone on its line, for scripts;
everything for people goes to standard error.
"""

import asyncio
import sys
import threading
from pathlib import Path

import click

from peers.cli.output import is_terminal, say, show_data, visible, warn


def show_code(code: str, address: str | None, file: Path) -> None:
    """Print the code; on a terminal with a QR code of what to type on the other device."""
    show_data(code)
    sys.stdout.flush()
    command = f"crdtlog join {code} {file.name}"
    if is_terminal(sys.stderr):
        import segno

        segno.make(command, error="l", micro=False).terminal(sys.stderr, border=2, compact=True)
    say(f"On the other device, within ten minutes:  {command}")
    if address:
        say(f"If it does not find this one by itself, add:  --peer {address}")


def approves(name: str, fingerprint: str, *, yes: bool) -> bool:
    """Ask whether the device of this name and fingerprint may join; without anybody to answer it may not."""
    say(f"{visible(name)} wants to join. Its fingerprint is {visible(fingerprint)}")
    if yes:
        return True
    try:
        return click.confirm("Does the other device show the same fingerprint, and may it join?", err=True)
    except click.Abort:
        warn("Nobody answered, so it may not join; scripts approve with --yes.")
        return False


async def ask(name: str, fingerprint: str, *, yes: bool) -> bool:
    """`approves` without holding up an event loop: a question that nobody answers does not keep the program alive."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bool] = loop.create_future()

    def put(value: bool) -> None:
        if not answer.done():
            answer.set_result(value)

    def wait() -> None:
        value = approves(name, fingerprint, yes=yes)
        if not loop.is_closed():
            loop.call_soon_threadsafe(put, value)

    threading.Thread(target=wait, daemon=True, name="question").start()
    return await answer
