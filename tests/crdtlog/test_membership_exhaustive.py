"""All small groups: every action of every device in every causal shape, and all orders of arrival.

Three admins know of one another. Then so many entries are written, each by any of them, saying anything of the list,
its author having had any closed part of what the others wrote before. A fourth device (a reader) takes everything in,
in every order that causality allows, telling what it must.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import pytest

from crdtlog.membership import Add, Content, Graph, Remove, Role, Seen, evaluate
from crdtlog.versions import device_of
from tests.crdtlog.membergroup import (
    Entry,
    Peer,
    apply_all,
    device,
    founded,
    graph_of,
    logs_of,
    made,
    newcomer,
    picture,
    verify,
    writer,
)

ADMINS = ("a", "b", "c")


def contexts(author: str, written: Sequence[Entry], base: dict[bytes, int]) -> Iterator[dict[bytes, int]]:
    """Every closed part of what was written, with all that the author wrote itself."""
    seen = set()
    for choice in product((False, True), repeat=len(written)):
        context = dict(base)
        for entry, chosen in zip(written, choice, strict=True):
            if chosen or device_of(entry.writer) == device(author):
                for log, seq in {**entry.context, entry.writer: entry.seq}.items():
                    context[log] = max(seq, context.get(log, 0))
        key = tuple(sorted(context.items()))
        if key not in seen:
            seen.add(key)
            yield context


def histories(
    depth: int,
    says: Sequence[tuple[str, Content | None]],
    base: dict[bytes, int],
    written: tuple[Entry, ...] = (),
) -> Iterator[tuple[Entry, ...]]:
    """All sequences of so many entries, one of each set that differ in order alone."""
    if depth == 0:
        yield written
        return
    for author, content in says:
        log = writer(author)
        for context in contexts(author, written, base):
            entry = made(log, context.get(log, 0) + 1, context, content)
            last = written[-1] if written else None
            free = last is not None and context.get(last.writer, 0) < last.seq
            if not (free and last is not None and entry.hash < last.hash):
                yield from histories(depth - 1, says, base, (*written, entry))


def orders(entries: Sequence[Entry], base: dict[bytes, int]) -> Iterator[list[Entry]]:
    """All orders in which each stands behind what its context names."""
    if not entries:
        yield []
        return
    ahead = {entry.dot for entry in entries}
    for entry in entries:
        if not any((log, seq) in ahead for log, last in entry.context.items() for seq in range(1, last + 1)):
            for rest in orders([other for other in entries if other is not entry], base):
                yield [entry, *rest]


def removals() -> list[tuple[str, Content | None]]:
    """Each may write data, state what it has, and remove each of the others or itself."""
    removing = [(one, Remove(device(other))) for one in ADMINS for other in ADMINS]
    return [*removing, *((one, None) for one in ADMINS), *((one, Seen()) for one in ADMINS)]


def grants() -> list[tuple[str, Content | None]]:
    """Two that demote and remove one another, promote, and let in a third again or a stranger."""
    said: list[tuple[str, Content | None]] = []
    for one, other in (("a", "b"), ("b", "a")):
        said += [
            (one, None),
            (one, Role(device(other), "reader")),
            (one, Role(device(other), "admin")),
            (one, Remove(device(other))),
            (one, Remove(device("c"))),
            (one, Add(newcomer("c", "writer"))),
            (one, Add(newcomer("c"), again=True)),
            (one, Add(newcomer("stranger"))),
        ]
    return [*said, ("c", Remove(device("a"))), ("c", None)]


def check(entries: Sequence[Entry], start: Peer, witness: Peer) -> None:
    held = {**start.held, **{entry.dot: entry for entry in entries}}
    base = dict(start.applied)
    records = [entry.record for entry in start.held.values() if entry.record is not None]
    found = evaluate(graph_of(start.database, held.values()), logs_of(held))
    told = []
    for order in orders(entries, base):
        # One state whatever the order; what is added record by record is what is built at once.
        graph = Graph.of(start.database, verify, records)
        for entry in order:
            if entry.record is not None:
                graph.add(entry.record)
        assert picture(evaluate(graph, logs_of(held))) == picture(found)
        # What is taken in one by one is never undone (`Peer` asserts it), and once told, counts for all.
        peer = Peer(witness.name, witness.database, dict(witness.held), dict(witness.applied))
        cuts: dict[bytes, int] = {}
        for entry in order:
            peer.receive([entry])
            assert not peer.state().must_tell
            for log, seq in peer.applied.items():
                assert seq >= cuts.get(log, 0)
            cuts = dict(peer.applied)
        told.append(peer)
        pure = evaluate(graph_of(peer.database, peer.held.values()), logs_of(peer.held))
        applied: dict[bytes, int] = {}
        apply_all(pure, peer.held, applied)
        assert applied == peer.applied
        assert picture(pure) == picture(peer.state())
    # Witnesses that saw it in different orders, and met, agree: all of it comes to one that had nothing.
    first = told[0]
    for other in told[1:]:
        if other.applied != first.applied:
            one = Peer(first.name, first.database, dict(first.held), dict(first.applied))
            two = Peer("e", other.database, dict(witness.held), dict(witness.applied))
            for entry in orders_of(other, entries):
                two.receive([entry])
            one.sync(two)
            assert one.applied == two.applied
            assert picture(one.state()) == picture(two.state())


def orders_of(peer: Peer, entries: Sequence[Entry]) -> list[Entry]:
    """The entries in the order in which a device came to hold them."""
    mine = {entry.dot for entry in entries}
    return [entry for dot, entry in peer.held.items() if dot in mine]


@pytest.mark.parametrize(
    ("says", "depth", "part"),
    [
        (removals(), 2, 1),
        (grants(), 2, 1),
        (removals(), 3, 12),
        (grants(), 3, 16),
        pytest.param(removals(), 3, 1, marks=pytest.mark.slow),
        pytest.param(grants(), 3, 1, marks=pytest.mark.slow),
        pytest.param(removals(), 4, 400, marks=pytest.mark.slow),
        pytest.param(grants(), 4, 600, marks=pytest.mark.slow),
    ],
    ids=lambda value: str(value) if isinstance(value, int) else f"{len(value)} sayings",
)
def test_all_small_groups(says: Sequence[tuple[str, Content | None]], depth: int, part: int) -> None:
    """One of `part` is tried, spread evenly."""
    *_, witness, _ = peers = founded(*ADMINS, "d", "e", roles={"d": "reader", "e": "reader"})
    tried = 0
    for number, entries in enumerate(histories(depth, says, dict(witness.applied))):
        if number % part == 0:
            check(entries, peers[0], witness)
            tried += 1
    assert tried > 100
