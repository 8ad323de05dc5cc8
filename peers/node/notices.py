"""What people are told when the group changes: pure, from what a file's facts were and are."""

from collections.abc import Iterator

from crdtlog.retracting import REASON
from peers.node.files import Facts


def name_of(facts: Facts, device: bytes) -> str:
    """The name of a device that belongs or belonged; else the beginning of its id."""
    everybody = (*facts.members, *facts.removed)
    return next((member.name for member in everybody if member.device == device), device.hex()[:12])


def taken_back(rows: int) -> str:
    """That so many rows which were written here do not count."""
    count = "1 row" if rows == 1 else f"{rows:,} rows"
    return f"{REASON}: what was written here was taken back, and put aside ({count})"


def changes(before: Facts, after: Facts, own: bytes) -> Iterator[str]:
    """A line for each device that came, went, or may do more or less; `own` is this device's id."""
    roles = {member.device: member.role for member in before.members}
    for member in after.members:
        name = "this device" if member.device == own else member.name
        if member.device not in roles:
            by = f" (added by {name_of(after, member.added_by)})" if member.added_by else ""
            yield f"{name} is a member now, as {member.role}{by}"
        elif member.role != roles[member.device]:
            yield f"{name} is {member.role} now (was {roles[member.device]})"
    for member in after.removed:
        if member.device not in roles:
            continue
        by = name_of(after, member.removed_by) if member.removed_by else "nobody known"
        if member.device == own:
            how = "has left" if member.removed_by == own else f"was removed by {by}"
            yield f"this device {how}: the file stays as it is, and is not synced any more"
        elif member.removed_by == member.device:
            yield f"{member.name} has left"
        else:
            yield f"{member.name} was removed by {by}"
