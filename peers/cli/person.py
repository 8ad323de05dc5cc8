"""Showing a pairing code to a person, and asking whether a device may join.

Knows terminals. Must not know how pairing works. The code goes to standard output, alone on its line, for scripts;
everything for people goes to standard error.
"""

import asyncio
import sys
import threading
from pathlib import Path
from typing import NamedTuple

import click

from peers.cli.output import is_terminal, say, show_data, visible, warn


class Invitation(NamedTuple):
    """Whom a code is for: the role, whether to ask at all (`yes`), whether it is another person, and who.

    Without `history` the device gets nothing that was written before.
    """

    role: str
    yes: bool = False
    shares: bool = False
    person: str = ""
    history: bool = True


def show_code(code: str, address: str | None, file: Path, invitation: Invitation) -> None:
    """Print the code; on a terminal with a QR code of what to type on the other device."""
    show_data(code)
    sys.stdout.flush()
    command = f"crdtlog join {code} {file.name}"
    if is_terminal(sys.stderr):
        import segno

        segno.make(command, error="l", micro=False).terminal(sys.stderr, border=2, compact=True)
    if invitation.shares:
        say(
            f"Tell {invitation.person or 'the other person'} the code, and nobody else: it lets in one device."
        )
    say(f"On the other device, within ten minutes:  {command}")
    if address:
        say(f"If it does not find this one by itself, add:  --peer {address}")


def approves(name: str, fingerprint: str, invitation: Invitation) -> bool:
    """Ask whether the device of this name and fingerprint may join; without anybody to answer it may not."""
    who, as_role = visible(name), f" as {invitation.role}" if invitation.shares else ""
    if not invitation.history:
        as_role += " without history"
    if invitation.person:
        who = f"Invited as {invitation.person}: device {who}"
    say(f"{who} wants to join{as_role}. Its fingerprint is {visible(fingerprint)}")
    if invitation.yes:
        return True
    try:
        return click.confirm("Does the other device show the same fingerprint, and may it join?", err=True)
    except click.Abort:
        warn("Nobody answered, so it may not join; scripts approve with --yes.")
        return False


async def ask(name: str, fingerprint: str, invitation: Invitation) -> bool:
    """`approves` without holding up an event loop: a question that nobody answers does not keep the program alive."""
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[bool] = loop.create_future()

    def put(value: bool) -> None:
        if not answer.done():
            answer.set_result(value)

    def wait() -> None:
        value = approves(name, fingerprint, invitation)
        if not loop.is_closed():
            loop.call_soon_threadsafe(put, value)

    threading.Thread(target=wait, daemon=True, name="question").start()
    return await answer
