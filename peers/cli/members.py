"""`crdtlog devices`, `remove`, `role`, `leave` and `recover`: who shares a file, and what each may do.

Knows how people name a device, and what to tell them before and after. Must not know how a change of the group takes
effect: that is the engine's. The one idea: whoever is asked sees what cannot be taken back, and what a removal does not
do, before it is done.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from peers.cli.arguments import check_role, file_argument, json_option, yes_option
from peers.cli.files import opened
from peers.cli.output import is_terminal, moment, say, show_json, show_table, visible, warn

if TYPE_CHECKING:
    from crdtlog import Database
    from crdtlog.members import Member

#: The beginning of an id names a device from this length on.
MIN_DIGITS = 6
SHOWN_DIGITS = 12
EXIT_DECLINED = 1
_DIGITS = frozenset("0123456789abcdef")
_REMOVAL = """\
  It gets nothing new from now on, and no new keys.
  What it has read stays readable to it; its file stays where it is.
  What it wrote and nobody had taken in yet does not count any more."""
_LEAVING = """\
  The file stays here with all its rows, and any program can read and write it.
  What is written into it from now on reaches nobody, and nothing new arrives.
  To come back, this device needs a new code, and a file of another name."""
_MEANING = {
    "admin": "It may write, let devices in, change roles and remove devices.",
    "writer": "It may write; it may not let devices in or change the group.",
    "reader": "It receives everything. What is written on it counts nowhere; it is put aside there (crdtlog aside).",
}
_SPREADS = (
    "The other devices learn of it as they sync: a running daemon tells them, and so does crdtlog sync."
)


# --- naming a device ----------------------------------------------------------------------------------------------


def find_device(database: "Database", text: str) -> "Member":
    """The member with that name or id, or the one whose id begins so (six digits or more).

    Raises `Usage` if there is none, if several may be meant, and for a device that was removed.
    """
    from crdtlog.errors import Usage

    known, path = database.devices(), database.path
    found = _meant(known, text)
    members = [member for member in found if member.role is not None]
    if len(members) == 1:
        return members[0]
    if members:
        listed = ", ".join(f"{member.name} {_short(member.device)}" for member in members)
        raise Usage(f"{text!r} may be several devices: {listed}", "Give the beginning of the id.")
    see = f"Who belongs: crdtlog devices {path}"
    if found:
        raise Usage(f"device {found[0].name} {_gone(found[0], names_of(known))}", see)
    if _is_hex(text.lower()) and len(text) < MIN_DIGITS:
        see = f"The beginning of an id has {MIN_DIGITS} digits or more. {see}"
    raise Usage(f"no device of {path} is called {text!r}", see)


def _meant(known: Sequence["Member"], text: str) -> list["Member"]:
    digits = text.lower()
    exact = [member for member in known if member.device.hex() == digits]
    begins = len(digits) >= MIN_DIGITS and _is_hex(digits)
    return exact or [
        member
        for member in known
        if member.name == text or (begins and member.device.hex().startswith(digits))
    ]


def _is_hex(text: str) -> bool:
    return bool(text) and _DIGITS.issuperset(text)


def _short(device: bytes) -> str:
    return device.hex()[:SHOWN_DIGITS]


def names_of(known: Sequence["Member"]) -> dict[bytes, str]:
    """What people call devices, by id."""
    return {member.device: member.name for member in known}


def _gone(member: "Member", names: dict[bytes, str]) -> str:
    """How a device that belongs no more went."""
    by = member.removed_by
    if by is None or by == member.device:
        return "left"
    return f"was removed by {names.get(by, _short(by))}"


def _came(member: "Member", names: dict[bytes, str]) -> str:
    """How a device became a member."""
    by = member.added_by
    if by is None:
        return "(founder)"
    return "(recovery key)" if by == member.device else names.get(by, _short(by))


# --- listing ------------------------------------------------------------------------------------------------------


@click.command()
@file_argument
@click.option("--all", "everyone", is_flag=True, help="Also those that were removed or left.")
@json_option
def devices(file: Path, everyone: bool, as_json: bool) -> None:
    """List the devices that share FILE, this one first.

    \b
    Examples:
        crdtlog devices notes.db
        crdtlog devices notes.db --all
    """
    with opened(file) as database:
        known, own = database.devices(), database.device.id
        seen = _seen(database)
        anew = {member.device for member in known if not database.has_history(member.device)}
    names = names_of(known)
    shown = [member for member in known if everyone or member.role is not None]
    if as_json:
        show_json(
            {
                "devices": [
                    _json(member, seen, own) | {"history": member.device not in anew} for member in shown
                ]
            }
        )
    else:
        header = ("DEVICE", "ROLE", "ID", "ADDED BY", "LAST WRITE (UTC)", "LAST SEEN (UTC)")
        show_table(
            header,
            [_line(member, names, seen, own, has_history=member.device not in anew) for member in shown],
        )
    for member in known:
        if member.device == own and member.role is None:
            say(f"This device, {visible(member.name)}, {visible(_gone(member, names))}: it belongs no more.")


def _seen(database: "Database") -> dict[bytes, dict[str, Any]]:
    """The view `crdtlog_devices`, by device."""
    names, found = database.query("SELECT * FROM crdtlog_devices")
    rows = (dict(zip(names, values, strict=True)) for values in found)
    return {bytes.fromhex(row["id"]): row for row in rows}


def _json(member: "Member", seen: dict[bytes, dict[str, Any]], own: bytes) -> dict[str, Any]:
    from peers.identity import fingerprint

    return {
        **seen[member.device],
        "self": member.device == own,
        "fingerprint": fingerprint(member.certificate).hex(),
        "added_by": member.added_by.hex() if member.added_by else None,
        "removed_by": member.removed_by.hex() if member.removed_by else None,
    }


def _line(
    member: "Member",
    names: dict[bytes, str],
    seen: dict[bytes, dict[str, Any]],
    own: bytes,
    *,
    has_history: bool,
) -> tuple[str, ...]:
    is_self = member.device == own
    row = seen[member.device]
    return (
        f"{member.name} (this device)" if is_self else member.name,
        _gone(member, names)
        if member.role is None
        else member.role + ("" if has_history else ", no history"),
        _short(member.device),
        _came(member, names),
        moment(row["last_write"]),
        "" if is_self else moment(row["last_seen"]),
    )


# --- changing the group -------------------------------------------------------------------------------------------


@click.command()
@file_argument
@click.argument("device")
@yes_option("Do not ask, for scripts.")
@json_option
@click.pass_context
def remove(context: click.Context, file: Path, device: str, yes: bool, as_json: bool) -> None:
    """Remove DEVICE from those that share FILE; an admin may.

    DEVICE is a name or an id, or the beginning of an id. It gets nothing new and no new keys; what it has read stays
    readable to it.

    \b
    Examples:
        crdtlog remove notes.db old-phone
        crdtlog remove notes.db 0c2f9e7a --yes
    """
    from crdtlog.errors import Usage

    with opened(file) as database:
        member = find_device(database, device)
        if member.device == database.device.id:
            raise Usage(
                f"device {member.name} is this one",
                f"To have it belong no more: crdtlog leave {database.path}",
            )
        _require_admin(database, "remove others", "remove")
        names = names_of(database.devices())
        came = f"added by {_came(member, names)}" if member.added_by else "the founder"
        what = f"{visible(member.name)} ({_short(member.device)}, {member.role}, {visible(came)})"
        if not _agreed(f"Removing {what} from {file}:", _REMOVAL, "Remove it?", yes=yes):
            context.exit(EXIT_DECLINED)
        database.remove_member(member.device)
    if as_json:
        show_json({"removed": _named(member)})
    say(f"{visible(member.name)} was removed. {_SPREADS}")


@click.command()
@file_argument
@click.argument("device")
@click.argument("role")
@json_option
def role(file: Path, device: str, role: str, as_json: bool) -> None:
    """Give DEVICE another role in FILE: admin, writer or reader; an admin may.

    DEVICE is a name or an id, or the beginning of an id. An admin may let devices in, change roles and remove devices;
    a writer may write; a reader receives everything, and what is written on it counts nowhere.

    \b
    Examples:
        crdtlog role notes.db phone reader
        crdtlog role notes.db 0c2f9e7a admin
    """
    check_role(role)
    with opened(file) as database:
        member = find_device(database, device)
        is_disputed = any(conflict.device == member.device for conflict in database.admins_conflict())
        database.change_role(member.device, role)
    if as_json:
        show_json({"role": {**_named(member), "role": role, "before": member.role}})
    if member.role == role and not is_disputed:
        say(f"{visible(member.name)} is {role} already.")
        return
    before = "stays" if member.role == role else f"is {role} now; it was"
    say(f"{visible(member.name)} {before} {member.role}. {_MEANING[role]}")
    if is_disputed:
        say("That settles what admins had said of it without knowing of one another.")
    say(_SPREADS)


@click.command()
@file_argument
@yes_option("Do not ask, for scripts.")
@json_option
@click.pass_context
def leave(context: click.Context, file: Path, yes: bool, as_json: bool) -> None:
    """Have this device belong no more to those that share FILE. The file stays.

    \b
    Examples:
        crdtlog leave notes.db
        crdtlog leave notes.db --yes
    """
    from crdtlog.errors import Usage

    with opened(file) as database:
        own = next(member for member in database.devices() if member.device == database.device.id)
        if own.role is None:
            gone = _gone(own, names_of(database.devices()))
            raise Usage(f"this device, {own.name}, {gone} already", f"See: crdtlog devices {file} --all")
        if not _agreed(f"{visible(own.name)} leaves {file}:", _LEAVING, "Leave?", yes=yes):
            context.exit(EXIT_DECLINED)
        is_last = len(database.members()) == 1
        database.remove_member(own.device)
    if as_json:
        show_json({"left": _named(own)})
    say(f"{visible(own.name)} has left {file}. {'It was the last device.' if is_last else _SPREADS}")
    say(
        "  crdtlog's triggers stay in the file, and do no harm; to take them out, see docs/guides/sharing.md, Leaving."
    )


@click.command()
@file_argument
@json_option
def recover(file: Path, as_json: bool) -> None:
    """Make this device an admin of FILE by the recovery key, when no admin is left.

    Asks for the 24 words that crdtlog init showed when the database was made; a script gives them on standard input.

    \b
    Example:
        crdtlog recover notes.db
    """
    from peers.cli.recovery import ask_words

    with opened(file) as database:
        key = ask_words(f"The 24 words of the recovery key of {visible(file)}, an empty line ends them:")
        members = [visible(member.name) for member in database.members()]
        was_out = database.device.id not in {member.device for member in database.members()}
        database.recover(key)
        own = next(member for member in database.members() if member.device == database.device.id)
    if as_json:
        show_json({"recovered": _named(own) | {"role": own.role}})
    say(f"{visible(own.name)} is an admin of {file}, by the recovery key. {_SPREADS}")
    if was_out and members:
        warn(
            f"This device had been removed, and {', '.join(members)} had not: they may refuse to talk to it. "
            "Then run the same command on one of them, and let this device in again from there."
        )
    say(f"Next: look who belongs, and remove what should not: crdtlog devices {file}")
    say(f"  Let in a second admin, so that the key is not needed again: crdtlog pair {file}")


def _named(member: "Member") -> dict[str, Any]:
    return {"id": member.device.hex(), "name": member.name}


def _require_admin(database: "Database", what: str, command: str) -> None:
    """Refuse before anybody is asked what the engine would refuse afterwards. Raises `EntryRefused`."""
    from crdtlog.errors import EntryRefused

    own = next(member for member in database.devices() if member.device == database.device.id)
    if own.role != "admin":
        raise EntryRefused(f"this device may not {what}", f"Run `crdtlog {command}` on an admin's device.")


def _agreed(what: str, means: str, question: str, *, yes: bool) -> bool:
    """Tell what is about to be done and what it means, and ask. Raises `Usage` where nobody can be asked."""
    from crdtlog.errors import Usage

    say(what)
    say(means)
    if yes:
        return True
    if sys.stdin is None or not is_terminal(sys.stdin):
        raise Usage(
            "nobody can be asked, as standard input is no terminal",
            "If that is what you want: the same command with --yes",
        )
    if click.confirm(question, err=True):
        return True
    say("Nothing was changed.")
    return False
