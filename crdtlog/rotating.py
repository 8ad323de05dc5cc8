"""Rotate: the epochs' secrets are learned from records, and new ones handed to everybody who belongs.

`rotation` knows the cryptography and `membership` which epoch is safe to write under; here they meet the file's records
and the home, where secrets rest. A secret is durable in the home before anything in the file depends on it.
"""

from crdtlog import catalog, members, rotation
from crdtlog.membership import Rotate
from crdtlog.membership.records import MAX_PARENTS
from crdtlog.state import State


def unlock(state: State) -> None:
    """Learn the secrets that the records held give to this device."""
    rotations = _rotations(state)
    found = rotation.secrets_from(state.database, state.device, rotations, state.epochs)
    news = {epoch: secret for epoch, secret in found.items() if epoch not in state.epochs}
    if news:
        state.keys.keep(news)
        state.epochs.update(news)


def choose(state: State) -> None:
    """Write under the deepest epoch that nobody removed knows, of those held; under the one before if there is none."""
    if state.role(state.device.id) is None or not _rotations(state):
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


def rotate(state: State) -> None:
    """Begin a new epoch, known to exactly the members that are known here; inside the caller's transaction."""
    parents = {parent for record in _rotations(state) for parent in record.parents}
    # Those that no other follows; of very many, such that at least the one in use leads on to the past.
    tops = sorted(set(state.epochs) - parents, key=lambda epoch: (epoch != state.epoch, epoch))[:MAX_PARENTS]
    recipients = {member.device: member.receive_key for member in members.members(state)}
    record, secret = rotation.rotate(
        state.database, {epoch: state.epochs[epoch] for epoch in tops}, recipients
    )
    state.keys.keep({record.epoch: secret})
    state.epochs[record.epoch] = secret
    members.say(state, record, "new keys for all members")
    choose(state)


def by_depth(state: State) -> dict[bytes, bytes]:
    """All secrets held: the current epoch's first, then the deepest."""
    depths: dict[bytes, int] = {}
    if _rotations(state):
        depths = {
            name: max(epoch.depth for epoch in those) for name, those in state.group.found.epochs.items()
        }
    order = sorted(state.epochs, key=lambda epoch: (epoch != state.epoch, -depths.get(epoch, 0), epoch))
    return {epoch: state.epochs[epoch] for epoch in order}


def _rotations(state: State) -> list[Rotate]:
    nodes = state.group.graph.nodes
    return [node.record.content for node in nodes if isinstance(node.record.content, Rotate)]
