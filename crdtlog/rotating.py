"""Rotate: the epochs' secrets are learned from records, and new ones handed to everybody who belongs.

`rotation` knows the cryptography and `membership` which epoch is safe to write under; here they meet the file's records
and the home, where secrets rest. A secret is durable in the home before anything in the file depends on it.
"""

from collections.abc import Mapping

from crdtlog import catalog, members, rotation
from crdtlog.drain import has_pending
from crdtlog.membership import Rotate
from crdtlog.membership.records import MAX_PARENTS
from crdtlog.state import State


def unlock(state: State) -> None:
    """Learn the secrets that the records held give to this device."""
    keep(state, rotation.secrets_from(state.database, state.device, rotations(state), state.epochs))


def choose(state: State) -> None:
    """Write under the deepest epoch that nobody removed knows, of those held; under the one before if there is none."""
    if not rotations(state):
        return
    best = state.group.found.writing_epoch(state.epochs)
    if best is not None and best != state.epoch:
        catalog.set_meta(state.connection, "epoch", best)
        state.bump()


def is_rotation_due(state: State) -> bool:
    """Whether somebody should hand out a new secret: one removed knows every epoch, or a member lacks the current."""
    if state.group.is_plain or not state.may_write or not state.group.knows_itself():
        return False
    found = state.group.found
    best = found.writing_epoch(state.epochs)
    return best is None or any(found.lacking(epoch) for epoch in found.epochs.get(best, ()))


def rotate_if_due(state: State) -> bool:
    """Rotate in a transaction of its own, if that is due; whether it was."""
    with state.transaction():
        if is_due := is_rotation_due(state):
            rotate(state)
    return is_due


def before_writing(state: State) -> None:
    """What is written here goes under an epoch that nobody removed knows: if there is none, one is begun first."""
    group = state.group
    is_safe = group.is_plain or group.found.writing_epoch([state.epoch]) == state.epoch
    if not is_safe and has_pending(state):
        rotate_if_due(state)


def rotate(state: State) -> None:
    """Begin a new epoch, known to exactly the members that are known here; inside the caller's transaction."""
    parents = {parent for record in rotations(state) for parent in record.parents}
    # Those that no other follows; of very many, such that at least the one in use leads on to the past.
    tops = sorted(set(state.epochs) - parents, key=lambda epoch: (epoch != state.epoch, epoch))[:MAX_PARENTS]
    recipients = {member.device: member.receive_key for member in members.members(state)}
    # Under what is sealed lies all that was sealed before it: so who has no history gets only what it was handed.
    anew = {device for device in recipients if device in state.group.withheld}
    record, secret = rotation.rotate(
        state.database,
        {epoch: state.epochs[epoch] for epoch in tops},
        recipients,
        unsealed=[epoch for epoch in tops if anew and not anew <= members.recipients(state, epoch)],
    )
    state.keys.keep({record.epoch: secret})
    state.epochs[record.epoch] = secret
    members.say(state, record, "new keys for all members")
    choose(state)


def keep(state: State, found: Mapping[bytes, bytes]) -> bool:
    """Keep the secrets that are news; whether there were any."""
    news = {epoch: secret for epoch, secret in found.items() if epoch not in state.epochs}
    if news:
        state.keys.keep(news)
        state.epochs.update(news)
    return bool(news)


def rotations(state: State) -> list[Rotate]:
    """The rotations held."""
    nodes = state.group.graph.nodes
    return [node.record.content for node in nodes if isinstance(node.record.content, Rotate)]
