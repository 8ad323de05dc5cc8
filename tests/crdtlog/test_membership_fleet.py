"""Groups with honest members and liars, at random: all who remain agree, and nothing that was applied is undone.

`Peer` asserts whenever it takes something in that it never has to undo another's entry while it is a member.
"""

import random
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crdtlog.membership import Add, Content, Evaluated, Graph, Recover, Remove, Role, Rotate, Seen, evaluate
from tests.crdtlog.membergroup import (
    FIRST_EPOCH,
    Entry,
    Peer,
    apply_all,
    device,
    founded,
    graph_of,
    logs_of,
    newcomer,
    picture,
    sign,
    vector,
    verify,
)

NAMES = ("a", "b", "c", "d", "e", "f")
ROLES = ("admin", "writer", "reader")


def run(seed: int, actions: int, liars: int) -> list[Peer]:
    """A group of three that lets others in and puts them out; the last `liars` of the six names lie."""
    rng = random.Random(seed)
    first = founded(*NAMES[:3], roles={name: rng.choice(ROLES) for name in NAMES[1:3]})
    peers = {peer.name: peer for peer in first}
    for name in NAMES[3:]:
        peers[name] = Peer(name, first[0].database, dict(first[0].held), dict(first[0].applied))
    lying = set(NAMES[len(NAMES) - liars :])
    for _ in range(actions):
        peer = peers[rng.choice(NAMES)]
        if rng.random() < 0.45:
            other = peers[rng.choice(NAMES)]
            known = list(other.held.values())
            if rng.random() < 0.5:  # part of it, in the order in which it came there
                known = known[: rng.randrange(len(known)) + 1]
            if peer.name in lying:
                hold(peer, known)
            else:
                peer.receive(known)
        elif peer.name in lying:
            lie(peer, rng)
        else:
            act(peer, rng)
    return [peer for peer in peers.values() if peer.name not in lying]


def act(peer: Peer, rng: random.Random) -> None:
    """Do what an honest device may do by what it knows."""
    role = peer.role(peer.name)
    other = rng.choice(NAMES)
    if role is None:
        if rng.random() < 0.05:
            peer.recover()
        return
    may: list[Content | str | None] = [Remove(peer.device)] if rng.random() < 0.1 else []
    if role != "reader":
        may += [None, None, rotation(rng)]
    if role == "admin":
        may += ["add", "add", Role(device(other), rng.choice(ROLES)), Remove(device(other))]
    if may:
        chosen = rng.choice(may)
        if isinstance(chosen, str):
            peer.add(other, rng.choice(ROLES))
        else:
            peer.write(chosen)


def rotation(rng: random.Random) -> Rotate:
    return Rotate(rng.randbytes(16), (FIRST_EPOCH,), tuple((device(name), b"x") for name in NAMES), ())


def hold(peer: Peer, entries: Sequence[Entry]) -> None:
    """What a liar does on receiving: keep."""
    for entry in entries:
        if all((log, seq) in peer.held for log, seq in entry.context.items()):
            peer.held.setdefault(entry.dot, entry)


def lie(peer: Peer, rng: random.Random) -> None:
    """Write what suits: with an old or a mixed context, of any kind, in any log of one's own."""
    held = list(peer.held.values())
    chosen = rng.sample(held, rng.randrange(min(4, len(held)) + 1))
    context = vector(chosen)
    if rng.random() < 0.2:  # leaving out what these build on
        context = {entry.writer: entry.seq for entry in chosen}
    other = rng.choice(NAMES)
    content = rng.choice(
        (
            None,
            Seen(),
            Add(newcomer(other, rng.choice(ROLES)), rng.random() < 0.3),
            Add(newcomer(peer.name)),
            Role(device(other), rng.choice(ROLES)),
            Role(peer.device, "admin"),
            Remove(device(other)),
            Recover(newcomer(peer.name), sign(b"guessed", b"something")),
        )
    )
    peer.forge(content, context, rng.choice((1, 1, 2, 3)))


def shown_by(peer: Peer) -> tuple[Evaluated, dict[bytes, int]]:
    """What follows from what a device holds, for one that has applied nothing yet and says nothing."""
    found = evaluate(graph_of(peer.database, peer.held.values()), logs_of(peer.held), None, FIRST_EPOCH)
    applied: dict[bytes, int] = {}
    apply_all(found, peer.held, applied)
    return found, applied


def check(seed: int, actions: int, liars: int) -> None:
    peers = run(seed, actions, liars)
    before = -1
    while before != (before := sum(len(peer.held) for peer in peers)):
        for one in peers:
            for other in peers:
                one.sync(other)
    found, applied = shown_by(peers[0])
    for peer in peers:
        assert peer.held.keys() == peers[0].held.keys()
        standing = found.members.get(peer.device)
        if standing is not None and standing.role is not None:
            assert not peer.state().must_tell
            assert picture(peer.state()) == picture(found)
            assert peer.applied == applied
    shuffled = list(peers[0].held.values())
    random.Random(seed).shuffle(shuffled)
    again = Graph.of(peers[0].database, verify, [entry.record for entry in shuffled if entry.record])
    assert picture(evaluate(again, logs_of(peers[0].held))) == picture(found)


@pytest.mark.parametrize("liars", [0, 1, 2, 3])
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(seed=st.integers(0, 2**32))
def test_all_who_remain_agree_and_undo_nothing(liars: int, seed: int) -> None:
    check(seed, 40, liars)
